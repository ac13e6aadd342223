//! How often a rule opens for a service whose calls fail independently, with a constant probability.
//!
//! Where that is frequent, it is simulated and counted. Where it is rare:
//!
//! * A rule for a row of N has an exact formula.
//! * Levee's row depends on what was before it. Its rate is estimated by conditional Monte Carlo: the real breaker is
//!   run at the error rate, and copies of it are given failures only, until they open after N. That has probability
//!   pᴺ.
//! * Rates are estimated by importance sampling: copies are run with half of the calls failing, and weighted by how
//!   probable that is at the real error rate. Only those count that open exactly at the last of M calls, so each
//!   opening is counted once.

use crate::given::START;
use crate::random::Random;
use crate::rules::{Balancer, Balancing, Candidate, Rule};
use levee_policy::breaker::{BreakerSettings, Outcome};
use levee_policy::time::Instant;
use serde::Serialize;
use std::time::Duration;

/// In seconds.
const YEAR: f64 = 365.25 * 86_400.0;
/// So many openings are counted rather than estimated.
const FREQUENT: u64 = 100;
const ENOUGH: u64 = 1_000;
/// Longer rows are too improbable to matter.
const LONGEST_ROW: i32 = 300;
/// A refused call's successor comes this much later, which saves time and makes no difference.
const WHILE_SHUT: Duration = Duration::from_millis(100);
const TILTED: f64 = 0.5;

/// How many calls a figure may take.
#[derive(Clone, Copy)]
pub struct Effort {
    pub calls: u32,
    pub samples: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Counted in a simulation.
    Simulated,
    /// By formula.
    Exact,
    /// Estimated from the probability of a single opening.
    Estimated,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Openings {
    pub per_year: f64,
    /// The share of time in which it is not closed.
    pub shut: f64,
    pub how: How,
}

/// A service and who calls it, at random times.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The probability that a call fails.
    pub error_rate: f64,
    /// Calls a second.
    pub rate: f64,
}

/// A rule at a service of one host whose answers come at once.
#[derive(Clone)]
struct Run {
    traffic: Traffic,
    rule: Rule,
    balancer: Balancer,
    now: Instant,
}

/// Of one call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Good,
    Failed,
    Refused,
}

impl Run {
    fn new(traffic: Traffic, rule: Rule) -> Self {
        Self {
            traffic,
            rule,
            balancer: Balancer::new(Balancing::RoundRobin, 1),
            now: START,
        }
    }

    fn step(&mut self, error_rate: f64, random: &mut Random) -> End {
        let wait = random.exponential() / self.traffic.rate;
        self.now = self.now.after(Duration::from_secs_f64(wait));
        let Some(ticket) = self.rule.admit(&mut self.balancer, self.now, random) else {
            self.now = self.now.after(WHILE_SHUT);
            return End::Refused;
        };
        let (end, outcome) = if random.uniform() < error_rate {
            (End::Failed, Outcome::FAILURE)
        } else {
            (End::Good, Outcome::SUCCESS)
        };
        self.rule.record(ticket, outcome, self.now, random);
        end
    }

    /// With full windows, and never opened.
    fn warmed_up(traffic: Traffic, rule: &Rule, random: &mut Random) -> Self {
        let calls = Self::calls_of_windows(traffic);
        loop {
            let mut run = Self::new(traffic, rule.clone());
            let opens = (0..calls).any(|_| {
                run.step(traffic.error_rate, random);
                run.rule.openings() > 0
            });
            if !opens {
                return run;
            }
        }
    }

    /// The calls in Levee's window and some more, and in that of resilience4j.
    fn calls_of_windows(traffic: Traffic) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "few"
        )]
        let calls = (12.0 * traffic.rate) as u32;
        calls.max(100)
    }
}

