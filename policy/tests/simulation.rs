//! What callers can do to a breaker, and when it opens for a service that is broken, by simulation.
//!
//! `cargo test -p levee-policy --test simulation -- --nocapture` prints the tables of
//! `docs/explanation/attackers.md`. `SEEDS=5` before it tries five seeds instead of one.
#![cfg(not(target_family = "wasm"))]

#[path = "simulation/addresses.rs"]
mod addresses;
#[path = "simulation/breakdowns.rs"]
mod breakdowns;
#[path = "simulation/broken_scopes.rs"]
mod broken_scopes;
#[path = "simulation/clients.rs"]
mod clients;
#[expect(dead_code, reason = "only `scopes.rs` asks for phases")]
mod gate;
#[path = "simulation/half_open.rs"]
mod half_open;
#[path = "simulation/now_and_then.rs"]
mod now_and_then;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/scopes.rs"]
mod scopes;
#[path = "simulation/world.rs"]
mod world;

use clients::{Attack, Calls, Honest};
use levee_policy::breaker::BreakerSettings;
use levee_policy::evidence::Witnesses;
use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;
use world::{Connections, Sharing, run};

const RATES: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// 1, or 1 up to and including the number in the environment variable `SEEDS`.
fn seeds() -> RangeInclusive<u64> {
    let seeds = std::env::var("SEEDS").map_or(1, |seeds| seeds.parse().expect("a number"));
    1..=seeds
}

fn settings(witnesses: Witnesses) -> BreakerSettings {
    BreakerSettings {
        witnesses,
        ..BreakerSettings::default()
    }
}

/// Who shares a breaker, and where the attacker is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    OneWorker,
    FourWorkers,
    /// The attacker is connected to all of them.
    FourWorkersAttacked,
}

impl Setup {
    const ALL: [Self; 3] = [
        Self::OneWorker,
        Self::FourWorkers,
        Self::FourWorkersAttacked,
    ];

    const fn sharing(self) -> Sharing {
        match self {
            Self::OneWorker => Sharing::OneWorker,
            Self::FourWorkers | Self::FourWorkersAttacked => Sharing::FourWorkers,
        }
    }

    const fn connections(self) -> Connections {
        match self {
            Self::OneWorker | Self::FourWorkers => Connections::One,
            Self::FourWorkersAttacked => Connections::ToAllWorkers,
        }
    }
}

/// What came of honest clients beside an attacker, with the seed that was worst for them.
#[derive(Clone, Copy, Debug)]
struct Cell {
    setup: Setup,
    honest: Honest,
    attack: Attack,
    attack_rate: f64,
    seed: u64,
    openings: usize,
    /// Of the honest calls.
    refused_percent: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            openings,
            refused_percent,
            attack_rate,
            ..
        } = self;
        write!(f, "{openings}, {refused_percent} % ({attack_rate}/s)")
    }
}

/// The circumstances of several runs.
#[derive(Clone, Copy)]
struct Survey<'a> {
    witnesses: Witnesses,
    setups: &'a [Setup],
    honest: &'a [Honest],
    /// How long a run lasts. One with thousands of calls per second lasts about half as long.
    seconds: u64,
}

impl Survey<'_> {
    /// Lets an attacker call in each way and at each rate.
    fn cells(self) -> Vec<Cell> {
        thread::scope(|scope| {
            let attacks = Attack::ALL.map(|attack| scope.spawn(move || self.attacked(attack)));
            let cells = attacks.map(|attack| attack.join().expect("no panic"));
            cells.into_iter().flatten().collect()
        })
    }

    fn attacked(self, attack: Attack) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &setup in self.setups {
            for &honest in self.honest {
                for attack_rate in RATES {
                    let cell = |seed| self.cell(setup, honest, attack, attack_rate, seed);
                    let worst = seeds().map(cell).max_by_key(harm);
                    cells.push(worst.expect("a seed"));
                }
            }
        }
        cells
    }

    fn cell(
        self,
        setup: Setup,
        honest: Honest,
        attack: Attack,
        attack_rate: f64,
        seed: u64,
    ) -> Cell {
        let attacker = attack.clients(attack_rate, setup.connections());
        let is_busy = attack_rate >= 1000.0 || honest.calls == Calls::AtRandom(1000.0);
        let seconds = if is_busy {
            self.seconds / 2 + 5
        } else {
            self.seconds
        };
        let history = run(
            settings(self.witnesses),
            setup.sharing(),
            vec![honest.clients(), attacker],
            Duration::from_secs(seconds),
            seed,
        );
        let calls = history.seen[0];
        Cell {
            setup,
            honest,
            attack,
            attack_rate,
            seed,
            openings: history.openings(),
            refused_percent: calls.refused * 100 / calls.sent.max(1),
        }
    }
}

fn harm(cell: &Cell) -> (usize, u64) {
    (cell.openings, cell.refused_percent)
}

