//! The filter in Envoy beside its alternatives. `bench/gateway/` measures; this builds and finds what it needs.

use crate::envoy;
use crate::failure::Failure;
use crate::machine::{self, cargo};
use crate::project::Project;
use crate::run::{build_filter, succeed};
use crate::tools;
use clap::{Args, ValueEnum};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Args)]
pub struct Options {
    /// CPU per request of bare Envoy, Levee's filter, the floor filter and a breaker in Lua, in under two minutes
    #[arg(long)]
    quick: bool,
    /// How costs grow with services, workers and configuration, and the cost of starting the filter
    #[arg(long, conflicts_with = "quick")]
    growth: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum, conflicts_with_all = ["quick", "growth"])]
    only: Vec<Part>,
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
    /// Another build of the filter to measure beside this one, as NAME=FILE; may be repeated
    #[arg(long, value_name = "NAME=FILE")]
    also: Vec<String>,
    /// Repetitions of each case
    #[arg(long)]
    rounds: Option<usize>,
}

/// A part of the measurement.
#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// CPU per good request, one worker
    Cpu,
    /// CPU per request while a service fails, one worker
    Failure,
    /// Latency at a fixed rate, one worker
    Latency,
    /// The same with two workers
    Workers,
}

/// Builds everything, and becomes the program that measures: it gets Ctrl-C, and its exit code is this command's.
pub fn gateway(project: &Project, options: &Options) -> Result<(), Failure> {
    let envoy = envoy::program(project)?;
    build_filter(project)?;
    let target = project.target()?.join("bench");
    build_floor(project, &target)?;
    build_bench(project)?;

    let mut program = Command::new(project.target()?.join("load-generator/levee-bench-gateway"));
    program
        .env("LEVEE_ROOT", &project.root)
        .env("ENVOY_PATH", envoy)
        .env("LEVEE_FILTER_WASM", project.filter()?)
        .env(
            "LEVEE_FLOOR_WASM",
            target.join("wasm32-unknown-unknown/release/levee_bench_floor.wasm"),
        );
    if !options.quick && !options.growth {
        program.env("LEVEE_GO_PROXY", tools::go_proxy(project)?);
        if let Some(nginx) = nginx() {
            program.env("NGINX_PATH", nginx);
        }
    }
    for (flag, is_wanted) in [
        ("--quick", options.quick),
        ("--growth", options.growth),
        ("--json", options.json),
    ] {
        if is_wanted {
            program.arg(flag);
        }
    }
    for part in &options.only {
        if let Some(part) = part.to_possible_value() {
            program.args(["--only", part.get_name()]);
        }
    }
    for build in &options.also {
        program.args(["--also", build]);
    }
    if let Some(rounds) = options.rounds {
        program.args(["--rounds", &rounds.to_string()]);
    }
    let error = program.exec();
    Err(Failure::Check(format!(
        "{} could not be started: {error}",
        program.get_program().display()
    )))
}

fn build_floor(project: &Project, target: &Path) -> Result<(), Failure> {
    let mut build = cargo();
    build
        .current_dir(project.root.join("bench/gateway/floor"))
        .args(["build", "--locked", "--quiet", "--release"])
        .args(["--target=wasm32-unknown-unknown", "--target-dir"])
        .arg(target);
    succeed(&mut build, "the floor filter could not be built")
}

fn build_bench(project: &Project) -> Result<(), Failure> {
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--quiet"])
        .args(["--profile=load-generator", "--package=levee-bench-gateway"]);
    succeed(&mut build, "bench/gateway could not be built")
}

/// The machine's nginx. On Debian only root's PATH has it.
fn nginx() -> Option<PathBuf> {
    machine::find("nginx")
        .or_else(|| Some(PathBuf::from("/usr/sbin/nginx")).filter(|path| path.is_file()))
}