/// How often it opens in a year.
pub fn openings(candidate: Candidate, traffic: Traffic, effort: Effort, seed: u64) -> Openings {
    let mut random = Random::new(seed);
    let rule = candidate.rule(1, START);
    if candidate == Candidate::Envoy {
        // It ejects no host of fewer than ten.
        return Openings {
            per_year: 0.0,
            shut: 0.0,
            how: How::Exact,
        };
    }
    if let Some(simulated) = simulated(&rule, traffic, effort, &mut random) {
        return simulated;
    }
    let shut = time_until_closed(&rule, traffic, &mut random);
    if let (Some(row), None) = (candidate.fixed_row(), candidate.rate_only(START)) {
        let calls = calls_until_row(traffic.error_rate, row);
        return per_year(calls, traffic, shut, How::Exact);
    }
    let chance = chance_of_opening(candidate, traffic, effort, &mut random);
    per_year(1.0 / chance, traffic, shut, How::Estimated)
}

/// Counted, if there are enough.
fn simulated(
    rule: &Rule,
    traffic: Traffic,
    effort: Effort,
    random: &mut Random,
) -> Option<Openings> {
    let mut run = Run::new(traffic, rule.clone());
    let (mut admitted, mut shut) = (0, 0.0);
    while admitted < effort.calls && run.rule.openings() < ENOUGH {
        let before = run.now;
        if run.step(traffic.error_rate, random) == End::Refused {
            shut += run.now.since(before).as_secs_f64();
        } else {
            admitted += 1;
        }
    }
    let count = run.rule.openings();
    let seconds = run.now.since(START).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let openings = Openings {
        per_year: count as f64 / seconds * YEAR,
        shut: shut / seconds,
        how: How::Simulated,
    };
    (count >= FREQUENT).then_some(openings)
}

fn per_year(calls: f64, traffic: Traffic, shut: f64, how: How) -> Openings {
    let cycle = calls / traffic.rate + shut;
    Openings {
        per_year: YEAR / cycle,
        shut: shut / cycle,
        how,
    }
}

/// The mean number of calls until so many fail in a row (Feller: "An Introduction to Probability Theory and Its
/// Applications", volume 1, XIII.7).
pub fn calls_until_row(error_rate: f64, row: i32) -> f64 {
    (error_rate.powi(-row) - 1.0) / (1.0 - error_rate)
}

/// The mean time in seconds until it is closed after it has opened.
fn time_until_closed(rule: &Rule, traffic: Traffic, random: &mut Random) -> f64 {
    const RUNS: u32 = 100;
    let mut total = 0.0;
    for _ in 0..RUNS {
        let mut run = Run::new(traffic, rule.clone());
        while run.rule.openings() == 0 {
            run.step(1.0, random);
        }
        let opened = run.now;
        while !run.rule.is_closed() {
            run.step(traffic.error_rate, random);
        }
        total += run.now.since(opened).as_secs_f64();
    }
    total / f64::from(RUNS)
}

/// The probability that a call opens it.
pub fn chance_of_opening(
    candidate: Candidate,
    traffic: Traffic,
    effort: Effort,
    random: &mut Random,
) -> f64 {
    let by_row = match candidate.fixed_row() {
        Some(row) => 1.0 / calls_until_row(traffic.error_rate, row),
        None if candidate == Candidate::Levee => chance_of_levees_row(traffic, effort, random),
        None => 0.0,
    };
    let by_rate = candidate
        .rate_only(START)
        .map_or(0.0, |rule| chance_of_rate(&rule, traffic, effort, random));
    by_row + by_rate
}

fn chance_of_levees_row(traffic: Traffic, effort: Effort, random: &mut Random) -> f64 {
    let settings = BreakerSettings {
        failure_rate: None,
        ..BreakerSettings::default()
    };
    let rule = Rule::levee(settings, START);
    let mut run = Run::warmed_up(traffic, &rule, random);
    let between = Run::calls_of_windows(traffic) / 100;
    let mut sum = 0.0;
    for _ in 0..effort.samples {
        for _ in 0..between {
            run.step(traffic.error_rate, random);
        }
        while run.step(traffic.error_rate, random) != End::Good {}
        if run.rule.openings() > 0 {
            run = Run::warmed_up(traffic, &rule, random);
            continue;
        }
        let mut copy = run.clone();
        let length = (1..=LONGEST_ROW).find(|_| {
            copy.step(1.0, random);
            copy.rule.openings() > 0
        });
        sum += length.map_or(0.0, |length| traffic.error_rate.powi(length));
    }
    (1.0 - traffic.error_rate) * sum / f64::from(effort.samples)
}

