//! Traps about metrics: rules that make no labels of the names of the filter's or of Envoy's, and rules that leave some out.

use super::at::At;
use super::envoy::{Envoy, clusters_of};
use super::traps::Caught;
use levee_filter::metrics as filter;
use regex::Regex;

/// A metric of the filter as Envoy names it, and the labels that are to be made of it.
struct Metric {
    full: String,
    labels: Vec<Label>,
}

struct Label {
    name: String,
    value: String,
}

/// All metrics that the filter has for a service.
fn metrics() -> Vec<Metric> {
    let service = "outbound|8080||auth.default.svc";
    let names = filter::names(service);
    names.map(|name| metric(&name, service)).collect()
}

/// Reads `circuit_breaker_requests_total.outcome.success.service.auth`.
fn metric(name: &str, service: &str) -> Metric {
    let label = |name: &str, value: &str| Label {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let mut labels = vec![label("service", service)];
    let (front, _) = name.split_once(".service.").unwrap_or((name, ""));
    let mut words = front.split('.').skip(1);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        labels.push(label(name, value));
    }
    Metric {
        full: format!("wasmcustom.{name}"),
        labels,
    }
}

/// Without these rules the metrics have no labels: each service's has a name of its own.
pub(super) fn stats_tags(envoy: &Envoy<'_>, caught: &mut Caught) {
    if envoy.guarded().next().is_none() || envoy.root.get("static_resources").is_none() {
        return;
    }
    let tags = envoy.root.list("stats_config.stats_tags");
    let around = ["stats_config.stats_tags", "stats_config"]
        .iter()
        .find_map(|path| envoy.root.find(path))
        .unwrap_or_else(|| envoy.root.clone());
    let metrics = metrics();
    let rules_for = |name| -> Vec<&At<'_>> {
        let is_for = |tag: &&At<'_>| tag.text_at("tag_name") == Some(name);
        tags.iter().filter(is_for).collect()
    };
    let labels = ["service", "outcome", "to", "kind"];
    let missing: Vec<&str> = labels
        .into_iter()
        .filter(|name| rules_for(name).is_empty())
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "has no tags for {}: the filter's metrics get no such labels; take stats_tags from envoy/minimal.yaml",
            missing.join(", ")
        );
        caught.at(&around, message);
    }
    for name in labels {
        let rules = rules_for(name);
        let Some(first) = rules.first() else {
            continue;
        };
        // What this dialect of expressions can't read counts as right: Envoy has another one.
        let regexes = rules.iter().filter_map(|tag| tag.text_at("regex"));
        let Ok(regexes) = regexes.map(Regex::new).collect::<Result<Vec<_>, _>>() else {
            continue;
        };
        let is_missed = |metric: &&Metric| {
            let mut labels = metric.labels.iter();
            let label = labels.find(|label| label.name == name);
            label.is_some_and(|label| !regexes.iter().any(|regex| takes(regex, metric, label)))
        };
        if let Some(metric) = metrics.iter().find(is_missed) {
            let at = first.get("regex");
            caught.at(
                at.as_ref().unwrap_or(first),
                format!(
                    "does not take the label {name} out of {:?}; take stats_tags from envoy/minimal.yaml",
                    metric.full
                ),
            );
        }
    }
}

/// Whether a rule of `stats_tags` takes a label out of a metric's name: the first group is what is removed, the
/// second the value.
fn takes(rule: &Regex, metric: &Metric, label: &Label) -> bool {
    rule.captures(&metric.full).is_some_and(|groups| {
        let group = |number| groups.get(number).map(|found| found.as_str());
        let removed = format!(".{}.{}", label.name, label.value);
        group(1) == Some(removed.as_str()) && group(2) == Some(label.value.as_str())
    })
}

/// `stats_matcher` can leave metrics out.
pub(super) fn stats_hidden(envoy: &Envoy<'_>, caught: &mut Caught) {
    const RIGHT: &str = "let those pass that begin with wasmcustom.";
    let Some(matcher) = envoy.root.find("stats_config.stats_matcher") else {
        return;
    };
    if envoy.guarded().next().is_none() {
        return;
    }
    if let Some(all) = matcher
        .get("reject_all")
        .filter(|all| all.text() == Some("true"))
    {
        caught.at(&all, format!("leaves out the filter's metrics; {RIGHT}"));
    }
    let names: Vec<String> = metrics().into_iter().map(|metric| metric.full).collect();
    for (at, name) in left_out(&matcher, &names) {
        caught.at(&at, format!("leaves out {name:?}; {RIGHT}"));
    }
}

/// Where a `stats_matcher` leaves out any of these names, and the first that it does.
fn left_out<'a, 'n>(matcher: &At<'a>, names: &'n [String]) -> Vec<(At<'a>, &'n str)> {
    let mut found = Vec::new();
    let first = |is_hidden: &dyn Fn(&str) -> bool| {
        let mut names = names.iter().map(String::as_str);
        names.find(|name| is_hidden(name))
    };
    for pattern in matcher.list("exclusion_list.patterns") {
        if let Some(name) = first(&|name| matches(&pattern, name)) {
            found.push((pattern, name));
        }
    }
    if let Some(list) = matcher.get("inclusion_list") {
        let patterns = list.list("patterns");
        let is_hidden = |name: &str| !patterns.iter().any(|pattern| matches(pattern, name));
        if let Some(name) = first(&is_hidden) {
            found.push((list, name));
        }
    }
    found
}

/// The label of Envoy's from which the sidecar knows the service of a time, as `stats_tags` name it.
const CLUSTER: &str = "envoy.cluster_name";
/// What Envoy calls a cluster's times is its name between these two.
const BEFORE: &str = "cluster.";
const BEHIND: &str = "upstream_rq_time";

/// Durations of requests are Envoy's own: these must be there, and say which cluster.
pub(super) fn durations_hidden(envoy: &Envoy<'_>, caught: &mut Caught) {
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

/// A time is known by the label of its cluster, which Envoy's own rule takes out of the name unless it is told otherwise.
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

/// Whether a `StringMatcher` matches.
fn matches(matcher: &At<'_>, text: &str) -> bool {
    let said = |key| matcher.text_at(key);
    said("exact") == Some(text)
        || said("prefix").is_some_and(|prefix| text.starts_with(prefix))
        || said("suffix").is_some_and(|suffix| text.ends_with(suffix))
        || said("contains").is_some_and(|part| text.contains(part))
        || said("safe_regex.regex")
            .and_then(|regex| Regex::new(&format!("^(?:{regex})$")).ok())
            .is_some_and(|regex| regex.is_match(text))
}
