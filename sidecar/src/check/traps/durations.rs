//! Traps about the durations of requests, which are Envoy's own metrics: they must exist, and say which cluster they are of.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::{Envoy, clusters_of};
use crate::check::matcher::left_out;
use regex::Regex;

pub(super) const TRAPS: &[Trap] = &[Trap::warning("durations-hidden", durations_hidden)];

/// The label of Envoy's from which the sidecar knows the service of a time, as `stats_tags` name it.
const CLUSTER: &str = "envoy.cluster_name";

/// What Envoy calls a cluster's times is its name between these two.
const BEFORE: &str = "cluster.";

const BEHIND: &str = "upstream_rq_time";

/// Durations of requests are Envoy's own: these must be there, and say which cluster.
fn durations_hidden(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, _) in envoy.guarded() {
        let router = manager.router();
        let dynamic = router.and_then(|router| router.find("typed_config.dynamic_stats"));
        if let Some(at) = dynamic.filter(|at| at.text() == Some("false")) {
            caught.at(
                &at,
                "switches off upstream_rq_time, of which the sidecar makes proxy_request_duration_seconds; leave it out",
            );
        }
    }
    let clusters = guarded_clusters(envoy);
    let times: Vec<String> = clusters.iter().map(|cluster| time_of(cluster)).collect();
    if let Some(matcher) = envoy.root.find("stats_config.stats_matcher") {
        for (at, name) in left_out(&matcher, &times) {
            caught.at(
                &at,
                format!("leaves out {name:?}, of which the sidecar makes proxy_request_duration_seconds; let those pass that end with .{BEHIND}"),
            );
        }
    }
    time_tags(envoy, &clusters, caught);
}

/// The clusters that requests with Levee's filter go to, as far as they are known, by their names in Envoy's metrics.
fn guarded_clusters<'a>(envoy: &Envoy<'a>) -> Vec<&'a str> {
    let routes = envoy.guarded().flat_map(|(manager, _)| manager.routes());
    routes
        .flat_map(|(_, route)| clusters_of(&route))
        .map(|name| {
            let cluster = envoy.cluster(name);
            let other = cluster.and_then(|cluster| cluster.text_at("alt_stat_name"));
            other.unwrap_or(name)
        })
        .collect()
}

fn time_of(cluster: &str) -> String {
    format!("{BEFORE}{cluster}.{BEHIND}")
}

/// A rule of the user's that may take a label out of the name of a time.
struct Rule<'a> {
    at: At<'a>,
    is_for_cluster: bool,
    /// `None`: Envoy's own for a label of this name.
    regex: Option<Regex>,
}

/// Times are matched to clusters by the `envoy.cluster_name` tag, which Envoy's default rule extracts unless configured
/// otherwise.
fn time_tags(envoy: &Envoy<'_>, clusters: &[&str], caught: &mut Caught) {
    if envoy.guarded().next().is_none() {
        return;
    }
    let mut rules = Vec::new();
    for tag in envoy.root.list("stats_config.stats_tags") {
        let is_for_cluster = tag.text_at("tag_name") == Some(CLUSTER);
        if let Some(fixed) = tag.get("fixed_value") {
            if is_for_cluster {
                caught.at(
                    &fixed,
                    "gives all clusters the same name, and the sidecar's proxy_request_duration_seconds a wrong one; leave this tag out",
                );
            }
            continue;
        }
        let regex = tag.get("regex").filter(|at| at.text() != Some(""));
        let read = regex.as_ref().and_then(At::text).map(Regex::new);
        match read.transpose() {
            Ok(read) => rules.push(Rule {
                at: regex.unwrap_or(tag),
                is_for_cluster,
                regex: read,
            }),
            // What this dialect of expressions can't read counts as right: Envoy has another one.
            Err(_) if is_for_cluster => return,
            Err(_) => {}
        }
    }
    let switch = envoy.root.find("stats_config.use_all_default_tags");
    let switch = switch.filter(|at| at.text() == Some("false"));
    let (own, others): (Vec<Rule<'_>>, Vec<Rule<'_>>) =
        rules.into_iter().partition(|rule| rule.is_for_cluster);
    let by_envoy = switch.is_none() || own.iter().any(|rule| rule.regex.is_none());
    if let Some(switch) = switch.filter(|_| own.is_empty()) {
        caught.at(
            &switch,
            format!("leaves out the label {CLUSTER}, without which the sidecar has no proxy_request_duration_seconds; add {{tag_name: {CLUSTER}}} to stats_tags, or leave this out"),
        );
        return;
    }
    let regexes: Vec<&Regex> = own.iter().filter_map(|rule| rule.regex.as_ref()).collect();
    // Envoy's goes before others of the same label.
    let own_regexes = (!by_envoy).then_some(regexes.as_slice());
    let clusters = if clusters.is_empty() {
        &["auth"]
    } else {
        clusters
    };
    let wrong = |other: Option<&Regex>| {
        let mut clusters = clusters.iter();
        let found = clusters.find(|cluster| !is_known_by(cluster, own_regexes, other));
        found.map(|cluster| time_of(cluster))
    };
    if let (Some(rule), Some(time)) = (own.first(), wrong(None)) {
        caught.at(
            &rule.at,
            format!("does not take the cluster's name out of {time:?}: the sidecar's proxy_request_duration_seconds is not there, or has a wrong service; leave out the regex, and Envoy's own is taken"),
        );
        return;
    }
    for rule in others {
        if let Some(time) = rule.regex.as_ref().and_then(|regex| wrong(Some(regex))) {
            caught.at(
                &rule.at,
                format!("takes a part out of {time:?} by which the sidecar knows the service of proxy_request_duration_seconds; let it leave such names alone"),
            );
        }
    }
}

/// Whether the sidecar knows the time of this cluster and its whole name, after what rules take away: `own` for the label of
/// the cluster (`None`: Envoy's, which takes the first word), and another one.
fn is_known_by(cluster: &str, own: Option<&[&Regex]>, other: Option<&Regex>) -> bool {
    let time = time_of(cluster);
    let (removed, label) = match own {
        None => {
            let first = cluster.split('.').next().unwrap_or_default();
            (BEFORE.len()..BEFORE.len() + first.len() + 1, first)
        }
        Some(rules) => {
            let Some(groups) = rules.iter().find_map(|rule| rule.captures(&time)) else {
                return false;
            };
            let Some(removed) = groups.get(1) else {
                return false;
            };
            (removed.range(), groups.get(2).unwrap_or(removed).as_str())
        }
    };
    let other = other.and_then(|rule| rule.captures(&time)?.get(1));
    let other = other.map_or(0..0, |group| group.range());
    let is_left = |place: &usize| !removed.contains(place) && !other.contains(place);
    let left = time.char_indices().filter(|(place, _)| is_left(place));
    let left: String = left.map(|(_, char)| char).collect();
    // The sidecar puts a name together from the label and what is left of it in the metric's name.
    match cluster.strip_prefix(label) {
        Some("") => left == format!("{BEFORE}{BEHIND}"),
        Some(rest) => rest
            .strip_prefix('.')
            .is_some_and(|rest| left == time_of(rest)),
        None => false,
    }
}
