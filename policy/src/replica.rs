//! A breaker that several workers share, and that costs nothing while all is well.
//!
//! The [`Breaker`] itself is kept where all workers reach it, at a price (shared memory behind a
//! lock, a compare-and-swap). Each worker holds a [`Replica`]: what it last knew of the state, and
//! the calls that it has not yet told anybody about. While the service is well, a worker admits
//! calls and counts successes without looking at anything else. It goes to the shared breaker
//!
//! * for every failure, every probe, and every call once an open breaker's time has passed;
//! * for the first success after it heard of a failure, since that breaks a row of failures;
//! * now and then ([`Replica::wants_sync`]) while failures are in the window, so that the rates see
//!   everybody's calls.
//!
//! A worker that changes what the others need to know is told so ([`Synced::tell_others`]), tells
//! them, and they sync.
//!
//! The row of failures is thus counted over all workers and exactly: the fifth failure opens the
//! breaker whichever worker it falls on. The rates are judged when workers sync, not before those
//! that were just told of a failure had a moment ([`GRACE`]) to hand in their successes: otherwise
//! one worker with a failing client would speak for all.

use crate::breaker::{
    Breaker, Generation, Outcome, Permit, Phase, Settings, State, Transition, Verdict,
    fixed_verdict, refusal,
};
use crate::time::Instant;
use crate::window::Window;
use std::time::Duration;

/// How long after the first failure in a clean window the rates are left unjudged, so that other
/// workers can hand in what they have counted.
pub const GRACE: Duration = Duration::from_millis(50);

/// A worker's view of a shared [`Breaker`].
#[derive(Clone, Debug)]
pub struct Replica {
    generation: Generation,
    state: State,
    /// Failures in a row are on record: the next success must clear them.
    row: bool,
    /// Since when failures (or slow calls) are in the window.
    troubled_since: Option<Instant>,
    /// Calls that succeeded here and are not in the shared window yet.
    unsynced: Window,
}

/// What a visit to the shared breaker came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Synced {
    /// The change of state that this visit made.
    pub transition: Option<Transition>,
    /// Whether the other workers should sync soon.
    pub tell_others: bool,
}

/// What a worker goes to the shared breaker with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// To hand in what it has and to see what is new.
    Sync,
    /// To ask for a call.
    Admit,
    /// With the result of a call.
    Record(Permit, Outcome),
}

impl Replica {
    /// The view of a worker that has just read `breaker`.
    pub fn new(settings: &Settings, breaker: &Breaker, now: Instant) -> Self {
        let mut replica = Self {
            generation: breaker.generation,
            state: breaker.state,
            row: false,
            troubled_since: None,
            unsynced: Window::new(settings.window),
        };
        replica.adopt(breaker, now);
        replica
    }

    /// Where the breaker was when this worker last looked.
    pub const fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// May a call go out? `None`: the shared breaker must be asked ([`Visit::Admit`]).
    ///
    /// `now` is used only to see whether an open breaker's time has passed, and may lag.
    #[inline]
    pub fn admit(&self, settings: &Settings, now: Instant) -> Option<Verdict> {
        if !settings.mode.learns() {
            return Some(fixed_verdict(settings));
        }
        match self.state {
            State::Closed => Some(Verdict::Admit(Permit {
                generation: self.generation,
                probe: None,
            })),
            State::Open { until } if now < until => Some(refusal(settings.mode, until.since(now))),
            State::Open { .. } | State::HalfOpen => None,
        }
    }

    /// A call has ended. False: the shared breaker must be told ([`Visit::Record`]).
    ///
    /// `now` tells the bucket of the window, and may lag by less than one.
    #[inline]
    pub fn record(&mut self, permit: Permit, outcome: Outcome, now: Instant) -> bool {
        if permit.generation != self.generation {
            // This worker gave the permit, and has heard of a later generation since: it is stale.
            return true;
        }
        match outcome {
            Outcome::Neutral => !permit.is_probe(),
            Outcome::Success { slow: false } if !permit.is_probe() && !self.row => {
                self.unsynced.add(now, outcome.counts());
                true
            }
            Outcome::Success { .. } | Outcome::Failure { .. } => false,
        }
    }

    /// Whether this worker should visit with [`Visit::Sync`] though nobody called: failures are
    /// in the window, or probes are under way.
    pub const fn wants_sync(&self) -> bool {
        self.troubled_since.is_some() || matches!(self.state, State::HalfOpen)
    }

