//! A service's latency at its database, with and without a cleanup job running.

use super::measurement::{self, Options};
use crate::failure::Failure;
use crate::postgres;
use crate::project::Project;
use crate::run::succeed;

pub fn database(project: &Project, options: &Options) -> Result<(), Failure> {
    let postgres = postgres::programs(project)?;
    let levee = measurement::build_sidecar(project)?;
    let mut run = measurement::program(project, "levee-bench-database");
    run.arg(if options.quick { "1" } else { "5" })
        .env("POSTGRES_BIN_PATH", postgres)
        .env("LEVEE_BIN", levee);
    succeed(&mut run, "the measurement failed")
}
