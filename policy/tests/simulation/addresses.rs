//! Attackers with two addresses, and a bad client that shares its address with all others.

use crate::clients::{Attack, Honest};
use crate::world::{Clients, Connections, Sharing, run};
use crate::{RATES, seeds, settings};
use levee_policy::evidence::Witnesses;
use std::fmt::Write as _;
use std::time::Duration;

/// What came of honest calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Harm {
    openings: usize,
    refused_percent: u64,
}

fn harm(clients: impl Fn() -> Vec<Clients>) -> Harm {
    let of_seed = |seed| {
        let length = Duration::from_mins(1);
        let settings = settings(Witnesses::Two);
        let history = run(settings, Sharing::FourWorkers, clients(), length, seed);
        let seen = history.seen[0];
        Harm {
            openings: history.openings(),
            refused_percent: seen.refused * 100 / seen.sent.max(1),
        }
    };
    seeds().map(of_seed).max().expect("a seed")
}

/// A row per rate of the attacker; a column per rate of the honest clients.
fn table(clients: impl Fn(f64, f64) -> Vec<Clients>) -> (String, [[Harm; 4]; 4]) {
    let harms = RATES.map(|attack_rate| RATES.map(|rate| harm(|| clients(attack_rate, rate))));
    let mut table =
        "| attacker/s | 1/s | 10/s | 100/s | 1000/s |\n|---|---|---|---|---|\n".to_owned();
    for (attack_rate, row) in RATES.iter().zip(harms) {
        write!(table, "| {attack_rate} |").expect("a string");
        for Harm {
            openings,
            refused_percent,
        } in row
        {
            write!(table, " {openings}, {refused_percent} % |").expect("a string");
        }
        table += "\n";
    }
    (table, harms)
}

/// This is left: a second address is a second witness.
#[test]
fn two_addresses_open_only_where_they_make_as_many_calls_as_all_others() {
    let clients = |attack_rate: f64, rate| {
        let attacker = Clients {
            count: 2,
            ..Attack::Failures.clients(attack_rate, Connections::One)
        };
        vec![Honest::at_random(10, rate).clients(), attacker]
    };
    let (table, harms) = table(clients);
    println!("Two addresses, seeds {:?}.\n\n{table}", seeds());
    for (attack, row) in harms.iter().enumerate() {
        for (honest, harm) in row.iter().enumerate() {
            assert!(harm.openings == 0 || attack >= honest, "{table}");
        }
    }
}

#[test]
fn a_bad_client_opens_nothing_for_others_of_its_address() {
    for attack in [Attack::Failures, Attack::Abandons, Attack::Bursts] {
        let clients = |attack_rate, rate| {
            let attacker = Clients {
                first: 1,
                ..attack.clients(attack_rate, Connections::One)
            };
            vec![Honest::at_random(1, rate).clients(), attacker]
        };
        let (table, harms) = table(clients);
        if harms.iter().flatten().any(|harm| harm.openings > 0) {
            println!("One address, {attack:?}, seeds {:?}.\n\n{table}", seeds());
        } else {
            println!(
                "One address, {attack:?}: nothing opened, seeds {:?}.\n",
                seeds()
            );
        }
        for row in harms {
            assert!(row[1..].iter().all(|harm| harm.openings == 0), "{table}");
        }
    }
}
