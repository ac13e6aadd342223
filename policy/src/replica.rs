//! A breaker that several workers share, and that costs nothing while the service is well.
//!
//! The [`Breaker`] itself is kept where all workers reach it, at a price: shared memory behind a
//! lock, and a compare-and-swap. Each worker holds a [`Replica`]: the last state it knows, and the
//! successes that it has not reported yet. While the service is well, a worker admits calls and
//! counts successes on its own. It visits the shared breaker
//!
//! * for every failure, every probe, and every call after an open breaker's time has passed;
//! * for the first success after it learned of a failure, since that success ends the row;
//! * at intervals ([`Replica::wants_sync`]) while failures are in the window, so that the rates
//!   include the calls of all workers.
//!
//! After the breaker has closed, each worker lets a growing share of its own calls through, if
//! [`BreakerSettings::recover_for`] says so.
//!
//! Once a second, and up to ten times while it finds the caller that it knows, it asks whom it has
//! answered. It says so when it visits, so that one caller whose calls fail is not taken to be alone
//! because another worker serves the others.
//!
//! If a visit changes state that other workers need, it returns [`Visited::tell_others`]: the
//! caller notifies them, and they sync.
//!
//! So consecutive failures are counted exactly, over all workers: the fifth opens the breaker,
//! whichever worker it falls on. The rates are judged when workers sync, and only after workers
//! that just learned of a failure had time ([`GRACE`]) to report their successes. Otherwise one
//! worker with a failing client would decide for all.

use crate::answered::Answered;
use crate::breaker::{
    Breaker, BreakerSettings, Cause, CheckPermit, Generation, Outcome, Permit, Phase, Report,
    State, Transition, Verdict, fixed_verdict, refusal,
};
use crate::callers::Caller;
use crate::evidence::Witnesses;
use crate::recovery::Ramp;
use crate::surprise::Expected;
use crate::time::Instant;
use crate::window::Window;
use std::time::Duration;

/// How long the rates are not judged after the first failure in a clean window, so that other
/// workers can report the successes they have counted.
pub const GRACE: Duration = Duration::from_millis(50);

/// How often a worker asks whom it answers, while the service is well.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// And after it has found the one that it knew: many good calls of one caller must not hide the others.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// When a call should come again that is refused while the share of those let through grows.
const RETRY_IN: Duration = Duration::from_secs(1);

/// A worker's view of a shared [`Breaker`].
#[derive(Clone, Debug)]
pub struct Replica {
    generation: Generation,
    view: View,
    ramp: Ramp,
    /// Whether the shared breaker counts consecutive failures: the next success must clear them.
    row: bool,
    /// When this worker first learned of the failures or slow calls in the window.
    troubled_since: Option<Instant>,
    /// Successes of this worker that are not in the shared window yet.
    unsynced: Window,
    /// Whom this worker has answered well lately.
    answered: Answered,
    /// When it asks for the next one.
    ask_at: Instant,
    /// What is expected of the service, if this is a scope's.
    of_service: Expected,
    /// When the breaker's state began.
    since: Instant,
    not_checked_before: Instant,
}

/// The state of the shared breaker, as a worker knows it.
#[derive(Clone, Copy, Debug)]
enum View {
    Closed,
    Open {
        until: Instant,
    },
    /// Half-open, or closed `since` then and letting a share of the calls through. With one variant
    /// for both it costs less to see that it is closed to none.
    Between {
        since: Option<Instant>,
    },
}

/// A worker's answer to a call that asks for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// This worker knows the answer.
    Decided(Verdict),
    /// [`Replica::admit_share`] may know the answer, and otherwise only the shared breaker: visit it
    /// with [`Visit::Admit`].
    VisitNeeded,
}

/// What became of a call's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Recorded {
    /// This worker has counted it, or it decides nothing.
    Here,
    /// The same. Who called should be said to [`Replica::answered`].
    WhoCalled,
    /// The shared breaker must have it: visit it with [`Visit::Record`].
    VisitNeeded,
}

