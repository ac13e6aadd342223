//! The breakers of a service and of its scopes, and the workers that share them, as in the filter.

use levee_policy::breaker::{
    Breaker, BreakerSettings, Outcome, Permit, Phase, Report, Transition, Verdict,
};
use levee_policy::callers::Caller;
use levee_policy::divided::{self, Admitted, Permits, Replicas, Who, asks_about_all};
use levee_policy::random::SplitMix64;
use levee_policy::replica::{Admission, Recorded, Replica, Visit, Visited};
use levee_policy::scope::{Standing, none_works, wants_to_hand_in};
use levee_policy::time::Instant;
use std::time::Duration;

/// How often a worker of the filter syncs.
pub const TICK: Duration = Duration::from_millis(100);
/// As workers of the filter see it of a service that answers within 256 ms.
const USUAL_MILLIS: u32 = 300;

/// The service (`None`), or one of its scopes.
pub type Part = Option<usize>;

pub struct Gate {
    settings: BreakerSettings,
    /// The service's, then its scopes'.
    breakers: Vec<Breaker>,
    /// The replicas of each, in the same order.
    workers: Vec<Vec<Held>>,
    changes: Vec<(Part, Transition)>,
}

#[derive(Clone)]
struct Held {
    replica: Replica,
    /// Another worker has changed the breaker.
    is_notified: bool,
    visited: Instant,
}

/// A call, where and when the gate sees it.
#[derive(Clone, Copy)]
pub struct Moment {
    pub worker: usize,
    pub caller: Caller,
    pub now: Instant,
    pub random: u64,
}

impl Gate {
    pub fn new(settings: BreakerSettings, workers: usize, scopes: usize, now: Instant) -> Self {
        let breaker = Breaker::new(&settings, now);
        let held = Held {
            replica: Replica::new(&settings, &breaker, now),
            is_notified: false,
            visited: Instant::default(),
        };
        Self {
            settings,
            breakers: vec![breaker; 1 + scopes],
            workers: vec![vec![held; 1 + scopes]; workers],
            changes: Vec::new(),
        }
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    pub fn phase(&self, part: Part) -> Phase {
        self.breakers[place(part)].phase()
    }

    /// The changes since this was asked last.
    pub fn take_changes(&mut self) -> Vec<(Part, Transition)> {
        std::mem::take(&mut self.changes)
    }

    pub fn admit(&mut self, moment: Moment, scope: Part) -> Option<Permits> {
        let mut worker = AtWorker { gate: self, moment };
        if scope.is_some() {
            return match divided::admit(&mut worker, None, scope) {
                Admitted::With(permits) | Admitted::ByShadow(permits) => Some(permits),
                Admitted::No { .. } => None,
            };
        }
        match worker.ask(None) {
            Verdict::Admit(permit) => Some(Permits::of_service(permit)),
            Verdict::WouldRefuse | Verdict::Refuse { .. } => None,
        }
    }

    pub fn end(&mut self, moment: Moment, scope: Part, permits: Permits, outcome: Outcome) {
        let mut worker = AtWorker { gate: self, moment };
        if scope.is_some() {
            divided::record(&mut worker, None, scope, permits, outcome);
        } else {
            worker.record(None, permits.service, outcome, Who::Client);
        }
    }

    pub fn has_news(&self) -> bool {
        self.workers.iter().flatten().any(|held| held.is_notified)
    }

    /// Workers sync what has changed.
    pub fn hear_news(&mut self, now: Instant, random: u64) {
        self.sync(now, random, |held, _| held.is_notified);
    }

    /// The same, and what the tick takes care of.
    pub fn tick(&mut self, now: Instant, random: u64) {
        let settings = self.settings;
        self.sync(now, random, |held, part| {
            let wants = |held: &Held| wants_to_hand_in(&held.replica, &settings, held.visited, now);
            held.is_notified || held.replica.wants_sync() || (part.is_some() && wants(held))
        });
    }

    fn sync(&mut self, now: Instant, random: u64, wants: impl Fn(&mut Held, Part) -> bool) {
        for worker in 0..self.workers.len() {
            for place in 0..self.breakers.len() {
                let held = &mut self.workers[worker][place];
                let part = place.checked_sub(1);
                let wants = wants(held, part);
                held.is_notified = false;
                if wants {
                    let moment = Moment {
                        worker,
                        caller: Caller::UNKNOWN,
                        now,
                        random,
                    };
                    let _ = AtWorker { gate: self, moment }.visit(part, Visit::Sync);
                }
            }
        }
    }

    fn none_works(&self, now: Instant) -> bool {
        let scopes = self.breakers[1..].iter();
        let expected = self.breakers[0].expected_of_scopes(now);
        let standings = scopes.map(|breaker| Standing::of(breaker, &self.settings, expected, now));
        none_works(&self.settings, expected, standings)
    }
}

fn place(part: Part) -> usize {
    part.map_or(0, |scope| 1 + scope)
}

/// A worker that handles a call.
struct AtWorker<'a> {
    gate: &'a mut Gate,
    moment: Moment,
}

