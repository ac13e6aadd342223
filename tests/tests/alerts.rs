//! The alerts in `alerts/`: they fire when they should, know their metrics, and each has its page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use levee_harness::process::output_of;
use levee_harness::tool::promtool;
use levee_pages::Page;
use serde_json::Value;

/// Names that Prometheus adds itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// Words of Prometheus' language that a rule may have besides names of metrics and labels.
const WORDS: [&str; 13] = [
    "absent", "and", "bool", "by", "changes", "increase", "max", "on", "or", "sum", "time",
    "unless", "without",
];

/// The sections of each page, in order.
const SECTIONS: [&str; 5] = [
    "**What it means.**",
    "**What users see.**",
    "## What to look at",
    "## What to do",
    "## When it is no problem",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project's root")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_norway::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} is not a list in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is no text in {value}"))
}

fn rules() -> Vec<Value> {
    let file = yaml("alerts/levee.rules.yaml");
    let rules: Vec<Value> = list(&file, "groups")
        .iter()
        .flat_map(|group| list(group, "rules").clone())
        .collect();
    assert!(!rules.is_empty());
    rules
}

/// Words of an expression that are names: not in quotes, not in braces, no durations.
fn names_in(expression: &str) -> BTreeSet<String> {
    let (mut names, mut word, mut hidden) = (BTreeSet::new(), String::new(), false);
    for char in expression.chars().chain([' ']) {
        hidden = match char {
            '{' | '[' => true,
            '}' | ']' => false,
            _ => hidden,
        };
        if !hidden && (char.is_ascii_alphanumeric() || char == '_' || char == ':') {
            word.push(char);
        } else if !word.is_empty() {
            names.insert(std::mem::take(&mut word));
        }
    }
    names.retain(|name| !name.starts_with(|first: char| first.is_ascii_digit()));
    names
}

/// Labels in `by (...)` and `without (...)`.
fn labels_in(expression: &str) -> BTreeSet<String> {
    let after = |word: &'static str| expression.split(word).skip(1);
    after("by (")
        .chain(after("without ("))
        .filter_map(|rest| rest.split(')').next())
        .flat_map(|labels| labels.split(',').map(|label| label.trim().to_owned()))
        .collect()
}

