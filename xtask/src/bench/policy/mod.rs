//! The decisions beside other circuit breakers.
//!
//! `bench/policy/` has a program per language, which prints a line of JSON per operation and library. The tables are made
//! here.

mod languages;
mod results;
mod tables;

use crate::callgrind::{self, Callgrind};
use crate::failure::Failure;
use crate::machine;
use crate::project::Project;
use clap::Args;
use languages::{LANGUAGES, Setup};
use results::{Extent, Results, Skipped};
use std::fs;
use tables::tables;

#[derive(Args)]
pub struct Options {
    /// A fifth of the time
    #[arg(long)]
    quick: bool,
    /// Print JSON in place of tables
    #[arg(long)]
    json: bool,
}

/// Measures the languages that the machine has.
pub fn policy(project: &Project, options: &Options) -> Result<(), Failure> {
    let extent = if options.quick {
        Extent {
            repetitions: 5,
            milliseconds: 20,
        }
    } else {
        Extent {
            repetitions: 15,
            milliseconds: 100,
        }
    };
    let setup = Setup {
        folder: project.root.join("bench/policy"),
        target: project.target()?.join("bench-policy"),
        runner: project.root.join("xtask/src/wasi-runner.mjs"),
        extent,
        callgrind: Callgrind::find(),
    };
    let mut results = Results {
        processor: processor(),
        extent,
        rows: Vec::new(),
        skipped: Vec::new(),
    };
    let failed = measure(&setup, &mut results);
    if setup.callgrind.is_none() {
        results.skipped.push(Skipped {
            what: "instructions",
            why: callgrind::MISSING.to_owned(),
        });
    }
    print(&results, options)?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Check(format!(
        "could not be measured: {}",
        failed.join(", ")
    )))
}

/// Measures each language, and returns the names of those that failed.
fn measure(setup: &Setup, results: &mut Results) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for language in &LANGUAGES {
        eprintln!("==> {}: {}", language.name, language.what);
        let missing: Vec<&str> = language
            .needs
            .iter()
            .copied()
            .filter(|program| machine::find(program).is_none())
            .collect();
        let why = if missing.is_empty() {
            match (language.measure)(setup) {
                Ok(rows) => {
                    results.rows.extend(rows);
                    continue;
                }
                Err(failure) => {
                    failed.push(language.name);
                    format!("it failed: {failure}")
                }
            }
        } else {
            format!("{} missing on this machine", missing.join(", "))
        };
        let what = language.what;
        results.skipped.push(Skipped { what, why });
    }
    failed
}

fn print(results: &Results, options: &Options) -> Result<(), Failure> {
    if options.json {
        let json = serde_json::to_string_pretty(results)
            .map_err(|error| Failure::Check(error.to_string()))?;
        println!("{json}");
    } else {
        print!("{}", tables(results));
    }
    Ok(())
}

fn processor() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |model| model.trim_start_matches([' ', '\t', ':']).to_owned(),
        )
}
