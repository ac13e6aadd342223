//! The rules of a breaker.

use super::phase::Phase;
use crate::backoff::{Backoff, Jitter};
use crate::evidence::Witnesses;
use crate::ratio::Ratio;
use std::time::Duration;

/// The upper limit of [`HalfOpen::max_in_flight`].
pub const MAX_PROBES: usize = 16;

/// What a breaker does with its decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Refuses calls while open.
    #[default]
    Enforce = 0,
    /// Goes through the same states, but refuses nothing.
    Shadow = 1,
    /// Admits every call and learns nothing.
    Disabled = 2,
    /// Refuses every call.
    ForcedOpen = 3,
    /// Admits every call and learns nothing. Unlike with `Disabled`, callers still count the calls.
    ForcedClosed = 4,
}

impl Mode {
    /// All modes, each at the index of its number.
    pub const ALL: [Self; 5] = [
        Self::Enforce,
        Self::Shadow,
        Self::Disabled,
        Self::ForcedOpen,
        Self::ForcedClosed,
    ];

    /// The name in configurations and in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Disabled => "disabled",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }

    /// Whether results change the state in this mode.
    pub const fn learns(self) -> bool {
        matches!(self, Self::Enforce | Self::Shadow)
    }

    /// The phase that this mode imposes. `None` if the calls determine it.
    pub const fn fixed_phase(self) -> Option<Phase> {
        match self {
            Self::Enforce | Self::Shadow => None,
            Self::Disabled | Self::ForcedClosed => Some(Phase::Closed),
            Self::ForcedOpen => Some(Phase::Open),
        }
    }
}

/// Opens when failures are frequent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRate {
    /// The fraction of failed calls that opens.
    pub ratio: Ratio,
    /// With fewer calls in the window than this, the rule does not apply.
    pub minimum_requests: u32,
}

/// Opens when slow calls are frequent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowCalls {
    /// A call that took longer than this is slow. The caller compares and reports it in [`Outcome`](super::Outcome).
    pub longer_than: Duration,
    /// The fraction of slow calls that opens.
    pub ratio: Ratio,
    /// With fewer calls in the window than this, the rule does not apply.
    pub minimum_requests: u32,
}

/// Opens when hardly any call is answered before its caller gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The fraction of unanswered calls that opens.
    pub ratio: Ratio,
    /// With fewer calls in the window than this, the rule does not apply.
    pub minimum_requests: u32,
}

/// How a service is tested after an open breaker's time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// How many probes may be in flight at once, 1 to [`MAX_PROBES`].
    pub max_in_flight: u8,
    /// How many probes must succeed to close the breaker, at least 1.
    pub successes_to_close: u32,
    /// How long a probe without a result holds its place.
    pub lease: Duration,
}

/// The rules of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// What it does with its decisions.
    pub mode: Mode,
    /// Opens after this many failures without a success between them. `None` disables the rule.
    pub consecutive_failures: Option<u32>,
    /// Opens by the fraction of failed calls. `None` disables the rule.
    pub failure_rate: Option<FailureRate>,
    /// Opens by the fraction of slow calls. `None` disables the rule.
    pub slow_calls: Option<SlowCalls>,
    /// Opens by the fraction of unanswered calls. `None` disables the rule.
    pub silence: Option<Silence>,
    /// How many callers must have seen failures that a caller can bring about.
    pub witnesses: Witnesses,
    /// The period over which the rates are computed.
    pub window: Duration,
    /// How long it stays open. Grows each time that half-open ends in open again.
    pub open: Backoff,
    /// The same, while the service can't be reached.
    pub open_unreachable: Backoff,
    /// How the service is tested afterwards.
    pub half_open: HalfOpen,
    /// How long after it has closed a [`Replica`](crate::replica::Replica) lets only a share of the
    /// calls through, which grows from a tenth to all. Zero: all at once.
    pub recover_for: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            consecutive_failures: Some(5),
            failure_rate: Some(FailureRate {
                ratio: Ratio::percent(50),
                minimum_requests: 20,
            }),
            slow_calls: None,
            silence: Some(Silence {
                ratio: Ratio::percent(90),
                minimum_requests: 20,
            }),
            witnesses: Witnesses::Two,
            window: Duration::from_secs(10),
            open: Backoff {
                base: Duration::from_secs(30),
                max: Duration::from_mins(5),
                factor: 2,
                jitter: Jitter::longer(Ratio::percent(10)),
            },
            open_unreachable: Backoff {
                base: Duration::from_secs(1),
                max: Duration::from_secs(5),
                factor: 2,
                jitter: Jitter::longer(Ratio::percent(10)),
            },
            half_open: HalfOpen {
                max_in_flight: 3,
                successes_to_close: 3,
                lease: Duration::from_secs(15),
            },
            recover_for: Duration::ZERO,
        }
    }
}