/// Why a worker visits the shared breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// To report its successes, and to see what changed.
    Sync,
    /// To ask for the admission of a call by this caller.
    Admit(Caller),
    /// To report the result of a call.
    Record(Report),
    /// To report that a health check has passed.
    Hasten(CheckPermit),
    /// To report that a second scope of the service was called, which may work though the first does not.
    SecondScope,
    /// To report that none of the service's scopes works: [`Breaker::open_with_scopes`].
    NoScopeWorks,
}

/// The result of a visit to the shared breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Visited {
    /// The answer to [`Visit::Admit`]. `None` for the other visits.
    pub verdict: Option<Verdict>,
    /// The change of state that this visit made.
    pub transition: Option<Transition>,
    /// Whether the other workers should sync soon.
    pub tell_others: bool,
    /// How many failures the success of [`Visit::Record`] has ended that were not only one caller's doing.
    pub ended_failures: u32,
}

impl Replica {
    /// The view of a worker that has just read `breaker`.
    pub fn new(settings: &BreakerSettings, breaker: &Breaker, now: Instant) -> Self {
        let mut replica = Self {
            generation: breaker.generation,
            view: View::Closed,
            ramp: Ramp::new(settings.recover_for),
            row: false,
            troubled_since: None,
            of_service: Expected::default(),
            since: breaker.since,
            not_checked_before: breaker.not_checked_before,
            unsynced: Window::new(settings.window),
            answered: Answered::default(),
            ask_at: match settings.witnesses {
                Witnesses::One => Instant::from_nanos(u64::MAX),
                Witnesses::Two => Instant::default(),
            },
        };
        replica.adopt(breaker, now);
        replica
    }

    /// The breaker's phase when this worker last read it.
    pub const fn phase(&self) -> Phase {
        match self.view {
            View::Closed | View::Between { since: Some(_) } => Phase::Closed,
            View::Open { .. } => Phase::Open,
            View::Between { since: None } => Phase::HalfOpen,
        }
    }

    /// May a call go out?
    ///
    /// `now` serves only to see whether an open breaker's time has passed, and may lag.
    #[inline]
    pub fn admit(&self, settings: &BreakerSettings, now: Instant) -> Admission {
        if !settings.mode.learns() {
            return Admission::Decided(fixed_verdict(settings));
        }
        match self.view {
            View::Closed => Admission::Decided(Verdict::Admit(Permit {
                generation: self.generation,
                probe: None,
            })),
            View::Open { until } if now < until => {
                Admission::Decided(refusal(settings.mode, until.since(now)))
            }
            View::Open { .. } | View::Between { .. } => Admission::VisitNeeded,
        }
    }

    /// The answer to a call while a growing share of them is let through. `None` at other times.
    #[cold]
    pub fn admit_share(&mut self, settings: &BreakerSettings, now: Instant) -> Option<Verdict> {
        let View::Between { since: Some(since) } = self.view else {
            return None;
        };
        let elapsed = now.since(since);
        Some(if self.ramp.lets_through(elapsed) {
            Verdict::Admit(Permit {
                generation: self.generation,
                probe: None,
            })
        } else {
            refusal(settings.mode, self.ramp.left(elapsed).min(RETRY_IN))
        })
    }

    /// Whether only a share of the calls may be let through now.
    pub const fn is_recovering(&self) -> bool {
        matches!(self.view, View::Between { since: Some(_) })
    }

    /// The permit of a call that belongs to the share of another breaker. `None` if this one has none.
    pub fn permit_beside_share(&self) -> Option<Permit> {
        self.is_recovering().then_some(Permit {
            generation: self.generation,
            probe: None,
        })
    }

    /// Records the result of a call.
    ///
    /// `now` selects the bucket of the window, and may lag by less than a bucket's length.
    #[inline]
    pub fn record(&mut self, permit: Permit, outcome: Outcome, now: Instant) -> Recorded {
        if permit.generation != self.generation {
            // This worker gave the permit and has seen a later generation since: it is stale.
            return Recorded::Here;
        }
        match outcome {
            Outcome::Neutral if !permit.is_probe() => Recorded::Here,
            Outcome::Unknown if !permit.is_probe() && !self.row => {
                self.unsynced.add_success(now);
                Recorded::Here
            }
            Outcome::Success { slow: false } if !permit.is_probe() && !self.row => {
                self.unsynced.add_success(now);
                if now >= self.ask_at {
                    Recorded::WhoCalled
                } else {
                    Recorded::Here
                }
            }
            Outcome::Success { .. }
            | Outcome::Failure { .. }
            | Outcome::Unanswered
            | Outcome::After { .. }
            | Outcome::Unknown
            | Outcome::Neutral => Recorded::VisitNeeded,
        }
    }

