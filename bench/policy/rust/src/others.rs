//! Other libraries in Rust. Each is set up as close to Levee's default rules as possible, reads its own clock if it needs
//! one, and can be shared by several threads.

use crate::case::{Case, FAILURE, PASS, PASS_FAILURE, PASS_SUCCESS, REFUSE, SUCCESS};
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::{Layer, Service};
use tower_resilience_circuitbreaker::{CircuitBreakerError, CircuitBreakerLayer};

const LONG: Duration = Duration::from_hours(1);

pub fn cases() -> Vec<Case> {
    [recloser(), failsafe(), breaker(), tower_resilience()]
        .into_iter()
        .flatten()
        .collect()
}

/// A library's name, with the version that Cargo.toml pins.
fn pinned(library: &str) -> String {
    let mut lines = include_str!("../Cargo.toml").lines();
    let before = format!("{library} = {{ version = \"=");
    let version = lines.find_map(|line| line.strip_prefix(&before)?.split('"').next());
    format!("{library} {}", version.expect("Cargo.toml pins it"))
}

/// The output of a future that never waits.
fn done<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
}

/// It counts the last twenty calls, however old, and admits and records only around a call.
fn recloser() -> Vec<Case> {
    use recloser::{Error, Recloser};
    let name = &pinned("recloser");
    let with = |error_rate| {
        move || {
            Recloser::custom()
                .error_rate(error_rate)
                .closed_len(20)
                .open_wait(LONG)
                .build()
        }
    };
    let open = move || {
        let breaker = with(0.5)();
        for _ in 0..21 {
            let _ = breaker.call(|| Err::<(), ()>(()));
        }
        assert!(matches!(
            breaker.call(|| Ok::<(), ()>(())),
            Err(Error::Rejected)
        ));
        breaker
    };
    let success = |own: &mut Recloser| own.call(|| Ok::<(), ()>(()));
    let failure = |own: &mut Recloser| own.call(|| Err::<(), ()>(()));
    vec![
        Case::new(name, REFUSE, open, success),
        Case::new(name, PASS_SUCCESS, with(0.5), success),
        // A rate that is never reached.
        Case::new(name, PASS_FAILURE, with(2.0), failure),
    ]
}

/// Five failures in a row, or too few successes in ten seconds, by a moving average.
fn failsafe() -> Vec<Case> {
    use failsafe::{CircuitBreaker, Config, FailurePolicy, backoff, failure_policy};
    let name = &pinned("failsafe");
    macro_rules! with {
        ($in_a_row:expr, $success_rate:expr) => {
            || {
                let policy =
                    failure_policy::consecutive_failures($in_a_row, backoff::constant(LONG))
                        .or_else(failure_policy::success_rate_over_time_window(
                            $success_rate,
                            20,
                            Duration::from_secs(10),
                            backoff::constant(LONG),
                        ));
                Config::new().failure_policy(policy).build()
            }
        };
    }
    let open = || {
        let breaker = with!(5, 0.5)();
        for _ in 0..5 {
            breaker.on_error();
        }
        assert!(!breaker.is_call_permitted());
        breaker
    };
    vec![
        Case::new(name, PASS, with!(5, 0.5), |own| own.is_call_permitted()),
        Case::new(name, REFUSE, open, |own| own.is_call_permitted()),
        Case::new(name, SUCCESS, with!(5, 0.5), |own| own.on_success()),
        Case::new(name, FAILURE, with!(u32::MAX, 0.0), |own| own.on_error()),
        Case::new(name, PASS_SUCCESS, with!(5, 0.5), |own| {
            own.call(|| Ok::<(), ()>(()))
        }),
        Case::new(name, PASS_FAILURE, with!(u32::MAX, 0.0), |own| {
            own.call(|| Err::<(), ()>(()))
        }),
    ]
}

/// Five failures in a row, or half of the last twenty calls. It admits only around a call, whose future is polled once.
fn breaker() -> Vec<Case> {
    use breaker::{CircuitBreaker, CircuitBreakerConfig};
    let name = &pinned("breaker");
    // A rate of 0 disables the rule. With the highest, one of the last twenty calls would have to succeed.
    let with = |in_a_row, rate| {
        move || {
            let config = CircuitBreakerConfig::builder()
                .consecutive_failures(in_a_row)
                .failure_rate_threshold(rate)
                .sliding_window_size(20)
                .wait_duration(LONG)
                .build();
            CircuitBreaker::new(config)
        }
    };
    let success = |own: &mut CircuitBreaker| done(own.call(|| ready(Ok::<(), Infallible>(()))));
    let failure = |own: &mut CircuitBreaker| done(own.call(|| ready(Err::<(), ()>(()))));
    let open = move || {
        let breaker = with(5, 0.5)();
        for _ in 0..5 {
            breaker.record_failure();
        }
        let refused = done(breaker.call(|| ready(Ok::<(), ()>(()))));
        assert!(matches!(
            refused,
            Err(breaker::CircuitBreakerError::CircuitOpen)
        ));
        breaker
    };
    vec![
        Case::new(name, REFUSE, open, success),
        Case::new(name, SUCCESS, with(5, 0.5), |own| own.record_success()),
        Case::new(name, FAILURE, with(u32::MAX, 0.0), |own| {
            own.record_failure();
        }),
        Case::new(name, PASS_SUCCESS, with(5, 0.5), success),
        Case::new(name, PASS_FAILURE, with(u32::MAX, 0.0), failure),
    ]
}

/// Answers at once with the requested result.
#[derive(Clone)]
struct Echo;

impl Service<Result<(), ()>> for Echo {
    type Response = ();
    type Error = ();
    type Future = Ready<Result<(), ()>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, wanted: Result<(), ()>) -> Self::Future {
        ready(wanted)
    }
}

/// One call, around which the library admits and records.
fn call<C>(
    own: &mut tower_resilience_circuitbreaker::CircuitBreaker<Echo, C>,
    wanted: Result<(), ()>,
) -> Result<(), CircuitBreakerError<()>>
where
    tower_resilience_circuitbreaker::CircuitBreaker<Echo, C>:
        Service<Result<(), ()>, Response = (), Error = CircuitBreakerError<()>>,
{
    let mut context = Context::from_waker(Waker::noop());
    match own.poll_ready(&mut context) {
        Poll::Ready(ready) => ready?,
        Poll::Pending => panic!("the future waits"),
    }
    done(own.call(wanted))
}

/// Half of the calls, at least twenty. It is a layer around a service: it admits and records only around a call, whose
/// future it allocates.
fn tower_resilience() -> Vec<Case> {
    let name = &pinned("tower-resilience-circuitbreaker");
    let with = |minimum: usize| {
        move || {
            let layer = CircuitBreakerLayer::builder()
                .failure_rate_threshold(0.5)
                .sliding_window_size(minimum)
                .minimum_number_of_calls(minimum)
                .wait_duration_in_open(LONG)
                .build()
                .expect("the settings are valid");
            layer.layer(Echo)
        }
    };
    let open = move || {
        let mut breaker = with(20)();
        for _ in 0..20 {
            let _ = call(&mut breaker, Err(()));
        }
        assert!(call(&mut breaker, Ok(())).is_err());
        breaker
    };
    vec![
        Case::new(name, REFUSE, open, |own| call(own, Ok(()))),
        Case::new(name, PASS_SUCCESS, with(20), |own| call(own, Ok(()))),
        Case::new(name, PASS_FAILURE, with(usize::MAX), |own| {
            call(own, Err(()))
        }),
    ]
}
