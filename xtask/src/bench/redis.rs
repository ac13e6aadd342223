//! Redis: directly, through the sidecar, through Envoy. `bench/redis/` measures; this builds and finds what it needs.

use super::measurement::{self, Options};
use crate::envoy;
use crate::failure::Failure;
use crate::machine;
use crate::project::Project;
use crate::run::succeed;
use crate::tools;

pub fn redis(project: &Project, options: &Options) -> Result<(), Failure> {
    let server = tools::redis_server(project)?;
    let benchmark = machine::find("redis-benchmark").ok_or_else(|| {
        Failure::Missing("redis-benchmark is missing. Install it (Debian: redis-tools)".to_owned())
    })?;
    let envoy = envoy::program(project)?;
    let levee = measurement::build_sidecar(project)?;
    let (rounds, commands) = if options.quick {
        ("1", "40000")
    } else {
        ("5", "400000")
    };
    let mut run = measurement::program(project, "levee-bench-redis");
    run.args([rounds, commands])
        .env("REDIS_SERVER_PATH", server)
        .env("REDIS_BENCHMARK_PATH", benchmark)
        .env("ENVOY_PATH", envoy)
        .env("LEVEE_BIN", levee);
    succeed(&mut run, "the measurement failed")
}
