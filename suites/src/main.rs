//! Other projects' test-suites of Redis, directly and through Levee. Run by `cargo xtask suites`, with the folder of logs,
//! the suite, what the suite is made of, and perhaps the units to run.
//!
//! A difference is a test that passes directly and not through Levee. Those that are meant are in
//! `docs/reference/redis-suites.md`, each with its reason; any other makes this fail. So does a unit that breaks off directly:
//! of the tests that were not run there nothing is known.

mod bounded;
mod go_redis;
mod guard;
mod known;
mod outcome;
mod ports;
mod redis;
mod redis_py;
mod report;
mod stand;
mod stand_in;
mod suite;
mod tcl;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::go_redis::GoRedis;
use crate::known::Known;
use crate::redis::{Redis, Servers};
use crate::redis_py::RedisPy;

const USAGE: &str = "usage: LOGS redis|redis-servers SOURCE [UNIT...], LOGS redis-py SOURCE PACKAGES [FILE...], or LOGS \
                     go-redis PROGRAM";

fn main() -> Result<ExitCode> {
    if stand_in::is_wanted() {
        stand_in::become_server()?;
    }
    if guard::is_wanted() {
        return guard::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [logs, name, source, rest @ ..] = &arguments[..] else {
        bail!(USAGE);
    };
    let (logs, source) = (Path::new(logs), Path::new(source));
    let known = Known::read(include_str!("../../docs/reference/redis-suites.md"))?;
    let compare = |suite: &dyn suite::Suite, units| suite::compare(suite, units, &known, logs);
    let verdict = match (name.as_str(), rest) {
        ("redis", units) => compare(&Redis::new(source, Servers::Given)?, units)?,
        ("redis-servers", units) => compare(&Redis::new(source, Servers::Own)?, units)?,
        ("redis-py", [packages, units @ ..]) => {
            compare(&RedisPy::new(source, Path::new(packages))?, units)?
        }
        ("go-redis", units) => compare(&GoRedis::new(source), units)?,
        _ => bail!(USAGE),
    };
    if verdict.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{name}: {verdict}");
    Ok(ExitCode::FAILURE)
}