    /// The call of which [`record`](Self::record) has asked was made by `caller`.
    pub fn answered(&mut self, caller: Caller, now: Instant) {
        let is_new = self.answered.newest() != Some(caller);
        self.answered.add(caller, now);
        self.ask_at = now.after(if is_new { ASK_EVERY } else { ASK_AGAIN });
    }

    /// Whether this worker should visit with [`Visit::Sync`] though no call requires it: failures
    /// are in the window, probes are in flight, or the ramp may be over.
    pub const fn wants_sync(&self) -> bool {
        self.troubled_since.is_some() || matches!(self.view, View::Between { .. })
    }

    /// What the service's breaker knows now, if this one is a scope's.
    pub fn hear_of_service(&mut self, service: &Breaker, now: Instant) {
        self.of_service = service.expected_of_scopes(now);
    }

    /// What this worker has heard of the service.
    pub const fn of_service(&self) -> Expected {
        self.of_service
    }

    /// Whether this worker has counted successes that it has not reported.
    pub fn has_successes(&self) -> bool {
        self.unsynced.sum().total > 0
    }

    /// Whether it is open and its time has not passed.
    pub fn refuses(&self, now: Instant) -> bool {
        matches!(self.view, View::Open { until } if now < until)
    }

    /// Whether the shared breaker would give a health check its [permit](Breaker::permit_check), as far as
    /// this worker knows.
    pub fn wants_check(
        &self,
        settings: &BreakerSettings,
        at_least: Duration,
        now: Instant,
    ) -> bool {
        settings.mode.learns()
            && self.refuses(now)
            && now >= self.since.after(at_least)
            && now >= self.not_checked_before
    }

    /// Visits the shared breaker: changes `breaker` and returns the result. The view itself only
    /// changes in [`adopt`](Self::adopt), so a visit can be repeated on a newer `breaker` if
    /// writing this one back failed.
    pub fn visit(
        &self,
        settings: &BreakerSettings,
        breaker: &mut Breaker,
        visit: Visit,
        now: Instant,
        random: u64,
    ) -> Visited {
        if breaker.state == State::Closed {
            breaker.window.resize(settings.window);
            breaker.window.totals(now);
        }
        let before = News::of(breaker);
        if breaker.state == State::Closed && breaker.generation == self.generation {
            breaker.window.absorb(&self.unsynced);
            breaker.callers.answered.absorb(&self.answered);
        }
        let elsewhere = breaker.expected_elsewhere(self.of_service, now);
        let ended_failures = match visit {
            Visit::Record(report) if ends_row(report, breaker) => breaker.row.believed(),
            _ => 0,
        };
        let mut verdict = None;
        let transition = match visit {
            Visit::Sync => None,
            Visit::Admit(caller) => {
                let (answer, transition) = breaker.admit_caller(settings, caller, now);
                verdict = Some(answer);
                transition
            }
            Visit::Record(report) => breaker.record_call(settings, report, elsewhere, now, random),
            Visit::Hasten(check) => breaker.check_passed(settings, check, now),
            Visit::SecondScope => breaker.test_now(settings, Cause::SecondScope, now),
            Visit::NoScopeWorks => breaker.open_with_scopes(settings, now, random),
        };
        let transition = transition.or_else(|| {
            self.troubled_since
                .is_some_and(|since| now.since(since) >= GRACE)
                .then(|| breaker.judge_rates(settings, elsewhere, now, random))
                .flatten()
        });
        Visited {
            verdict,
            transition,
            tell_others: News::of(breaker).tells_more_than(before),
            ended_failures,
        }
    }

