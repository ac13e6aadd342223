//! When a service breaks, and when it is back.

use crate::given::{SEED, START};
use crate::random::Random;
use crate::rules::{Balancer, Balancing, Candidate};
use crate::world::{Answer, Call, count, run};
use levee_policy::breaker::Outcome;
use serde::Serialize;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    #[serde(rename = "503 for all")]
    Fails,
    #[serde(rename = "no connection")]
    Unreachable,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Fails, Self::Unreachable];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Fails => "503 for all",
            Self::Unreachable => "no connection",
        }
    }

    const fn outcome(self) -> Outcome {
        match self {
            Self::Fails => Outcome::FAILURE,
            Self::Unreachable => Outcome::UNREACHABLE,
        }
    }
}

/// How many calls fail until it opens.
#[derive(Serialize)]
pub struct UntilOpen {
    pub rule: &'static str,
    pub calls_per_second: f64,
    pub error_percent_before: f64,
    /// Means. `None` if it does not stay closed before the outage.
    pub failed: Option<f64>,
    pub seconds: Option<f64>,
}

#[derive(Clone, Copy)]
struct Outage {
    kind: Kind,
    from: Duration,
    until: Duration,
    /// Of calls before and after.
    error_rate: f64,
}

/// What is seen of an outage by those who call at this rate, for so long.
fn calls(
    candidate: Candidate,
    outage: Outage,
    rate_and_length: (f64, Duration),
    seed: u64,
) -> Vec<Call> {
    let service = |at: Duration, _: usize, random: &mut Random| {
        if (outage.from..outage.until).contains(&at) {
            outage.kind.outcome()
        } else if random.uniform() < outage.error_rate {
            Outcome::FAILURE
        } else {
            Outcome::SUCCESS
        }
    };
    let balancer = Balancer::new(Balancing::RoundRobin, 1);
    run(
        candidate.rule(1, START),
        balancer,
        rate_and_length,
        service,
        seed,
    )
}

pub fn until_open(candidate: Candidate, rate: f64, error_percent: f64, runs: u32) -> UntilOpen {
    let from = Duration::from_secs_f64((300.0 / rate).max(30.0));
    let outage = Outage {
        kind: Kind::Fails,
        from,
        until: Duration::MAX,
        error_rate: error_percent / 100.0,
    };
    let length = from + Duration::from_secs_f64((200.0 / rate).max(20.0));
    let (mut of_runs, mut failed, mut seconds) = (0, 0.0, 0.0);
    // With others it was open before.
    for seed in (SEED..).take(4 * runs as usize) {
        let calls = calls(candidate, outage, (rate, length), seed);
        let refusal = calls.iter().position(|call| call.answer == Answer::Refused);
        let Some(refusal) = refusal.filter(|place| calls[*place].at >= from) else {
            continue;
        };
        let broken = calls.partition_point(|call| call.at < from);
        failed += f64::from(u32::try_from(refusal - broken).expect("few"));
        seconds += calls[refusal].at.saturating_sub(from).as_secs_f64();
        of_runs += 1;
        if of_runs == runs {
            break;
        }
    }
    let mean = |sum: f64| (of_runs * 4 >= runs).then(|| sum / f64::from(of_runs));
    UntilOpen {
        rule: candidate.name(),
        calls_per_second: rate,
        error_percent_before: error_percent,
        failed: mean(failed),
        seconds: mean(seconds),
    }
}

/// What an outage costs beyond its end. Means.
#[derive(Serialize)]
pub struct Return {
    pub rule: &'static str,
    pub kind: Kind,
    /// Its mean.
    pub outage_seconds: f64,
    /// Calls that reached the service while it was down.
    pub reached: f64,
    pub refused_after: f64,
    /// From the end of the outage to the first good answer.
    pub until_good_seconds: f64,
    pub longest_until_good_seconds: f64,
}

pub const RETURN_RATE: f64 = 100.0;
/// Longer than any breaker waits.
const AFTERWARDS: Duration = Duration::from_secs(400);

pub fn comes_back(candidate: Candidate, kind: Kind, lasts: Duration, runs: u32) -> Return {
    let from = Duration::from_secs(30);
    let mut sums = [0.0; 3];
    let mut longest: f64 = 0.0;
    for seed in (SEED..).take(runs as usize) {
        // Not always the same, since some breakers wait for whole minutes.
        let varied = lasts.mul_f64(0.75 + Random::new(seed).uniform() / 2.0);
        let outage = Outage {
            kind,
            from,
            until: from + varied,
            error_rate: 0.001,
        };
        let length = outage.until + AFTERWARDS;
        let calls = calls(candidate, outage, (RETURN_RATE, length), seed);
        let begins = calls.partition_point(|call| call.at < from);
        let ends = calls.partition_point(|call| call.at < outage.until);
        let (during, after) = (&calls[begins..ends], &calls[ends..]);
        let number = |count: usize| f64::from(u32::try_from(count).expect("few"));
        let good = after.iter().find(|call| call.answer == Answer::Good);
        let at = good.map_or(length, |call| call.at);
        let until_good = at.saturating_sub(outage.until).as_secs_f64();
        sums[0] += number(count(during, Answer::Failed));
        sums[1] += number(count(after, Answer::Refused));
        sums[2] += until_good;
        longest = longest.max(until_good);
    }
    let [reached, refused_after, until_good_seconds] = sums.map(|sum| sum / f64::from(runs));
    Return {
        rule: candidate.name(),
        kind,
        outage_seconds: lasts.as_secs_f64(),
        reached,
        refused_after,
        until_good_seconds,
        longest_until_good_seconds: longest,
    }
}
