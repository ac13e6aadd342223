//! What callers can do to a breaker, and when it opens for a service that is broken, by simulation.
//!
//! `cargo test -p levee-policy --test simulation -- --nocapture` prints the tables of
//! `docs/explanation/attackers.md`.
#![cfg(not(target_family = "wasm"))]

#[path = "simulation/world.rs"]
mod world;

use levee_policy::breaker::{BreakerSettings, Outcome, Phase, Transition};
use levee_policy::evidence::Witnesses;
use std::time::Duration;
use world::{Clients, End, Ends, Random, Sharing, run, run_until};

const WARM_UP: u64 = 10;
const ATTACKER: u32 = 1_000_003;

fn soon(random: &mut Random) -> Duration {
    Duration::from_micros(10_000 + random.below(40_000))
}

fn answered(outcome: Outcome, random: &mut Random) -> End {
    (outcome, soon(random))
}

const GIVES_UP: Duration = Duration::from_secs(1);

/// Of a million calls.
fn one_in_a_million(random: &mut Random, times: u64) -> bool {
    random.below(1_000_000) < times
}

fn honest(count: u32, rate: f64, weak_per_million: u64, strong_per_million: u64) -> Clients {
    Clients {
        first: 1,
        count,
        rate,
        at_once: 1,
        end: Box::new(move |_, _, random| {
            let outcome = if one_in_a_million(random, weak_per_million) {
                Outcome::WEAK_FAILURE
            } else if one_in_a_million(random, strong_per_million) {
                Outcome::FAILURE
            } else {
                Outcome::SUCCESS
            };
            answered(outcome, random)
        }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    Failures,
    Abandons,
    Mixed,
    Bursts,
    CalmFirst,
    AbandonsMixed,
}

const ATTACKS: [Attack; 6] = [
    Attack::Failures,
    Attack::Abandons,
    Attack::Mixed,
    Attack::Bursts,
    Attack::CalmFirst,
    Attack::AbandonsMixed,
];

fn attacker(attack: Attack, rate: f64) -> Clients {
    let end: Ends = match attack {
        Attack::Failures => Box::new(|_, _, random| answered(Outcome::WEAK_FAILURE, random)),
        Attack::Abandons => Box::new(|_, _, _| (Outcome::Unanswered, GIVES_UP)),
        Attack::Mixed => Box::new(|_, _, random| {
            let outcome = if random.below(4) == 0 {
                Outcome::SUCCESS
            } else {
                Outcome::WEAK_FAILURE
            };
            answered(outcome, random)
        }),
        Attack::Bursts => Box::new(|number, _, _| match number % 20 {
            19 => (Outcome::SUCCESS, Duration::from_micros(10_001)),
            _ => (Outcome::WEAK_FAILURE, Duration::from_millis(10)),
        }),
        Attack::CalmFirst => Box::new(|_, at, random| {
            let outcome = if at.as_secs() % 12 < 11 {
                Outcome::SUCCESS
            } else {
                Outcome::WEAK_FAILURE
            };
            answered(outcome, random)
        }),
        Attack::AbandonsMixed => Box::new(|number, _, _| match number % 20 {
            0 => (Outcome::WEAK_FAILURE, Duration::from_millis(10)),
            1 => (Outcome::SUCCESS, Duration::from_micros(10_001)),
            _ => (Outcome::Unanswered, GIVES_UP),
        }),
    };
    let mut end = end;
    let end: Ends = Box::new(move |number, at, random| {
        let mut result = end(number, at, random);
        if at.as_secs() < WARM_UP {
            result.0 = Outcome::Neutral;
        }
        result
    });
    let at_once = match attack {
        Attack::Bursts | Attack::AbandonsMixed => 20,
        _ => 1,
    };
    Clients {
        first: ATTACKER,
        count: 1,
        rate,
        at_once,
        end,
    }
}

const RATES: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];
const LENGTH: Duration = Duration::from_mins(1);

/// Openings and refused honest calls beside one attacker, of ten honest clients.
fn beside(sharing: Sharing, witnesses: Witnesses, attack: Attack) -> Vec<(f64, f64, usize, u64)> {
    let settings = BreakerSettings {
        witnesses,
        ..BreakerSettings::default()
    };
    let mut seen = Vec::new();
    for attack_rate in RATES {
        for rate in RATES {
            let clients = vec![honest(10, rate, 1_000, 0), attacker(attack, attack_rate)];
            let history = run(settings, sharing, clients, LENGTH, 1);
            seen.push((
                attack_rate,
                rate,
                history.openings(),
                history.seen[0].refused,
            ));
        }
    }
    seen
}

#[test]
fn one_attacker_opens_nothing_while_others_are_answered() {
    println!("| attack | attacker/s | breaker | 1/s | 10/s | 100/s | 1000/s |");
    let columns = [
        ("before", Sharing::Alone, Witnesses::One),
        ("now", Sharing::Alone, Witnesses::Two),
        ("now, four workers", Sharing::FourWorkers, Witnesses::Two),
    ];
    for attack in ATTACKS {
        for (name, sharing, witnesses) in columns {
            let seen = beside(sharing, witnesses, attack);
            for row in seen.chunks(RATES.len()) {
                let cells: Vec<String> = row
                    .iter()
                    .map(|(_, _, openings, refused)| format!("{openings}, {refused}"))
                    .collect();
                let cells = cells.join(" | ");
                println!("| {attack:?} | {} | {name} | {cells} |", row[0].0);
            }
            let openings: usize = seen.iter().map(|row| row.2).sum();
            match (sharing, witnesses) {
                (_, Witnesses::One) => {}
                (Sharing::Alone, Witnesses::Two) => assert_eq!(openings, 0, "{attack:?}: {seen:?}"),
                // A worker does not know at once whom others have answered.
                (Sharing::FourWorkers, Witnesses::Two) => {
                    assert!(openings <= 2, "{attack:?}: {seen:?}");
                }
            }
        }
    }
}

fn broken(count: u32, rate: f64, end: End) -> Clients {
    Clients {
        first: 1,
        count,
        rate,
        at_once: 1,
        end: Box::new(move |_, at, random| {
            if at.as_secs() < WARM_UP {
                answered(Outcome::SUCCESS, random)
            } else {
                end
            }
        }),
    }
}

#[test]
fn a_service_that_is_broken_or_hangs_opens() {
    println!("| service | clients | calls/s | witnesses | failed calls | seconds |");
    let broken_end = (Outcome::WEAK_FAILURE, Duration::from_millis(10));
    let ends = [
        ("500 for all", broken_end),
        ("hangs", (Outcome::Unanswered, GIVES_UP)),
    ];
    for (name, end) in ends {
        for count in [1, 10, 1000] {
            for rate in [1.0, 10.0, 100.0] {
                for witnesses in [Witnesses::One, Witnesses::Two] {
                    let settings = BreakerSettings {
                        witnesses,
                        ..BreakerSettings::default()
                    };
                    let clients = vec![broken(count, rate, end)];
                    let length = Duration::from_mins(2);
                    let opens = |transition: Transition| transition.to == Phase::Open;
                    let history =
                        run_until(settings, Sharing::FourWorkers, clients, length, 1, opens);
                    let opened = history.first(Phase::Open);
                    let seen = opened.map_or("never | never".to_owned(), |(at, seen)| {
                        let after = at.as_secs_f64() - 10.0;
                        format!("{} | {after:.1}", seen.failed)
                    });
                    println!("| {name} | {count} | {rate} | {witnesses:?} | {seen} |");
                    if name == "500 for all" || rate >= 10.0 {
                        let (at, _) = opened.expect("it opens");
                        assert!(at.as_secs() <= WARM_UP + 30, "{at:?}");
                    }
                }
            }
        }
    }
}
