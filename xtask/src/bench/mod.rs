//! Side-by-side measurements in one run: ratios hold on other machines, absolute figures don't.

mod database;
mod gateway;
mod lines;
mod measurement;
mod plot;
mod policy;
mod redis;
mod svg;

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
    /// Draw the output of `gateway --json`, `policy --json` and `database --json`
    Plot(plot::Options),
    /// Nanoseconds and instructions of the decisions, beside other circuit breakers in four languages
    Policy(policy::Options),
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
