//! The filter's metrics: name, type and help text of each.

use levee_filter::metrics as filter;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyType {
    Counter,
    Gauge,
}

/// A metric of the filter.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    pub of_type: FamilyType,
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    let of_type = FamilyType::Counter;
    Family {
        name,
        of_type,
        help,
    }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    let of_type = FamilyType::Gauge;
    Family {
        name,
        of_type,
        help,
    }
}

/// All metrics of the filter.
pub const FAMILIES: [Family; 12] = [
    gauge(filter::STATE, filter::STATES),
    gauge(filter::MODE, filter::MODES),
    counter(filter::FAILURES, "Failed requests."),
    counter(filter::REQUESTS, "Requests by outcome."),
    counter(filter::TRANSITIONS, "Changes of a breaker's state."),
    counter(
        filter::SHADOW_REJECTED,
        "Requests that mode shadow would have refused.",
    ),
    counter(filter::LEASES_EXPIRED, "Probes without a result in time."),
    counter(
        filter::SERVICES_OVER_LIMIT,
        "Clusters that have no breaker since there were too many.",
    ),
    counter(
        filter::SCOPES_OVER_LIMIT,
        "Scopes that have no breaker since there were too many.",
    ),
    counter(
        filter::UNANSWERED,
        "Requests whose callers gave up after longer than an answer usually takes.",
    ),
    counter(
        filter::UNSEEN,
        "Requests that reached a service though the filter was not asked.",
    ),
    counter(filter::TIMEOUTS, "Requests that ran out of time."),
];