    /// Takes over the state of `breaker`, which includes what this worker reported.
    pub fn adopt(&mut self, breaker: &Breaker, now: Instant) {
        if self.generation != breaker.generation {
            // Whoever was answered before may not be any more.
            self.answered.clear();
            self.ramp.restart();
        }
        self.generation = breaker.generation;
        self.view = match breaker.state {
            State::Closed => match breaker.closed_again_at() {
                Some(since) if self.ramp.left(now.since(since)) > Duration::ZERO => {
                    View::Between { since: Some(since) }
                }
                _ => View::Closed,
            },
            State::Open { until } => View::Open { until },
            State::HalfOpen => View::Between { since: None },
        };
        self.row = !breaker.row.is_empty();
        self.since = breaker.since;
        self.not_checked_before = breaker.not_checked_before;
        let mut window = breaker.window.clone();
        self.troubled_since = if window.totals(now).is_clean() {
            None
        } else {
            Some(self.troubled_since.unwrap_or(now))
        };
        self.unsynced.clear();
    }
}

fn ends_row(report: Report, breaker: &Breaker) -> bool {
    breaker.state == State::Closed
        && report.permit.generation == breaker.generation
        && matches!(report.outcome, Outcome::Success { .. })
}

/// The part of a breaker's state that other workers depend on.
#[derive(Clone, Copy)]
struct News {
    generation: Generation,
    row: bool,
    troubled: bool,
}

impl News {
    fn of(breaker: &Breaker) -> Self {
        Self {
            generation: breaker.generation,
            row: !breaker.row.is_empty(),
            troubled: !breaker.window.sum().is_clean(),
        }
    }

