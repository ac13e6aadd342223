//! Attackers at a service that fails now and then for all: one of its hosts is dead or broken, and
//! nothing is retried.

use crate::clients::{Attack, Honest};
use crate::world::{Arrivals, Clients, Connections, End, Sharing, run};
use crate::{RATES, seeds, settings};
use levee_policy::breaker::Outcome;
use levee_policy::evidence::Witnesses;
use std::time::Duration;

/// A service of which one host fails all its calls.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub hosts: u64,
    pub failure: Outcome,
    /// How long a failure takes. As long as a good answer if it is not said.
    pub takes: Option<Duration>,
}

impl Service {
    pub fn spoil(self, clients: Clients) -> Clients {
        let mut end = clients.end;
        Clients {
            end: Box::new(move |number, at, random| {
                let mut end = end(number, at, random);
                if random.below(self.hosts) == 0 {
                    end.outcome = self.failure;
                    end.after = self.takes.unwrap_or(end.after);
                }
                end
            }),
            ..clients
        }
    }

    /// Whether it opens within a minute, beside ten honest clients.
    fn opens(self, rate: f64, attack: Option<(Attack, f64)>, seed: u64) -> bool {
        let honest = Honest::at_random(10, rate).clients();
        let attacker = attack.map(|(attack, rate)| attack.clients(rate, Connections::ToAllWorkers));
        let clients = [Some(honest), attacker].into_iter().flatten();
        let clients = clients.map(|clients| self.spoil(clients)).collect();
        let (settings, length) = (settings(Witnesses::Two), Duration::from_mins(1));
        run(settings, Sharing::FourWorkers, clients, length, seed).openings() > 0
    }

    /// How many runs open, of one for each attack at each rate, and of as many without an attacker.
    fn openings(self, rate: f64, attacks: &[Attack]) -> Openings {
        let mut openings = Openings::default();
        let mut seed = 0;
        for _ in seeds() {
            for &attack in attacks {
                for attack_rate in RATES {
                    seed += 1;
                    let attack = Some((attack, attack_rate));
                    openings.runs += 1;
                    openings.attacked += usize::from(self.opens(rate, attack, seed));
                    openings.alone += usize::from(self.opens(rate, None, seed));
                }
            }
        }
        openings
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Openings {
    runs: usize,
    attacked: usize,
    alone: usize,
}

/// Of many calls at once, those to the dead host end first.
#[test]
fn bursts_open_next_to_nothing_where_one_host_of_ten_is_dead() {
    let service = Service {
        hosts: 10,
        failure: Outcome::UNREACHABLE,
        takes: Some(Duration::from_millis(1)),
    };
    let (mut runs, mut opened) = (0, 0);
    for (outcome, takes) in [
        (Outcome::SUCCESS, 50),
        (Outcome::SUCCESS, 250),
        (Outcome::WEAK_FAILURE, 50),
    ] {
        for rate in [6.0, 12.0, 100.0] {
            let attack = || Clients {
                arrivals: Arrivals::Random {
                    rate: 100.0,
                    at_once: 100,
                },
                end: Box::new(move |_, _, _| End::new(outcome, Duration::from_millis(takes))),
                ..Attack::Failures.clients(1.0, Connections::ToAllWorkers)
            };
            for seed in 1..=5 {
                let honest = Honest::at_random(10, rate).clients();
                let clients = vec![service.spoil(honest), service.spoil(attack())];
                let (settings, length) = (settings(Witnesses::Two), Duration::from_mins(1));
                let history = run(settings, Sharing::FourWorkers, clients, length, seed);
                runs += 1;
                opened += usize::from(history.openings() > 0);
            }
        }
    }
    // A failure of somebody else right before a burst begins the row sooner.
    println!("Bursts of 100: {opened} of {runs} opened.");
    assert!(opened * 20 <= runs, "{opened} of {runs}");
}

#[test]
fn one_attacker_opens_nothing_where_one_host_of_ten_fails() {
    // Many good calls make a service seem well, and two failures of an honest client no chance.
    let without_calm: Vec<Attack> = Attack::ALL
        .into_iter()
        .filter(|attack| !matches!(attack, Attack::CalmFirst | Attack::LongCalm))
        .collect();
    for (failure, attacks) in [
        (Outcome::UNREACHABLE, &Attack::ALL[..]),
        (Outcome::WEAK_FAILURE, &without_calm),
    ] {
        let service = Service {
            hosts: 10,
            failure,
            takes: None,
        };
        for rate in [1.0, 6.0, 12.0, 100.0] {
            let openings = service.openings(rate, attacks);
            assert_eq!(
                openings.attacked, 0,
                "{failure:?} at {rate}/s: {openings:?}"
            );
        }
    }
}

/// A third of all calls fail, so by chance more than half of some few do, with an attacker or without.
#[test]
fn one_attacker_adds_next_to_nothing_where_one_host_of_three_fails() {
    for failure in [Outcome::UNREACHABLE, Outcome::WEAK_FAILURE] {
        let service = Service {
            hosts: 3,
            failure,
            takes: None,
        };
        let mut sum = Openings::default();
        for rate in [6.0, 12.0, 100.0] {
            let openings = service.openings(rate, &Attack::ALL);
            println!("1 host of 3, {failure:?}, {rate}/s: {openings:?}");
            sum.runs += openings.runs;
            sum.attacked += openings.attacked;
            sum.alone += openings.alone;
        }
        let most = sum.alone + sum.runs / 10;
        assert!(sum.attacked <= most, "{failure:?}: {sum:?}");
    }
}
