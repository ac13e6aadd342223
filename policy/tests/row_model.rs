//! Rows of failures by several callers, compared with a model that keeps lists.

mod definition;

use definition::is_news;
use levee_policy::breaker::{Breaker, BreakerSettings, Outcome, Permit, Phase, Report, Verdict};
use levee_policy::callers::Caller;
use levee_policy::time::Instant;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const LIMIT: usize = 4;
const WINDOW: u64 = 10_000;
const REMEMBERED: u64 = 30_000;
const OTHERS_REPORT: u64 = 10;

/// What a call that ends at once says, or time that passes.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    Call(u32, Outcome),
    /// The same caller complains several times, with this much time between.
    Weak(u32, u32, u64),
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        3 => Just(Outcome::SUCCESS),
        1 => Just(Outcome::FAILURE),
        4 => Just(Outcome::WEAK_FAILURE),
        1 => Just(Outcome::Unanswered),
        1 => Just(Outcome::Neutral),
    ];
    prop_oneof![
        2 => (0_u64..3_000).prop_map(Event::Pass),
        6 => (1_u32..4, outcome).prop_map(|(caller, outcome)| Event::Call(caller, outcome)),
        1 => (1_u32..4, 1_u32..16, 0_u64..400)
            .prop_map(|(caller, times, gap)| Event::Weak(caller, times, gap)),
    ]
}

/// The rules by their definition, with times in milliseconds.
#[derive(Default)]
struct Model {
    began: u64,
    /// What was complained about since the last success, and by whom.
    row: Vec<(u32, Outcome)>,
    row_since: u64,
    successes: Vec<u64>,
    failures: Vec<(u64, u32, Outcome)>,
    /// When each caller was answered last after a failure.
    answered: Vec<(u32, u64)>,
}

impl Model {
    fn count(&self, is_meant: impl Fn(u32, Outcome) -> bool) -> usize {
        let row = self.row.iter();
        row.filter(|(caller, outcome)| is_meant(*caller, *outcome))
            .count()
    }

    /// What a caller may have brought about by itself.
    fn doubtful_of(&self, caller: u32) -> usize {
        self.count(|by, outcome| by == caller && outcome != Outcome::FAILURE)
    }

    fn failures_of(&self, caller: u32) -> usize {
        self.count(|by, outcome| by == caller && outcome != Outcome::Unanswered)
    }

    fn suspicion(&self, caller: u32) -> (usize, usize) {
        (self.doubtful_of(caller), self.failures_of(caller))
    }

    fn failures(&self) -> usize {
        self.count(|_, outcome| outcome != Outcome::Unanswered)
    }

    /// `None` if it is too close to tell.
    fn opens(&mut self, caller: u32, outcome: Outcome, now: u64) -> Option<bool> {
        let was_empty = self.row.is_empty();
        match outcome {
            Outcome::Success { .. } | Outcome::After { .. } => {
                if !was_empty {
                    self.answered.retain(|(by, _)| *by != caller);
                    self.answered.push((caller, now));
                }
                self.successes.push(now);
                self.row.clear();
                return Some(false);
            }
            Outcome::Unanswered => {
                if !was_empty {
                    self.row.push((caller, outcome));
                }
                return Some(false);
            }
            Outcome::Failure { .. } => self.row.push((caller, outcome)),
            Outcome::Unknown | Outcome::Neutral => return Some(false),
        }
        if was_empty {
            self.row_since = now;
        }
        self.failures.push((now, caller, outcome));
        let row = self.failures();
        if row < LIMIT {
            return Some(false);
        }
        self.is_news(now)
    }

    /// Of the failures before the row, the strong ones are expected of the service. How many weak ones
    /// are depends on who the suspect is, so all numbers must lead to the same answer.
    fn is_news(&self, now: u64) -> Option<bool> {
        let in_window = |at: u64| at / 1000 + 10 > now / 1000;
        let answered = self.successes.iter().filter(|at| in_window(**at)).count();
        let count = |is_meant: &dyn Fn(Outcome) -> bool| {
            let before_row = self.failures.len() - self.failures();
            let before = self.failures.iter().take(before_row);
            before
                .filter(|(at, _, outcome)| in_window(*at) && is_meant(*outcome))
                .count()
        };
        let (strong, all) = (
            count(&|outcome| outcome == Outcome::FAILURE),
            count(&|_| true),
        );
        let mut answers = (strong..=all).map(|failed| {
            let calls = answered + failed;
            let worth = self.worth(now, calls, failed)?;
            is_news(worth, LIMIT, calls, failed)
        });
        let first = answers.next()??;
        answers.all(|answer| answer == Some(first)).then_some(first)
    }

