//! What a result in a part of a service says about the whole service.
//!
//! A scope is a part of a service, such as one of its routes. It has a breaker of its own, below the
//! service's: a call needs the permits of both. So a method that fails shuts itself and no other.
//! Each failure counts for one of the two:
//!
//! * without a connection, whoever asked would have failed: that concerns the service;
//! * everything else (an error, a reset, a time limit) concerns the scope.
//!
//! A service can be broken in all of its scopes and still accept connections. So its breaker opens, too,
//! when none of the scopes that were called lately works ([`none_works`]). Then it asks again soon, a few
//! calls at a time. Those that are open stay so, and where another one works, its calls close the
//! service's breaker.

use crate::breaker::{Breaker, BreakerSettings, Outcome, State};
use crate::evidence::{Weight, answered_well};
use crate::time::Instant;
use crate::window::Counts;
use std::time::Duration;

/// What the two breakers are told of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The scope's.
    pub scope: Outcome,
    /// The service's. Its caller is the scope.
    pub service: Outcome,
}

impl Heard {
    /// Divides the result of a call.
    #[inline]
    pub const fn of(outcome: Outcome) -> Self {
        let (scope, service) = match outcome {
            // A slow scope may be the only one.
            Outcome::Success { .. } => (outcome, Outcome::SUCCESS),
            Outcome::Failure {
                weight: Weight::Unreachable,
                ..
            } => (Outcome::Neutral, Outcome::UNREACHABLE),
            // Also of a probe: a scope that fails keeps no others out.
            Outcome::Failure { .. } | Outcome::Unanswered | Outcome::Neutral => {
                (outcome, Outcome::Neutral)
            }
        };
        Self { scope, service }
    }
}

/// How a scope is, as far as it says something about its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has called it lately.
    Idle,
    /// It is called, and answers.
    Works,
    /// It is called, and its last calls failed.
    Fails,
    /// Its breaker is open, or tests it.
    Open,
}

impl Standing {
    /// Reads it from the scope's breaker. Lately is within the length of its window.
    pub fn of(breaker: &Breaker, settings: &BreakerSettings, now: Instant) -> Self {
        let is_recent = |end: Instant| now.since(end) < settings.window;
        match breaker.state {
            State::Closed => {
                let calls = breaker.window.clone().totals(now);
                if calls == Counts::default() {
                    Self::Idle
                } else if answered_well(calls) > 0 && breaker.row.length < LAST_CALLS {
                    Self::Works
                } else {
                    Self::Fails
                }
            }
            State::Open { until } if is_recent(until) => Self::Open,
            State::HalfOpen if is_recent(breaker.since.after(settings.half_open.lease)) => {
                Self::Open
            }
            State::Open { .. } | State::HalfOpen => Self::Idle,
        }
    }
}

/// So many failures in a row show that a scope does not work any more. One may be chance.
const LAST_CALLS: u32 = 2;

/// Whether none of the scopes that were called lately works, and at least two are open: then the
/// failures concern the service. One that works keeps it open to all others, so nobody can shut it by
/// scopes that nobody else calls.
pub fn none_works(scopes: impl IntoIterator<Item = Standing>) -> bool {
    let mut open = 0_u32;
    for standing in scopes {
        match standing {
            Standing::Works => return false,
            Standing::Open => open = open.saturating_add(1),
            Standing::Idle | Standing::Fails => {}
        }
    }
    open >= 2
}

/// How often a worker hands in its successes in a scope, while all is well, so that the scope counts
/// as called.
pub fn hand_in_every(settings: &BreakerSettings) -> Duration {
    (settings.window / 2).clamp(SOONEST, LATEST)
}

const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Verdict;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

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
        for outcome in ALL {
            let Heard { scope, service } = Heard::of(outcome);
            let expected = match outcome {
                Outcome::Success { .. } => (outcome, Outcome::SUCCESS),
                Outcome::UNREACHABLE => (Outcome::Neutral, outcome),
                _ => (outcome, Outcome::Neutral),
            };
            assert_eq!((scope, service), expected);
        }
    }

    #[test]
    fn one_scope_that_works_is_enough_for_the_service() {
        use Standing::{Fails, Idle, Open, Works};
        for (scopes, expected) in [
            (vec![], false),
            (vec![Open], false),
            (vec![Open, Idle, Idle], false),
            (vec![Open, Fails], false),
            (vec![Open, Open], true),
            (vec![Open, Open, Idle, Fails], true),
            (vec![Open, Open, Works], false),
            (vec![Open, Open, Open, Open, Works], false),
            (vec![Fails, Fails], false),
        ] {
            assert_eq!(none_works(scopes.clone()), expected, "{scopes:?}");
        }
    }

    #[test]
    fn a_scope_that_nobody_calls_says_nothing() {
        let settings = BreakerSettings::default();
        let at = |secs| NOW.after(Duration::from_secs(secs));
        let standing = |breaker: &Breaker, secs| Standing::of(breaker, &settings, at(secs));
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
        assert_eq!(standing(&breaker, 20), Standing::Fails);
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
        for secs in 2..100 {
            let settings = BreakerSettings {
                window: Duration::from_secs(secs),
                ..BreakerSettings::default()
            };
            assert!(hand_in_every(&settings) <= settings.window / 2);
        }
    }
}
