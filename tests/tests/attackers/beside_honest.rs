//! One attacker beside 1, 10 and 1000 honest callers, with four workers: how many of their calls it gets refused, with one
//! witness (the rule before) and with two.
//!
//! `-- --nocapture one_attacker_beside` prints the table.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use levee_harness::backend::Backend;
use levee_harness::clock::Stopwatch;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::ATTACKER;
use crate::callers::{self, Call, Callers, Ended, Seen, honest_address, percent};

/// Honest calls before the attack.
const BEFORE: Duration = Duration::from_secs(1);
const ATTACKED: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Honest {
    One,
    Ten,
    Thousand,
    /// 10 callers: 20 calls, then a pause of about 2 s.
    Batches,
    /// 10 callers: 20 calls before the attack, and 20 at its end.
    Pause,
}

impl Honest {
    const ALL: [Self; 5] = [
        Self::One,
        Self::Ten,
        Self::Thousand,
        Self::Batches,
        Self::Pause,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::One => "1, 10/s",
            Self::Ten => "10, 10/s",
            Self::Thousand => "1000, 200/s",
            Self::Batches => "10, every 2 s",
            Self::Pause => "10, after 7 s",
        }
    }

    fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Ten | Self::Batches | Self::Pause => 10,
            Self::Thousand => 1000,
        }
    }

    /// How many groups of them call at the same time, and each group's connections.
    fn groups(self) -> (usize, usize) {
        match self {
            Self::One => (1, 1),
            Self::Ten => (2, 2),
            Self::Thousand => (4, 2),
            Self::Batches | Self::Pause => (1, 4),
        }
    }

    /// How many calls a group makes at once, and its pause after them.
    fn rhythm(self) -> (usize, Duration) {
        match self {
            Self::One => (1, Duration::from_millis(100)),
            Self::Ten => (1, Duration::from_millis(200)),
            Self::Thousand => (1, Duration::from_millis(20)),
            Self::Batches => (20, Duration::from_secs(2)),
            Self::Pause => (20, 2 * (BEFORE + ATTACKED)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Calls that the service answers with 500.
    Failures,
    /// One in four is good.
    Mixed,
}

/// How often the attacker calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    PerSecond(u32),
    /// As often as one connection allows.
    Fastest,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(calls) => write!(f, "{calls}/s"),
            Self::Fastest => f.write_str("fastest"),
        }
    }
}

/// One attacker and one service.
#[derive(Clone, Debug)]
struct Cell {
    service: String,
    honest: Honest,
    attack: Attack,
    pace: Pace,
    witnesses: u32,
}

#[derive(Debug)]
struct Harm {
    cell: Cell,
    honest: Seen,
    attacker: Seen,
}

/// What runs at the same time, so that an attacker who calls as often as it can does not wait for too many others.
const PHASES: [(Pace, &[Attack]); 4] = [
    (Pace::PerSecond(5), &[Attack::Failures, Attack::Mixed]),
    (Pace::PerSecond(100), &[Attack::Failures, Attack::Mixed]),
    (Pace::Fastest, &[Attack::Failures]),
    (Pace::Fastest, &[Attack::Mixed]),
];

fn phases() -> Vec<Vec<Cell>> {
    let mut number = 0;
    let phase = |(pace, attacks): (Pace, &[Attack])| {
        let mut cells = Vec::new();
        for &attack in attacks {
            for honest in Honest::ALL {
                for witnesses in [1, 2] {
                    number += 1;
                    cells.push(Cell {
                        service: format!("s{number}"),
                        honest,
                        attack,
                        pace,
                        witnesses,
                    });
                }
            }
        }
        cells
    };
    PHASES.map(phase).into()
}

fn plugin(phases: &[Vec<Cell>]) -> Value {
    let one_witness = phases.iter().flatten().filter(|cell| cell.witnesses == 1);
    let services: serde_json::Map<String, Value> = one_witness
        .map(|cell| {
            let settings = json!({"breaker": {"witnesses": 1}});
            (cell.service.clone(), settings)
        })
        .collect();
    json!({"services": services})
}

