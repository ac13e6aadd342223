//! What a result in a part of a service says about the whole service.
//!
//! A scope is a part of a service, such as one of its routes. It has a breaker of its own, below the
//! service's: a call needs the permits of both. So a method that fails shuts itself and no other.
//! Each failure counts for one of the two:
//!
//! * without a connection, whoever asked would have failed: that concerns the service;
//! * everything else (an error, a reset, a time limit) concerns the scope. The service was reached, and
//!   that is a success for its breaker: otherwise somebody whose calls fail in a scope could make those
//!   without a connection, where one of many hosts is down, seem to be nearly all. Where the caller gave
//!   up, nobody knows, so it is only one of the calls.
//!
//! A service can be broken in all of its scopes and still accept connections. So its breaker opens, too,
//! when none of the scopes that were called lately works ([`none_works`]), though each of them may have
//! failed too rarely to open its own. Then it asks again soon, a few calls at a time. Those that are open
//! stay so, and where another one works, its calls close the service's breaker.

use crate::breaker::{Breaker, BreakerSettings, Outcome, Permit, Silence, State};
use crate::callers::{Caller, Tally};
use crate::evidence::{ALONE, Portion, Weight, answered_well, unanswered};
use crate::replica::Replica;
use crate::surprise::Expected;
use crate::time::Instant;
use crate::window::Counts;
use std::time::Duration;

/// What the scope's breaker is told of a result.
#[inline]
pub const fn heard_by_scope(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failure {
            weight: Weight::Unreachable,
            ..
        } => Outcome::Neutral,
        _ => outcome,
    }
}

/// What the service's breaker is told of a result, of a call that had this `permit` of it. The caller
/// of what is good is the scope. `ended_failures` came in the scope before the result.
#[inline]
pub const fn heard_by_service(outcome: Outcome, permit: Permit, ended_failures: u32) -> Outcome {
    match outcome {
        Outcome::Failure {
            weight: Weight::Unreachable,
            ..
        } => Outcome::UNREACHABLE,
        // A scope that fails neither keeps the others out nor lets them in.
        Outcome::Failure { .. } | Outcome::Unanswered if permit.is_probe() => Outcome::Neutral,
        // A slow scope may be the only one.
        Outcome::Success { .. } if ended_failures > 0 => Outcome::After {
            failures: ended_failures,
        },
        // It was reached.
        Outcome::Success { .. } | Outcome::Failure { .. } => Outcome::SUCCESS,
        // It may have been reached.
        Outcome::Unanswered => Outcome::Unknown,
        Outcome::After { .. } | Outcome::Unknown | Outcome::Neutral => outcome,
    }
}

/// How a scope is, as far as it says something about its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It says nothing: hardly anybody has called it lately.
    Idle,
    /// It is called, and answers.
    Works,
    /// Its last calls failed.
    Fails {
        /// How many failures they are worth.
        failures: u32,
    },
    /// It is called, and hardly ever answers.
    Silent(Silent),
    /// Its breaker is open, or tests it.
    Open,
}

/// What nobody has answered lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent {
    /// How many calls.
    pub calls: u32,
    /// Who has made the most of them.
    pub suspect: Caller,
    /// How many it has made.
    pub own: u32,
}

impl Silent {
    /// `None` if calls are answered, as far as callers other than the suspect can see.
    fn of(breaker: &Breaker, counts: Counts, rule: Silence, now: Instant) -> Option<Self> {
        let (suspect, own) = breaker.callers.most_unanswered(counts);
        let others_are_well = breaker
            .callers
            .answered
            .any(now, |caller| caller != suspect);
        let of_others = if counts.total == 0 && !others_are_well {
            counts.unanswered
        } else {
            counts.unanswered.saturating_sub(own)
        };
        Portion::beside(of_others, counts.total)
            .reaches(rule.ratio, 1)
            .then_some(Self {
                calls: counts.unanswered,
                suspect,
                own,
            })
    }
}

impl Standing {
    /// Reads it from the scope's breaker. Lately is within the length of its window. `expected` is what is
    /// expected of the service.
    pub fn of(
        breaker: &Breaker,
        settings: &BreakerSettings,
        expected: Expected,
        now: Instant,
    ) -> Self {
        let is_recent = |end: Instant| now.since(end) < settings.window;
        match breaker.state {
            State::Closed => Self::of_closed(breaker, settings, expected, now),
            State::Open { until } if is_recent(until) => Self::Open,
            State::HalfOpen if is_recent(breaker.since.after(settings.half_open.lease)) => {
                if breaker.probes.successes > 0 {
                    Self::Works
                } else {
                    Self::Open
                }
            }
            State::Open { .. } | State::HalfOpen => Self::Idle,
        }
    }

