//! Side-by-side measurements in one run: ratios hold on other machines, absolute figures don't (but those of
//! `decisions` do, which measure no time).

mod bars;
mod database;
mod decisions;
mod figures;
mod gateway;
mod lines;
mod measurement;
mod plot;
mod plot_decisions;
mod policy;
mod redis;
mod svg;

pub use measurement::build_sidecar;

use crate::failure::Failure;
use crate::project::Project;
use clap::Subcommand;

/// The measurements.
#[derive(Subcommand)]
pub enum Bench {
    /// Throughput and latency of Redis: directly, through the sidecar, through Envoy
    Redis(measurement::Options),
    /// How quickly a cleanup job works off a backlog, and what a service beside it notices
    #[command(visible_alias = "db")]
    Database(database::Options),
    /// CPU and latency of requests through the filter in Envoy, beside its alternatives
    Gateway(gateway::Options),
    /// When breakers open and close, beside other circuit breakers, by calculation and simulation
    Decisions(decisions::Options),
    /// Draw the output of `gateway --json`, `policy --json`, `database --json` and `decisions --json`
    Plot(plot::Options),
    /// Nanoseconds and instructions of the decisions, beside other circuit breakers in four languages
    Policy(policy::Options),
}

pub fn bench(project: &Project, bench: &Bench) -> Result<(), Failure> {
    match bench {
        Bench::Redis(options) => redis::redis(project, options),
        Bench::Database(options) => database::database(project, options),
        Bench::Decisions(options) => decisions::decisions(project, options),
        Bench::Plot(options) => plot::plot(options),
        Bench::Gateway(options) => gateway::gateway(project, options),
        Bench::Policy(options) => policy::policy(project, options),
    }
}