    const fn tells_more_than(self, before: Self) -> bool {
        self.generation != before.generation
            || (self.row && !before.row)
            || (self.troubled && !before.troubled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Weight;
    use crate::window::Counts;
    use proptest::collection::vec;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Call(usize, Outcome),
        Sync(usize),
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let outcome = prop_oneof![
            6 => Just(Outcome::SUCCESS),
            1 => Just(Outcome::Success { slow: true }),
            1 => Just(Outcome::FAILURE),
            1 => Just(Outcome::WEAK_FAILURE),
            1 => Just(Outcome::Failure { slow: true, weight: Weight::Strong }),
            1 => Just(Outcome::Unanswered),
            1 => Just(Outcome::Unknown),
            1 => Just(Outcome::Neutral),
        ];
        prop_oneof![
            8 => (any::<usize>(), outcome).prop_map(|(worker, outcome)| Event::Call(worker, outcome)),
            2 => any::<usize>().prop_map(Event::Sync),
            2 => (0_u64..3_000).prop_map(Event::Pass),
        ]
    }

    /// Visits an older breaker first, as if the compare-and-swap had failed, then the newest.
    fn visit(
        replica: &mut Replica,
        settings: &BreakerSettings,
        history: &mut [Breaker; 2],
        visit: Visit,
        now: Instant,
    ) {
        let [older, newest] = history;
        let before = newest.clone();
        let _ = replica.visit(settings, older, visit, now, 0);
        let _ = replica.visit(settings, newest, visit, now, 0);
        replica.adopt(newest, now);
        *older = before;
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn no_call_is_lost_or_counted_twice(
            count in 1_usize..5, events in vec(event(), 1..150),
        ) {
            // No rule can open it, so all calls stay in the window.
            let settings = BreakerSettings {
                consecutive_failures: None,
                failure_rate: None,
                silence: None,
                ..BreakerSettings::default()
            };
            let mut now = Instant::from_nanos(1_000_000_000_000);
            let mut history = [Breaker::new(&settings, now), Breaker::new(&settings, now)];
            let mut replicas = vec![Replica::new(&settings, &history[1], now); count];
            let mut calls: Vec<(u64, Counts)> = Vec::new();
            let second = |now: Instant| now.as_nanos() / 1_000_000_000;
            for event in events {
                match event {
                    Event::Call(worker, outcome) => {
                        let replica = &mut replicas[worker % count];
                        let Admission::Decided(Verdict::Admit(permit)) = replica.admit(&settings, now) else {
                            return Err(TestCaseError::fail("it is closed"));
                        };
                        if replica.record(permit, outcome, now) == Recorded::VisitNeeded {
                            let what = Visit::Record(Report::new(permit, outcome));
                            visit(replica, &settings, &mut history, what, now);
                        }
                        calls.push((second(now), outcome.counts()));
                    }
                    Event::Sync(worker) => {
                        visit(&mut replicas[worker % count], &settings, &mut history, Visit::Sync, now);
                    }
                    Event::Pass(millis) => now = now.after(Duration::from_millis(millis)),
                }
            }
            for replica in &mut replicas {
                visit(replica, &settings, &mut history, Visit::Sync, now);
            }
            let mut expected = Counts::default();
            for (at, counts) in calls {
                if at + 10 > second(now) {
                    expected.total += counts.total;
                    expected.failures += counts.failures;
                    expected.weak += counts.weak;
                    expected.slow += counts.slow;
                    expected.unanswered += counts.unanswered;
                }
            }
            prop_assert_eq!(history[1].window.totals(now), expected);
        }
    }

    #[test]
    fn whom_a_worker_answers_is_asked_once_a_second_and_handed_in() {
        let settings = BreakerSettings::default();
        let mut now = Instant::from_nanos(1_000_000_000_000);
        let mut breaker = Breaker::new(&settings, now);
        let mut worker = Replica::new(&settings, &breaker, now);
        let mut asked = 0;
        for call in 0..100 {
            let Admission::Decided(Verdict::Admit(permit)) = worker.admit(&settings, now) else {
                panic!("it is closed");
            };
            if worker.record(permit, Outcome::SUCCESS, now) == Recorded::WhoCalled {
                worker.answered(Caller::from_hash(call), now);
                asked += 1;
            }
            now = now.after(Duration::from_millis(100));
        }
        assert_eq!(asked, 10);
        let _ = worker.visit(&settings, &mut breaker, Visit::Sync, now, 0);
        let known = |caller| {
            let is_it = |by| by == Caller::from_hash(caller);
            breaker.callers.answered.any(now, is_it)
        };
        assert_eq!([70, 80, 90].map(known), [false, true, true]);
        // What was answered before an outage isn't said after it.
        breaker.generation += 3;
        worker.adopt(&breaker, now);
        breaker.callers.answered.clear();
        let _ = worker.visit(&settings, &mut breaker, Visit::Sync, now, 0);
        assert_eq!(breaker.callers.answered, Answered::default());
    }

    #[test]
    fn with_one_witness_nobody_is_asked_for() {
        let settings = BreakerSettings {
            witnesses: Witnesses::One,
            ..BreakerSettings::default()
        };
        let now = Instant::from_nanos(1_000_000_000_000);
        let breaker = Breaker::new(&settings, now);
        let mut worker = Replica::new(&settings, &breaker, now);
        let Admission::Decided(Verdict::Admit(permit)) = worker.admit(&settings, now) else {
            panic!("it is closed");
        };
        assert_eq!(worker.record(permit, Outcome::SUCCESS, now), Recorded::Here);
    }

    #[test]
    fn what_was_counted_with_a_new_window_is_handed_in_to_a_breaker_with_the_old() {
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut breaker = Breaker::new(&BreakerSettings::default(), now);
        let settings = BreakerSettings {
            window: Duration::from_secs(20),
            ..BreakerSettings::default()
        };
        let mut replica = Replica::new(&settings, &breaker, now);
        let Admission::Decided(Verdict::Admit(permit)) = replica.admit(&settings, now) else {
            panic!("it is closed");
        };
        assert_eq!(
            replica.record(permit, Outcome::SUCCESS, now),
            Recorded::WhoCalled
        );
        let _ = replica.visit(&settings, &mut breaker, Visit::Sync, now, 0);
        assert_eq!(breaker.window.totals(now).total, 1);
    }

    #[test]
    fn what_was_counted_before_it_opened_is_not_handed_in_after_it_closed() {
        let settings = BreakerSettings::default();
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut breaker = Breaker::new(&settings, now);
        let mut replica = Replica::new(&settings, &breaker, now);
        let Admission::Decided(Verdict::Admit(permit)) = replica.admit(&settings, now) else {
            panic!("it is closed");
        };
        assert_eq!(
            replica.record(permit, Outcome::SUCCESS, now),
            Recorded::WhoCalled
        );
        breaker.generation += 3; // opened, tried and closed by others
        let _ = replica.visit(&settings, &mut breaker, Visit::Sync, now, 0);
        assert_eq!(breaker.window.totals(now), Counts::default());
    }
}
