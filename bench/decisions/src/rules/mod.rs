//! The rules that are compared. Levee's is the real code; the others are models of what their documentation says, with
//! the defaults of the named versions.
//!
//! | rule | source |
//! |---|---|
//! | gobreaker 2.4.0 | <https://pkg.go.dev/github.com/sony/gobreaker/v2#Settings> |
//! | resilience4j 2.3.0 | <https://resilience4j.readme.io/docs/circuitbreaker>, constants of `CircuitBreakerConfig` |
//! | Envoy 1.40 | <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier> |

mod outlier;
mod plain;
mod ring;
mod worker;

use crate::random::Random;
pub use outlier::Outlier;
pub use plain::Plain;
pub use ring::Ring;
use worker::{USUAL_MILLIS, Worker};

use levee_policy::breaker::{Breaker, BreakerSettings, Outcome, Permit, Phase, Report, Verdict};
use levee_policy::time::Instant;
use std::time::Duration;

/// What an admitted call holds until its result is recorded.
#[derive(Clone, Copy)]
pub struct Ticket {
    pub host: usize,
    generation: u32,
    permit: Permit,
}

impl Ticket {
    const fn new(host: usize, generation: u32) -> Self {
        Self {
            host,
            generation,
            permit: Permit::UNTRACKED,
        }
    }
}

/// How requests are spread over the hosts of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancing {
    Random,
    RoundRobin,
}

/// Chooses hosts.
#[derive(Clone)]
pub struct Balancer {
    balancing: Balancing,
    hosts: usize,
    next: usize,
}

impl Balancer {
    pub const fn new(balancing: Balancing, hosts: usize) -> Self {
        Self {
            balancing,
            hosts,
            next: 0,
        }
    }

    /// One of the hosts that are eligible.
    fn pick(&mut self, eligible: impl Fn(usize) -> bool, random: &mut Random) -> Option<usize> {
        let count = (0..self.hosts).filter(|host| eligible(*host)).count();
        let place = match self.balancing {
            _ if count == 0 => return None,
            Balancing::Random => {
                usize::try_from(random.below(count as u64)).expect("below the count")
            }
            Balancing::RoundRobin => self.next % count,
        };
        self.next = self.next.wrapping_add(1);
        (0..self.hosts).filter(|host| eligible(*host)).nth(place)
    }
}

/// The real breaker.
#[derive(Clone)]
pub struct Levee {
    settings: BreakerSettings,
    breaker: Breaker,
    openings: u64,
    has_health_check: bool,
    checked: Instant,
}

/// The time between two health checks, as in the filter's defaults.
const CHECK_EVERY: Duration = Duration::from_secs(1);

impl Levee {
    fn new(settings: BreakerSettings, now: Instant) -> Self {
        Self {
            settings,
            breaker: Breaker::new(&settings, now),
            openings: 0,
            has_health_check: false,
            checked: now,
        }
    }

    /// If a health check is due, the service answers it.
    fn check(&mut self, is_well: impl FnOnce() -> bool, now: Instant) {
        if self.has_health_check
            && now >= self.checked.after(CHECK_EVERY)
            && let Some(permit) = self.breaker.permit_check(&self.settings, CHECK_EVERY, now)
        {
            self.checked = now;
            if is_well() {
                self.breaker.check_passed(&self.settings, permit, now);
            }
        }
    }

    fn admit(&mut self, now: Instant) -> Option<Permit> {
        match self.breaker.admit(&self.settings, now).0 {
            Verdict::Admit(permit) => Some(permit),
            Verdict::WouldRefuse | Verdict::Refuse { .. } => None,
        }
    }

    fn record(&mut self, permit: Permit, outcome: Outcome, now: Instant, random: u64) {
        let changed = if outcome == Outcome::SUCCESS {
            self.breaker
                .record(&self.settings, permit, outcome, now, random)
        } else {
            let report = Report {
                usual_millis: USUAL_MILLIS,
                ..Report::new(permit, outcome)
            };
            self.breaker.report(&self.settings, report, now, random)
        };
        let opens = |(from, to)| from == Phase::Closed && to == Phase::Open;
        let opened = changed.is_some_and(|change| opens((change.from, change.to)));
        self.openings += u64::from(opened);
    }
}

/// A rule and its state.
#[derive(Clone)]
pub enum Rule {
    Levee(Box<Levee>),
    /// The same as in the filter, where it has a ramp.
    Worker(Box<Worker>),
    /// Rows of a fixed length, and rates.
    Plain(Box<Plain>),
    /// The last hundred calls.
    Ring(Ring),
    /// Rows of each host.
    Outlier(Outlier),
}

impl Rule {
    pub fn levee(settings: BreakerSettings, now: Instant) -> Self {
        Self::Levee(Box::new(Levee::new(settings, now)))
    }

    pub fn worker(settings: BreakerSettings, now: Instant) -> Self {
        Self::Worker(Box::new(Worker::new(settings, now)))
    }

    /// Asks the service whether it is well, if the rule does that now.
    pub fn check(&mut self, is_well: impl FnOnce() -> bool, now: Instant) {
        if let Self::Levee(levee) = self {
            levee.check(is_well, now);
        }
    }

