//! Several clients, lost replies, connections that are cut or stop, restarts of Redis: what all clients saw together has
//! one order, in which each command took effect at most once, between its sending and its reply.
//!
//! `LEVEE_HISTORIES=10000` plays that many histories, `LEVEE_HISTORY=seed` that of one seed a hundred times.
#![allow(missing_docs)]

mod plan;
mod stage;

use std::collections::BTreeMap;
use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use levee_harness::linear::{Violation, check};
use plan::{Deletes, Plan};
use stage::{Counts, Kind, Stage};

/// How many are played on each kind of stage at the same time: most of the time all wait.
const AT_ONCE: [(Kind, usize); 3] = [(Kind::Network, 6), (Kind::Refusals, 1), (Kind::Restarts, 2)];

/// A history that has no order.
struct Found {
    seed: u64,
    violation: Violation,
}

/// The number in an environment variable.
fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
    )
}

/// Plays the histories of `seeds` on one stage.
fn play(stage: &mut Stage, seeds: &[u64], next: &AtomicUsize, found: &Mutex<Vec<Found>>) {
    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
        let deletes = match variable("LEVEE_HISTORIES_DEL") {
            None => Deletes::None,
            Some(_) => Deletes::Some,
        };
        let played = stage.play(&Plan::new(*seed, deletes));
        if let Err(violation) = check(&played.initial, &played.operations) {
            let violation = *violation;
            found.lock().expect("no panic").push(Found {
                seed: *seed,
                violation,
            });
        }
    }
}

/// Plays the histories of all `seeds`. Returns what happened, and those without an order, the shortest first.
fn play_all(seeds: &[u64], retry: &str) -> (Counts, Vec<Found>) {
    let mut of_kinds: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for seed in seeds {
        let kind = AT_ONCE
            .iter()
            .position(|(kind, _)| *kind == Kind::of(*seed));
        of_kinds
            .entry(kind.expect("all kinds"))
            .or_default()
            .push(*seed);
    }
    let (found, counts) = (Mutex::default(), Mutex::new(Counts::default()));
    let nexts: Vec<AtomicUsize> = AT_ONCE.iter().map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for (place, seeds) in &of_kinds {
            let (kind, stages) = AT_ONCE[*place];
            for _ in 0..stages {
                let (found, counts, next) = (&found, &counts, &nexts[*place]);
                scope.spawn(move || {
                    let mut stage = Stage::new(kind, retry);
                    play(&mut stage, seeds, next, found);
                    counts.lock().expect("no panic").add(&stage.counts());
                });
            }
        }
    });
    let mut found: Vec<Found> = found.into_inner().expect("no panic");
    found.sort_by_key(|found| found.violation.operations.len());
    (counts.into_inner().expect("no panic"), found)
}

/// The shortest of them, for people.
fn shown(found: &[Found]) -> String {
    let show = |found: &Found| format!("\nLEVEE_HISTORY={}: {}\n", found.seed, found.violation);
    found.iter().take(5).map(show).collect()
}

/// What a run must have had at least, for a thousand histories: otherwise it shows nothing.
fn assert_eventful(counts: &Counts) {
    for (what, count, least) in [
        ("answered", counts.answered, 10_000),
        ("unknown outcomes", counts.unknown, 500),
        ("not executed", counts.not_executed, 200),
        ("lost replies", counts.lost, 500),
        ("retries", counts.retries, 800),
        ("restarts", counts.restarts, 10),
    ] {
        let least = least * counts.histories / 1000;
        assert!(count >= least, "{what}: {count} of at least {least}");
    }
}

#[test]
fn what_clients_see_has_one_order_whatever_is_lost_or_restarted() {
    // One that starts at a random number differs from run to run, and is printed.
    let first = u64::from(std::process::id()) << 20;
    let many = variable("LEVEE_HISTORIES").unwrap_or(1000);
    let one = variable("LEVEE_HISTORY");
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed; 100],
        None => (first..first + many).collect(),
    };
    println!("{} histories, from seed {}", seeds.len(), seeds[0]);
    let (counts, found) = play_all(&seeds, "");
    println!("{counts:?}");
    let all = seeds.len();
    assert!(
        found.is_empty(),
        "{} of {all} have no order:\n{}",
        found.len(),
        shown(&found)
    );
    if one.is_none() {
        assert_eventful(&counts);
    }
}

#[test]
fn counters_that_are_repeated_blindly_are_found_out() {
    let network = |seed: &u64| Kind::of(*seed) == Kind::Network;
    let seeds: Vec<u64> = (0..300).filter(network).collect();
    let (counts, found) = play_all(&seeds, ", also: [INCR, INCRBY, APPEND]");
    println!("{counts:?}: {}", shown(&found));
    let counted_twice = |found: &&Found| {
        found
            .violation
            .operations
            .iter()
            .any(|operation| operation.command.starts_with("INCR"))
    };
    assert!(
        found.iter().filter(counted_twice).count() > 3,
        "{} were found",
        found.len()
    );
}
