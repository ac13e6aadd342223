//! Traps about the filter's metrics: rules that make no labels of their names, and rules that leave some out.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::Envoy;
use crate::check::matcher::left_out;
use levee_filter::label::label_of_scope;
use levee_filter::metrics as filter;
use regex::Regex;

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("stats-tags", stats_tags),
    Trap::warning("stats-hidden", stats_hidden),
];

/// A metric of the filter as Envoy names it, and the labels that `stats_tags` must extract from it.
struct Metric {
    full: String,
    labels: Vec<Label>,
}

struct Label {
    name: String,
    value: String,
}

/// Whether a filter divides services into scopes.
fn has_scopes(envoy: &Envoy<'_>) -> bool {
    let mut configs = envoy
        .guarded()
        .filter_map(|(_, filter)| filter.config.as_ref());
    configs.any(|config| config.all_services().any(|service| service.scopes.is_on()))
}

/// All metrics of one service, and of one of its scopes.
fn metrics(has_scopes: bool) -> Vec<Metric> {
    let (service, scope) = ("outbound|8080||auth.default.svc", "ns.login/0");
    let of_service = filter::names(service).map(|name| metric(&name, service, None));
    let both = label_of_scope(service, scope);
    let of_scope: Vec<Metric> = filter::names(&both)
        .map(|name| metric(&name, service, Some(scope)))
        .filter(|_| has_scopes)
        .collect();
    of_service.chain(of_scope).collect()
}

/// Parses `circuit_breaker_requests_total.outcome.success.service.auth`.
fn metric(name: &str, service: &str, scope: Option<&str>) -> Metric {
    let label = |name: &str, value: &str| Label {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let mut labels = vec![label("service", service)];
    labels.extend(scope.map(|scope| label("scope", scope)));
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

/// Without these rules the metrics have no labels, and each service's have names of their own.
fn stats_tags(envoy: &Envoy<'_>, caught: &mut Caught) {
    let Some(bootstrap) = &envoy.bootstrap else {
        return;
    };
    if envoy.guarded().next().is_none() {
        return;
    }
    let tags = envoy.list("stats_config.stats_tags");
    let around = ["stats_config.stats_tags", "stats_config"]
        .iter()
        .find_map(|path| envoy.find(path))
        .unwrap_or_else(|| bootstrap.clone());
    let has_scopes = has_scopes(envoy);
    let metrics = metrics(has_scopes);
    let rules_for = |name| -> Vec<&At<'_>> {
        let is_for = |tag: &&At<'_>| tag.text_at("tag_name") == Some(name);
        tags.iter().filter(is_for).collect()
    };
    let labels = ["service", "scope", "outcome", "to", "kind"];
    let labels = labels
        .into_iter()
        .filter(|label| has_scopes || *label != "scope");
    let missing: Vec<&str> = labels
        .clone()
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
        // Envoy uses RE2: an expression that this crate can't read counts as right.
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

/// Whether a rule of `stats_tags` extracts the label from a metric's name. The first group is removed from the name, the
/// second is the value.
fn takes(rule: &Regex, metric: &Metric, label: &Label) -> bool {
    rule.captures(&metric.full).is_some_and(|groups| {
        let group = |number| groups.get(number).map(|found| found.as_str());
        let removed = format!(".{}.{}", label.name, label.value);
        group(1) == Some(removed.as_str()) && group(2) == Some(label.value.as_str())
    })
}

/// `stats_matcher` can drop metrics.
fn stats_hidden(envoy: &Envoy<'_>, caught: &mut Caught) {
    const RIGHT: &str = "let those pass that begin with wasmcustom.";
    let Some(matcher) = envoy.find("stats_config.stats_matcher") else {
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
    let names: Vec<String> = metrics(true)
        .into_iter()
        .map(|metric| metric.full)
        .collect();
    for (at, name) in left_out(&matcher, &names) {
        caught.at(&at, format!("leaves out {name:?}; {RIGHT}"));
    }
}
