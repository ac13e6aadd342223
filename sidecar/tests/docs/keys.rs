//! Configuration keys.

use crate::{FILTER, SIDECAR};
use levee::config::Config;
use levee_pages::{Page, Row};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// A row of a table of keys.
struct Keys {
    /// Whole paths: `redis[].retry.base`.
    paths: Vec<String>,
    row: Row,
}

/// The rows of a table of keys. In a cell, a key without a dot has the parent of the one before it.
fn rows_of(section: &Page, head: &str) -> Vec<Keys> {
    let rows = section.rows(head).into_iter();
    rows.map(|row| {
        let mut parent = String::new();
        let paths = row.codes(0).into_iter().map(|key| {
            if let Some((before, _)) = key.rsplit_once('.') {
                before.clone_into(&mut parent);
                key
            } else if parent.is_empty() {
                key
            } else {
                format!("{parent}.{key}")
            }
        });
        Keys {
            paths: paths.collect(),
            row,
        }
    })
    .collect()
}

/// The rows for `levee.yaml`.
fn sidecar_rows() -> Vec<Keys> {
    let page = Page::read(SIDECAR);
    let mut all = Vec::new();
    for heading in ["General", "Redis", "State"] {
        all.extend(rows_of(&page.section(heading), "key"));
    }
    for mut keys in rows_of(&page.section("Database"), "key of `database`") {
        for path in &mut keys.paths {
            path.insert_str(0, "database.");
        }
        all.push(keys);
    }
    all
}

fn paths(rows: Vec<Keys>) -> impl Iterator<Item = String> {
    rows.into_iter().flat_map(|keys| keys.paths)
}

/// A configuration that has only `value`, at a path such as `redis[].retry.base`.
fn with(path: &str, value: serde_json::Value) -> String {
    let json = path
        .split('.')
        .rev()
        .fold(value, |value, part| match part.strip_suffix("[]") {
            Some(name) => serde_json::json!({ name: [value] }),
            None => serde_json::json!({ part.trim_matches(['<', '>']): value }),
        });
    json.to_string()
}

#[test]
fn each_key_in_the_tables_of_levee_yaml_is_known() {
    let keys: Vec<String> = paths(sidecar_rows()).collect();
    assert!(keys.len() > 50, "{keys:?}");
    for key in &keys {
        // No key has a value of this type, so an error about the type shows that the key is known.
        let yaml = with(key, serde_json::json!([[]]));
        let errors = Config::parse(&yaml).expect_err(key);
        for error in errors {
            let error = error.to_string();
            assert!(!error.contains("is not known here"), "{key}: {error}");
        }
    }
}

#[test]
fn each_key_of_levee_yaml_is_in_a_table() {
    let rows = sidecar_rows();
    let sections = sections();
    let mut missing = Vec::new();
    for (section, known) in &sections {
        // The filter's page lists the keys of a breaker.
        if section == "redis[].breaker" || section.starts_with("redis[].breaker.") {
            continue;
        }
        let keys = known.iter().filter(|key| !is_listed(&rows, section, key));
        missing.extend(keys.map(|key| format!("{section}.{key}")));
    }
    assert!(missing.is_empty(), "in no table: {missing:?}");
    for section in [
        "",
        "envoy",
        "redis[].tls",
        "state",
        "state.tls",
        "database.jobs.NAME",
    ] {
        assert!(sections.contains_key(section), "{section}: {sections:?}");
    }
}

