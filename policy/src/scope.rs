//! What a result in a part of a service says about the whole service.
//!
//! A scope is a part of a service, such as one of its routes. It has a breaker of its own, below the
//! service's: a call needs the permits of both. So a method that fails shuts itself and no other.
//! Each failure counts for one of the two:
//!
//! * without a connection, whoever asked would have failed: that concerns the service;
//! * everything else (an error, a reset, a time limit) concerns the scope.
//!
//! A service can be broken in all of its scopes and still accept connections. So its breaker opens,
//! too, when most of its scopes are open, of those that were called lately ([`most_are_open`]).
//! Then it asks again soon: those that are open stay so, and where another one works, its calls close
//! the service's breaker as soon as its first probes are answered.

use crate::breaker::{Breaker, BreakerSettings, Outcome, State};
use crate::evidence::Weight;
use crate::time::Instant;
use crate::window::Counts;
use std::time::Duration;

/// What the two breakers are told of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The scope's.
    pub scope: Outcome,
    /// The service's. Its caller is the scope: as a probe, a failure needs another scope as witness.
    pub service: Outcome,
}

/// Whether the service's breaker has let a call through as a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It has.
    AsProbe,
    /// It was closed.
    AsCall,
}

impl Heard {
    /// Divides the result of a call that the service's breaker has sent like this.
    #[inline]
    pub const fn of(outcome: Outcome, sent: Sent) -> Self {
        let service = match (outcome, sent) {
            // A slow scope may be the only one.
            (Outcome::Success { .. }, _) => Outcome::SUCCESS,
            (
                Outcome::Failure {
                    weight: Weight::Unreachable,
                    ..
                },
                _,
            ) => {
                return Self {
                    scope: Outcome::Neutral,
                    service: Outcome::UNREACHABLE,
                };
            }
            (Outcome::Failure { .. } | Outcome::Unanswered, Sent::AsProbe) => Outcome::WEAK_FAILURE,
            (Outcome::Failure { .. } | Outcome::Unanswered, Sent::AsCall)
            | (Outcome::Neutral, _) => Outcome::Neutral,
        };
        Self {
            scope: outcome,
            service,
        }
    }
}

/// How a scope is, as far as it says something about its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has called it lately.
    Idle,
    /// It is called, and its breaker is closed.
    Closed,
    /// Its breaker is open, or tests it.
    Open,
}

impl Standing {
    /// Reads it from the scope's breaker. Lately is within the length of its window.
    pub fn of(breaker: &Breaker, settings: &BreakerSettings, now: Instant) -> Self {
        let is_recent = |end: Instant| now.since(end) < settings.window;
        match breaker.state {
            State::Closed if breaker.window.clone().totals(now) == Counts::default() => Self::Idle,
            State::Closed => Self::Closed,
            State::Open { until } if is_recent(until) => Self::Open,
            State::HalfOpen if is_recent(breaker.since.after(settings.half_open.lease)) => {
                Self::Open
            }
            State::Open { .. } | State::HalfOpen => Self::Idle,
        }
    }
}

/// Whether most of the scopes that were called lately are open, and at least two: then the
/// failures concern the service.
pub fn most_are_open(scopes: impl IntoIterator<Item = Standing>) -> bool {
    let (mut open, mut closed) = (0_u32, 0_u32);
    for standing in scopes {
        match standing {
            Standing::Idle => {}
            Standing::Closed => closed = closed.saturating_add(1),
            Standing::Open => open = open.saturating_add(1),
        }
    }
    open >= 2 && open > closed
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
            for sent in [Sent::AsCall, Sent::AsProbe] {
                let Heard { scope, service } = Heard::of(outcome, sent);
                match outcome {
                    Outcome::Success { .. } => {
                        assert_eq!((scope, service), (outcome, Outcome::SUCCESS));
                    }
                    Outcome::UNREACHABLE => {
                        assert_eq!((scope, service), (Outcome::Neutral, outcome));
                    }
                    Outcome::Neutral => assert_eq!((scope, service), (outcome, outcome)),
                    _ if sent == Sent::AsCall => {
                        assert_eq!((scope, service), (outcome, Outcome::Neutral));
                    }
                    _ => assert_eq!((scope, service), (outcome, Outcome::WEAK_FAILURE)),
                }
            }
        }
    }

    #[test]
    fn most_are_more_than_half_of_those_that_are_called_and_at_least_two() {
        use Standing::{Closed, Idle, Open};
        for (scopes, expected) in [
            (vec![], false),
            (vec![Open], false),
            (vec![Open, Idle, Idle], false),
            (vec![Open, Closed], false),
            (vec![Open, Open], true),
            (vec![Open, Open, Idle, Idle, Idle], true),
            (vec![Open, Open, Closed], true),
            (vec![Open, Open, Closed, Closed], false),
            (vec![Closed, Closed], false),
        ] {
            assert_eq!(most_are_open(scopes.clone()), expected, "{scopes:?}");
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
        assert_eq!(standing(&breaker, 9), Standing::Closed);
        assert_eq!(standing(&breaker, 20), Standing::Idle);
        for _ in 0..5 {
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
