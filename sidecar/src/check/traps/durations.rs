//! Traps about the durations of requests, which are Envoy's own metrics: they must exist, and say which cluster they are of.

use super::trap::{Caught, Trap};
use crate::check::envoy::{Envoy, clusters_of};
use crate::check::matcher::left_out;
use crate::check::stats_tags::{
    CLUSTER, ClusterLabel, SUFFIX, fixed_cluster_names, other_rules, time_of,
};

pub(super) const TRAPS: &[Trap] = &[Trap::warning("durations-hidden", durations_hidden)];

/// Whether Envoy's times exist, and can be matched to services.
fn durations_hidden(envoy: &Envoy<'_>, caught: &mut Caught) {
    if envoy.guarded().next().is_none() {
        return;
    }
    let clusters = guarded_clusters(envoy);
    switched_off(envoy, caught);
    not_in_stats(envoy, &clusters, caught);
    fixed_names(envoy, caught);
    wrong_tags(envoy, &clusters, caught);
}

/// Routers that don't measure times.
fn switched_off(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, _) in envoy.guarded() {
        let router = manager.router();
        let dynamic = router.and_then(|router| router.config.as_ref()?.at.get("dynamic_stats"));
        if let Some(at) = dynamic.filter(|at| at.text() == Some("false")) {
            caught.at(
                &at,
                "switches off upstream_rq_time, from which the sidecar makes proxy_request_duration_seconds; leave it out",
            );
        }
    }
}

/// A `stats_matcher` that drops times.
fn not_in_stats(envoy: &Envoy<'_>, clusters: &[&str], caught: &mut Caught) {
    let times: Vec<String> = clusters.iter().map(|cluster| time_of(cluster)).collect();
    if let Some(matcher) = envoy.find("stats_config.stats_matcher") {
        for (at, name) in left_out(&matcher, &times) {
            caught.at(
                &at,
                format!("leaves out {name:?}, from which the sidecar makes proxy_request_duration_seconds; let those pass that end with .{SUFFIX}"),
            );
        }
    }
}

/// Tags that give all clusters one name.
fn fixed_names(envoy: &Envoy<'_>, caught: &mut Caught) {
    for fixed in fixed_cluster_names(envoy) {
        caught.at(
            &fixed,
            "gives all clusters the same name, and the sidecar's proxy_request_duration_seconds a wrong one; leave this tag out",
        );
    }
}

/// Tags that leave a time without the name of its cluster, or with a part of it.
fn wrong_tags(envoy: &Envoy<'_>, clusters: &[&str], caught: &mut Caught) {
    let clusters = if clusters.is_empty() {
        &["auth"]
    } else {
        clusters
    };
    // What can't be read here counts as right.
    let Ok(label) = ClusterLabel::read(envoy) else {
        return;
    };
    if let ClusterLabel::Missing(switch) = &label {
        caught.at(
            switch,
            format!("leaves out the label {CLUSTER}, without which the sidecar has no proxy_request_duration_seconds; add {{tag_name: {CLUSTER}}} to stats_tags, or leave this out"),
        );
        return;
    }
    let unknown = label.first_unknown(clusters, None);
    if let (Some(rule), Some(cluster)) = (label.rules().first(), unknown) {
        caught.at(
            &rule.at,
            format!("does not take the cluster's name out of {:?}: the sidecar's proxy_request_duration_seconds is not there, or has a wrong service; leave out the regex to get Envoy's own", time_of(cluster)),
        );
        return;
    }
    changed_by_other_tags(envoy, &label, clusters, caught);
}

/// Tags of other labels that take a part of the cluster's name.
fn changed_by_other_tags(
    envoy: &Envoy<'_>,
    label: &ClusterLabel<'_>,
    clusters: &[&str],
    caught: &mut Caught,
) {
    for rule in other_rules(envoy) {
        if let Some(cluster) = label.first_unknown(clusters, Some(&rule)) {
            caught.at(
                &rule.at,
                format!("takes a part out of {:?} by which the sidecar knows the service of proxy_request_duration_seconds; let it leave such names alone", time_of(cluster)),
            );
        }
    }
}

/// The known clusters that requests with Levee's filter go to, by their names in Envoy's metrics.
fn guarded_clusters<'a>(envoy: &Envoy<'a>) -> Vec<&'a str> {
    let routes = envoy.guarded().flat_map(|(manager, _)| manager.routes());
    routes
        .flat_map(|route| clusters_of(&route.at))
        .map(|name| {
            let cluster = envoy.cluster(name);
            let other = cluster.and_then(|cluster| cluster.text_at("alt_stat_name"));
            other.unwrap_or(name)
        })
        .collect()
}