/// The metrics in the tables of `docs/reference/metrics.md`, which other tests compare with the code.
fn known_metrics() -> BTreeSet<String> {
    let page = Page::read("docs/reference/metrics.md");
    let rows = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let metrics: BTreeSet<String> = rows
        .filter(|(_, rest)| {
            ["counter |", "gauge |", "histogram |"]
                .iter()
                .any(|kind| rest.starts_with(kind))
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(metrics.len() > 30, "few metrics in the tables: {metrics:?}");
    metrics
}

/// Runs `promtool` with these arguments, which must succeed.
fn passes(arguments: &[&str]) {
    let mut promtool = promtool().unwrap();
    promtool.args(arguments).current_dir(root());
    if let Err(said) = output_of(&mut promtool) {
        panic!("promtool {arguments:?}: {said}");
    }
}

#[test]
fn the_rules_are_valid() {
    passes(&["check", "rules", "alerts/levee.rules.yaml"]);
}

#[test]
fn each_configuration_of_prometheus_that_is_shown_is_valid() {
    let folder = tempfile::tempdir().expect("a directory");
    let rules = "levee.rules.yaml";
    fs::copy(root().join("alerts").join(rules), folder.path().join(rules))
        .expect("a copy of the rules");
    let file = folder.path().join("prometheus.yml");
    let mut shown = 0;
    for page in Page::all() {
        for block in page.examples("yaml") {
            let block = block.text;
            let whole = if block.contains("scrape_configs:") {
                block
            } else if block.contains("metric_relabel_configs:") {
                let indented = block.replace('\n', "\n    ");
                format!("scrape_configs:\n  - job_name: envoy\n    {indented}")
            } else {
                continue;
            };
            fs::write(&file, whole).expect("a configuration");
            passes(&["check", "config", &file.to_string_lossy()]);
            shown += 1;
        }
    }
    assert_eq!(shown, 2);
}

#[test]
fn each_alert_fires_when_it_should_and_is_silent_when_not() {
    passes(&["test", "rules", "alerts/levee.test.yaml"]);
}

/// A rule that never fires passes every test that expects silence. So each alert needs a test in which it fires, one
/// without any series, and one after a restart.
#[test]
fn each_alert_is_tested_for_firing_and_for_being_silent() {
    let file = yaml("alerts/levee.test.yaml");
    for rule in rules() {
        let name = text(&rule, "alert");
        let (mut firing, mut silent) = (0, BTreeSet::new());
        for test in list(&file, "tests") {
            for expected in list(test, "alert_rule_test") {
                if text(expected, "alertname") != name {
                    continue;
                }
                if expected["exp_alerts"].is_array() {
                    firing += 1;
                } else {
                    silent.insert(text(test, "name"));
                }
            }
        }
        assert!(firing > 0, "{name} is never expected to fire");
        for case in [
            "no metrics exist",
            "everything is well",
            "everything is restarted",
        ] {
            assert!(silent.contains(case), "{name}, {case}");
        }
        assert!(
            silent.len() > 3,
            "{name}: no case of its own in which it is silent: {silent:?}"
        );
    }
}

#[test]
fn each_alert_says_how_bad_it_is_and_what_to_do_and_has_a_page() {
    let mut pages = BTreeSet::new();
    let table = Page::read("docs/reference/alerts.md");
    for rule in rules() {
        let name = text(&rule, "alert");
        let severity = text(&rule["labels"], "severity");
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
        let row = format!("| `{name}` | {severity} | ");
        assert!(table.text.contains(&row), "{} has no row {row}", table.name);
        let [summary, description, runbook] =
            ["summary", "description", "runbook"].map(|key| text(&rule["annotations"], key));
        assert!(summary.len() < 100, "{name}: {summary}");
        assert!(description.len() > 100, "{name}: {description}");
        assert_eq!(runbook, format!("docs/alerts/{name}.md"));
        let page = read(runbook);
        assert!(
            page.starts_with(&format!("# {name}\n")),
            "{runbook} begins by its name"
        );
        let mut at = 0;
        for section in SECTIONS {
            let found = page[at..].find(section);
            at += found
                .unwrap_or_else(|| panic!("{runbook}: {section} is missing, or not in its place"));
        }
        assert!(page.lines().count() < 60, "{runbook} is short");
        for (_, link) in page
            .match_indices("](")
            .map(|(at, _)| page.split_at(at + 2))
        {
            let target = link.split(')').next().unwrap_or_default();
            assert!(
                root().join("docs/alerts").join(target).is_file(),
                "{runbook}: {target}"
            );
        }
        pages.insert(format!("{name}.md"));
    }
    let there: BTreeSet<String> = fs::read_dir(root().join("docs/alerts"))
        .expect("the pages")
        .map(|entry| {
            entry
                .expect("a page")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(there, pages, "pages, and alerts");
}

#[test]
fn each_metric_in_a_rule_or_a_test_is_known() {
    let known = known_metrics();
    for rule in rules() {
        let expression = text(&rule, "expr");
        let labels = labels_in(expression);
        let mut metrics = 0;
        for name in names_in(expression) {
            if WORDS.contains(&name.as_str()) || labels.contains(&name) {
                continue;
            }
            metrics += 1;
            assert!(
                known.contains(&name) || OF_PROMETHEUS.contains(&name.as_str()),
                "{}: {name} is in no table of metrics",
                text(&rule, "alert")
            );
        }
        assert!(metrics > 0, "no metric was found in {expression}");
    }
    for test in list(&yaml("alerts/levee.test.yaml"), "tests") {
        for series in list(test, "input_series") {
            let name = text(series, "series").split('{').next().unwrap_or_default();
            assert!(
                known.contains(name) || OF_PROMETHEUS.contains(&name) || name == "something_else",
                "{}: {name}",
                text(test, "name")
            );
        }
    }
}

/// Metrics that a page tells the reader to check.
#[test]
fn each_metric_that_a_page_names_is_known() {
    let known = known_metrics();
    let pages = fs::read_dir(root().join("docs/alerts")).expect("the pages");
    for page in pages.map(|entry| entry.expect("a page").path()) {
        for name in metrics_in(&page) {
            assert!(
                known
                    .iter()
                    .any(|metric| *metric == name
                        || name.ends_with('_') && metric.starts_with(&name)),
                "{}: {name}",
                page.display()
            );
        }
    }
}

/// What follows `grep '^`, and words in backquotes that end like a counter.
fn metrics_in(page: &PathBuf) -> Vec<String> {
    let page = fs::read_to_string(page).expect("a page");
    let is_part = |char: char| char.is_ascii_lowercase() || char == '_';
    let head = |text: &str| {
        text.chars()
            .take_while(|char| is_part(*char))
            .collect::<String>()
    };
    let looked_for = page
        .lines()
        .filter(|line| line.contains("/metrics |"))
        .filter_map(|line| Some(head(line.split_once('^')?.1)));
    let named = page
        .split(['`', ' ', '\n'])
        .filter(|word| word.ends_with("_total"))
        .map(head);
    looked_for
        .chain(named)
        .filter(|name| name.len() > 3)
        .collect()
}
