//! The states of a breaker, and the changes between them.

use crate::time::Instant;

/// The state of a breaker, without the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Calls go out.
    Closed = 0,
    /// Calls are refused.
    Open = 1,
    /// Some calls go out, as probes.
    HalfOpen = 2,
}

impl Phase {
    /// All phases, each at the index of its number.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

impl State {
    pub(crate) const fn phase(self) -> Phase {
        match self {
            Self::Closed => Phase::Closed,
            Self::Open { .. } => Phase::Open,
            Self::HalfOpen => Phase::HalfOpen,
        }
    }
}

/// The reason of a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// [`BreakerSettings::consecutive_failures`](super::BreakerSettings::consecutive_failures) was reached.
    ConsecutiveFailures,
    /// [`BreakerSettings::failure_rate`](super::BreakerSettings::failure_rate) was reached.
    FailureRate,
    /// [`BreakerSettings::slow_calls`](super::BreakerSettings::slow_calls) was reached.
    SlowCalls,
    /// [`BreakerSettings::silence`](super::BreakerSettings::silence) was reached.
    Silence,
    /// The time to stay open has passed.
    OpenTimePassed,
    /// The service has answered a health check: [`Breaker::hasten`](super::Breaker::hasten).
    HealthCheckPassed,
    /// A probe failed.
    ProbeFailed,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// None of the service's scopes works: [`Breaker::open_with_scopes`](super::Breaker::open_with_scopes).
    NoScopeWorks,
    /// A second scope was called: what the first has shut says nothing about it.
    SecondScope,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The phase before.
    pub from: Phase,
    /// The phase after.
    pub to: Phase,
    /// The reason.
    pub cause: Cause,
}