    /// Admits a call to a host.
    pub fn admit(
        &mut self,
        balancer: &mut Balancer,
        now: Instant,
        random: &mut Random,
    ) -> Option<Ticket> {
        match self {
            Self::Levee(levee) => {
                let permit = levee.admit(now)?;
                let host = balancer.pick(|_| true, random)?;
                Some(Ticket {
                    permit,
                    ..Ticket::new(host, 0)
                })
            }
            Self::Worker(worker) => {
                let permit = worker.admit(now)?;
                let host = balancer.pick(|_| true, random)?;
                Some(Ticket {
                    permit,
                    ..Ticket::new(host, 0)
                })
            }
            Self::Plain(plain) => {
                let generation = plain.admit(now)?;
                let host = balancer.pick(|_| true, random)?;
                Some(Ticket::new(host, generation))
            }
            Self::Ring(ring) => {
                ring.admit(now).then_some(())?;
                Some(Ticket::new(balancer.pick(|_| true, random)?, 0))
            }
            Self::Outlier(outlier) => {
                outlier.sweep(now);
                let host = balancer.pick(|host| outlier.serves(host), random)?;
                Some(Ticket::new(host, 0))
            }
        }
    }

    /// Records how a call ended.
    pub fn record(&mut self, ticket: Ticket, outcome: Outcome, now: Instant, random: &mut Random) {
        let failed = matches!(outcome, Outcome::Failure { .. });
        match self {
            Self::Levee(levee) => levee.record(ticket.permit, outcome, now, random.bits()),
            Self::Worker(worker) => worker.record(ticket.permit, outcome, now, random.bits()),
            Self::Plain(plain) => plain.record(ticket.generation, failed, now, random.bits()),
            Self::Ring(ring) => ring.record(failed, now),
            Self::Outlier(outlier) => outlier.record(ticket.host, failed, now),
        }
    }

    /// Whether it admits all calls.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Levee(levee) => levee.breaker.phase() == Phase::Closed,
            Self::Worker(worker) => worker.is_closed(),
            Self::Plain(plain) => plain.is_closed(),
            Self::Ring(ring) => ring.is_closed(),
            Self::Outlier(outlier) => outlier.ejected() == 0,
        }
    }

    /// How often it went from closed to open.
    pub fn openings(&self) -> u64 {
        match self {
            Self::Levee(levee) => levee.openings,
            Self::Worker(worker) => worker.openings,
            Self::Plain(plain) => plain.openings,
            Self::Ring(ring) => ring.openings,
            Self::Outlier(outlier) => outlier.ejections,
        }
    }
}

/// The rules in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    Levee,
    /// The same with health checks.
    Checked,
    /// Levee with five failures in a row, whatever was before, and 30 s also where there is no connection.
    Before,
    Gobreaker,
    Resilience4j,
    /// Envoy's outlier detection with its defaults, for a service of fewer than ten hosts.
    Envoy,
    /// With `always_eject_one_host`.
    EnvoyOneHost,
    /// As a breaker: with `max_ejection_percent: 100` and `healthy_panic_threshold: 0`.
    EnvoyAllHosts,
}

impl Candidate {
    pub const ALL: [Self; 7] = [
        Self::Levee,
        Self::Before,
        Self::Gobreaker,
        Self::Resilience4j,
        Self::Envoy,
        Self::EnvoyOneHost,
        Self::EnvoyAllHosts,
    ];
    /// Those that refuse calls to a service of one host.
    pub const BREAKERS: [Self; 5] = [
        Self::Levee,
        Self::Before,
        Self::Gobreaker,
        Self::Resilience4j,
        Self::EnvoyAllHosts,
    ];

    /// Those whose returns are compared.
    pub const RETURNING: [Self; 6] = [
        Self::Levee,
        Self::Before,
        Self::Gobreaker,
        Self::Resilience4j,
        Self::EnvoyAllHosts,
        Self::Checked,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Levee => "levee",
            Self::Checked => "levee, health checks",
            Self::Before => "levee, any five",
            Self::Gobreaker => "gobreaker",
            Self::Resilience4j => "resilience4j",
            Self::Envoy => "envoy",
            Self::EnvoyOneHost => "envoy, one host",
            Self::EnvoyAllHosts => "envoy, all hosts",
        }
    }

    pub fn rule(self, hosts: usize, now: Instant) -> Rule {
        match self {
            Self::Levee => Rule::levee(BreakerSettings::default(), now),
            Self::Checked => {
                let mut levee = Levee::new(BreakerSettings::default(), now);
                levee.has_health_check = true;
                Rule::Levee(Box::new(levee))
            }
            Self::Before => Rule::Plain(Box::new(Plain::before())),
            Self::Gobreaker => Rule::Plain(Box::new(Plain::gobreaker())),
            Self::Resilience4j => Rule::Ring(Ring::default()),
            Self::Envoy => Rule::Outlier(Outlier::new(hosts, hosts / 10, 50, now)),
            Self::EnvoyOneHost => Rule::Outlier(Outlier::new(hosts, 1, 50, now)),
            Self::EnvoyAllHosts => Rule::Outlier(Outlier::new(hosts, hosts, 0, now)),
        }
    }

    /// The length of the row that opens it, if that is always the same.
    pub const fn fixed_row(self) -> Option<i32> {
        match self {
            Self::Gobreaker => Some(6),
            Self::Before | Self::EnvoyAllHosts => Some(5),
            _ => None,
        }
    }

    /// The rule without its rows, if a rate opens it, too.
    pub fn rate_only(self, now: Instant) -> Option<Rule> {
        match self {
            Self::Levee => {
                let settings = BreakerSettings {
                    consecutive_failures: None,
                    ..BreakerSettings::default()
                };
                Some(Rule::levee(settings, now))
            }
            Self::Before => Some(Rule::Plain(Box::new(Plain::before().without_rows()))),
            Self::Resilience4j => Some(self.rule(1, now)),
            _ => None,
        }
    }
}
