//! Attackers at a service that is divided into three scopes.

use crate::clients::{Attack, Honest};
use crate::now_and_then::Service;
use crate::world::{Change, Clients, History, Part, run};
use crate::{RATES, Setup, seeds, settings};
use levee_policy::breaker::{Outcome, Phase};
use levee_policy::evidence::Witnesses;
use std::fmt::{self, Write as _};
use std::thread;
use std::time::Duration;

/// Who was answered well is remembered for this long.
const REMEMBERED: Duration = Duration::from_secs(30);
/// A scope in which nobody was answered for longer is not known to work.
const WINDOW: Duration = Duration::from_secs(10);

/// The scopes that the attacker calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    First,
    All,
}

impl Target {
    const BOTH: [Self; 2] = [Self::First, Self::All];

    const fn scopes(self) -> &'static [usize] {
        match self {
            Self::First => &[0],
            Self::All => &[0, 1, 2],
        }
    }
}

/// One attacker beside honest clients. Those of each scope are as many, and call as often.
#[derive(Clone, Copy, Debug)]
struct Scene {
    honest: Honest,
    attack: Attack,
    attack_rate: f64,
    target: Target,
    setup: Setup,
    broken: Option<Service>,
    seconds: u64,
    seed: u64,
}

impl Scene {
    fn play(self) -> History {
        let to = |clients: Clients, scopes: &[usize]| {
            let clients = clients.to(scopes);
            match self.broken {
                Some(service) => service.spoil(clients),
                None => clients,
            }
        };
        let honest = (0..3).map(|scope| to(self.honest.clients(), &[scope]));
        let attacker = self
            .attack
            .clients(self.attack_rate, self.setup.connections());
        let attacker = to(attacker, self.target.scopes());
        let is_busy = self.attack_rate >= 1000.0;
        let seconds = if is_busy {
            self.seconds / 2 + 5
        } else {
            self.seconds
        };
        run(
            settings(Witnesses::Two),
            self.setup.sharing(),
            honest.chain([attacker]).collect(),
            Duration::from_secs(seconds),
            self.seed,
        )
    }
}

/// What came of honest calls.
struct Cell {
    scene: Scene,
    openings: Vec<Opening>,
    refused_percent: u64,
}

#[derive(Clone, Copy, Debug)]
struct Opening {
    part: Part,
    /// For how long no honest client was answered in the scope, or in any.
    quiet: Duration,
}

impl Opening {
    fn of(change: &Change) -> Self {
        let quiet = |scope: usize| {
            let answered = change.seen[scope].answered;
            answered.map_or(Duration::MAX, |at| change.at.saturating_sub(at))
        };
        Self {
            part: change.part,
            quiet: match change.part {
                Some(scope) => quiet(scope),
                None => (0..3).map(quiet).min().expect("a scope"),
            },
        }
    }

    /// Whether one caller alone must not have brought it about.
    fn is_wrong(self) -> bool {
        let longest = match self.part {
            Some(_) => REMEMBERED,
            None => WINDOW,
        };
        self.quiet < longest
    }
}

impl Cell {
    fn of(scene: Scene) -> Self {
        let history = scene.play();
        let opens = |change: &&Change| change.transition.to == Phase::Open;
        let opened = history.changes.iter().filter(opens);
        let honest = &history.seen[..3];
        let sent: u64 = honest.iter().map(|seen| seen.sent).sum();
        let refused: u64 = honest.iter().map(|seen| seen.refused).sum();
        Self {
            scene,
            openings: opened.map(Opening::of).collect(),
            refused_percent: refused * 100 / sent.max(1),
        }
    }

    fn harm(&self) -> (usize, u64) {
        (self.openings.len(), self.refused_percent)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_service = |opening: &&Opening| opening.part.is_none();
        let of_service = self.openings.iter().filter(of_service).count();
        let of_scopes = self.openings.len() - of_service;
        let Self {
            scene,
            refused_percent,
            ..
        } = self;
        let rate = scene.attack_rate;
        write!(
            f,
            "{of_scopes} + {of_service}, {refused_percent} % ({rate}/s)"
        )
    }
}

