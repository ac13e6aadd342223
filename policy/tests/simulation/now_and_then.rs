//! Attackers at a service that fails now and then for all: one of its hosts is dead or broken, and
//! nothing is retried.

use crate::clients::{Attack, Honest};
use crate::world::{Clients, Connections, Sharing, run};
use crate::{RATES, seeds, settings};
use levee_policy::breaker::Outcome;
use levee_policy::evidence::Witnesses;
use std::time::Duration;

/// A service of which one host fails all its calls.
#[derive(Clone, Copy)]
struct Service {
    hosts: u64,
    failure: Outcome,
}

impl Service {
    fn spoil(self, clients: Clients) -> Clients {
        let mut end = clients.end;
        Clients {
            end: Box::new(move |number, at, random| {
                let mut end = end(number, at, random);
                if random.below(self.hosts) == 0 {
                    end.outcome = self.failure;
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
        let service = Service { hosts: 10, failure };
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
        let service = Service { hosts: 3, failure };
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