async fn attack(attacker: &mut Callers, cell: &Cell) {
    let watch = Stopwatch::start();
    for number in 1.. {
        if watch.elapsed() >= ATTACKED {
            return;
        }
        let is_good = cell.attack == Attack::Mixed && percent(&mut attacker.random) < 25;
        let ended = attacker
            .call(if is_good { Call::Good } else { Call::Bad })
            .await;
        match cell.pace {
            Pace::PerSecond(calls) => {
                let next = Duration::from_secs(1) * number / calls;
                tokio::time::sleep(next.saturating_sub(watch.elapsed())).await;
            }
            // More refusals would only take time from the other cells.
            Pace::Fastest if ended == Ended::Refused => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Pace::Fastest => {}
        }
    }
}

async fn honest_groups(gateway: SocketAddr, cell: &Cell, seed: u64) -> Vec<Callers> {
    let (groups, connections) = cell.honest.groups();
    let mut callers = Vec::new();
    for group in 0..groups {
        let numbers = (group..cell.honest.count()).step_by(groups);
        let addresses = numbers.map(honest_address).collect();
        let seed = seed + group as u64;
        let group = Callers::open(gateway, &cell.service, addresses, connections, seed).await;
        callers.push(group);
    }
    callers
}

async fn run(gateway: SocketAddr, cell: Cell, seed: u64) -> Harm {
    let mut groups = JoinSet::new();
    for mut group in honest_groups(gateway, &cell, seed).await {
        let (at_once, pause) = cell.honest.rhythm();
        groups.spawn(async move {
            group.call_well(BEFORE + ATTACKED, at_once, pause).await;
            group.seen
        });
    }
    let address = vec![ATTACKER.to_owned()];
    let mut attacker = Callers::open(gateway, &cell.service, address, 1, seed + 10).await;
    tokio::time::sleep(BEFORE).await;
    attack(&mut attacker, &cell).await;
    let honest = groups.join_all().await;
    Harm {
        cell,
        honest: honest.into_iter().fold(Seen::default(), Seen::plus),
        attacker: attacker.seen,
    }
}

fn print(harms: &[Harm]) {
    println!("| honest callers | attack | its pace | its calls | refused before | now |");
    println!("|---|---|---|---|---|---|");
    for pair in harms.chunks(2) {
        let [before, now] = pair else {
            unreachable!("each cell is there with one witness and with two");
        };
        let Cell {
            attack,
            pace,
            honest,
            ..
        } = now.cell;
        println!(
            "| {} | {attack:?} | {pace} | {} | {} of {} | {} of {} |",
            honest.name(),
            now.attacker.sent,
            before.honest.refused,
            before.honest.sent,
            now.honest.refused,
            now.honest.sent,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_attacker_beside_honest_callers_gets_none_of_their_calls_refused() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let watch = Stopwatch::start();
    let service = Backend::start().unwrap();
    service.choose(|_, request| callers::answer(request));
    let phases = phases();
    let services = phases.iter().flatten();
    let services = services.map(|cell| (cell.service.as_str(), service.address()));
    let envoy = callers::gateway(services, &plugin(&phases)).await;
    let mut harms = Vec::new();
    for (place, cells) in phases.into_iter().enumerate() {
        let running: Vec<_> = (0..)
            .zip(cells)
            .map(|(number, cell)| {
                let seed = seed + 10_000 * place as u64 + 100 * number;
                tokio::spawn(run(envoy.address(), cell, seed))
            })
            .collect();
        for cell in running {
            harms.push(cell.await.unwrap());
        }
    }
    print(&harms);
    println!("took {:?}", watch.elapsed());
    for harm in &harms {
        let Harm {
            cell,
            honest,
            attacker,
        } = harm;
        assert!(attacker.failed > 0 && honest.sent > 0, "{harm:?}");
        assert_eq!(honest.failed, 0, "{harm:?}");
        if cell.witnesses == 2 {
            assert_eq!(honest.refused, 0, "{harm:?}");
        }
    }
    let is_before = |harm: &&Harm| harm.cell.witnesses == 1 && harm.cell.pace == Pace::Fastest;
    let before = harms.iter().filter(is_before);
    assert!(before.map(|harm| harm.honest.refused).sum::<usize>() > 0);
}
