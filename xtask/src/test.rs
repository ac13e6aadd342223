//! All tests and checks.

use crate::callgrind::{self, Callgrind};
use crate::clock::timed;
use crate::envoy;
use crate::failure::Failure;
use crate::instructions;
use crate::machine::cargo;
use crate::part::Part;
use crate::postgres;
use crate::project::Project;
use crate::run::{build_filter, build_native, succeed};
use crate::skips::{self, Skip};
use crate::tools;
use clap::{Args, ValueEnum as _};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The options of `cargo xtask test`.
#[derive(Args)]
pub struct Options {
    /// Run only these parts, in this order
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// Arguments after `--` go to the test programs of `unit` and `e2e`: a name to filter by, ...
    #[arg(last = true)]
    test_arguments: Vec<String>,
}

/// Packages outside the workspace, whose dependencies nothing else shares, with the arguments that make clippy compile
/// all of each.
const OUTSIDE_WORKSPACE: [(&str, &[&str]); 3] = [
    ("bench/gateway/floor", &["--target=wasm32-unknown-unknown"]),
    ("bench/policy/rust", &["--all-targets"]),
    // Without libFuzzer, which requires a C++ compiler.
    ("fuzz", &["--all-targets", "--no-default-features"]),
];

/// How a part ended, unless it failed.
enum Outcome {
    Passed,
    Skipped(String),
}

/// Runs the parts, up to the first that fails.
pub fn test(project: &Project, options: &Options) -> Result<(), Failure> {
    let parts = match &options.only[..] {
        [] => Part::value_variants(),
        chosen => chosen,
    };
    let skips = skips::find(parts)?;
    for skip in &skips {
        println!("{}", skip.line());
    }
    let mut summary = Vec::new();
    for part in parts {
        println!("\n=== {part:?}");
        let (result, time) = timed(|| run_or_skip(project, *part, options, &skips));
        let (line, failure) = line(*part, result, time);
        summary.push(line);
        if let Some(failure) = failure {
            print_summary(&summary, &skips);
            return Err(failure);
        }
    }
    print_summary(&summary, &skips);
    Ok(())
}

fn run_or_skip(
    project: &Project,
    part: Part,
    options: &Options,
    skips: &[Skip],
) -> Result<Outcome, Failure> {
    let of_part = skips.iter().filter(|skip| skip.part == part);
    if let Some(skip) = of_part.clone().find(|skip| skip.tests.is_empty()) {
        return Ok(Outcome::Skipped(skip.why.clone()));
    }
    let arguments = &options.test_arguments;
    match part {
        Part::Fmt => fmt(project),
        Part::Clippy => clippy(project),
        Part::Deny => deny(project),
        Part::Unit => unit(project, arguments),
        Part::Instructions => instructions(project),
        Part::Wasm => wasm(project),
        Part::E2e => {
            let skipped: Vec<&str> = of_part.flat_map(|skip| skip.tests).copied().collect();
            let postgres = postgres::programs(project)?;
            end_to_end(project, &[], &postgres, arguments, &skipped)
        }
        Part::Postgres => {
            let postgres = postgres::pinned(project)?;
            let skipped = skips::POSTGRES_TLS_AND_ICU;
            end_to_end(project, &DATABASE, &postgres, arguments, &skipped)
        }
    }
}

/// The test programs of the database.
const DATABASE: [&str; 2] = ["--test=database_*", "--test=postgres"];

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

fn print_summary(lines: &[String], skips: &[Skip]) {
    println!("\n=== summary");
    for line in lines {
        println!("{line}");
    }
    // A part that is skipped as a whole says so in its own line.
    for skip in skips.iter().filter(|skip| !skip.tests.is_empty()) {
        println!("{}", skip.line());
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
    for (folder, _) in OUTSIDE_WORKSPACE {
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
        // The host calls to Envoy are compiled only here.
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
            "clippy found something",
        )?;
    }
    // They share dependencies, so they share a folder.
    let target = project.target()?;
    for (folder, arguments) in OUTSIDE_WORKSPACE {
        let mut clippy = in_project(project, &["clippy", "--locked", "--target-dir"]);
        clippy
            .current_dir(project.root.join(folder))
            .arg(&target)
            .args(arguments)
            .args(["--", "--deny=warnings"]);
        succeed(&mut clippy, &format!("clippy found something in {folder}"))?;
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
        "cargo-deny found something",
    )?;
    // The database of advisories is a repository of its own, which not every network reaches.
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
            "the database of advisories can't be reached; the rest passed".to_owned(),
        ));
    }
    eprintln!("{said}");
    Err(Failure::Check("cargo-deny found an advisory".to_owned()))
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
    succeed(command.args(arguments), "unit tests failed")?;
    Ok(Outcome::Passed)
}

fn instructions(project: &Project) -> Result<Outcome, Failure> {
    let callgrind =
        Callgrind::find().ok_or_else(|| Failure::Missing(callgrind::MISSING.to_owned()))?;
    instructions::hold(project, &callgrind).map(|()| Outcome::Passed)
}

fn wasm(project: &Project) -> Result<Outcome, Failure> {
    let node = tools::node(project)?;
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
    // The runners look for `node` on the PATH.
    let path = env::var_os("PATH").unwrap_or_default();
    let folder = node.parent().map(Path::to_path_buf);
    let path = env::join_paths(env::split_paths(&path).chain(folder))
        .map_err(|error| Failure::Check(format!("PATH: {error}")))?;
    for (target, variable, runner, interpreter) in runners {
        let runner = runner.to_string_lossy().into_owned();
        let words: Vec<&str> = interpreter
            .iter()
            .copied()
            .chain([runner.as_str()])
            .collect();
        // The filter imports Envoy's functions, so only the decisions run outside Envoy.
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
            command.env(variable, words.join(" ")).env("PATH", &path),
            &format!("tests in {target} failed"),
        )?;
    }
    Ok(Outcome::Passed)
}

/// `programs`: the arguments of cargo that choose test programs. None: all.
fn end_to_end(
    project: &Project,
    programs: &[&str],
    postgres: &Path,
    arguments: &[String],
    skipped: &[&str],
) -> Result<Outcome, Failure> {
    let envoy = envoy::program(project)?;
    let func_e = tools::func_e(project)?;
    let redis_server = tools::redis_server(project)?;
    let prometheus = tools::prometheus(project)?;
    build_filter(project)?;
    build_native(project)?;
    let mut command = in_project(
        project,
        // All failures are reported at once: a run takes minutes.
        &[
            "test",
            "--locked",
            "--no-fail-fast",
            "--package=levee-tests",
        ],
    );
    command
        .args(programs)
        .arg("--")
        .args(arguments)
        .args(skipped.iter().flat_map(|name| ["--skip", *name]))
        .env("ENVOY_PATH", envoy)
        .env("FUNC_E_PATH", func_e)
        .env("REDIS_SERVER_PATH", redis_server)
        .env("POSTGRES_BIN_PATH", postgres)
        .env("PROMETHEUS_PATH", prometheus.prometheus)
        .env("PROMTOOL_PATH", prometheus.promtool)
        .env("LEVEE_BIN", project.sidecar()?)
        .env("LEVEE_GO_CLIENTS", tools::go_clients(project)?)
        .env("LEVEE_PYTHONPATH", tools::redis_py(project)?)
        .env("LEVEE_FILTER_WASM", project.filter()?);
    succeed(&mut command, "end-to-end tests failed")?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_not_called_passed() {
        let (skipped, failure) = line(
            Part::Wasm,
            Ok(Outcome::Skipped("no node".to_owned())),
            Duration::ZERO,
        );
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
