//! redis-py's own tests, by pytest: a unit for each file.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{collections::BTreeMap, env};

use anyhow::{Context, Result};
use levee_harness::tool;
use serde_json::Value;
use tempfile::TempDir;

use crate::bounded::{self, End};
use crate::outcome::{Outcome, Run};
use crate::stand::{Stand, Way};
use crate::suite::Suite;

/// Its tests.
#[derive(Debug)]
pub struct RedisPy {
    source: PathBuf,
    /// The `PYTHONPATH`: the source, what its tests import, and the plugin that reports.
    path: OsString,
    _plugin: TempDir,
}

/// One file takes a minute at most.
const BOUND: Duration = Duration::from_mins(5);

/// They need a cluster, modules of Redis, or certificates.
const MARKERS: &str = "not onlycluster and not redismod and not ssl";

/// Files whose tests all need one of these; some can't even be read without certificates.
const LEFT_OUT: [&str; 7] = [
    "bloom",
    "cluster",
    "graph",
    "json",
    "search",
    "ssl",
    "timeseries",
];

const REPORT: &str = "LEVEE_SUITES_REPORT";

impl RedisPy {
    /// From the unpacked source at `source`, and the folder of what its tests import.
    pub fn new(source: &Path, packages: &Path) -> Result<Self> {
        let plugin = tempfile::tempdir()?;
        fs::write(
            plugin.path().join("levee_report.py"),
            include_str!("levee_report.py"),
        )?;
        let path = env::join_paths([source, packages, plugin.path()])?;
        Ok(Self {
            source: source.to_owned(),
            path,
            _plugin: plugin,
        })
    }
}

impl Suite for RedisPy {
    fn name(&self) -> &'static str {
        "redis-py"
    }

    fn units(&self) -> Result<Vec<String>> {
        let mut units = Vec::new();
        for folder in ["tests", "tests/test_asyncio", "tests/test_parsers"] {
            for entry in fs::read_dir(self.source.join(folder)).context(folder)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let is_left_out = LEFT_OUT
                    .iter()
                    .any(|what| name.starts_with(&format!("test_{what}")));
                let is_test = name.starts_with("test_") && Path::new(&name).extension().is_some();
                if is_test && !is_left_out {
                    units.push(format!("{folder}/{name}"));
                }
            }
        }
        units.sort();
        Ok(units)
    }

    fn run(&self, unit: &str, way: Way, folder: &Path) -> Result<Run> {
        let stand = Stand::start(way, folder)?;
        let python = tool::on_the_path("python3").context("python3 is missing")?;
        let report = folder.join("report.jsonl");
        let mut command = Command::new(python);
        command
            .args(["-m", "pytest", "-p", "levee_report"])
            .args(["-p", "no:cacheprovider", "-m", MARKERS])
            // As in the pytest.ini of its repository, which the sdist lacks.
            .args(["-o", "asyncio_mode=auto"])
            .args(["-o", "asyncio_default_fixture_loop_scope=function"])
            .arg(format!("--redis-url=redis://{}/0", stand.address()?))
            .arg(unit)
            .current_dir(&self.source)
            .env("PYTHONPATH", &self.path)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env(REPORT, &report);
        let end = bounded::run(command, &folder.join("suite.log"), BOUND)?;
        drop(stand);
        let mut run = read(&fs::read_to_string(&report).unwrap_or_default())?;
        if end == End::Killed {
            run.broke_off = Some(format!("killed after {BOUND:?}"));
        }
        Ok(run)
    }
}

/// The exit codes of pytest with which all tests were run: they passed, some failed, there were none.
const IN_ORDER: [&str; 3] = ["0", "1", "5"];

/// Reads what the plugin wrote: a line for each phase of a test, which are set-up, call and tear-down, and one at the end.
fn read(report: &str) -> Result<Run> {
    let mut order = Vec::new();
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut run = Run::default();
    let mut has_end = false;
    for line in report.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let text = |key: &str| line[key].as_str().unwrap_or_default();
        if text("when") == "collect" {
            run.broke_off = Some(text("says").to_owned());
            continue;
        }
        if text("when") == "end" {
            has_end = IN_ORDER.contains(&text("says"));
            continue;
        }
        let name = text("test").split_once("::").map_or("", |(_, name)| name);
        let outcome = match text("outcome") {
            "passed" => Outcome::Passed,
            "skipped" => Outcome::Skipped,
            _ => Outcome::Failed(text("says").to_owned()),
        };
        match outcomes.get(name) {
            None => {
                order.push(name.to_owned());
                outcomes.insert(name.to_owned(), outcome);
            }
            // What has failed once has failed; what was skipped was set up well.
            Some(Outcome::Passed) => {
                outcomes.insert(name.to_owned(), outcome);
            }
            Some(_) => {}
        }
    }
    if !has_end && run.broke_off.is_none() {
        run.broke_off = Some("pytest did not end in order".to_owned());
    }
    for name in order {
        if let Some(outcome) = outcomes.remove(&name) {
            run.add(&name, outcome);
        }
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_as_good_as_its_worst_phase() {
        let report = r#"{"test": "tests/test_a.py::T::test_a[1]", "when": "setup", "outcome": "passed", "says": ""}
{"test": "tests/test_a.py::T::test_a[1]", "when": "call", "outcome": "failed", "says": "ConnectionError: no"}
{"test": "tests/test_a.py::T::test_a[1]", "when": "teardown", "outcome": "passed", "says": ""}
{"test": "tests/test_a.py::test_b", "when": "setup", "outcome": "passed", "says": ""}
{"test": "tests/test_a.py::test_b", "when": "call", "outcome": "passed", "says": ""}
{"test": "tests/test_a.py::test_b", "when": "teardown", "outcome": "passed", "says": ""}
{"test": "tests/test_a.py::test_c", "when": "setup", "outcome": "skipped", "says": "old"}
{"test": "tests/test_a.py::test_c", "when": "teardown", "outcome": "passed", "says": ""}
{"test": "", "when": "end", "outcome": "", "says": "1"}
"#;
        let mut expected = Run::default();
        let why = "ConnectionError: no".to_owned();
        expected.add("T::test_a[1]", Outcome::Failed(why));
        expected.add("test_b", Outcome::Passed);
        expected.add("test_c", Outcome::Skipped);
        assert_eq!(read(report).unwrap(), expected);
    }

    #[test]
    fn a_file_at_which_pytest_breaks_off_broke_off() {
        let phase = r#"{"test": "tests/test_a.py::test_a", "when": "setup", "outcome": "passed", "says": ""}"#;
        let end = r#"{"test": "", "when": "end", "outcome": "", "says": "3"}"#;
        for report in [phase.to_owned(), format!("{phase}\n{end}")] {
            let run = read(&report).unwrap();
            assert!(run.broke_off.is_some());
            assert_eq!(run.passed(), 1);
        }
    }

    #[test]
    fn a_file_that_can_not_be_imported_broke_off() {
        let report = r#"{"test": "tests/test_a.py", "when": "collect", "outcome": "failed", "says": "no numpy"}"#;
        let run = read(report).unwrap();
        assert_eq!(run.broke_off.as_deref(), Some("no numpy"));
    }
}
