//! Services that are broken in all of their scopes, or in some.

use crate::clients::{GIVES_UP, WARM_UP, at_random, soon};
use crate::random::Random;
use crate::world::{Change, End, Ends, Sharing, run};
use crate::{RATES, seeds, settings};
use levee_policy::breaker::{Outcome, Phase};
use levee_policy::evidence::Witnesses;
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// What comes of all calls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breakdown {
    Answers500,
    Answers503,
    TimesOut,
    IsSilent,
}

impl Breakdown {
    const ALL: [Self; 4] = [
        Self::Answers500,
        Self::Answers503,
        Self::TimesOut,
        Self::IsSilent,
    ];

    const fn end(self) -> End {
        let soon = Duration::from_millis(10);
        match self {
            Self::Answers500 => End::new(Outcome::WEAK_FAILURE, soon),
            Self::Answers503 => End::new(Outcome::FAILURE, soon),
            Self::TimesOut => End::new(Outcome::FAILURE, Duration::from_secs(5)),
            Self::IsSilent => End::new(Outcome::Unanswered, GIVES_UP),
        }
    }

    fn ends(self) -> Ends {
        Box::new(move |_, at, random| {
            if at < WARM_UP {
                soon(Outcome::SUCCESS, random)
            } else {
                self.end()
            }
        })
    }
}

/// What comes of a service of which all scopes break down.
#[derive(Clone, Copy, Debug)]
struct Shut {
    /// How many calls had failed or were on their way when its breaker was open, or those of all scopes; and
    /// when that was.
    first: Option<(u64, Duration)>,
    failed_in_a_minute: u64,
}

impl Shut {
    fn of(scopes: usize, rate: f64, breakdown: Breakdown, seed: u64) -> Self {
        let called: Vec<usize> = (0..scopes).collect();
        let clients = at_random(1, 1000, rate, breakdown.ends()).to(&called);
        let length = WARM_UP + Duration::from_mins(1);
        let settings = settings(Witnesses::Two);
        let history = run(settings, Sharing::FourWorkers, vec![clients], length, seed);
        let mut open = HashSet::new();
        let is_shut = |change: &&Change| {
            if change.transition.to == Phase::Open {
                open.insert(change.part);
            } else {
                open.remove(&change.part);
            }
            open.contains(&None) || open.len() == scopes
        };
        let first = history.changes.iter().find(is_shut);
        Self {
            first: first.map(|first| (first.seen[0].failed, first.at.saturating_sub(WARM_UP))),
            failed_in_a_minute: history.seen[0].failed,
        }
    }

    /// Beside those on their way, a few calls of each scope fail; or for silence, those of a window.
    fn is_in_time(self, scopes: usize, rate: f64, breakdown: Breakdown) -> bool {
        let fails_after = Duration::from_secs(match breakdown {
            Breakdown::Answers500 | Breakdown::Answers503 => 0,
            Breakdown::TimesOut => 5,
            Breakdown::IsSilent => 10,
        });
        let few = u32::try_from(40 + 8 * scopes).expect("a few");
        let most = 1.1 * rate * fails_after.as_secs_f64() + f64::from(few);
        let is_too_rare = breakdown == Breakdown::IsSilent && rate < 10.0;
        let failed = self
            .first
            .and_then(|(failed, _)| u32::try_from(failed).ok());
        is_too_rare || failed.is_some_and(|failed| f64::from(failed) <= most)
    }

    fn worst(scopes: usize, rate: f64, breakdown: Breakdown) -> Self {
        let all = seeds().map(|seed| Self::of(scopes, rate, breakdown, seed));
        let slowest = |shut: &Self| shut.first.map_or(u64::MAX, |(failed, _)| failed);
        all.max_by_key(slowest).expect("a seed")
    }
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            Some((failed, after)) => write!(f, "{failed}, {:.1} s", after.as_secs_f64())?,
            None => f.write_str("never")?,
        }
        write!(f, "; {}", self.failed_in_a_minute)
    }
}

#[test]
fn a_service_that_is_broken_in_all_scopes_is_shut() {
    let mut table =
        "| service | calls/s | no scopes | 3 | 10 | 30 |\n|---|---|---|---|---|---|\n".to_owned();
    let mut late = String::new();
    for breakdown in Breakdown::ALL {
        for rate in RATES {
            write!(table, "| {breakdown:?} | {rate} |").expect("a string");
            for scopes in [0, 3, 10, 30] {
                let shut = Shut::worst(scopes, rate, breakdown);
                write!(table, " {shut} |").expect("a string");
                if !shut.is_in_time(scopes, rate, breakdown) {
                    writeln!(late, "{breakdown:?}, {scopes}, {rate}/s: {shut}").expect("a string");
                }
            }
            table += "\n";
        }
    }
    println!("Broken in all scopes, seeds {:?}.\n\n{table}", seeds());
    assert!(late.is_empty(), "{late}");
}

/// Scopes that work beside others that do not.
#[derive(Clone, Copy, Debug)]
struct Beside {
    failing: usize,
    others: usize,
    /// Calls per second of each that works.
    rate: f64,
}

impl Beside {
    /// How many of 1000 calls are refused in scopes that work.
    fn refused_permille(self, is_divided: bool, seed: u64) -> u64 {
        let of_scope = |scope: usize| {
            let (rate, end): (f64, Ends) = if scope < self.failing {
                (10.0, Breakdown::Answers503.ends())
            } else {
                let end = |_, _, random: &mut Random| soon(Outcome::SUCCESS, random);
                (self.rate, Box::new(end))
            };
            let clients = at_random(1, 1000, rate, end);
            let scope = [scope];
            clients.to(if is_divided { &scope } else { &[] })
        };
        let clients = (0..=self.others).map(of_scope).collect();
        let minutes = if self.rate < 1.0 && is_divided { 60 } else { 5 };
        let (settings, length) = (settings(Witnesses::Two), Duration::from_mins(minutes));
        let history = run(settings, Sharing::FourWorkers, clients, length, seed);
        let works = &history.seen[self.failing..];
        let sent: u64 = works.iter().map(|seen| seen.sent).sum();
        let refused: u64 = works.iter().map(|seen| seen.refused).sum();
        refused * 1000 / sent.max(1)
    }

    fn worst(self, is_divided: bool) -> u64 {
        let all = seeds().map(|seed| self.refused_permille(is_divided, seed));
        all.max().expect("a seed")
    }
}

#[test]
fn scopes_that_work_go_on_beside_others_that_fail() {
    let rates = [10.0, 1.0, 1.0 / 12.0, 1.0 / 60.0];
    let mut table = "| others that fail | 10/s | 1/s | one in 12 s | one in 60 s |\n\
         |---|---|---|---|---|\n"
        .to_owned();
    for (failing, others) in [(1, 3), (2, 3), (3, 3), (9, 10), (10, 10)] {
        write!(table, "| {failing} of {others} |").expect("a string");
        for rate in rates {
            let beside = Beside {
                failing,
                others,
                rate,
            };
            let [scopes, without] = [true, false].map(|is_divided| beside.worst(is_divided));
            write!(table, " {scopes} ‰, {without} ‰ |").expect("a string");
            // One that is called more rarely than once in a window is not known to work.
            let most = if rate >= 1.0 { 0 } else { 50 };
            assert!(scopes <= most, "{beside:?}: {scopes} ‰");
        }
        table += "\n";
    }
    println!(
        "Refused where it works, with scopes and without, seeds {:?}.\n\n{table}",
        seeds()
    );
}
