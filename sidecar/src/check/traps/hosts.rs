//! Traps about the hosts of a service: retries that multiply their load, and what takes them out.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::{Envoy, clusters_of};

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("retry-budget", retry_budget),
    Trap::warning("outlier-detection", outlier_detection),
    Trap::warning("panic-threshold", panic_threshold),
];

/// Retries multiply the load on a service that is failing.
fn retry_budget(envoy: &Envoy<'_>, caught: &mut Caught) {
    for route in envoy.routes() {
        let policy = route.at.find("route.retry_policy");
        let Some(policy) = policy.or_else(|| route.host.get("retry_policy")) else {
            continue;
        };
        let is_off = policy.text_at("retry_on").is_none_or(str::is_empty)
            || policy.text_at("num_retries") == Some("0");
        if is_off {
            continue;
        }
        for name in clusters_of(&route.at) {
            let Some(cluster) = envoy.cluster(name) else {
                continue;
            };
            let mut thresholds = cluster.list("circuit_breakers.thresholds").into_iter();
            if !thresholds.any(|threshold| threshold.get("retry_budget").is_some()) {
                caught.at(
                    &policy,
                    format!("retries, and the cluster {name} has no budget for them: they multiply the load when it fails; give it circuit_breakers.thresholds.retry_budget"),
                );
            }
        }
    }
}

/// Outlier detection is for one bad host of several. Whether the service as a whole works is for the breaker to decide.
fn outlier_detection(envoy: &Envoy<'_>, caught: &mut Caught) {
    for outliers in envoy
        .clusters
        .iter()
        .filter_map(|cluster| cluster.get("outlier_detection"))
    {
        if let Some(at) = outliers
            .get("always_eject_one_host")
            .filter(|at| at.text() == Some("true"))
        {
            caught.at(
                &at,
                "ejects the only host of a service: an outage made by the gateway, of which the breaker learns nothing; set it to false",
            );
        }
        let share = outliers.get("max_ejection_percent");
        if let Some(at) = share.filter(|at| at.number().is_some_and(|share| share > 50.0)) {
            caught.at(
                &at,
                "lets most hosts of a service be ejected, which is for the breaker to decide; set it to 34 or so",
            );
        }
    }
}

/// With a threshold of 0, Envoy answers 503 itself while no host counts as healthy, so no probe reaches the service.
fn panic_threshold(envoy: &Envoy<'_>, caught: &mut Caught) {
    for cluster in &envoy.clusters {
        let takes_out =
            !cluster.list("health_checks").is_empty() || cluster.get("outlier_detection").is_some();
        let threshold = cluster.find("common_lb_config.healthy_panic_threshold");
        let is_zero = |at: &At<'_>| {
            at.get("value")
                .is_none_or(|value| value.number() == Some(0.0))
        };
        if let Some(at) = threshold.filter(is_zero).filter(|_| takes_out) {
            caught.at(
                &at,
                "is 0: while no host counts as healthy, Envoy answers 503 by itself, and no probe reaches a service that is back; leave it at 50",
            );
        }
    }
}
