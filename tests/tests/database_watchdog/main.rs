//! The watchdog at a real `PostgreSQL`.
#![allow(missing_docs)]

mod blockers;
mod lost;
mod pooled;
mod statements;

use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::sidecar::Sidecar;
use postgres::Client;

/// How many statements of a class it has cancelled.
fn timeouts(sidecar: &Sidecar, class: &str) -> u64 {
    sidecar
        .metric(&format!(
            "db_query_timeout_total{{class=\"{class}\",database=\"app\"}}"
        ))
        .unwrap()
}

/// Executes a statement, and returns its duration and the SQLSTATE of its failure, if any.
fn ask(client: &mut Client, statement: &str) -> (Duration, String) {
    let took = Stopwatch::start();
    let result = client.batch_execute(statement);
    let code = match result {
        Ok(()) => String::new(),
        Err(error) => error
            .code()
            .map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    };
    (took.elapsed(), code)
}