    /// Visits the shared breaker: changes `breaker`, and says what comes of it. This view stays as
    /// it is until [`adopt`](Self::adopt), so that a visit can be repeated on a newer `breaker`
    /// when writing this one back failed.
    pub fn visit(
        &self,
        settings: &Settings,
        breaker: &mut Breaker,
        visit: Visit,
        now: Instant,
        random: u64,
    ) -> (Option<Verdict>, Synced) {
        if breaker.state == State::Closed {
            breaker.window.resize(settings.window);
            breaker.window.totals(now);
        }
        let before = News::of(breaker);
        if breaker.state == State::Closed && breaker.generation == self.generation {
            breaker.window.absorb(&self.unsynced);
        }
        let (verdict, transition) = match visit {
            Visit::Sync => (None, None),
            Visit::Admit => {
                let (verdict, transition) = breaker.admit(settings, now);
                (Some(verdict), transition)
            }
            Visit::Record(permit, outcome) => (
                None,
                breaker.record_call(settings, permit, outcome, now, random),
            ),
        };
        let transition = transition.or_else(|| {
            self.troubled_since
                .is_some_and(|since| now.since(since) >= GRACE)
                .then(|| breaker.judge_rates(settings, now, random))
                .flatten()
        });
        (
            verdict,
            Synced {
                transition,
                tell_others: News::of(breaker).tells_more_than(before),
            },
        )
    }

    /// Takes over what `breaker` says, once what this worker handed in is part of it.
    pub fn adopt(&mut self, breaker: &Breaker, now: Instant) {
        self.generation = breaker.generation;
        self.state = breaker.state;
        self.row = breaker.consecutive_failures > 0;
        let mut window = breaker.window.clone();
        self.troubled_since = if window.totals(now).is_clean() {
            None
        } else {
            Some(self.troubled_since.unwrap_or(now))
        };
        self.unsynced.clear();
    }
}

/// What the other workers go by.
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
            row: breaker.consecutive_failures > 0,
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
            1 => Just(Outcome::Failure { slow: true }),
            1 => Just(Outcome::Neutral),
        ];
        prop_oneof![
            8 => (any::<usize>(), outcome).prop_map(|(worker, outcome)| Event::Call(worker, outcome)),
            2 => any::<usize>().prop_map(Event::Sync),
            2 => (0_u64..3_000).prop_map(Event::Pass),
        ]
    }

    /// Visits an older breaker first, as when the compare-and-swap fails, then the newest.
    fn visit(
        replica: &mut Replica,
        settings: &Settings,
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
            // Nothing opens it, so all is in the window.
            let settings = Settings {
                consecutive_failures: None,
                failure_rate: None,
                ..Settings::default()
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
                        let Some(Verdict::Admit(permit)) = replica.admit(&settings, now) else {
                            return Err(TestCaseError::fail("it is closed"));
                        };
                        if !replica.record(permit, outcome, now) {
                            let what = Visit::Record(permit, outcome);
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
                    expected.slow += counts.slow;
                }
            }
            prop_assert_eq!(history[1].window.totals(now), expected);
        }
    }

    #[test]
    fn what_was_counted_with_a_new_window_is_handed_in_to_a_breaker_with_the_old() {
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut breaker = Breaker::new(&Settings::default(), now);
        let settings = Settings {
            window: Duration::from_secs(20),
            ..Settings::default()
        };
        let mut replica = Replica::new(&settings, &breaker, now);
        let Some(Verdict::Admit(permit)) = replica.admit(&settings, now) else {
            panic!("it is closed");
        };
        assert!(replica.record(permit, Outcome::SUCCESS, now));
        let _ = replica.visit(&settings, &mut breaker, Visit::Sync, now, 0);
        assert_eq!(breaker.window.totals(now).total, 1);
    }

    #[test]
    fn what_was_counted_before_it_opened_is_not_handed_in_after_it_closed() {
        let settings = Settings::default();
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut breaker = Breaker::new(&settings, now);
        let mut replica = Replica::new(&settings, &breaker, now);
        let Some(Verdict::Admit(permit)) = replica.admit(&settings, now) else {
            panic!("it is closed");
        };
        assert!(replica.record(permit, Outcome::SUCCESS, now));
        breaker.generation += 3; // opened, tried and closed by others
        let _ = replica.visit(&settings, &mut breaker, Visit::Sync, now, 0);
        assert_eq!(breaker.window.totals(now), Counts::default());
    }
}
