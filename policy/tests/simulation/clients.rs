//! Those who call: honest clients, attackers, and what they get from a service.

use crate::random::Random;
use crate::world::{Arrivals, Clients, Connections, End, Ends};
use levee_policy::breaker::Outcome;
use std::fmt;
use std::time::Duration;

pub const ATTACKER: u32 = 1_000_003;
/// When attackers begin, and when services break down.
pub const WARM_UP: Duration = Duration::from_secs(10);
pub const GIVES_UP: Duration = Duration::from_secs(1);

pub fn soon(outcome: Outcome, random: &mut Random) -> End {
    End::new(
        outcome,
        Duration::from_micros(10_000 + random.below(40_000)),
    )
}

fn in_10_ms(outcome: Outcome) -> End {
    End::new(outcome, Duration::from_millis(10))
}

/// Clients that call at random from the start.
pub fn at_random(first: u32, count: u32, rate: f64, end: Ends) -> Clients {
    Clients {
        first,
        count,
        from: Duration::ZERO,
        arrivals: Arrivals::Random { rate, at_once: 1 },
        connections: Connections::One,
        scopes: Vec::new(),
        end,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Honest {
    pub count: u32,
    pub calls: Calls,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Calls {
    /// Calls per second of all of them.
    AtRandom(f64),
    /// Each client calls once in this time, all at the same instant.
    Each(Duration),
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtRandom(rate) if *rate >= 1.0 => write!(f, "{rate}/s"),
            Self::AtRandom(rate) => write!(f, "one in {:.0} s", 1.0 / rate),
            Self::Each(interval) => write!(f, "each {} s", interval.as_secs()),
        }
    }
}

impl Honest {
    pub const fn at_random(count: u32, rate: f64) -> Self {
        Self {
            count,
            calls: Calls::AtRandom(rate),
        }
    }

    pub const fn each(count: u32, seconds: u64) -> Self {
        Self {
            count,
            calls: Calls::Each(Duration::from_secs(seconds)),
        }
    }

    /// One in a thousand calls fails weakly.
    pub fn clients(self) -> Clients {
        let end: Ends = Box::new(|_, _, random| {
            let outcome = if random.below(1_000) == 0 {
                Outcome::WEAK_FAILURE
            } else {
                Outcome::SUCCESS
            };
            soon(outcome, random)
        });
        let rate = match self.calls {
            Calls::AtRandom(rate) => rate,
            Calls::Each(_) => 0.0,
        };
        let mut clients = at_random(1, self.count, rate, end);
        if let Calls::Each(interval) = self.calls {
            clients.arrivals = Arrivals::Together(interval);
        }
        clients
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    Failures,
    Abandons,
    Mixed,
    Bursts,
    CalmFirst,
    LongCalm,
    AbandonsMixed,
}

impl Attack {
    pub const ALL: [Self; 7] = [
        Self::Failures,
        Self::Abandons,
        Self::Mixed,
        Self::Bursts,
        Self::CalmFirst,
        Self::LongCalm,
        Self::AbandonsMixed,
    ];

    /// Whether none of its calls is good.
    pub fn only_fails(self) -> bool {
        matches!(self, Self::Failures | Self::Abandons)
    }

    fn end(self) -> Ends {
        match self {
            Self::Failures => Box::new(|_, _, random| soon(Outcome::WEAK_FAILURE, random)),
            Self::Abandons => Box::new(|_, _, _| End::new(Outcome::Unanswered, GIVES_UP)),
            Self::Mixed => Box::new(|_, _, random| {
                let outcome = if random.below(4) == 0 {
                    Outcome::SUCCESS
                } else {
                    Outcome::WEAK_FAILURE
                };
                soon(outcome, random)
            }),
            Self::Bursts => Box::new(|number, _, _| match number % 20 {
                19 => End::new(Outcome::SUCCESS, Duration::from_micros(10_001)),
                _ => in_10_ms(Outcome::WEAK_FAILURE),
            }),
            Self::CalmFirst => calm_first(11, 12),
            Self::LongCalm => calm_first(9, 18),
            Self::AbandonsMixed => Box::new(|number, _, _| match number % 20 {
                0 => in_10_ms(Outcome::WEAK_FAILURE),
                1 => End::new(Outcome::SUCCESS, Duration::from_micros(10_001)),
                _ => End::new(Outcome::Unanswered, GIVES_UP),
            }),
        }
    }

    /// One attacker at this many calls per second.
    pub fn clients(self, rate: f64, connections: Connections) -> Clients {
        let at_once = match self {
            Self::Bursts | Self::AbandonsMixed => 20,
            _ => 1,
        };
        Clients {
            first: ATTACKER,
            count: 1,
            from: WARM_UP,
            arrivals: Arrivals::Random { rate, at_once },
            connections,
            scopes: Vec::new(),
            end: self.end(),
        }
    }
}

/// Good calls for the first `calm` of `period` seconds, then failures.
fn calm_first(calm: u64, period: u64) -> Ends {
    Box::new(move |_, at, random| {
        let outcome = if at.saturating_sub(WARM_UP).as_secs() % period < calm {
            Outcome::SUCCESS
        } else {
            Outcome::WEAK_FAILURE
        };
        soon(outcome, random)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakdown {
    /// Each call fails weakly.
    Fails,
    /// No call is answered.
    Hangs,
}

impl Breakdown {
    pub const ALL: [Self; 2] = [Self::Fails, Self::Hangs];

    /// The service is well at first.
    pub fn ends(self) -> Ends {
        Box::new(move |_, at, random| {
            if at < WARM_UP {
                soon(Outcome::SUCCESS, random)
            } else {
                match self {
                    Self::Fails => in_10_ms(Outcome::WEAK_FAILURE),
                    Self::Hangs => End::new(Outcome::Unanswered, GIVES_UP),
                }
            }
        })
    }
}

/// When a service is back that broke down after the warm-up.
pub const BACK: Duration = Duration::from_secs(30);

/// No caller gets an answer until [`BACK`], and each does afterwards, if its request takes `upload`.
pub fn down_for_a_while(upload: Duration) -> Ends {
    Box::new(move |_, at, random| {
        if (WARM_UP..BACK).contains(&at) {
            in_10_ms(Outcome::FAILURE)
        } else {
            End {
                upload,
                ..soon(Outcome::SUCCESS, random)
            }
        }
    })
}

/// What an attacker does to a service that is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    Failures,
    EndlessUploads,
    LeavesAtOnce,
}

impl Hindrance {
    pub const ALL: [Self; 3] = [Self::Failures, Self::EndlessUploads, Self::LeavesAtOnce];

    pub fn clients(self, rate: f64) -> Clients {
        let end: Ends = match self {
            Self::Failures => Box::new(|_, _, random| soon(Outcome::WEAK_FAILURE, random)),
            Self::EndlessUploads => Box::new(|_, _, _| End {
                upload: Duration::from_hours(1),
                ..in_10_ms(Outcome::Neutral)
            }),
            Self::LeavesAtOnce => Box::new(|_, _, _| in_10_ms(Outcome::Neutral)),
        };
        Clients {
            from: BACK,
            ..at_random(ATTACKER, 1, rate, end)
        }
    }
}