/// The attacks at all rates and in all ways.
fn survey(scene: Scene, honest: &[Honest], setups: &[Setup], attacks: &[Attack]) -> Vec<Cell> {
    let of_attack = |attack| {
        let mut cells = Vec::new();
        for &honest in honest {
            for target in Target::BOTH {
                for &setup in setups {
                    for attack_rate in RATES {
                        let cell = |seed| {
                            Cell::of(Scene {
                                honest,
                                attack,
                                attack_rate,
                                target,
                                setup,
                                seed,
                                ..scene
                            })
                        };
                        cells.extend(seeds().map(cell).max_by_key(Cell::harm));
                    }
                }
            }
        }
        cells
    };
    thread::scope(|scope| {
        let threads: Vec<_> = attacks
            .iter()
            .map(|&attack| scope.spawn(move || of_attack(attack)))
            .collect();
        let cells = threads.into_iter().map(|it| it.join().expect("no panic"));
        cells.flatten().collect()
    })
}

/// A row per attack that opens anything: openings of scopes and of the service, honest calls refused, and the
/// rate of the attacker that was worst.
fn print(title: &str, cells: &[Cell], honest: &[Honest]) {
    let mut rows = String::new();
    for attack in Attack::ALL {
        for target in Target::BOTH {
            let belongs = |cell: &&Cell| cell.scene.attack == attack && cell.scene.target == target;
            let of_row: Vec<&Cell> = cells.iter().filter(belongs).collect();
            if of_row.iter().all(|cell| cell.openings.is_empty()) {
                continue;
            }
            write!(rows, "| {attack:?}, {target:?} |").expect("a string");
            for &honest in honest {
                let of_cell = of_row.iter().filter(|cell| cell.scene.honest == honest);
                let worst = of_cell.max_by_key(|cell| cell.harm()).expect("a cell");
                write!(rows, " {worst} |").expect("a string");
            }
            rows += "\n";
        }
    }
    let opened = cells.iter().filter(|cell| !cell.openings.is_empty());
    let (opened, all) = (opened.count(), cells.len());
    println!(
        "{title}: {opened} of {all} cells opened, seeds {:?}.\n",
        seeds()
    );
    if !rows.is_empty() {
        let names: Vec<String> = honest.iter().map(|it| it.calls.to_string()).collect();
        let line = "---|".repeat(honest.len() + 1);
        println!("| attack | {} |\n|{line}\n{rows}", names.join(" | "));
    }
}

