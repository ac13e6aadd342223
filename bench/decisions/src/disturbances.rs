//! A service that is partly well: one bad host of three, and moments in which all fails.

use crate::given::{SEED, START};
use crate::random::Random;
use crate::rules::{Balancer, Balancing, Candidate};
use crate::world::{Answer, Call, count, run};
use levee_policy::breaker::Outcome;
use serde::Serialize;
use std::time::Duration;

/// How calls ended, in percent.
#[derive(Serialize)]
pub struct Shares {
    pub good: f64,
    pub failed: f64,
    pub refused: f64,
}

impl Shares {
    fn of(calls: &[Call]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let share = |answer| count(calls, answer) as f64 * 100.0 / calls.len().max(1) as f64;
        Self {
            good: share(Answer::Good),
            failed: share(Answer::Failed),
            refused: share(Answer::Refused),
        }
    }
}

#[derive(Serialize)]
pub struct BadHost {
    pub rule: &'static str,
    pub balancing: &'static str,
    pub calls_per_second: f64,
    #[serde(flatten)]
    pub shares: Shares,
}

/// One of three hosts answers all calls with 503.
pub fn bad_host(candidate: Candidate, balancing: Balancing, rate: f64) -> BadHost {
    let service = |_: Duration, host: usize, _: &mut Random| {
        if host == 0 {
            Outcome::FAILURE
        } else {
            Outcome::SUCCESS
        }
    };
    let length = Duration::from_mins(20);
    let balancer = Balancer::new(balancing, 3);
    let rule = candidate.rule(3, START);
    let calls = run(rule, balancer, (rate, length), service, SEED);
    BadHost {
        rule: candidate.name(),
        balancing: match balancing {
            Balancing::Random => "random",
            Balancing::RoundRobin => "round robin",
        },
        calls_per_second: rate,
        shares: Shares::of(&calls),
    }
}

#[derive(Serialize)]
pub struct Moments {
    pub rule: &'static str,
    pub moment_ms: u32,
    #[serde(flatten)]
    pub shares: Shares,
}

pub const MOMENTS_RATE: f64 = 100.0;

/// Each minute all calls fail for a moment. One call in a thousand fails otherwise.
pub fn moments(candidate: Candidate, moment_ms: u32) -> Moments {
    let service = |at: Duration, _: usize, random: &mut Random| {
        let since_full_minute = at.as_millis() % 60_000;
        let is_bad =
            since_full_minute >= 30_000 && since_full_minute < 30_000 + u128::from(moment_ms);
        if is_bad || random.below(1_000) == 0 {
            Outcome::FAILURE
        } else {
            Outcome::SUCCESS
        }
    };
    let length = Duration::from_hours(2);
    let balancer = Balancer::new(Balancing::RoundRobin, 1);
    let rule = candidate.rule(1, START);
    let calls = run(rule, balancer, (MOMENTS_RATE, length), service, SEED);
    Moments {
        rule: candidate.name(),
        moment_ms,
        shares: Shares::of(&calls),
    }
}
