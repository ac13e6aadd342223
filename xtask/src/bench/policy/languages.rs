//! The languages: how each program is built and run.

use super::results::{Extent, Row, Said};
use crate::callgrind::Callgrind;
use crate::failure::Failure;
use crate::machine::cargo;
use crate::run::output_within;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How to measure one language.
pub(super) struct Language {
    pub(super) name: &'static str,
    /// Its libraries, to name them if they are not measured.
    pub(super) what: &'static str,
    /// The programs it requires.
    pub(super) needs: &'static [&'static str],
    pub(super) measure: fn(&Setup) -> Result<Vec<Row>, Failure>,
}

pub(super) const LANGUAGES: [Language; 5] = [
    Language {
        name: "Rust",
        what: "levee, recloser, failsafe, breaker, tower-resilience-circuitbreaker",
        needs: &["cargo"],
        measure: rust,
    },
    Language {
        name: "Wasm",
        what: "levee in WebAssembly, in the V8 of node",
        needs: &["cargo", "node"],
        measure: wasm,
    },
    Language {
        name: "Go",
        what: "gobreaker, failsafe-go",
        needs: &["go"],
        measure: go,
    },
    Language {
        name: "Java",
        what: "resilience4j",
        needs: &["java", "javac", "mvn"],
        measure: java,
    },
    Language {
        name: "Node",
        what: "opossum",
        needs: &["node", "npm"],
        measure: node,
    },
];

/// One program takes a minute.
const LIMIT: Duration = Duration::from_mins(5);

/// Folders, tools and extent, the same for all languages.
pub(super) struct Setup {
    pub(super) folder: PathBuf,
    pub(super) target: PathBuf,
    pub(super) runner: PathBuf,
    pub(super) extent: Extent,
    pub(super) callgrind: Option<Callgrind>,
}

impl Setup {
    /// Builds with `command`, which reports its own errors.
    fn build(command: &mut Command) -> Result<(), Failure> {
        // A build's output is not part of the results.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Check(format!("{command:?}: {status}"))),
            Err(error) => Err(Failure::Check(format!("{command:?}: {error}"))),
        }
    }

    fn cargo(&self, target: Option<&str>) -> Result<(), Failure> {
        let mut build = cargo();
        build
            .current_dir(self.folder.join("rust"))
            .args(["build", "--quiet", "--locked", "--release", "--target-dir"])
            .arg(&self.target);
        if let Some(target) = target {
            build.args(["--no-default-features", "--target", target]);
        }
        Self::build(&mut build)
    }

    /// Runs `program` for the given repetitions, and reads its output.
    fn run(&self, program: &mut Command, language: &'static str) -> Result<Vec<Row>, Failure> {
        program
            .arg(self.extent.repetitions.to_string())
            .arg(self.extent.milliseconds.to_string());
        output_within(LIMIT, program)?
            .lines()
            .map(|line| {
                let said: Said = serde_json::from_str(line)
                    .map_err(|error| Failure::Check(format!("{program:?}: {error}: {line}")))?;
                Row::new(language, said)
            })
            .collect()
    }
}

fn rust(setup: &Setup) -> Result<Vec<Row>, Failure> {
    setup.cargo(None)?;
    let program = setup.target.join("release/bench-policy");
    let mut rows = setup.run(Command::new(&program).arg("time"), "Rust")?;
    if let Some(callgrind) = &setup.callgrind {
        eprintln!("==> Rust: counting instructions");
        for row in &mut rows {
            let case = format!("{}/{}", row.library, row.operation);
            let counted = callgrind.instructions(Command::new(&program).args(["repeat", &case]))?;
            row.instructions = Some(counted);
        }
    }
    Ok(rows)
}

fn wasm(setup: &Setup) -> Result<Vec<Row>, Failure> {
    let target = "wasm32-wasip1";
    setup.cargo(Some(target))?;
    let program = setup.target.join(target).join("release/bench-policy.wasm");
    let mut node = Command::new("node");
    node.arg("--no-warnings").arg(&setup.runner);
    setup.run(node.arg(program).arg("time"), "Wasm")
}

fn go(setup: &Setup) -> Result<Vec<Row>, Failure> {
    let program = setup.target.join("bench-policy-go");
    let mut build = Command::new("go");
    build
        .current_dir(setup.folder.join("go"))
        .args(["build", "-trimpath", "-o"])
        .args([program.as_path(), Path::new(".")]);
    Setup::build(&mut build)?;
    setup.run(&mut Command::new(program), "Go")
}

fn node(setup: &Setup) -> Result<Vec<Row>, Failure> {
    let folder = setup.folder.join("js");
    Setup::build(Command::new("npm").current_dir(&folder).arg("ci"))?;
    setup.run(Command::new("node").arg(folder.join("main.js")), "Node")
}

/// The part of JMH's output for one benchmark that is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Jmh {
    benchmark: String,
    primary_metric: JmhMetric,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JmhMetric {
    raw_data: Vec<Vec<f64>>,
}

fn java(setup: &Setup) -> Result<Vec<Row>, Failure> {
    let folder = setup.folder.join("java");
    let mut build = Command::new("mvn");
    Setup::build(
        build
            .current_dir(&folder)
            .args(["--batch-mode", "--quiet", "package"]),
    )?;
    fs::create_dir_all(&setup.target).map_err(|error| Failure::Check(error.to_string()))?;
    let results = setup.target.join("jmh.json");
    // The JIT compiler takes seconds to settle, whatever the extent.
    let mut run = Command::new("java");
    run.arg("-jar")
        .arg(folder.join("target/bench-policy.jar"))
        .args(["-f", "1", "-wi", "3", "-w", "1s", "-rf", "json", "-i"])
        .arg(setup.extent.repetitions.to_string())
        .arg("-r")
        .arg(format!("{}ms", setup.extent.milliseconds * 2))
        .arg("-rff")
        .arg(&results);
    output_within(LIMIT, &mut run)?;
    let text = fs::read_to_string(&results).map_err(|error| Failure::Check(error.to_string()))?;
    let all: Vec<Jmh> = serde_json::from_str(&text)
        .map_err(|error| Failure::Check(format!("what JMH says: {error}")))?;
    let pom = fs::read_to_string(folder.join("pom.xml")).unwrap_or_default();
    let version = between(&pom, "<resilience4j.version>", "<").unwrap_or_default();
    all.into_iter()
        .map(|one| {
            let method = one.benchmark.rsplit('.').next().unwrap_or_default();
            let operation = match method {
                "passSuccess" => "pass+success",
                "passFailure" => "pass+failure",
                other => other,
            };
            let said = Said {
                library: format!("resilience4j {version}"),
                operation: operation.to_owned(),
                nanos: one.primary_metric.raw_data.concat(),
            };
            Row::new("Java", said)
        })
        .collect()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}
