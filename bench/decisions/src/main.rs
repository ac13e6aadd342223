//! When circuit breakers open and close: Levee's real code beside models of others, calculated and simulated. See
//! `docs/explanation/decisions.md`.

mod cold;
mod disturbances;
mod given;
mod openings;
mod outages;
mod random;
mod report;
mod rules;
mod table;
mod world;

use cold::Recovery;
use disturbances::{BadHost, Moments};
use given::SEED;
use openings::{Effort, Traffic, openings};
use outages::{Kind, Return, UntilOpen};
use report::{FalseOpenings, RATES, Report, UNTIL_OPEN_RATES};
use rules::{Balancing, Candidate};
use std::thread;
use std::time::Duration;

const ERROR_PERCENT: [f64; 10] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 33.0, 50.0];

const PERCENT_BEFORE: [f64; 6] = [0.1, 1.0, 5.0, 10.0, 20.0, 33.0];
const OUTAGES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(5),
    Duration::from_mins(10),
];
const BAD_HOST_RATES: [f64; 3] = [1.0, 10.0, 100.0];
const MOMENTS_MS: [u32; 6] = [20, 50, 100, 200, 500, 1_000];

/// How much is computed.
#[derive(Clone, Copy)]
struct Extent {
    effort: Effort,
    /// Of each outage.
    runs: u32,
}

const FULL: Extent = Extent {
    effort: Effort {
        calls: 3_000_000,
        samples: 20_000,
    },
    runs: 50,
};
const QUICK: Extent = Extent {
    effort: Effort {
        calls: 300_000,
        samples: 2_000,
    },
    runs: 10,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag| arguments.iter().any(|argument| argument == flag);
    let extent = if has("--quick") { QUICK } else { FULL };
    let report = report(extent);
    if has("--json") {
        let json = serde_json::to_string_pretty(&report).expect("numbers and names");
        println!("{json}");
    } else {
        print!("{}", table::tables(&report));
    }
}

fn report(extent: Extent) -> Report {
    Report {
        seed: SEED,
        false_openings: of_each(&Candidate::BREAKERS, |candidate| {
            false_openings(candidate, extent.effort)
        }),
        until_open: of_each(&Candidate::BREAKERS, |candidate| {
            until_open(candidate, extent.runs)
        }),
        comes_back: of_each(&Candidate::RETURNING, |candidate| {
            comes_back(candidate, extent.runs)
        }),
        bad_host: of_each(&Candidate::ALL, bad_hosts),
        moments: of_each(&Candidate::BREAKERS, moments),
        recovery: of_each(&cold::Kind::ALL, |kind| recoveries(kind, extent.runs)),
    }
}

/// What `compute` returns for each, computed at the same time.
fn of_each<C: Copy + Send + Sync, T: Send>(
    cases: &[C],
    compute: impl Fn(C) -> Vec<T> + Copy + Send + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let run = |case: &C| {
            let case = *case;
            scope.spawn(move || compute(case))
        };
        let runs: Vec<_> = cases.iter().map(run).collect();
        let results = runs.into_iter().map(|run| run.join().expect("no panic"));
        results.flatten().collect()
    })
}

fn false_openings(candidate: Candidate, effort: Effort) -> Vec<FalseOpenings> {
    let of_rate = |rate| {
        ERROR_PERCENT.map(|percent| {
            let traffic = Traffic {
                error_rate: percent / 100.0,
                rate,
            };
            FalseOpenings {
                rule: candidate.name(),
                error_percent: percent,
                calls_per_second: rate,
                openings: openings(candidate, traffic, effort, SEED),
            }
        })
    };
    RATES.into_iter().flat_map(of_rate).collect()
}

fn until_open(candidate: Candidate, runs: u32) -> Vec<UntilOpen> {
    let of_rate =
        |rate| PERCENT_BEFORE.map(|percent| outages::until_open(candidate, rate, percent, runs));
    UNTIL_OPEN_RATES.into_iter().flat_map(of_rate).collect()
}

fn comes_back(candidate: Candidate, runs: u32) -> Vec<Return> {
    let of_kind = |kind| OUTAGES.map(|lasts| outages::comes_back(candidate, kind, lasts, runs));
    Kind::ALL.into_iter().flat_map(of_kind).collect()
}

fn bad_hosts(candidate: Candidate) -> Vec<BadHost> {
    let of_balancing =
        |balancing| BAD_HOST_RATES.map(|rate| disturbances::bad_host(candidate, balancing, rate));
    let both = [Balancing::Random, Balancing::RoundRobin];
    both.into_iter().flat_map(of_balancing).collect()
}

fn moments(candidate: Candidate) -> Vec<Moments> {
    MOMENTS_MS
        .map(|moment_ms| disturbances::moments(candidate, moment_ms))
        .into()
}

fn recoveries(kind: cold::Kind, runs: u32) -> Vec<Recovery> {
    cold::RAMPS
        .map(|recover_for| cold::recovery(kind, recover_for, runs))
        .into()
}
