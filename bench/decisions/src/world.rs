//! One service behind one rule, in simulated time. `policy/tests/simulation/world.rs` is for callers and workers, who
//! make no difference here.

use crate::given::START;
use crate::random::Random;
use crate::rules::{Balancer, Rule, Ticket};
use levee_policy::breaker::Outcome;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How long a call takes.
fn takes(outcome: Outcome) -> Duration {
    Duration::from_millis(if outcome == Outcome::UNREACHABLE {
        1
    } else {
        10
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Good,
    Failed,
    Refused,
}

#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Since the start.
    pub at: Duration,
    pub answer: Answer,
}

/// The calls that came in `length` at `rate` a second, at random times. `service` decides how one ends that comes at
/// that time since the start, to that host.
pub fn run(
    mut rule: Rule,
    mut balancer: Balancer,
    (rate, length): (f64, Duration),
    mut service: impl FnMut(Duration, usize, &mut Random) -> Outcome,
    seed: u64,
) -> Vec<Call> {
    let mut random = Random::new(seed);
    let mut calls = Vec::new();
    let mut admitted: Vec<(Ticket, Outcome)> = Vec::new();
    let mut ends = BinaryHeap::new();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_secs_f64(random.exponential() / rate);
        if at > length {
            return calls;
        }
        while let Some(Reverse((end, number))) = ends.peek().copied()
            && end <= at
        {
            ends.pop();
            let (ticket, outcome): (Ticket, Outcome) = admitted[number];
            rule.record(ticket, outcome, START.after(end), &mut random);
        }
        let is_well = || matches!(service(at, 0, &mut random), Outcome::Success { .. });
        rule.check(is_well, START.after(at));
        let ticket = rule.admit(&mut balancer, START.after(at), &mut random);
        let answer = if let Some(ticket) = ticket {
            let outcome = service(at, ticket.host, &mut random);
            ends.push(Reverse((at + takes(outcome), admitted.len())));
            admitted.push((ticket, outcome));
            match outcome {
                Outcome::Success { .. } => Answer::Good,
                _ => Answer::Failed,
            }
        } else {
            Answer::Refused
        };
        calls.push(Call { at, answer });
    }
}

pub fn count(calls: &[Call], answer: Answer) -> usize {
    calls.iter().filter(|call| call.answer == answer).count()
}