/// A row per attack that opens the breaker, and the worst cell per column.
fn print<C>(title: &str, cells: &[Cell], columns: &[(String, C)])
where
    C: Fn(&Cell) -> bool,
{
    let names: Vec<&str> = columns.iter().map(|(name, _)| &**name).collect();
    let mut rows = String::new();
    for attack in Attack::ALL {
        let of_attack = || cells.iter().filter(|cell| cell.attack == attack);
        if of_attack().all(|cell| cell.openings == 0) {
            continue;
        }
        let worst = columns.iter().map(|(_, belongs)| {
            let worst = of_attack()
                .filter(|cell| belongs(cell))
                .max_by_key(|cell| harm(cell));
            let opens = worst.filter(|worst| worst.openings > 0);
            opens.map_or("0".to_owned(), Cell::to_string)
        });
        let worst: Vec<String> = worst.collect();
        writeln!(rows, "| {attack:?} | {} |", worst.join(" | ")).expect("a string");
    }
    let opened = cells.iter().filter(|cell| cell.openings > 0).count();
    let title = format!("{title}: {opened} of {} cells opened", cells.len());
    if rows.is_empty() {
        println!("{title}, seeds {:?}.\n", seeds());
        return;
    }
    let names = names.join(" | ");
    let line = "---|".repeat(columns.len() + 1);
    println!(
        "{title}, seeds {:?}.\n\n| attack | {names} |\n|{line}\n{rows}",
        seeds()
    );
}

/// None of `cells` has opened.
fn assert_closed<'a>(cells: impl IntoIterator<Item = &'a Cell>) {
    let cells: Vec<&Cell> = cells.into_iter().collect();
    let mut opened = String::new();
    for cell in cells.iter().filter(|cell| cell.openings > 0) {
        let Cell {
            setup,
            honest,
            attack,
            seed,
            ..
        } = cell;
        let rate = honest.calls;
        writeln!(opened, "{attack:?}, {setup:?}, {rate}, seed {seed}: {cell}").expect("a string");
    }
    let count = opened.lines().count();
    assert!(count == 0, "{count} of {} opened:\n{opened}", cells.len());
}

fn beside_clients_at_random(count: u32) {
    let survey = Survey {
        witnesses: Witnesses::Two,
        setups: &Setup::ALL,
        honest: &RATES.map(|rate| Honest::at_random(count, rate)),
        seconds: 40,
    };
    let cells = survey.cells();
    let column = |setup| (format!("{setup:?}"), move |cell: &Cell| cell.setup == setup);
    let title = format!("Honest clients: {count}");
    print(&title, &cells, &Setup::ALL.map(column));
    assert_closed(&cells);
}

#[test]
fn one_attacker_opens_nothing_beside_1_client() {
    beside_clients_at_random(1);
}

#[test]
fn one_attacker_opens_nothing_beside_10_clients() {
    beside_clients_at_random(10);
}

#[test]
fn one_attacker_opens_nothing_beside_1000_clients() {
    beside_clients_at_random(1000);
}

#[test]
fn with_one_witness_one_attacker_opens() {
    let survey = Survey {
        witnesses: Witnesses::One,
        setups: &[Setup::OneWorker],
        honest: &RATES.map(|rate| Honest::at_random(10, rate)),
        seconds: 40,
    };
    let cells = survey.cells();
    let column = |rate: f64| {
        let belongs = move |cell: &Cell| cell.honest == Honest::at_random(10, rate);
        (format!("{rate}/s"), belongs)
    };
    print(
        "Honest clients: 10, `witnesses: 1`",
        &cells,
        &RATES.map(column),
    );
    for attack in Attack::ALL {
        let mut cells = cells.iter().filter(|cell| cell.attack == attack);
        assert!(cells.any(|cell| cell.openings > 0), "{attack:?}");
    }
}

#[test]
fn one_attacker_opens_nothing_beside_clients_that_call_at_the_same_instant() {
    let honest = [4, 5, 9].map(|seconds| Honest::each(12, seconds));
    let survey = Survey {
        witnesses: Witnesses::Two,
        setups: &[Setup::OneWorker, Setup::FourWorkersAttacked],
        honest: &honest,
        seconds: 60,
    };
    let cells = survey.cells();
    print("Honest clients: 12 at once", &cells, &honest.map(column_of));
    assert_closed(&cells);
}

fn column_of(honest: Honest) -> (String, impl Fn(&Cell) -> bool) {
    let belongs = move |cell: &Cell| cell.honest == honest;
    (honest.calls.to_string(), belongs)
}

#[test]
fn an_attacker_without_good_calls_opens_nothing_beside_a_client_that_calls_rarely() {
    let honest = [
        Honest::each(1, 12),
        Honest::each(1, 3),
        Honest::each(1, 1),
        Honest::at_random(1, 1.0 / 12.0),
        Honest::at_random(1, 1.0 / 3.0),
        Honest::at_random(1, 1.0),
    ];
    let survey = Survey {
        witnesses: Witnesses::Two,
        setups: &[Setup::OneWorker, Setup::FourWorkersAttacked],
        honest: &honest,
        seconds: 120,
    };
    let cells = survey.cells();
    print(
        "Honest clients: 1 that calls rarely",
        &cells,
        &honest.map(column_of),
    );
    // One in 12 s at random leaves pauses that are longer than anybody is remembered, 30 s.
    let is_remembered = |cell: &&Cell| cell.honest != Honest::at_random(1, 1.0 / 12.0);
    let must_stay_closed = cells.iter().filter(is_remembered);
    assert_closed(must_stay_closed.filter(|cell| cell.attack.only_fails()));
}
