//! Side-by-side measurements in one run: ratios hold on other machines, absolute figures don't.

mod database;
mod gateway;
mod plot;
mod policy;
mod redis;

use crate::failure::Failure;
use crate::machine::cargo;
use crate::project::Project;
use crate::run::succeed;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::Command;

/// The measurements.
#[derive(Subcommand)]
pub enum Bench {
    /// Throughput and latency of Redis: directly, through the sidecar, through Envoy
    Redis(Options),
    /// Latency of a service at its database, with and without a cleanup job running
    #[command(visible_alias = "db")]
    Database(Options),
    /// CPU and latency of requests through the filter in Envoy, beside its alternatives
    Gateway(gateway::Options),
    /// Draw the output of `gateway --json` and `policy --json`
    Plot(plot::Options),
    /// Nanoseconds and instructions of the decisions, beside other circuit breakers in four languages
    Policy(policy::Options),
}

/// The extent of a measurement.
#[derive(Args)]
pub struct Options {
    /// One round, and a tenth of the commands
    #[arg(long)]
    quick: bool,
}

pub fn bench(project: &Project, bench: &Bench) -> Result<(), Failure> {
    match bench {
        Bench::Redis(options) => redis::redis(project, options),
        Bench::Database(options) => database::database(project, options),
        Bench::Plot(options) => plot::plot(options),
        Bench::Gateway(options) => gateway::gateway(project, options),
        Bench::Policy(options) => policy::policy(project, options),
    }
}

/// The command that runs the program of a bench of the workspace.
fn run_of(project: &Project, package: &str) -> Command {
    let mut run = cargo();
    run.current_dir(&project.root)
        .args(["run", "--locked", "--quiet", "--package", package, "--"]);
    run
}

/// Builds the sidecar for release and returns its path.
fn build_sidecar(project: &Project) -> Result<PathBuf, Failure> {
    println!("==> building the sidecar for release");
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--release", "--package=levee"]);
    succeed(&mut build, "the sidecar could not be built")?;
    Ok(project.target()?.join("release/levee"))
}
