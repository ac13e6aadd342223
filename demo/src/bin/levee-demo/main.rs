//! Plays the five scenarios, each without Levee and with it, and prints the observations. `cargo xtask demo` builds what it
//! needs and starts this.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod verdict;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use clap::Parser;
use levee_demo::scenarios::{self, Report, Scenario};
use levee_demo::stack::{Parts, Stack};
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::Start;
use levee_harness::error::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use verdict::{Played, table};

/// Plays five outages on two whole systems, one without Levee and one with it, and prints what clients and metrics show.
///
/// Levee's times are shortened. Everything listens on free ports of 127.0.0.1 and ends with the command. The exit code is 1
/// if Levee does not keep a promise, or if an outage does no harm without Levee.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo", bin_name = "cargo xtask demo", version)]
struct Args {
    /// Plays only the scenarios whose names contain this, such as `Redis`.
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
}

/// Set by Ctrl-C: the current scenario ends, and no other begins.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let args = Args::parse();
    let wanted: Vec<Scenario> = scenarios::ALL
        .into_iter()
        .filter(|scenario| scenario.name.contains(&args.name))
        .collect();
    if wanted.is_empty() {
        let names = scenarios::ALL.map(|scenario| scenario.name).join(", ");
        eprintln!(
            "error: no scenario's name contains `{}`; there are: {names}",
            args.name
        );
        return ExitCode::from(2);
    }
    thread::spawn(wait_for_interrupt);
    match play(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn wait_for_interrupt() {
    let interrupt = signal(SignalKind::interrupt());
    let terminate = signal(SignalKind::terminate());
    if let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("ending after the current scenario ...");
    }
}

/// Plays them one after the other, each in both systems at once. Returns false if one did not show what it should.
fn play(scenarios: &[Scenario]) -> Result<bool> {
    println!(
        "Starting two systems of Envoy, four services, Redis and PostgreSQL: one without Levee, one with it ..."
    );
    let start = |parts| {
        let directly = Start {
            by_func_e: false,
            ..Start::default()
        };
        Stack::start_with(parts, &directly)
    };
    let mut with = start(Parts::ALL)?;
    let mut without = start(Parts::NONE)?;
    let mut played = Vec::new();
    for (number, scenario) in (1..).zip(scenarios) {
        if INTERRUPTED.load(Ordering::SeqCst) {
            break;
        }
        println!("\n{number}. {}: {}", scenario.name, scenario.about);
        let took = Stopwatch::start();
        let (without, with) = thread::scope(|scope| {
            let without = scope.spawn(|| (scenario.play)(&mut without));
            let with = scope.spawn(|| (scenario.play)(&mut with));
            let panicked = |_| Err(Error::new("the scenario panicked"));
            (
                without.join().unwrap_or_else(panicked),
                with.join().unwrap_or_else(panicked),
            )
        });
        let broke_off = without.is_err() || with.is_err();
        let result = Played {
            name: scenario.name,
            without: shown("without Levee", without),
            with: shown("with Levee", with),
        };
        print!("{result}");
        println!("   played in {:.1} s", took.elapsed().as_secs_f64());
        played.push(result);
        if broke_off {
            // It may have left a fault behind, which the next one would be blamed for.
            break;
        }
    }
    print!("\n{}", table(&played));
    Ok(played.len() == scenarios.len() && played.iter().all(Played::is_as_it_should_be))
}

/// A scenario that broke off has an empty report.
fn shown(system: &str, report: Result<Report>) -> Report {
    report.unwrap_or_else(|error| {
        eprintln!("error: {system}: {error}");
        Report::default()
    })
}
