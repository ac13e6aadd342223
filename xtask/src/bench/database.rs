//! A cleanup job at a backlog, and a service's latency at its database, with and without the job running.

use super::measurement;
use crate::failure::Failure;
use crate::postgres;
use crate::project::Project;
use crate::run::succeed;
use clap::Args;

#[derive(Args)]
pub struct Options {
    /// One round instead of five
    #[arg(long)]
    quick: bool,
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
}

pub fn database(project: &Project, options: &Options) -> Result<(), Failure> {
    let postgres = postgres::programs(project)?;
    let levee = measurement::build_sidecar(project)?;
    let mut run = measurement::program(project, "levee-bench-database");
    run.arg(if options.quick { "1" } else { "5" })
        .args(options.json.then_some("--json"))
        .env("POSTGRES_BIN_PATH", postgres)
        .env("LEVEE_BIN", levee);
    succeed(&mut run, "the measurement failed")
}
