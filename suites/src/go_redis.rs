//! go-redis' own tests, by Ginkgo: one unit.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use levee_harness::address::free_address;
use serde_json::Value;

use crate::bounded::{self, End};
use crate::outcome::{Outcome, Run};
use crate::stand::Way;
use crate::stand_in;
use crate::suite::Suite;

/// Its tests, built by `go test -c`.
#[derive(Debug)]
pub struct GoRedis {
    program: PathBuf,
}

/// Ginkgo ends the suite by itself before this.
const BOUND: Duration = Duration::from_mins(20);

/// Ports at which the suite starts servers for rings, sentinels and a cluster, which have no Levee before them: it has
/// them as constants.
const FIXED_PORTS: [std::ops::RangeInclusive<u16>; 3] = [6390..=6392, 9123..=9128, 8220..=8225];

const UNIT: &str = "go-redis";

impl GoRedis {
    pub fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
        }
    }
}

impl Suite for GoRedis {
    fn name(&self) -> &'static str {
        "go-redis"
    }

    fn units(&self) -> Result<Vec<String>> {
        Ok(vec![UNIT.to_owned()])
    }

    fn run(&self, _: &str, way: Way, folder: &Path) -> Result<Run> {
        for port in FIXED_PORTS.into_iter().flatten() {
            ensure!(
                std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(),
                "port {port} is in use, where go-redis' suite starts a server"
            );
        }
        let place = tempfile::tempdir()?;
        let redis = place.path().join("testdata/redis");
        fs::create_dir_all(redis.join("src"))?;
        // Redis' own defaults.
        fs::write(redis.join("redis.conf"), "")?;
        let server = match way {
            Way::Direct => stand_in::redis_server()?,
            Way::Levee => std::env::current_exe()?,
        };
        symlink(server, redis.join("src/redis-server"))?;
        let report = place.path().join("report.json");
        let port = free_address()?.port();
        let mut command = Command::new(&self.program);
        command
            .args(["-test.run=^TestGinkgoSuite$", "-test.timeout=19m"])
            .args(["-ginkgo.no-color", "-ginkgo.timeout=18m"])
            // The same order both ways: what one test breaks, the next ones see.
            .arg("-ginkgo.seed=1")
            .arg(format!("-ginkgo.json-report={}", report.display()))
            .current_dir(place.path())
            .env("REDIS_PORT", port.to_string());
        stand_in::prepare(&mut command, folder, Some(port))?;
        let end = bounded::run(command, &folder.join("suite.log"), BOUND)?;
        let mut run = Run::default();
        match fs::read_to_string(&report) {
            Ok(report) => run = read(&report)?,
            Err(error) => run.broke_off = Some(format!("there is no report of Ginkgo: {error}")),
        }
        if end == End::Killed {
            run.broke_off = Some(format!("killed after {BOUND:?}"));
        }
        Ok(run)
    }
}

/// Reads a report of Ginkgo in JSON.
fn read(report: &str) -> Result<Run> {
    let reports: Value = serde_json::from_str(report).context("the report of Ginkgo")?;
    let mut run = Run::default();
    let suites = reports.as_array().into_iter().flatten();
    let reasons = suites
        .clone()
        .filter_map(|suite| suite["SpecialSuiteFailureReasons"].as_array());
    // Such as its time-out, after which it takes all that is left for skipped.
    if let Some(reason) = reasons.flatten().next() {
        run.broke_off = Some(reason.to_string());
    }
    let specs = suites.filter_map(|suite| suite["SpecReports"].as_array());
    for spec in specs.flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let message = text(&spec["Failure"]["Message"]);
        let state = text(&spec["State"]);
        if text(&spec["LeafNodeType"]) != "It" {
            if !matches!(state.as_str(), "passed" | "skipped") {
                run.broke_off = Some(one_line(&message));
            }
            continue;
        }
        let containers = spec["ContainerHierarchyTexts"].as_array();
        let mut words: Vec<String> = containers.into_iter().flatten().map(text).collect();
        words.push(text(&spec["LeafNodeText"]));
        let outcome = match state.as_str() {
            "passed" => Outcome::Passed,
            "skipped" | "pending" => Outcome::Skipped,
            _ => Outcome::Failed(one_line(&message)),
        };
        run.add(&words.join(" "), outcome);
    }
    Ok(run)
}

/// Gomega explains in several lines.
fn one_line(text: &str) -> String {
    const SHOWN: usize = 200;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specs_of_a_report_are_read() {
        let report = r#"[{"SpecReports": [
            {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
            {"ContainerHierarchyTexts": ["Commands", "keys"], "LeafNodeType": "It", "LeafNodeText": "should Del",
             "State": "passed"},
            {"ContainerHierarchyTexts": ["Commands"], "LeafNodeType": "It", "LeafNodeText": "should Wait",
             "State": "failed", "Failure": {"Message": "Expected\n    <int>: 1\nto be 2"}},
            {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "x", "State": "pending"}
        ]}]"#;
        let mut expected = Run::default();
        expected.add("Commands keys should Del", Outcome::Passed);
        let why = "Expected <int>: 1 to be 2".to_owned();
        expected.add("Commands should Wait", Outcome::Failed(why));
        expected.add("x", Outcome::Skipped);
        assert_eq!(read(report).unwrap(), expected);
    }

    #[test]
    fn a_suite_that_ginkgo_ended_broke_off() {
        let report = r#"[{"SpecialSuiteFailureReasons": ["Suite Timeout Elapsed"], "SpecReports": [
            {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "x", "State": "skipped"}
        ]}]"#;
        let why = read(report).unwrap().broke_off.unwrap();
        assert!(why.contains("Suite Timeout Elapsed"), "{why}");
    }
}
