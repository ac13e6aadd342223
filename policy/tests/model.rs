//! Random sequences of events, compared with a simple model of a breaker.

mod definition;

use definition::is_news;
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{
    Breaker, BreakerSettings, CheckPermit, FailureRate, Outcome, Permit, Phase, Verdict,
};
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    Begin,
    /// Ends the call in flight at this index, modulo their number.
    End(usize, Outcome),
    /// The same, but the call never ends.
    Lose(usize),
    /// Asks whether to send a health check.
    Check,
    /// The health check at this index passes, modulo their number.
    CheckPasses(usize),
    /// Most of its scopes are open.
    ScopesOpen,
}

/// The time between two health checks.
const CHECK_EVERY: Duration = Duration::from_secs(1);

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        3 => Just(Outcome::FAILURE), 3 => Just(Outcome::SUCCESS), 1 => Just(Outcome::Neutral),
        1 => Just(Outcome::Success { slow: true })
    ];
    prop_oneof![
        2 => (0_u64..2_000).prop_map(Event::Pass),
        1 => (2_000_u64..40_000).prop_map(Event::Pass),
        8 => Just(Event::Begin),
        8 => (any::<usize>(), outcome).prop_map(|(place, outcome)| Event::End(place, outcome)),
        1 => any::<usize>().prop_map(Event::Lose),
        2 => Just(Event::Check),
        1 => any::<usize>().prop_map(Event::CheckPasses),
        1 => Just(Event::ScopesOpen),
    ]
}

/// Opens after 3 failures in a row, or 60 % of at least 8 calls in 10 s, for 5 s, then 10 s, then
/// 20 s; if its scopes open it, for 1 s, then 2 s. Allows 2 probes with leases of 4 s, and closes after 2 successes.
fn settings() -> BreakerSettings {
    let mut settings = BreakerSettings {
        consecutive_failures: Some(3),
        failure_rate: Some(FailureRate {
            ratio: Ratio::percent(60),
            minimum_requests: 8,
        }),
        open: Backoff {
            base: Duration::from_secs(5),
            max: Duration::from_secs(20),
            factor: 2,
            jitter: Jitter::NONE,
        },
        open_unreachable: Backoff {
            base: Duration::from_secs(1),
            max: Duration::from_secs(2),
            factor: 2,
            jitter: Jitter::NONE,
        },
        ..BreakerSettings::default()
    };
    settings.half_open.max_in_flight = 2;
    settings.half_open.successes_to_close = 2;
    settings.half_open.lease = Duration::from_secs(4);
    settings
}

/// The model. It keeps lists, and times in milliseconds.
#[derive(Default)]
struct Model {
    phase: u8, // 0 closed, 1 open, 2 half-open
    episode: u32,
    until: u64,
    opened: u32,
    opened_by_scopes: u32,
    row: u32,
    results: Vec<(u64, bool)>,
    leases: Vec<(u64, u64)>, // call, end
    successes: u32,
    since: u64,
    /// The end of the period that a health check has cut short last.
    cut_short: u64,
    /// Whether a row is so close to what decides that the model can't tell.
    is_close: bool,
}

impl Model {
    fn enter(&mut self, phase: u8, now: u64) {
        *self = Self {
            phase,
            since: now,
            cut_short: self.cut_short,
            episode: self.episode + 1,
            until: self.until,
            opened: if phase == 0 { 0 } else { self.opened },
            opened_by_scopes: if phase == 0 { 0 } else { self.opened_by_scopes },
            ..Self::default()
        };
    }

    fn begin(&mut self, call: u64, now: u64) -> bool {
        if self.phase == 1 && now >= self.until {
            self.enter(2, now);
        }
        if self.phase == 2 {
            self.leases.retain(|(_, end)| *end > now);
            if self.leases.len() >= 2 {
                return false;
            }
            self.leases.push((call, now + 4_000));
        }
        self.phase != 1
    }

    fn end(&mut self, call: u64, episode: u32, outcome: Outcome, now: u64) {
        if episode != self.episode {
            return;
        }
        self.leases.retain(|(holder, _)| *holder != call);
        let failed = match outcome {
            Outcome::Neutral => return,
            outcome => outcome == Outcome::FAILURE,
        };
        let mut opens = false;
        if self.phase == 2 {
            let failed = failed || outcome == Outcome::Success { slow: true };
            self.successes += u32::from(!failed);
            if self.successes == 2 {
                self.enter(0, now);
            }
            opens = failed;
        } else {
            self.row = if failed { self.row + 1 } else { 0 };
            self.results.push((now, failed));
            self.results.retain(|(at, _)| at / 1000 + 10 > now / 1000);
            let failures = self.results.iter().filter(|(_, failed)| *failed).count();
            let total = self.results.len();
            let row = self.row as usize;
            let decides = is_news(
                row,
                3,
                total.saturating_sub(row),
                failures.saturating_sub(row),
            );
            self.is_close = decides.is_none();
            opens |= decides == Some(true) || (total >= 8 && failures * 10 >= total * 6);
        }
        if opens {
            let wait = [5_000, 10_000, 20_000][self.opened.min(2) as usize];
            self.opened += 1;
            self.forget_checks(now);
            self.until = now.max(self.cut_short) + wait;
            self.enter(1, now);
        }
    }