/// Whether a key has a row, or is named in the row of its section.
fn is_listed(rows: &[Keys], section: &str, key: &str) -> bool {
    let path = format!("{section}.{key}");
    let path = path.trim_start_matches('.');
    let begins = [format!("{path}."), format!("{path}[]")];
    let is_named =
        |named: &String| named == path || begins.iter().any(|begin| named.starts_with(begin));
    let is_around = |named: &String| {
        let rest = section.strip_prefix(named.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            || section.ends_with("NAME") && is_within(named, section)
    };
    rows.iter().any(|keys| {
        keys.paths.iter().any(is_named)
            || keys.paths.iter().any(is_around) && has_code(&keys.row, key)
    })
}

fn is_within(key: &str, section: &str) -> bool {
    let rest = key.strip_prefix(section);
    rest.is_some_and(|rest| rest.starts_with('.'))
}

/// Whether the row has this word in backquotes.
fn has_code(row: &Row, word: &str) -> bool {
    let word = Regex::new(&format!(r"\b{word}\b")).unwrap();
    row.text
        .split('`')
        .skip(1)
        .step_by(2)
        .any(|code| word.is_match(code))
}

/// All sections that `levee.yaml` may have, with their keys. The error for an unknown key lists the known ones.
fn sections() -> BTreeMap<String, Vec<String>> {
    let known = Regex::new("^(.*): is not known here; known are: (.*)").unwrap();
    let keys_of = |section: &str| -> Option<Vec<String>> {
        let nonsense = serde_json::json!({"?": 1});
        let yaml = match section {
            "" => nonsense.to_string(),
            section => with(section, nonsense),
        };
        let unknown = match section {
            "" => "?".to_owned(),
            section => format!("{}.?", section.replace("[]", "[0]")),
        };
        let errors = Config::parse(&yaml).err()?;
        errors.iter().find_map(|error| {
            let error = error.to_string();
            let found = known.captures(&error)?;
            let is_here = found[1] == unknown;
            is_here.then(|| found[2].split(", ").map(str::to_owned).collect())
        })
    };
    let (mut open, mut found) = (vec![String::new()], BTreeMap::new());
    while let Some(section) = open.pop() {
        let Some(keys) = keys_of(&section) else {
            continue;
        };
        for key in &keys {
            let path = format!("{section}.{key}");
            let path = path.trim_start_matches('.');
            // A section, a list of them, or one by name.
            open.extend(["", "[]", ".NAME"].map(|end| format!("{path}{end}")));
        }
        assert!(found.len() < 100, "{found:?}");
        found.insert(section, keys);
    }
    found
}

/// The keys in the tables, and the short forms that pages use.
fn known_keys() -> BTreeSet<String> {
    let mut known: BTreeSet<String> = paths(rows_of(&Page::read(FILTER), "key")).collect();
    for key in paths(sidecar_rows()) {
        // Where the section is clear, pages leave it out: `watchdog.dry_run`, `jobs.NAME.batch`.
        for section in ["database.", "database.jobs.NAME.", "redis[]."] {
            known.extend(key.strip_prefix(section).map(str::to_owned));
        }
        known.insert(key);
    }
    // The breaker of Redis has the keys of the filter's.
    let breaker: Vec<String> = known
        .iter()
        .filter(|key| key.starts_with("breaker."))
        .map(|key| format!("redis[].{key}"))
        .collect();
    known.extend(breaker);
    known
}

#[test]
fn each_key_that_a_page_names_is_in_a_table() {
    let known = known_keys();
    let starts: BTreeSet<&str> = known
        .iter()
        .filter_map(|key| key.split('.').next())
        .collect();
    let shape = Regex::new(r"^[a-z_]+(\[\])?(\.[a-z_]+|\.<[a-z]+>|\.NAME)+$").unwrap();
    let service = Regex::new(r"^services\.(<name>|[a-z]+)\.").unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in Page::all() {
        if page.name == "ARCHITECTURE.md" {
            continue;
        }
        for code in page.quoted() {
            let code = service.replace(&code, "").into_owned();
            let start = code.split('.').next().unwrap_or_default();
            let is_file = [".yaml", ".md", ".rs", ".json"]
                .iter()
                .any(|end| code.ends_with(end));
            if is_file || !shape.is_match(&code) || !starts.contains(start) {
                continue;
            }
            count += 1;
            let begins = format!("{code}.");
            if !known.iter().any(|key| {
                let key = service.replace(key, "");
                key == code || key.starts_with(&begins)
            }) {
                wrong.push(format!("{}: {code}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 40, "{count}");
}
