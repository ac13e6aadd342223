//! Measures the cost of Levee's filter in Envoy, compared with alternatives. Run by `cargo xtask bench gateway`.

mod alarm;
mod backend;
mod calls;
mod client;
mod envoy;
mod growth;
mod load;
mod matrix;
mod measure;
mod part;
mod report;
mod tools;
mod variant;

use crate::part::Part;
use crate::report::{Machine, Report};
use crate::tools::Tools;
use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum as _};
use levee_harness::processor;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Measures the cost of Levee's filter in Envoy.
#[derive(Debug, Parser)]
struct Options {
    /// CPU per request of bare Envoy, Levee's filter, the floor filter and a breaker in Lua, in under two minutes
    #[arg(long)]
    quick: bool,
    /// How the cost grows with services, workers and configuration, and the cost of starting the filter
    #[arg(long, conflicts_with = "quick")]
    growth: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum, conflicts_with_all = ["quick", "growth"])]
    only: Vec<Part>,
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
    /// Another build of the filter to compare with this one, as NAME=FILE; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_build)]
    also: Vec<(String, PathBuf)>,
    /// Rounds in which each case is measured
    #[arg(long)]
    rounds: Option<usize>,
}

fn parse_build(text: &str) -> Result<(String, PathBuf)> {
    let (name, file) = text.split_once('=').context("it must be NAME=FILE")?;
    let file = fs::canonicalize(file).with_context(|| format!("{file} can't be read"))?;
    Ok((name.to_owned(), file))
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems {
                eprintln!("error: not measured: {problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Vec<String>> {
    let tools = Tools::find()?;
    let folder = tempfile::Builder::new().prefix("levee-bench-").tempdir()?;
    let mut report = Report {
        machine: machine(&tools)?,
        ..Report::default()
    };
    report
        .problems
        .extend(calls::compare(&tools, folder.path())?);
    let bench = matrix::Bench {
        tools: &tools,
        folder: folder.path(),
        also: &options.also,
        rounds: options.rounds,
    };
    let parts = match &options.only[..] {
        [] => Part::value_variants(),
        chosen => chosen,
    };
    if options.quick {
        bench.quick(&mut report)?;
    } else if options.growth {
        growth::growth(&bench, &mut report)?;
    } else {
        bench.one_worker(parts, &mut report)?;
        if parts.contains(&Part::Workers) {
            bench.two_workers(&mut report)?;
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(report.problems())
}

fn machine(tools: &Tools) -> Result<Machine> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("model name")?
                    .split_once(':')?
                    .1
                    .trim()
                    .to_owned(),
            )
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    // "envoy  version: <commit>/<version>/<state>/<build>/<ssl>"
    let said = said(&tools.envoy, "--version")?;
    let version = said
        .split_once("version:")
        .and_then(|(_, version)| version.split('/').nth(1));
    let Some(envoy) = version.map(str::to_owned) else {
        bail!("{} does not say its version", tools.envoy.display());
    };
    let filter = fs::metadata(&tools.levee).with_context(|| tools.levee.display().to_string())?;
    Ok(Machine {
        processor,
        cpus: processor::allowed_cpus().len(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        envoy,
        go: version_of(tools.go.as_deref(), "version")?,
        nginx: version_of(tools.nginx.as_deref(), "-v")?,
        filter_bytes: filter.len(),
    })
}

/// The version of a program that may be missing, in one line.
fn version_of(program: Option<&Path>, argument: &str) -> Result<Option<String>> {
    let Some(program) = program else {
        return Ok(None);
    };
    let said = said(program, argument)?;
    Ok(Some(said.lines().next().unwrap_or_default().to_owned()))
}

/// The output of a program. nginx prints its version to standard error.
fn said(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| program.display().to_string())?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}
