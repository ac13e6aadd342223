//! A call, from its admission to its result.

use crate::callers::Caller;
use crate::evidence::Weight;
use crate::window::Counts;
use std::time::Duration;

/// What a call's result says about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Success {
        /// It took longer than [`SlowCalls::longer_than`](super::SlowCalls::longer_than). False if that rule is off.
        slow: bool,
    },
    /// It failed.
    Failure {
        /// It took longer than [`SlowCalls::longer_than`](super::SlowCalls::longer_than). False if that rule is off.
        slow: bool,
        /// Whether the caller may have brought it about.
        weight: Weight,
    },
    /// It had not answered when the caller gave up, after longer than it usually takes.
    Unanswered,
    /// It answered, after failures in its [scope](crate::scope). They decide nothing, but are what to expect of
    /// the other scopes.
    After {
        /// How many.
        failures: u32,
    },
    /// It was made, which counts for the rates, and given up. Nobody knows how it would have ended.
    Unknown,
    /// Nothing: the client left, something else refused the call, ...
    Neutral,
}

impl Outcome {
    /// An answer that was not slow.
    pub const SUCCESS: Self = Self::Success { slow: false };
    /// A failure that was not slow and that no caller can bring about.
    pub const FAILURE: Self = Self::Failure {
        slow: false,
        weight: Weight::Strong,
    };
    /// There was no connection.
    pub const UNREACHABLE: Self = Self::Failure {
        slow: false,
        weight: Weight::Unreachable,
    };
    /// A failure that was not slow and that the caller may have brought about.
    pub const WEAK_FAILURE: Self = Self::Failure {
        slow: false,
        weight: Weight::Weak,
    };

    pub(crate) const fn counts(self) -> Counts {
        const NOTHING: Counts = Counts {
            total: 0,
            failures: 0,
            weak: 0,
            slow: 0,
            unanswered: 0,
            in_scopes: 0,
        };
        match self {
            Self::Success { slow } => Counts {
                total: 1,
                slow: slow as u32,
                ..NOTHING
            },
            Self::Failure { slow, weight } => Counts {
                total: 1,
                failures: 1,
                weak: matches!(weight, Weight::Weak) as u32,
                slow: slow as u32,
                ..NOTHING
            },
            Self::Unanswered => Counts {
                unanswered: 1,
                ..NOTHING
            },
            Self::After { failures } => Counts {
                total: 1,
                in_scopes: failures,
                ..NOTHING
            },
            Self::Unknown => Counts {
                total: 1,
                ..NOTHING
            },
            Self::Neutral => NOTHING,
        }
    }
}

/// Numbers the periods between transitions. A breaker starts with 1; 0 is never used.
pub(crate) type Generation = u32;

pub(super) const FIRST_GENERATION: Generation = 1;

/// What an admitted call holds until its result is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    pub(crate) generation: Generation,
    pub(crate) probe: Option<ProbeId>,
}

impl Permit {
    /// For a call that is admitted without a decision. Its result decides nothing.
    pub const UNTRACKED: Self = Self {
        generation: 0,
        probe: None,
    };

    /// Whether the call is a probe of a half-open breaker.
    pub const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the call was admitted with.
    pub permit: Permit,
    /// What it says about the service.
    pub outcome: Outcome,
    /// Who called. It matters for failures and unanswered calls, for a success that follows on them, and for
    /// the results of probes, neutral ones too.
    pub caller: Caller,
    /// How many seconds the service asks to be left alone. Zero if it does not say.
    pub again_after_secs: u32,
    /// How many milliseconds an answer of the service takes at most, usually. Zero if that is not known.
    pub usual_millis: u32,
}

impl Report {
    /// The result of a call whose caller is not known.
    pub const fn new(permit: Permit, outcome: Outcome) -> Self {
        Self {
            permit,
            outcome,
            caller: Caller::UNKNOWN,
            again_after_secs: 0,
            usual_millis: 0,
        }
    }

    /// Whether a call that was no probe has failed, or was not answered.
    pub const fn is_complaint_of_a_call(&self) -> bool {
        let is_complaint = matches!(self.outcome, Outcome::Failure { .. } | Outcome::Unanswered);
        is_complaint && !self.permit.is_probe()
    }
}

/// The answer to a call that asks for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go out. Its result must be recorded with this permit.
    Admit(Permit),
    /// It may go out only because the mode is [`Mode::Shadow`](super::Mode::Shadow). Its result decides nothing.
    WouldRefuse,
    /// It must not go out.
    Refuse {
        /// When to ask again. Zero if that is unknown because all probes are in flight.
        retry_after: Duration,
    },
}

/// Identifies a probe within its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeId(pub(crate) u32);