/// Nothing has opened that one caller must not open.
fn assert_right<'a>(cells: impl IntoIterator<Item = &'a Cell>) {
    let mut wrong = String::new();
    for Cell {
        scene, openings, ..
    } in cells
    {
        for opening in openings.iter().filter(|opening| opening.is_wrong()) {
            writeln!(wrong, "{opening:?} in {scene:?}").expect("a string");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

const SCENE: Scene = Scene {
    honest: Honest::each(1, 1),
    attack: Attack::Failures,
    attack_rate: 1.0,
    target: Target::First,
    setup: Setup::OneWorker,
    broken: None,
    seconds: 40,
    seed: 1,
};

const SETUPS: [Setup; 2] = [Setup::OneWorker, Setup::FourWorkersAttacked];

#[test]
fn one_attacker_opens_neither_a_scope_nor_the_service_beside_10_clients() {
    let honest = [100.0, 10.0, 1.0].map(|rate| Honest::at_random(10, rate));
    let cells = survey(SCENE, &honest, &SETUPS, &Attack::ALL);
    print("Scopes, 10 clients of each", &cells, &honest);
    assert_right(&cells);
}

#[test]
fn an_attacker_without_good_calls_opens_no_scope_in_which_a_client_calls_rarely() {
    let honest = [
        Honest::each(1, 12),
        Honest::at_random(1, 1.0 / 12.0),
        Honest::at_random(1, 1.0 / 3.0),
    ];
    let scene = Scene {
        seconds: 100,
        ..SCENE
    };
    let cells = survey(scene, &honest, &SETUPS, &Attack::ALL);
    print(
        "Scopes, 1 client of each that calls rarely",
        &cells,
        &honest,
    );
    let only_fails = |cell: &&Cell| cell.scene.attack.only_fails();
    assert_right(cells.iter().filter(only_fails));
    // In each scope somebody was answered less than 30 s ago.
    let mut regular = cells.iter().filter(only_fails);
    assert!(regular.all(|cell| cell.scene.honest != honest[0] || cell.openings.is_empty()));
}

/// A call that fails in a scope has reached the service, which is worth as much as a good one for whether it
/// can be reached.
#[test]
fn one_attacker_opens_nothing_where_one_host_of_ten_is_dead_or_broken() {
    let [often, rarely] = [12.0, 1.0].map(|rate| Honest::at_random(10, rate));
    // If those who were answered last both fail weakly, nobody is known to be well.
    for (failure, honest) in [
        (Outcome::UNREACHABLE, &[often, rarely][..]),
        (Outcome::WEAK_FAILURE, &[often]),
    ] {
        let broken = Some(Service {
            hosts: 10,
            failure,
            takes: None,
        });
        let scene = Scene { broken, ..SCENE };
        let cells = survey(scene, honest, &SETUPS[1..], &Attack::ALL);
        let title = format!("Scopes, one host of ten: {failure:?}");
        print(&title, &cells, honest);
        // As without scopes: many good calls make a service seem well, and two failures no chance.
        let is_calm =
            |cell: &&Cell| matches!(cell.scene.attack, Attack::CalmFirst | Attack::LongCalm);
        let is_weak = failure == Outcome::WEAK_FAILURE;
        assert_right(cells.iter().filter(|cell| !(is_weak && is_calm(cell))));
    }
}

/// How many of a client's calls in one scope are refused, in percent, while an attacker has the two others to
/// itself: with the worst of its rates, and the same at a service without scopes.
fn refused_beside(attack: Attack, honest: Honest) -> [u64; 2] {
    [true, false].map(|is_divided| {
        let refused = |attack_rate, seed| {
            let to = |clients: Clients, scopes: &[usize]| {
                clients.to(if is_divided { scopes } else { &[] })
            };
            let setup = Setup::FourWorkersAttacked;
            let attacker = attack.clients(attack_rate, setup.connections());
            let clients = vec![to(honest.clients(), &[2]), to(attacker, &[0, 1])];
            let (settings, length) = (settings(Witnesses::Two), Duration::from_mins(20));
            let history = run(settings, setup.sharing(), clients, length, seed);
            let seen = history.seen[0];
            seen.refused * 100 / seen.sent.max(1)
        };
        let cells = [1.0, 10.0].map(|rate| seeds().map(move |seed| refused(rate, seed)).max());
        cells.into_iter().flatten().max().expect("a cell")
    })
}

/// Nobody is known to call that scope when the two others are shut.
#[test]
fn an_attacker_with_two_scopes_to_itself_hardly_harms_a_third() {
    let honest = [
        Honest::each(1, 12),
        Honest::at_random(1, 1.0 / 12.0),
        Honest::at_random(1, 1.0 / 60.0),
    ];
    let names = honest.map(|it| it.calls.to_string()).join(" | ");
    let mut table = format!("| attack | {names} |\n|---|---|---|---|\n");
    let mut most = 0;
    for attack in Attack::ALL {
        write!(table, "| {attack:?} |").expect("a string");
        for honest in honest {
            let [scopes, without] = refused_beside(attack, honest);
            write!(table, " {scopes} %, {without} % |").expect("a string");
            most = most.max(scopes);
        }
        table += "\n";
    }
    println!(
        "A third scope, with scopes and without, seeds {:?}.\n\n{table}",
        seeds()
    );
    assert!(most <= 10, "{table}");
}
