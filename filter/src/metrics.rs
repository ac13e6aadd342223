//! The names of all the filter's metrics.
//!
//! Envoy prefixes a name with `wasmcustom.`. The bootstrap's `stats_tags` make labels from it (see
//! `envoy/gateway.yaml`); the service and its scope come last, since their names may have dots.

use crate::outcome::TimeoutKind;
use levee_policy::breaker::Phase;

/// Gauge by service: the breaker's state, see [`STATES`].
pub const STATE: &str = "circuit_breaker_state";
/// Gauge by service: the breaker's mode, see [`MODES`].
pub const MODE: &str = "circuit_breaker_mode";
/// Counter by service: requests that failed.
pub const FAILURES: &str = "circuit_breaker_failures_total";
/// Counter by service and outcome: all requests.
pub const REQUESTS: &str = "circuit_breaker_requests_total";
/// Counter by service and new state: changes of state.
pub const TRANSITIONS: &str = "circuit_breaker_transitions_total";
/// Counter by service: requests that passed an open breaker in mode `shadow`.
pub const SHADOW_REJECTED: &str = "circuit_breaker_shadow_rejected_total";
/// Counter by service: probes that had no result when their lease ended.
pub const LEASES_EXPIRED: &str = "circuit_breaker_probe_leases_expired_total";
/// Counter by service and kind: requests that ran out of time.
pub const TIMEOUTS: &str = "proxy_request_timeout_total";
/// Counter by service: requests whose callers gave up, after longer than an answer usually takes.
pub const UNANSWERED: &str = "circuit_breaker_unanswered_total";
/// Counter: requests that reached a service though the filter was not asked.
pub const UNSEEN: &str = "circuit_breaker_unseen_requests_total";
/// Counter: clusters that got no breaker because `max_services` was reached.
pub const SERVICES_OVER_LIMIT: &str = "circuit_breaker_services_over_limit_total";

/// Counter by service: scopes that got no breaker because `scopes.max` was reached.
pub const SCOPES_OVER_LIMIT: &str = "circuit_breaker_scopes_over_limit_total";

/// Values of [`STATE`], as its help text.
pub const STATES: &str = "0 closed, 1 open, 2 half-open.";
/// Values of [`MODE`], as its help text.
pub const MODES: &str = "0 enforce, 1 shadow, 2 disabled, 3 forced_open, 4 forced_closed.";

/// The `outcome` label of [`REQUESTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestLabel {
    /// The service answered.
    Success,
    /// The service failed.
    Failure,
    /// The request says nothing about the service.
    Neutral,
    /// The breaker refused it.
    Rejected,
}

/// A counter of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    Requests(RequestLabel),
    Failures,
    Transitions(Phase),
    ShadowRejected,
    LeasesExpired,
    Timeouts(TimeoutKind),
    Unanswered,
}

impl Counter {
    /// All counters, each at its [`index`](Self::index).
    pub const ALL: [Self; 14] = [
        Self::Requests(RequestLabel::Success),
        Self::Requests(RequestLabel::Failure),
        Self::Requests(RequestLabel::Neutral),
        Self::Requests(RequestLabel::Rejected),
        Self::Failures,
        Self::Transitions(Phase::Closed),
        Self::Transitions(Phase::Open),
        Self::Transitions(Phase::HalfOpen),
        Self::ShadowRejected,
        Self::LeasesExpired,
        Self::Timeouts(TimeoutKind::Request),
        Self::Timeouts(TimeoutKind::ResponseHeader),
        Self::Timeouts(TimeoutKind::Connect),
        Self::Unanswered,
    ];

    /// The position in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        match self {
            Self::Requests(label) => label as usize,
            Self::Failures => 4,
            Self::Transitions(to) => 5 + to as usize,
            Self::ShadowRejected => 8,
            Self::LeasesExpired => 9,
            Self::Timeouts(kind) => 10 + kind as usize,
            Self::Unanswered => 13,
        }
    }

    /// The name of this counter for `service`.
    pub fn name(self, service: &str) -> String {
        let (metric, label, value) = match self {
            Self::Requests(RequestLabel::Success) => (REQUESTS, ".outcome.", "success"),
            Self::Requests(RequestLabel::Failure) => (REQUESTS, ".outcome.", "failure"),
            Self::Requests(RequestLabel::Neutral) => (REQUESTS, ".outcome.", "neutral"),
            Self::Requests(RequestLabel::Rejected) => (REQUESTS, ".outcome.", "rejected"),
            Self::Failures => (FAILURES, "", ""),
            Self::Transitions(to) => (TRANSITIONS, ".to.", to.name()),
            Self::ShadowRejected => (SHADOW_REJECTED, "", ""),
            Self::LeasesExpired => (LEASES_EXPIRED, "", ""),
            Self::Timeouts(TimeoutKind::Request) => (TIMEOUTS, ".kind.", "request"),
            Self::Timeouts(TimeoutKind::ResponseHeader) => (TIMEOUTS, ".kind.", "response_header"),
            Self::Timeouts(TimeoutKind::Connect) => (TIMEOUTS, ".kind.", "connect"),
            Self::Unanswered => (UNANSWERED, "", ""),
        };
        format!("{metric}{label}{value}.service.{service}")
    }
}

/// The name of the [`STATE`] gauge for `service`.
pub fn state_name(service: &str) -> String {
    format!("{STATE}.service.{service}")
}

/// The name of the [`MODE`] gauge for `service`.
pub fn mode_name(service: &str) -> String {
    format!("{MODE}.service.{service}")
}

/// The name of the [`SCOPES_OVER_LIMIT`] counter for `service`.
pub fn scopes_over_limit_name(service: &str) -> String {
    format!("{SCOPES_OVER_LIMIT}.service.{service}")
}

/// The names of all metrics of `service`, a label value. [`label_of_scope`](crate::label::label_of_scope)
/// gives those of a scope.
pub fn names(service: &str) -> impl Iterator<Item = String> {
    Counter::ALL
        .into_iter()
        .map(move |counter| counter.name(service))
        .chain([state_name(service), mode_name(service)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_at_its_index() {
        for (place, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter.index(), place, "{counter:?}");
        }
    }
}
