//! Two traps about metrics: rules that make no labels of the filter's names, and rules that leave metrics out.

use super::envoy::Envoy;
use super::located::At;
use super::traps::Caught;
use levee_filter::metrics::{Counter, state_name};
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
    let names = Counter::ALL
        .iter()
        .map(|counter| counter.name(service))
        .chain([state_name(service)]);
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
    let metrics = metrics();
    if let Some(list) = matcher.get("exclusion_list") {
        for pattern in list.list("patterns") {
            if let Some(metric) = metrics
                .iter()
                .find(|metric| matches(&pattern, &metric.full))
            {
                caught.at(&pattern, format!("leaves out {:?}; {RIGHT}", metric.full));
            }
        }
    }
    if let Some(list) = matcher.get("inclusion_list") {
        let patterns = list.list("patterns");
        let is_hidden = |metric: &&Metric| {
            !patterns
                .iter()
                .any(|pattern| matches(pattern, &metric.full))
        };
        if let Some(metric) = metrics.iter().find(is_hidden) {
            caught.at(&list, format!("leaves out {:?}; {RIGHT}", metric.full));
        }
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
