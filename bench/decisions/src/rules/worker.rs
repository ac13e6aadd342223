//! One worker of the filter: a replica of a breaker, and the breaker.

use levee_policy::breaker::{
    Breaker, BreakerSettings, Outcome, Permit, Phase, Report, Transition, Verdict,
};
use levee_policy::callers::Caller;
use levee_policy::replica::{Admission, Recorded, Replica, Visit};
use levee_policy::time::Instant;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);
/// How long answers usually take at most, as workers of the filter see it of a service that is not slow.
pub(super) const USUAL_MILLIS: u32 = 300;

#[derive(Clone)]
pub struct Worker {
    settings: BreakerSettings,
    shared: Breaker,
    replica: Replica,
    next_tick: Instant,
    pub openings: u64,
}

impl Worker {
    pub fn new(settings: BreakerSettings, now: Instant) -> Self {
        let shared = Breaker::new(&settings, now);
        Self {
            replica: Replica::new(&settings, &shared, now),
            settings,
            shared,
            next_tick: now,
            openings: 0,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.shared.phase() == Phase::Closed
    }

    pub fn admit(&mut self, now: Instant) -> Option<Permit> {
        if now >= self.next_tick {
            self.next_tick = now.after(TICK);
            if self.replica.wants_sync() {
                self.visit(Visit::Sync, now, 0);
            }
        }
        let verdict = match self.replica.admit(&self.settings, now) {
            Admission::Decided(verdict) => verdict,
            Admission::VisitNeeded => self
                .replica
                .admit_share(&self.settings, now)
                .or_else(|| self.visit(Visit::Admit(Caller::UNKNOWN), now, 0))
                .expect("the visit asks for it"),
        };
        match verdict {
            Verdict::Admit(permit) => Some(permit),
            Verdict::WouldRefuse | Verdict::Refuse { .. } => None,
        }
    }

    pub fn record(&mut self, permit: Permit, outcome: Outcome, now: Instant, random: u64) {
        match self.replica.record(permit, outcome, now) {
            Recorded::Here => {}
            Recorded::WhoCalled => self.replica.answered(Caller::UNKNOWN, now),
            Recorded::VisitNeeded => {
                let report = Report {
                    usual_millis: USUAL_MILLIS,
                    ..Report::new(permit, outcome)
                };
                self.visit(Visit::Record(report), now, random);
            }
        }
    }

    fn visit(&mut self, visit: Visit, now: Instant, random: u64) -> Option<Verdict> {
        let (settings, shared) = (&self.settings, &mut self.shared);
        let visited = self.replica.visit(settings, shared, visit, now, random);
        let opened = |change: &Transition| (change.from, change.to) == (Phase::Closed, Phase::Open);
        self.openings += u64::from(visited.transition.as_ref().is_some_and(opened));
        self.replica.adopt(&self.shared, now);
        visited.verdict
    }
}
