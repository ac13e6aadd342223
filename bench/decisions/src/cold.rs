//! A service that is back after an outage, and does not bear its full load yet.

use crate::given::{SEED, START};
use crate::random::Random;
use crate::rules::{Balancer, Balancing, Rule};
use crate::world::{Answer, Call, run};
use levee_policy::breaker::{BreakerSettings, Outcome};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

pub const RATE: f64 = 100.0;
pub const RAMPS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(2),
];
/// It is down for half a minute.
const DOWN: [Duration; 2] = [Duration::from_secs(30), Duration::from_mins(1)];
const AFTERWARDS: Duration = Duration::from_hours(1);
/// Calls a second that it bears when it is cold, and when it is warm.
const BEARS: [f64; 2] = [20.0, 200.0];
/// It is warm after this many good calls.
const WARM_AFTER: f64 = 2_000.0;
const A_SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    #[serde(rename = "warm at once")]
    Warm,
    /// Calls beyond what it bears fail.
    #[serde(rename = "cold, sheds load")]
    Sheds,
    /// All calls fail while there are more than it bears.
    #[serde(rename = "cold, breaks down")]
    BreaksDown,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Warm, Self::Sheds, Self::BreaksDown];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm at once",
            Self::Sheds => "cold, sheds load",
            Self::BreaksDown => "cold, breaks down",
        }
    }
}

/// Means.
#[derive(Serialize)]
pub struct Recovery {
    pub service: Kind,
    pub recover_for_seconds: f64,
    /// From the service's return until all calls are good. `None` if that took more than an hour.
    pub until_well_seconds: Option<f64>,
    pub failed_after: f64,
    pub refused_after: f64,
}

struct Service {
    kind: Kind,
    good: f64,
    /// When calls came in the last second: all, or those that were good.
    recent: VecDeque<Duration>,
}

impl Service {
    fn answer(&mut self, at: Duration) -> Outcome {
        if (DOWN[0]..DOWN[1]).contains(&at) {
            self.good = 0.0;
            return Outcome::FAILURE;
        }
        if at < DOWN[0] || self.kind == Kind::Warm {
            return Outcome::SUCCESS;
        }
        while self
            .recent
            .front()
            .is_some_and(|call| *call + A_SECOND <= at)
        {
            self.recent.pop_front();
        }
        let [cold, warm] = BEARS;
        let bears = cold + (warm - cold) * (self.good / WARM_AFTER).min(1.0);
        let load = f64::from(u32::try_from(self.recent.len()).expect("few"));
        let is_good = load < bears;
        if is_good || self.kind == Kind::BreaksDown {
            self.recent.push_back(at);
        }
        if is_good {
            self.good += 1.0;
            Outcome::SUCCESS
        } else {
            Outcome::FAILURE
        }
    }
}

fn calls(kind: Kind, recover_for: Duration, seed: u64) -> Vec<Call> {
    let mut service = Service {
        kind,
        good: 0.0,
        recent: VecDeque::new(),
    };
    let settings = BreakerSettings {
        recover_for,
        ..BreakerSettings::default()
    };
    run(
        Rule::worker(settings, START),
        Balancer::new(Balancing::RoundRobin, 1),
        (RATE, DOWN[1] + AFTERWARDS),
        |at, _, _: &mut Random| service.answer(at),
        seed,
    )
}

pub fn recovery(kind: Kind, recover_for: Duration, runs: u32) -> Recovery {
    let (mut well, mut sums) = (Some(0.0), [0.0; 2]);
    for seed in (SEED..).take(runs as usize) {
        let calls = calls(kind, recover_for, seed);
        let returned = calls.partition_point(|call| call.at < DOWN[1]);
        let after = &calls[returned..];
        let last_bad = after.iter().rfind(|call| call.answer != Answer::Good);
        let took = last_bad.map_or(Duration::ZERO, |call| call.at.saturating_sub(DOWN[1]));
        let is_well = took + Duration::from_mins(5) < AFTERWARDS;
        well = well
            .filter(|_| is_well)
            .map(|sum: f64| sum + took.as_secs_f64());
        for (sum, answer) in sums.iter_mut().zip([Answer::Failed, Answer::Refused]) {
            let count = after.iter().filter(|call| call.answer == answer).count();
            *sum += f64::from(u32::try_from(count).expect("few"));
        }
    }
    let [failed_after, refused_after] = sums.map(|sum| sum / f64::from(runs));
    Recovery {
        service: kind,
        recover_for_seconds: recover_for.as_secs_f64(),
        until_well_seconds: well.map(|sum| sum / f64::from(runs)),
        failed_after,
        refused_after,
    }
}
