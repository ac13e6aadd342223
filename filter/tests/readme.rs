//! The README says what is so.

mod fake;

use fake::{End, Gateway};
use levee_filter::config::Config;
use levee_filter::metrics;
use std::collections::BTreeSet;

const README: &str = include_str!("../../README.md");

/// The first cells of the rows of the table after `heading`, without their backticks.
fn first_cells(heading: &str) -> Vec<&'static str> {
    let (_, section) = README.split_once(heading).expect("the heading is there");
    section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            row.split('|')
                .nth(1)
                .expect("a cell")
                .trim()
                .trim_matches('`')
        })
        .collect()
}

#[test]
fn the_example_configuration_is_valid() {
    let (_, after) = README.split_once("```json").expect("an example");
    let (example, _) = after.split_once("```").expect("its end");
    let config = Config::parse(example.as_bytes()).unwrap();
    assert!(config.services.contains_key("auth"));
}

#[test]
fn each_key_of_the_configuration_table_is_known() {
    let keys = first_cells("## Configuration");
    assert!(keys.len() >= 26, "{keys:?}");
    for key in keys {
        // A value of the wrong type: the key must be known for the type to be looked at.
        let json = key.split('.').rev().fold(
            serde_json::json!(true),
            |value, part| serde_json::json!({ part.trim_matches(|c| c == '<' || c == '>'): value }),
        );
        let errors = Config::parse(json.to_string().as_bytes()).expect_err(key);
        for error in errors {
            assert!(!error.message.contains("is not known"), "{key}: {error}");
        }
    }
}

#[test]
fn each_key_that_is_known_is_in_the_configuration_table() {
    let documented: BTreeSet<&str> = first_cells("## Configuration").into_iter().collect();
    // What is known in a section is told by the error for a key that is not.
    for section in [
        "breaker",
        "breaker.failure_rate",
        "breaker.slow_calls",
        "breaker.half_open",
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
    let documented: BTreeSet<&str> = first_cells("## Metrics").into_iter().collect();
    let mut gateway = Gateway::new(1, r#"{"max_services": 1}"#);
    gateway.request(0, "auth", End::Status(200));
    gateway.request(0, "chat", End::Status(200));
    let names = gateway.metric_names();
    let defined: BTreeSet<&str> = names
        .iter()
        .map(|name| name.split('.').next().expect("a name"))
        .collect();
    assert_eq!(documented, defined);
    assert!(defined.contains(metrics::STATE));
}
