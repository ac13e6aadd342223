//! When the breaker opens for a service that is really broken.

use crate::clients::{Breakdown, WARM_UP, at_random};
use crate::world::{Change, Clients, Sharing, run_until};
use crate::{seeds, settings};
use levee_policy::breaker::Phase;
use levee_policy::evidence::Witnesses;
use std::fmt::Write as _;
use std::time::Duration;

/// Callers, and the calls per second of each group.
#[derive(Clone, Copy, Debug)]
enum Callers {
    Even(u32, f64),
    /// One makes all calls but one in ten seconds.
    Skewed,
    /// The n-th of ten makes 1/n as many as the first.
    Zipf(f64),
}

impl Callers {
    fn calls(self) -> String {
        match self {
            Self::Even(_, rate) | Self::Zipf(rate) => rate.to_string(),
            Self::Skewed => "100, 0.1".to_owned(),
        }
    }

    fn count(self) -> &'static str {
        match self {
            Self::Even(1, _) => "1",
            Self::Even(10, _) => "10",
            Self::Even(..) => "1000",
            Self::Skewed => "2",
            Self::Zipf(_) => "10, uneven",
        }
    }

    fn clients(self, breakdown: Breakdown) -> Vec<Clients> {
        match self {
            Self::Even(count, rate) => vec![at_random(1, count, rate, breakdown.ends())],
            Self::Skewed => vec![
                at_random(1, 1, 100.0, breakdown.ends()),
                at_random(2, 1, 0.1, breakdown.ends()),
            ],
            Self::Zipf(rate) => {
                let shares: f64 = (1..=10).map(|place| 1.0 / f64::from(place)).sum();
                let clients = |place| {
                    let rate = rate / shares / f64::from(place);
                    at_random(place, 1, rate, breakdown.ends())
                };
                (1..=10).map(clients).collect()
            }
        }
    }
}

/// How many calls fail until it opens, and how long it takes.
#[derive(Clone, Copy, Debug)]
struct Opened {
    failed: u64,
    after: Duration,
}

fn opens(callers: Callers, breakdown: Breakdown, witnesses: Witnesses) -> Option<Opened> {
    let slowest = |opened: &Option<Opened>| opened.map_or(Duration::MAX, |opened| opened.after);
    let of_seed = |seed| {
        let clients = callers.clients(breakdown);
        let enough = |change: &Change| change.transition.to == Phase::Open;
        let length = Duration::from_mins(2);
        let settings = settings(witnesses);
        let history = run_until(
            settings,
            Sharing::FourWorkers,
            clients,
            length,
            seed,
            enough,
        );
        let opened = history.first(Phase::Open)?;
        Some(Opened {
            failed: opened.seen.iter().map(|seen| seen.failed).sum(),
            after: opened.at.saturating_sub(WARM_UP),
        })
    };
    seeds().map(of_seed).max_by_key(slowest).flatten()
}

/// How it opens with one witness and with two, in words, and whether it opens within 30 s if the
/// calls are enough.
fn cells(callers: Callers, breakdown: Breakdown) -> (String, bool) {
    let opened = [Witnesses::One, Witnesses::Two].map(|it| opens(callers, breakdown, it));
    let cells = opened.map(|opened| {
        opened.map_or("never".to_owned(), |Opened { failed, after }| {
            format!("{failed}, {:.1} s", after.as_secs_f64())
        })
    });
    let is_rare = matches!(callers, Callers::Even(_, rate) | Callers::Zipf(rate) if rate < 10.0);
    let may_stay = breakdown == Breakdown::Hangs && is_rare;
    let in_time = |opened: Option<Opened>| {
        may_stay || opened.is_some_and(|opened| opened.after <= Duration::from_secs(30))
    };
    (cells.join(" | "), opened.into_iter().all(in_time))
}

#[test]
fn a_service_that_is_broken_or_hangs_opens() {
    let mut cases = Vec::new();
    for rate in [1.0, 10.0, 100.0] {
        cases.extend([1, 10, 1000].map(|count| Callers::Even(count, rate)));
    }
    cases.push(Callers::Skewed);
    cases.extend([1.0, 10.0, 100.0].map(Callers::Zipf));
    let mut rows: Vec<[String; 3]> = Vec::new();
    let mut late = String::new();
    for breakdown in Breakdown::ALL {
        for callers in cases.iter().copied() {
            let (cells, in_time) = cells(callers, breakdown);
            if !in_time {
                writeln!(late, "{breakdown:?}, {callers:?}: {cells}").expect("a string");
            }
            let name = format!("{breakdown:?} | {}", callers.calls());
            match rows.last_mut() {
                Some([last, count, same]) if *last == name && *same == cells => {
                    *count += ", ";
                    *count += callers.count();
                }
                _ => rows.push([name, callers.count().to_owned(), cells]),
            }
        }
    }
    let mut table =
        "| service | calls/s | callers | one witness | two |\n|---|---|---|---|---|\n".to_owned();
    for row in rows {
        writeln!(table, "| {} |", row.join(" | ")).expect("a string");
    }
    println!("Breakdowns, seeds {:?}.\n\n{table}", seeds());
    assert!(late.is_empty(), "too late:\n{late}");
}
