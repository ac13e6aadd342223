//! How long it takes until a breaker closes when the service is back.

use crate::clients::{BACK, Hindrance, at_random, down_for_a_while};
use crate::world::{Change, Clients, Seen, Sharing, run_until};
use crate::{RATES, seeds, settings};
use levee_policy::breaker::Phase;
use levee_policy::evidence::Witnesses;
use std::fmt::{self, Write as _};
use std::time::Duration;

const SHARINGS: [Sharing; 2] = [Sharing::OneWorker, Sharing::FourWorkers];

/// From the first half-open moment until it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Recovery {
    /// [`Duration::MAX`] if it does not close.
    took: Duration,
    reopened: usize,
    /// Calls of the first group of clients.
    refused: u64,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.took == Duration::MAX {
            write!(f, "never, ")?;
        } else {
            write!(f, "{:.1} s, ", self.took.as_secs_f64())?;
        }
        write!(f, "{}", self.refused)?;
        match self.reopened {
            0 => Ok(()),
            times => write!(f, ", opened {times} times more"),
        }
    }
}

fn recovery(sharing: Sharing, clients: Vec<Clients>, seed: u64) -> Recovery {
    let closes = |change: &Change| change.transition.to == Phase::Closed;
    let length = BACK + Duration::from_mins(2);
    let settings = settings(Witnesses::Two);
    let history = run_until(settings, sharing, clients, length, seed, closes);
    let began = history.first(Phase::HalfOpen).expect("it is half-open");
    let refused = |seen: &[Seen]| seen[0].refused;
    let reopens = |change: &&Change| {
        change.transition.from == Phase::HalfOpen && change.transition.to == Phase::Open
    };
    Recovery {
        took: history
            .first(Phase::Closed)
            .map_or(Duration::MAX, |closed| closed.at.saturating_sub(began.at)),
        reopened: history.changes.iter().filter(reopens).count(),
        refused: refused(&history.seen) - refused(&began.seen),
    }
}

/// The slowest recovery, with all seeds, with one worker and with four.
fn slowest(clients: impl Fn() -> Vec<Clients>) -> Recovery {
    let of_seed = |seed| SHARINGS.map(|sharing| recovery(sharing, clients(), seed));
    seeds().flat_map(of_seed).max().expect("a seed")
}

#[test]
fn a_breaker_closes_beside_an_attacker() {
    let mut table = "| attack | 1/s | 10/s | 100/s | 1000/s |\n|---|---|---|---|---|\n".to_owned();
    let mut late = String::new();
    for hindrance in Hindrance::ALL {
        write!(table, "| {hindrance:?} |").expect("a string");
        for rate in RATES {
            let recovery = |attack_rate| {
                let honest = || at_random(1, 10, rate, down_for_a_while(Duration::ZERO));
                slowest(|| vec![honest(), hindrance.clients(attack_rate)])
            };
            let recoveries = RATES.map(|attack_rate| (recovery(attack_rate), attack_rate));
            for (recovery, attack_rate) in recoveries {
                if rate >= 10.0 && recovery.took > Duration::from_secs(5) {
                    writeln!(late, "{hindrance:?}, {attack_rate}/s, {rate}/s: {recovery}")
                        .expect("a string");
                }
            }
            let (worst, attack_rate) = recoveries
                .into_iter()
                .max_by_key(|(recovery, _)| *recovery)
                .expect("a rate");
            write!(table, " {worst} ({attack_rate}/s) |").expect("a string");
        }
        table += "\n";
    }
    println!("Half-open, seeds {:?}.\n\n{table}", seeds());
    assert!(late.is_empty(), "too late:\n{late}");
}

#[test]
fn a_breaker_closes_for_one_address_with_slow_uploads() {
    let mut table = "| uploads/s | until closed |\n|---|---|\n".to_owned();
    for rate in [1.0, 10.0, 100.0] {
        let uploads = || {
            let end = down_for_a_while(Duration::from_secs(3));
            vec![at_random(1, 1, rate, end)]
        };
        let recovery = slowest(uploads);
        writeln!(table, "| {rate} | {recovery} |").expect("a string");
        assert!(
            recovery.took <= Duration::from_secs(15),
            "{rate}/s: {recovery}"
        );
    }
    println!(
        "One address with uploads of 3 s, seeds {:?}.\n\n{table}",
        seeds()
    );
}
