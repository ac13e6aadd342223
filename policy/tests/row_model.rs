//! Rows of failures by several callers, compared with a model that keeps lists.

mod definition;

use definition::is_news;
use levee_policy::breaker::{Breaker, BreakerSettings, Outcome, Permit, Phase, Report, Verdict};
use levee_policy::callers::Caller;
use levee_policy::time::Instant;
use proptest::collection::vec;
use proptest::prelude::*;
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
    /// Callers of weak failures since the last success.
    weak: Vec<u32>,
    strong: usize,
    row_since: u64,
    successes: Vec<u64>,
    failures: Vec<u64>,
    /// When each caller was answered last after a failure.
    answered: Vec<(u32, u64)>,
}

impl Model {
    fn weak_of(&self, caller: u32) -> usize {
        self.weak.iter().filter(|by| **by == caller).count()
    }

    /// The weak failures of the caller with the most.
    fn most(&self) -> usize {
        let failures = self.weak.iter().map(|by| self.weak_of(*by));
        failures.max().unwrap_or(0)
    }

    /// `None` if it is too close to tell.
    fn opens(&mut self, caller: u32, outcome: Outcome, now: u64) -> Option<bool> {
        let was_empty = self.weak.is_empty() && self.strong == 0;
        match outcome {
            Outcome::Success { .. } => {
                if !was_empty {
                    self.answered.retain(|(by, _)| *by != caller);
                    self.answered.push((caller, now));
                }
                self.successes.push(now);
                self.weak.clear();
                self.strong = 0;
                return Some(false);
            }
            Outcome::WEAK_FAILURE => self.weak.push(caller),
            Outcome::Failure { .. } => self.strong += 1,
            _ => return Some(false),
        }
        if was_empty {
            self.row_since = now;
        }
        self.failures.push(now);
        let of = |times: &[u64]| {
            times
                .iter()
                .filter(|at| **at / 1000 + 10 > now / 1000)
                .count()
        };
        let row = self.weak.len() + self.strong;
        let failed = of(&self.failures);
        let calls = of(&self.successes) + failed;
        if row < LIMIT {
            return Some(false);
        }
        is_news(
            self.worth(now),
            LIMIT,
            calls.saturating_sub(row),
            failed.saturating_sub(row),
        )
    }

    fn worth(&self, now: u64) -> usize {
        let most = self.most();
        let rest = self.strong + self.weak.len() - most;
        let last_two = self.answered.iter().rev().take(2);
        let others_are_well = last_two.into_iter().any(|(caller, at)| {
            let failures = self.weak_of(*caller);
            let may_be_chance = failures == 0 || (failures == 1 && most > 1);
            may_be_chance && now - at < REMEMBERED
        });
        if others_are_well || now - self.row_since < OTHERS_REPORT {
            return rest + most.min(rest);
        }
        if rest > 0 {
            return rest + most;
        }
        let in_window = |at: &&u64| **at / 1000 + 10 > now / 1000;
        let answers = self.successes.iter().filter(in_window).count() as u64;
        let period = WINDOW.min(now - self.began);
        let without_answer = now - self.row_since;
        let before = period.saturating_sub(without_answer);
        let is_alone =
            without_answer >= 5_000 && (answers == 0 || without_answer * answers >= 7 * before);
        if is_alone { most / 3 } else { 0 }
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