    /// `None` if it is too close to tell.
    fn worth(&self, now: u64, calls: usize, failed: usize) -> Option<usize> {
        let callers: BTreeSet<u32> = self.row.iter().map(|(caller, _)| *caller).collect();
        let most = callers.iter().map(|caller| self.suspicion(*caller)).max();
        let callers = callers.into_iter();
        // Which of several that are as suspicious is taken does not matter, or nothing is said.
        let suspects = callers.filter(|caller| Some(self.suspicion(*caller)) == most);
        let mut worths = suspects.map(|suspect| self.worth_beside(suspect, now, calls, failed));
        let first = worths.next()??;
        worths.all(|worth| worth == Some(first)).then_some(first)
    }

    fn worth_beside(&self, suspect: u32, now: u64, calls: usize, failed: usize) -> Option<usize> {
        let most = self.doubtful_of(suspect);
        if most == 0 {
            return Some(self.row.len());
        }
        let own = self.failures_of(suspect);
        let of_others = self.failures() - own;
        let last = self.row.iter().rev();
        let strong_run = last
            .take_while(|(_, outcome)| *outcome == Outcome::FAILURE)
            .count();
        let mut others_are_well = false;
        for (caller, at) in self.answered.iter().rev().take(2) {
            let failures = self.doubtful_of(*caller);
            let may_be_chance =
                failures == 0 || (most > 1 && !is_news(failures, 2, calls, failed)?);
            others_are_well |= may_be_chance && now - at < REMEMBERED;
        }
        let borne_out = |most: usize| strong_run.max(of_others + own.min(most));
        if others_are_well {
            return Some(borne_out(of_others.min(1)));
        }
        if now - self.row_since < OTHERS_REPORT {
            return Some(borne_out(of_others));
        }
        let weak_of_others =
            self.count(|caller, outcome| caller != suspect && outcome == Outcome::WEAK_FAILURE);
        Some(if weak_of_others > 0 {
            self.failures()
        } else if !self.is_alone(now) {
            borne_out(of_others)
        } else {
            let weak =
                self.count(|caller, outcome| caller == suspect && outcome == Outcome::WEAK_FAILURE);
            borne_out(of_others.max(own - weak + weak / 3))
        })
    }

    /// Whether more than seven answers were to be expected since the row began.
    fn is_alone(&self, now: u64) -> bool {
        let in_window = |at: &&u64| **at / 1000 + 10 > now / 1000;
        let answers = self.successes.iter().filter(in_window).count() as u64;
        let period = WINDOW.min(now - self.began);
        let without_answer = now - self.row_since;
        let before = period.saturating_sub(without_answer);
        without_answer >= 5_000 && (answers == 0 || without_answer * answers >= 7 * before)
    }
}

fn permit(breaker: &mut Breaker, settings: &BreakerSettings, now: Instant) -> Option<Permit> {
    match breaker.admit(settings, now).0 {
        Verdict::Admit(permit) => Some(permit),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]
    #[test]
    fn a_row_opens_when_the_model_says_so(events in vec(event(), 1..120)) {
        let settings = BreakerSettings {
            consecutive_failures: Some(u32::try_from(LIMIT).unwrap()),
            failure_rate: None,
            silence: None,
            ..BreakerSettings::default()
        };
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let mut now = 1_000_000;
        let mut breaker = Breaker::new(&settings, at(now));
        let mut model = Model { began: now, ..Model::default() };
        for event in events {
            let (caller, outcome, times, gap) = match event {
                Event::Pass(millis) => {
                    now += millis;
                    continue;
                }
                Event::Call(caller, outcome) => (caller, outcome, 1, 0),
                Event::Weak(caller, times, gap) => (caller, Outcome::WEAK_FAILURE, times, gap),
            };
            for _ in 0..times {
                now += gap;
                let Some(permit) = permit(&mut breaker, &settings, at(now)) else {
                    return Err(TestCaseError::fail("it is closed"));
                };
                let report = Report {
                    caller: Caller::from_hash(caller),
                    ..Report::new(permit, outcome)
                };
                breaker.report(&settings, report, at(now), 0);
                let Some(opens) = model.opens(caller, outcome, now) else {
                    return Ok(());
                };
                prop_assert_eq!(breaker.phase() == Phase::Open, opens);
                if opens {
                    return Ok(());
                }
            }
        }
    }
}

/// The model would agree with nearly anything if it were never alone, or never in company.
#[test]
fn the_model_knows_one_caller_and_two() {
    let mut model = Model::default();
    let opened =
        (1..100).find(|number| model.opens(1, Outcome::WEAK_FAILURE, 100 * number) == Some(true));
    assert_eq!(opened, Some(51));
    let mut model = Model::default();
    let opened =
        (1..100).find(|number| model.opens(number % 2, Outcome::WEAK_FAILURE, 5) == Some(true));
    assert_eq!(opened, Some(4));
}
