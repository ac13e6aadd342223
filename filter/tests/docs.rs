//! `docs/reference/filter.md` and `metrics.md` list the filter's keys and metrics, all of them and no others.

mod fake;

use fake::{End, Gateway, Stream};
use levee_filter::config::Config;
use levee_filter::metrics;
use levee_pages::Page;
use std::collections::BTreeSet;

/// The names in the first column of a table.
fn first_column(page: &Page, head: &str) -> Vec<String> {
    let rows = page.rows(head);
    rows.iter().map(|row| row.codes(0).remove(0)).collect()
}

/// The keys in the table of the filter's configuration.
fn keys() -> Vec<String> {
    first_column(&Page::read("docs/reference/filter.md"), "key")
}

#[test]
fn each_key_of_the_configuration_table_is_known() {
    let keys = keys();
    assert!(keys.len() >= 26, "{keys:?}");
    for key in keys {
        // A value of the wrong type: the key must be known for the type to be looked at.
        let json = key.split('.').rev().fold(
            serde_json::json!([true]),
            |value, part| serde_json::json!({ part.trim_matches(|c| c == '<' || c == '>'): value }),
        );
        let errors = Config::parse(json.to_string().as_bytes()).expect_err(&key);
        for error in errors {
            assert!(!error.message.contains("is not known"), "{key}: {error}");
        }
    }
}

#[test]
fn each_key_that_is_known_is_in_the_configuration_table() {
    let documented = keys();
    // The error for an unknown key lists the known ones.
    for section in [
        "breaker",
        "breaker.failure_rate",
        "breaker.slow_calls",
        "breaker.silence",
        "breaker.half_open",
        "breaker.health_check",
        "failures",
        "scopes",
        "timeouts",
        "timeouts.classes",
    ] {
        let json = section.split('.').rev().fold(
            serde_json::json!({"?": 1}),
            |value, part| serde_json::json!({ part: value }),
        );
        let errors = Config::parse(json.to_string().as_bytes()).expect_err(section);
        let (_, known) = errors[0].message.split_once("known are: ").expect("a list");
        for key in known.split(", ") {
            let path = format!("{section}.{key}");
            let is_there = documented
                .iter()
                .any(|entry| *entry == path || entry.starts_with(&format!("{path}.")));
            assert!(is_there, "{path} is not in the table");
        }
    }
}

#[test]
fn the_metrics_table_names_just_the_metrics_there_are() {
    let page = Page::read("docs/reference/metrics.md");
    let documented = first_column(&page.section("The filter"), "metric");
    let documented: BTreeSet<&str> = documented.iter().map(String::as_str).collect();
    let configuration = r#"{"max_services": 1, "scopes": {"by_route": true, "max": 1}}"#;
    let mut gateway = Gateway::new(1, configuration);
    for route in ["login", "profile"] {
        let stream = Stream {
            cluster: b"auth".to_vec(),
            route: route.into(),
            ..Stream::default()
        };
        let call = gateway.begin_stream(0, stream);
        gateway.end(call, End::Status(200));
    }
    gateway.request(0, "chat", End::Status(200));
    gateway.bypass(0);
    let names = gateway.metric_names();
    let defined: BTreeSet<&str> = names
        .iter()
        .map(|name| name.split('.').next().expect("a name"))
        .collect();
    assert_eq!(documented, defined);
    assert!(defined.contains(metrics::STATE));
}