    fn of_closed(
        breaker: &Breaker,
        settings: &BreakerSettings,
        expected: Expected,
        now: Instant,
    ) -> Self {
        let counts = breaker.window.clone().totals(now);
        if counts == Counts::default() {
            // Its probes are not in the window.
            let closed_at = breaker.closed_again_at();
            let has_closed = closed_at.is_some_and(|at| now.since(at) < settings.window);
            return if has_closed { Self::Works } else { Self::Idle };
        }
        let failures = breaker.failures_in_row(settings, now);
        if expected.is_refuted_by(failures, LAST_CALLS) {
            return Self::Fails { failures };
        }
        if let Some(rule) = settings.silence
            && let Some(silent) = Silent::of(breaker, counts, rule, now)
        {
            return Self::Silent(silent);
        }
        if answered_well(counts) > 0 {
            Self::Works
        } else {
            Self::Idle
        }
    }

    /// Whether it is bad enough to ask how the others are.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Fails { .. } | Self::Silent(_) | Self::Open)
    }
}

/// This many failures in a row show that a scope does not work any more. One may be chance.
const LAST_CALLS: u32 = 2;

/// Whether none of the scopes that were called lately works. Then the failures concern the service. One
/// that works keeps it open to all others, so nobody can shut it by scopes that nobody else calls.
///
/// Two at least must be bad. Together they must have failed as often as would open two breakers of a service
/// of which as much is `expected`, or be as silent as would open one.
pub fn none_works(
    settings: &BreakerSettings,
    expected: Expected,
    scopes: impl IntoIterator<Item = Standing>,
) -> bool {
    let (mut bad, mut open, mut failures) = (0_u32, 0_u32, 0_u32);
    let mut unanswered = Unanswered::default();
    for standing in scopes {
        bad = bad.saturating_add(standing.is_bad().into());
        match standing {
            Standing::Works => return false,
            Standing::Idle => {}
            Standing::Open => open = open.saturating_add(1),
            Standing::Fails { failures: of_scope } => {
                failures = failures.saturating_add(of_scope);
            }
            Standing::Silent(silent) => unanswered.add(silent),
        }
    }
    let is_failing = settings.consecutive_failures.map_or(open >= 2, |limit| {
        let failures = open.saturating_mul(limit).saturating_add(failures);
        expected.is_refuted_by(failures, limit.saturating_mul(2))
    });
    let is_silent = settings
        .silence
        .is_some_and(|rule| unanswered.believed() >= rule.minimum_requests);
    bad >= 2 && (is_failing || is_silent)
}

/// Calls of several scopes that nobody has answered.
#[derive(Default)]
struct Unanswered {
    all: u32,
    by_caller: Tally,
}

impl Unanswered {
    fn add(&mut self, silent: Silent) {
        self.all = self.all.saturating_add(silent.calls);
        self.by_caller.add(silent.suspect, unanswered(silent.own));
    }

    /// One caller may have given up early. But nobody is answered, so it may be alone.
    fn believed(&self) -> u32 {
        let most = self.by_caller.largest(|complaints| complaints.unanswered);
        let of_others = self.all.saturating_sub(most.complaints.unanswered);
        of_others.max(self.all / ALONE)
    }
}

/// Whether a worker that has visited the breaker of a scope at `visited` should hand in its successes,
/// though all is well: they say that the scope works.
pub fn wants_to_hand_in(
    replica: &Replica,
    settings: &BreakerSettings,
    visited: Instant,
    now: Instant,
) -> bool {
    let every = (settings.window / 2).min(LATEST);
    replica.has_successes() && now.since(visited) >= every
}

const LATEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Verdict;
    use crate::replica::Admission;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

    const NOTHING: Expected = Expected {
        calls: 0,
        failed: 0,
    };

    const ALL: [Outcome; 8] = [
        Outcome::SUCCESS,
        Outcome::Success { slow: true },
        Outcome::FAILURE,
        Outcome::WEAK_FAILURE,
        Outcome::UNREACHABLE,
        Outcome::Failure {
            slow: true,
            weight: Weight::Strong,
        },
        Outcome::Unanswered,
        Outcome::Neutral,
    ];

    #[test]
    fn each_failure_counts_for_one_of_the_two_and_each_success_for_both() {
        let settings = BreakerSettings::default();
        let mut breaker = Breaker::new(&settings, NOW);
        let (Verdict::Admit(closed), _) = breaker.admit(&settings, NOW) else {
            panic!("it is closed");
        };
        let _ = breaker.open_with_scopes(&settings, NOW, 0);
        let _ = breaker.hasten(&settings, NOW);
        let (Verdict::Admit(probe), _) = breaker.admit(&settings, NOW) else {
            panic!("a place is free");
        };
        for outcome in ALL {
            let expected = match outcome {
                Outcome::UNREACHABLE => Outcome::Neutral,
                _ => outcome,
            };
            assert_eq!(heard_by_scope(outcome), expected);
            for (permit, failures) in [(closed, 0), (closed, 3), (probe, 0)] {
                let expected = match outcome {
                    Outcome::Success { .. } if failures > 0 => Outcome::After { failures },
                    Outcome::Success { .. } => Outcome::SUCCESS,
                    Outcome::UNREACHABLE | Outcome::Neutral => outcome,
                    _ if permit.is_probe() => Outcome::Neutral,
                    Outcome::Unanswered => Outcome::Unknown,
                    _ => Outcome::SUCCESS,
                };
                let heard = heard_by_service(outcome, permit, failures);
                assert_eq!(heard, expected, "{permit:?} {failures}");
            }
        }
    }

    #[test]
    fn one_scope_that_works_is_enough_for_the_service() {
        use Standing::{Fails, Idle, Open, Works};
        let fails = |failures| Fails { failures };
        // By many callers.
        let silent = |calls| {
            Standing::Silent(Silent {
                calls,
                suspect: Caller::from_hash(calls),
                own: 0,
            })
        };
        for (scopes, expected) in [
            (vec![], false),
            (vec![Open], false),
            (vec![Open, Idle, Idle], false),
            (vec![Open, fails(4)], false),
            (vec![Open, fails(5)], true),
            (vec![fails(10)], false),
            (vec![fails(2), fails(8)], true),
            (vec![fails(2), fails(7)], false),
            (vec![fails(2); 5], true),
            (vec![fails(2); 4], false),
            (vec![Open, Open], true),
            (vec![Open, Open, Idle, fails(2)], true),
            (vec![Open, Open, Works], false),
            (vec![Open, Open, Open, Open, Works], false),
            (vec![silent(40)], false),
            (vec![silent(10), silent(10)], true),
            (vec![silent(2); 9], false),
            (vec![silent(2); 10], true),
            (vec![Open, silent(20)], true),
            (vec![Open, silent(19)], false),
            (vec![Works, silent(20), silent(20)], false),
        ] {
            let found = none_works(&BreakerSettings::default(), NOTHING, scopes.clone());
            assert_eq!(found, expected, "{scopes:?}");
        }
        let off = BreakerSettings {
            consecutive_failures: None,
            silence: None,
            ..BreakerSettings::default()
        };
        assert!(!none_works(&off, NOTHING, [fails(1000), silent(1000)]));
        assert!(none_works(&off, NOTHING, [Open, Open]));
    }

    #[test]
    fn rows_in_scopes_say_nothing_where_as_many_calls_fail_anyway() {
        let two_in_five = Expected {
            calls: 900,
            failed: 360,
        };
        let none_works = |failures| {
            let scopes = [Standing::Fails { failures }; 3];
            none_works(&BreakerSettings::default(), two_in_five, scopes)
        };
        assert!(!none_works(13));
        assert!(none_works(14));

        let settings = BreakerSettings::default();
        let mut breaker = Breaker::new(&settings, NOW);
        let (Verdict::Admit(permit), _) = breaker.admit(&settings, NOW) else {
            panic!("it is closed");
        };
        breaker.record(&settings, permit, Outcome::SUCCESS, NOW, 0);
        for failures in 1..=4 {
            breaker.record(&settings, permit, Outcome::FAILURE, NOW, 0);
            let standing = Standing::of(&breaker, &settings, two_in_five, NOW);
            assert_eq!(standing, Standing::Works, "{failures}");
        }
    }

    #[test]
    fn one_caller_in_several_scopes_makes_no_silence_of_a_few_calls() {
        let by = |caller, calls| {
            Standing::Silent(Silent {
                calls,
                suspect: Caller::from_hash(caller),
                own: calls,
            })
        };
        let is_silent = |scopes: &[Standing]| {
            none_works(&BreakerSettings::default(), NOTHING, scopes.iter().copied())
        };
        assert!(!is_silent(&[by(1, 20), by(1, 39)]));
        assert!(is_silent(&[by(1, 20), by(1, 40)]));
        assert!(is_silent(&[by(1, 20), by(2, 20)]));
        assert!(!is_silent(&[by(1, 19), by(2, 19), by(1, 1)]));
    }

    #[test]
    fn a_scope_that_nobody_calls_says_nothing() {
        let settings = BreakerSettings::default();
        let at = |secs| NOW.after(Duration::from_secs(secs));
        let standing =
            |breaker: &Breaker, secs| Standing::of(breaker, &settings, NOTHING, at(secs));
        let mut breaker = Breaker::new(&settings, NOW);
        assert_eq!(standing(&breaker, 0), Standing::Idle);
        let call = |breaker: &mut Breaker, outcome, secs| {
            let (Verdict::Admit(permit), _) = breaker.admit(&settings, at(secs)) else {
                panic!("it is not open");
            };
            breaker.record(&settings, permit, outcome, at(secs), 0);
        };
        call(&mut breaker, Outcome::SUCCESS, 0);
        assert_eq!(standing(&breaker, 9), Standing::Works);
        assert_eq!(standing(&breaker, 20), Standing::Idle);
        call(&mut breaker, Outcome::FAILURE, 20);
        assert_eq!(standing(&breaker, 20), Standing::Idle);
        call(&mut breaker, Outcome::FAILURE, 20);
        assert_eq!(standing(&breaker, 20), Standing::Fails { failures: 2 });
        call(&mut breaker, Outcome::SUCCESS, 20);
        call(&mut breaker, Outcome::FAILURE, 20);
        assert_eq!(standing(&breaker, 20), Standing::Works);
        for _ in 0..4 {
            assert_eq!(breaker.phase(), crate::breaker::Phase::Closed);
            call(&mut breaker, Outcome::FAILURE, 20);
        }
        // It is open for 30 s.
        assert_eq!(standing(&breaker, 20), Standing::Open);
        assert_eq!(standing(&breaker, 59), Standing::Open);
        assert_eq!(standing(&breaker, 61), Standing::Idle);
        call(&mut breaker, Outcome::Neutral, 70);
        assert_eq!(standing(&breaker, 94), Standing::Open);
        assert_eq!(standing(&breaker, 95), Standing::Idle);
    }

    #[test]
    fn successes_are_handed_in_before_they_leave_the_window() {
        for secs in 1..100 {
            let settings = BreakerSettings {
                window: Duration::from_secs(secs),
                ..BreakerSettings::default()
            };
            let breaker = Breaker::new(&settings, NOW);
            let mut replica = Replica::new(&settings, &breaker, NOW);
            let later = NOW.after(settings.window / 2);
            assert!(!wants_to_hand_in(&replica, &settings, NOW, later), "none");
            let Admission::Decided(Verdict::Admit(permit)) = replica.admit(&settings, NOW) else {
                panic!("it is closed");
            };
            let _ = replica.record(permit, Outcome::SUCCESS, NOW);
            assert!(!wants_to_hand_in(&replica, &settings, NOW, NOW));
            assert!(wants_to_hand_in(&replica, &settings, NOW, later));
        }
    }

    #[test]
    fn a_scope_that_was_just_closed_works_and_so_does_one_whose_probes_succeed() {
        let settings = BreakerSettings::default();
        let at = |secs| NOW.after(Duration::from_secs(secs));
        let mut breaker = Breaker::new(&settings, NOW);
        let call = |breaker: &mut Breaker, outcome, secs| {
            let (Verdict::Admit(permit), _) = breaker.admit(&settings, at(secs)) else {
                panic!("it is not open");
            };
            breaker.record(&settings, permit, outcome, at(secs), 0);
        };
        for _ in 0..5 {
            call(&mut breaker, Outcome::FAILURE, 0);
        }
        call(&mut breaker, Outcome::Neutral, 40);
        assert_eq!(
            Standing::of(&breaker, &settings, NOTHING, at(40)),
            Standing::Open
        );
        call(&mut breaker, Outcome::SUCCESS, 40);
        assert_eq!(
            Standing::of(&breaker, &settings, NOTHING, at(40)),
            Standing::Works
        );
        for _ in 0..2 {
            call(&mut breaker, Outcome::SUCCESS, 41);
        }
        for (secs, expected) in [
            (41, Standing::Works),
            (50, Standing::Works),
            (51, Standing::Idle),
        ] {
            assert_eq!(
                Standing::of(&breaker, &settings, NOTHING, at(secs)),
                expected,
                "{secs}"
            );
        }
    }
}
