//! Plays the scenarios, each without Levee and with it, and prints the observations. `cargo xtask demo` builds what it
//! needs and starts this.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod verdict;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use clap::Parser;
use levee_demo::scenarios::{self, Report, Scenario};
use levee_demo::stack::{Parts, Stack};
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::Start;
use levee_harness::error::{Context, Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use verdict::{Played, table};

/// Plays outages on two whole systems, one without Levee and one with it, and prints what clients and metrics show.
///
/// Levee's times are shortened. Everything listens on free ports of 127.0.0.1 and ends with the command. The exit code is 1
/// if Levee does not keep a promise, if an outage does no harm without Levee, or if it was interrupted.
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
    let (listens, is_listening) = mpsc::channel();
    thread::spawn(move || wait_for_interrupt(&listens));
    // A signal before that would end this process at once, and leave its files.
    let _ = is_listening.recv();
    match play(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn wait_for_interrupt(listens: &mpsc::Sender<()>) {
    let interrupt = signal(SignalKind::interrupt());
    let terminate = signal(SignalKind::terminate());
    let hang_up = signal(SignalKind::hangup());
    let _ = listens.send(());
    if let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) = (interrupt, terminate, hang_up)
    {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        INTERRUPTED.store(true, Ordering::SeqCst);
        // After a hang-up there is no terminal.
        let _ = writeln!(io::stderr(), "ending after the current step ...");
    }
}

/// Plays them one after the other, each in both systems at once. Returns false if one did not show what it should.
fn play(scenarios: &[Scenario]) -> Result<bool> {
    print(
        "Starting two systems of Envoy, four services, Redis and PostgreSQL: one without Levee, one with it ...\n",
    )?;
    let start = |parts| {
        not_interrupted()?;
        let directly = Start {
            by_func_e: false,
            ..Start::default()
        };
        Stack::start_with(parts, &directly)
    };
    let mut with = start(Parts::ALL)?;
    let mut without = start(Parts::NONE)?;
    not_interrupted()?;
    let mut played = Vec::new();
    for (number, scenario) in (1..).zip(scenarios) {
        if INTERRUPTED.load(Ordering::SeqCst) {
            break;
        }
        print(&format!(
            "\n{number}. {}: {}\n",
            scenario.name, scenario.about
        ))?;
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
        print(&format!(
            "{result}   played in {:.1} s\n",
            took.elapsed().as_secs_f64()
        ))?;
        played.push(result);
        if broke_off {
            // It may have left a fault behind, which the next one would be blamed for.
            break;
        }
    }
    print(&format!("\n{}", table(&played)))?;
    let is_whole = !INTERRUPTED.load(Ordering::SeqCst) && played.len() == scenarios.len();
    Ok(is_whole && played.iter().all(Played::is_as_it_should_be))
}

fn not_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        return Err(Error::new("interrupted before the first scenario"));
    }
    Ok(())
}

/// Without a reader the demonstration ends.
fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("can't write to the standard output")
}

/// A scenario that broke off has an empty report.
fn shown(system: &str, report: Result<Report>) -> Report {
    report.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "error: {system}: {error}");
        Report::default()
    })
}