    /// Who was well for as long as a window has earned what a check has cut short before.
    fn forget_checks(&mut self, now: u64) {
        if self.phase == 0 && now - self.since >= 10_000 {
            self.cut_short = 0;
        }
    }

    fn scopes_open(&mut self, now: u64) {
        let is_back = self.phase == 2 && self.successes > 0;
        if self.phase != 1 && !is_back {
            let wait = [1_000, 2_000][self.opened_by_scopes.min(1) as usize];
            self.opened_by_scopes += 1;
            self.forget_checks(now);
            self.until = now + wait;
            self.enter(1, now);
        }
    }

    fn may_check(&self, now: u64) -> bool {
        self.phase == 1 && now < self.until && now >= self.since + 1_000 && now >= self.cut_short
    }

    fn check_passes(&mut self, episode: u32, now: u64) {
        if self.phase == 1 && self.episode == episode {
            self.cut_short = self.until;
            self.enter(2, now);
        }
    }
}

struct Call {
    id: u64,
    permit: Permit,
    episode: u32,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]
    #[test]
    fn it_agrees_with_the_model(events in vec(event(), 1..200)) {
        let settings = settings();
        let mut millis = 1_000_000;
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let mut breaker = Breaker::new(&settings, at(millis));
        let mut model = Model::default();
        let mut calls: Vec<Call> = Vec::new();
        let mut checks: Vec<(CheckPermit, u32)> = Vec::new();
        let mut next = 0;
        for event in events {
            match event {
                Event::Pass(time) => millis += time,
                Event::Begin => {
                    next += 1;
                    let expected = model.begin(next, millis);
                    let (verdict, _) = breaker.admit(&settings, at(millis));
                    match verdict {
                        Verdict::Admit(permit) => {
                            prop_assert!(expected, "it should have been refused");
                            prop_assert_eq!(permit.is_probe(), model.phase == 2);
                            calls.push(Call { id: next, permit, episode: model.episode });
                        }
                        Verdict::Refuse { retry_after } => {
                            prop_assert!(!expected, "it should have been let through");
                            let left = if model.phase == 1 { model.until - millis } else { 0 };
                            prop_assert_eq!(retry_after, Duration::from_millis(left));
                        }
                        Verdict::WouldRefuse => prop_assert!(false, "not in shadow"),
                    }
                }
                Event::End(place, outcome) if !calls.is_empty() => {
                    let call = calls.swap_remove(place % calls.len());
                    model.end(call.id, call.episode, outcome, millis);
                    breaker.record(&settings, call.permit, outcome, at(millis), 0);
                }
                Event::Lose(place) if !calls.is_empty() => {
                    calls.swap_remove(place % calls.len());
                }
                Event::Check => {
                    let check = breaker.permit_check(&settings, CHECK_EVERY, at(millis));
                    prop_assert_eq!(check.is_some(), model.may_check(millis));
                    checks.extend(check.map(|check| (check, model.episode)));
                }
                Event::CheckPasses(place) if !checks.is_empty() => {
                    let (check, episode) = checks.swap_remove(place % checks.len());
                    model.check_passes(episode, millis);
                    breaker.check_passed(&settings, check, at(millis));
                }
                Event::ScopesOpen => {
                    model.scopes_open(millis);
                    breaker.open_with_scopes(&settings, at(millis), 0);
                }
                Event::End(..) | Event::Lose(_) | Event::CheckPasses(_) => {}
            }
            if model.is_close {
                return Ok(());
            }
            let phase = [Phase::Closed, Phase::Open, Phase::HalfOpen][usize::from(model.phase)];
            prop_assert_eq!(breaker.phase(), phase);
            if phase == Phase::HalfOpen {
                // Probes in flight: all places less the free ones.
                let mut asked = breaker.clone();
                let free = (0..9)
                    .take_while(|_| matches!(asked.admit(&settings, at(millis)).0, Verdict::Admit(_)))
                    .count();
                let held = model.leases.iter().filter(|(_, end)| *end > millis).count();
                prop_assert!(held <= 2);
                prop_assert_eq!(free, 2 - held);
            }
        }
        // From any state it closes when calls succeed again.
        for _ in 0..20 {
            millis += 5_000;
            if let (Verdict::Admit(permit), _) = breaker.admit(&settings, at(millis)) {
                breaker.record(&settings, permit, Outcome::SUCCESS, at(millis), 0);
            }
        }
        prop_assert_eq!(breaker.phase(), Phase::Closed);
    }
}