impl AtWorker<'_> {
    fn held(&mut self, part: Part) -> &mut Held {
        &mut self.gate.workers[self.moment.worker][place(part)]
    }

    fn caller(&self, who: Who) -> Caller {
        match who {
            Who::Client => self.moment.caller,
            Who::Known(caller) => caller,
        }
    }

    fn visit(&mut self, part: Part, visit: Visit) -> Visited {
        let Moment { now, random, .. } = self.moment;
        let (settings, place) = (self.gate.settings, place(part));
        // Each breaker has its own, since several may open at once.
        let random = part.map_or(random, |scope| {
            SplitMix64::new(random ^ scope as u64).next_u64()
        });
        let held = &mut self.gate.workers[self.moment.worker][place];
        if part.is_some() {
            held.replica.hear_of_service(&self.gate.breakers[0], now);
        }
        let breaker = &mut self.gate.breakers[place];
        let visited = held.replica.visit(&settings, breaker, visit, now, random);
        held.replica.adopt(breaker, now);
        held.visited = now;
        let asks_about_all = part.is_some() && {
            let of_service = held.replica.of_service();
            asks_about_all(visit, breaker, &settings, of_service, now)
        };
        if let Some(transition) = visited.transition {
            self.gate.changes.push((part, transition));
        }
        if visited.tell_others {
            for (worker, replicas) in self.gate.workers.iter_mut().enumerate() {
                replicas[place].is_notified = worker != self.moment.worker;
            }
        }
        if asks_about_all && self.gate.none_works(now) {
            let _ = self.visit(None, Visit::NoScopeWorks);
        }
        visited
    }
}

impl Replicas for AtWorker<'_> {
    type Index = Part;

    fn replica(&self, part: Part) -> &Replica {
        &self.gate.workers[self.moment.worker][place(part)].replica
    }

    fn view(&self, part: Part) -> Admission {
        let replica = self.replica(part);
        replica.admit(&self.gate.settings, self.moment.now)
    }

    fn ask(&mut self, part: Part) -> Verdict {
        if let Admission::Decided(verdict) = self.view(part) {
            return verdict;
        }
        let (settings, Moment { now, caller, .. }) = (self.gate.settings, self.moment);
        let share = self.held(part).replica.admit_share(&settings, now);
        share.unwrap_or_else(|| {
            let visited = self.visit(part, Visit::Admit(caller));
            visited.verdict.expect("an answer")
        })
    }

    fn record(&mut self, part: Part, permit: Permit, outcome: Outcome, who: Who) -> u32 {
        let (now, caller) = (self.moment.now, self.caller(who));
        let held = self.held(part);
        match held.replica.record(permit, outcome, now) {
            Recorded::Here => 0,
            Recorded::WhoCalled => {
                held.replica.answered(caller, now);
                0
            }
            Recorded::VisitNeeded => {
                let report = Report {
                    caller,
                    usual_millis: USUAL_MILLIS,
                    ..Report::new(permit, outcome)
                };
                self.visit(part, Visit::Record(report)).ended_failures
            }
        }
    }

    fn as_caller(&self, scope: Part) -> Caller {
        let number = u32::try_from(place(scope)).expect("a small number");
        Caller::from_hash(2_000_000 + number)
    }
}