fn chance_of_rate(rule: &Rule, traffic: Traffic, effort: Effort, random: &mut Random) -> f64 {
    /// With more calls in a window, half of them fail with a probability of less than (2 √(p (1 - p)))ⁿ (Chernoff): for
    /// a third and 400 calls 10⁻¹⁰, for a fifth 10⁻³⁸.
    const MANY: f64 = 400.0;
    let is_time_based = !matches!(rule, Rule::Ring(_));
    let in_window = 10.0 * traffic.rate;
    if is_time_based && in_window > MANY {
        return 0.0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few"
    )]
    let calls = if is_time_based {
        in_window.max(20.0) as u32
    } else {
        100
    };
    let weights = [true, false].map(|fails| {
        let real = if fails {
            traffic.error_rate
        } else {
            1.0 - traffic.error_rate
        };
        real / TILTED
    });
    let mut run = Run::warmed_up(traffic, rule, random);
    let mut sum = 0.0;
    for _ in 0..effort.samples {
        for _ in 0..=calls / 4 {
            run.step(traffic.error_rate, random);
        }
        if run.rule.openings() > 0 {
            run = Run::warmed_up(traffic, rule, random);
        }
        let mut copy = run.clone();
        let mut weight = 1.0;
        let opened = (1..=calls).find(|_| {
            weight *= match copy.step(TILTED, random) {
                End::Failed => weights[0],
                End::Good | End::Refused => weights[1],
            };
            copy.rule.openings() > 0
        });
        if opened == Some(calls) {
            sum += weight;
        }
    }
    sum / f64::from(effort.samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort {
        calls: 2_000_000,
        samples: 20_000,
    };

    fn traffic(error_rate: f64, rate: f64) -> Traffic {
        Traffic { error_rate, rate }
    }

    /// Estimated or by formula, divided by what is counted.
    fn ratio_to_simulation(candidate: Candidate, traffic: Traffic) -> f64 {
        let mut random = Random::new(1);
        let rule = candidate.rule(1, START);
        let counted = simulated(&rule, traffic, EFFORT, &mut random)
            .unwrap_or_else(|| panic!("{candidate:?}, {traffic:?}: rare"));
        let chance = chance_of_opening(candidate, traffic, EFFORT, &mut random);
        let shut = time_until_closed(&rule, traffic, &mut random);
        let expected = per_year(1.0 / chance, traffic, shut, How::Estimated);
        expected.per_year / counted.per_year
    }

    #[test]
    fn formulas_and_estimates_agree_with_simulation() {
        for (candidate, traffic) in [
            (Candidate::Gobreaker, traffic(0.25, 10.0)),
            (Candidate::EnvoyAllHosts, traffic(0.2, 1.0)),
            (Candidate::Before, traffic(0.2, 100.0)),
            (Candidate::Resilience4j, traffic(0.36, 10.0)),
            (Candidate::Levee, traffic(0.2, 1.0)),
            (Candidate::Levee, traffic(0.2, 2.0)),
            (Candidate::Levee, traffic(0.38, 10.0)),
            (Candidate::Levee, traffic(0.3, 5.0)),
        ] {
            let ratio = ratio_to_simulation(candidate, traffic);
            println!("{candidate:?} {traffic:?}: {ratio:.2}");
            assert!(
                (0.7..1.4).contains(&ratio),
                "{candidate:?}, {traffic:?}: {ratio:.2}"
            );
        }
    }

    #[test]
    fn a_row_of_heads_takes_2_and_62_throws() {
        assert!((calls_until_row(0.5, 1) - 2.0).abs() < 1e-9);
        assert!((calls_until_row(0.5, 5) - 62.0).abs() < 1e-9);
    }
}
