//! What one caller can bring about, and what it takes two for.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{
    Breaker, BreakerSettings, Cause, Outcome, Permit, Phase, Report, Transition, Verdict,
};
use levee_policy::callers::Caller;
use levee_policy::evidence::Witnesses;
use levee_policy::time::Instant;
use std::time::Duration;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const ATTACKER: Caller = Caller::from_hash(666);
const HONEST: Caller = Caller::from_hash(1);
const OTHER: Caller = Caller::from_hash(2);

struct Bench {
    settings: BreakerSettings,
    breaker: Breaker,
    now: Instant,
    /// Between two calls.
    step: Duration,
}

impl Bench {
    fn new() -> Self {
        let settings = BreakerSettings {
            open: Backoff {
                jitter: Jitter::NONE,
                ..BreakerSettings::default().open
            },
            ..BreakerSettings::default()
        };
        let now = Instant::from_nanos(1_000_000_000_000);
        Self {
            breaker: Breaker::new(&settings, now),
            settings,
            now,
            step: Duration::from_millis(1),
        }
    }

    fn every(step: Duration) -> Self {
        Self {
            step,
            ..Self::new()
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
    }

    fn permit(&mut self) -> Permit {
        match self.breaker.admit(&self.settings, self.now).0 {
            Verdict::Admit(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn permit_of(&mut self, caller: Caller) -> Option<Permit> {
        match self
            .breaker
            .admit_caller(&self.settings, caller, self.now)
            .0
        {
            Verdict::Admit(permit) => Some(permit),
            _ => None,
        }
    }

    fn report(&mut self, permit: Permit, outcome: Outcome, caller: Caller) -> Option<Transition> {
        let report = Report {
            caller,
            ..Report::new(permit, outcome)
        };
        self.breaker.report(&self.settings, report, self.now, 0)
    }

    fn call(&mut self, caller: Caller, outcome: Outcome) -> Option<Transition> {
        let permit = self.permit();
        self.report(permit, outcome, caller)
    }

    /// Calls, a step apart. Returns how many it took to open.
    fn until_open(
        &mut self,
        most: u32,
        mut call: impl FnMut(u32) -> (Caller, Outcome),
    ) -> Option<u32> {
        (1..=most).find(|number| {
            self.now = self.now.after(self.step);
            let (caller, outcome) = call(number - 1);
            self.call(caller, outcome);
            self.breaker.phase() == Phase::Open
        })
    }

    fn half_open(&mut self) {
        while self.breaker.phase() != Phase::Open {
            self.call(HONEST, Outcome::FAILURE);
        }
        self.pass(30_000);
    }
}

const WEAK: Outcome = Outcome::WEAK_FAILURE;

#[test]
fn five_strong_failures_of_one_caller_open_it() {
    let opened = Bench::new().until_open(100, |_| (HONEST, Outcome::FAILURE));
    assert_eq!(opened, Some(5));
}

#[test]
fn five_weak_ones_need_a_second_witness() {
    let bench = || Bench::every(Duration::from_millis(10));
    let two = |number| (if number == 4 { OTHER } else { HONEST }, WEAK);
    assert_eq!(bench().until_open(100, two), Some(5));
}

#[test]
fn a_strong_failure_bears_out_one_weak_one_of_another_caller_and_none_of_its_own() {
    let until_open = |caller, is_strong: fn(u32) -> bool| {
        let mut bench = Bench::every(Duration::from_millis(10));
        bench.until_open(100, |number| {
            if is_strong(number) {
                (caller, Outcome::FAILURE)
            } else {
                (HONEST, WEAK)
            }
        })
    };
    // One host of ten may be dead.
    assert_eq!(until_open(OTHER, |number| number == 2), None);
    assert_eq!(until_open(HONEST, |number| number == 2), None);
    assert_eq!(until_open(OTHER, |number| number % 3 == 2), Some(9));
}

#[test]
fn in_its_first_10_ms_no_row_takes_others_for_absent() {
    let at_once = || Bench::every(Duration::from_micros(600));
    let one_other = |number| (if number == 4 { OTHER } else { HONEST }, WEAK);
    assert_eq!(at_once().until_open(100, one_other), Some(18));
    let even = |number| (if number % 2 == 0 { OTHER } else { HONEST }, WEAK);
    assert_eq!(at_once().until_open(100, even), Some(6));
    assert_eq!(
        at_once().until_open(100, |_| (HONEST, Outcome::FAILURE)),
        Some(5)
    );
}

fn both_answered_before() -> Bench {
    let mut bench = Bench::every(Duration::from_millis(10));
    // Each was answered after the other's failure.
    for (fails, answered) in [(HONEST, OTHER), (OTHER, HONEST)] {
        bench.call(fails, WEAK);
        bench.call(answered, Outcome::SUCCESS);
    }
    bench
}

#[test]
fn who_was_answered_before_and_fails_twice_now_speaks_for_nobody() {
    let both = |number| (if number % 4 == 3 { OTHER } else { HONEST }, WEAK);
    assert_eq!(both_answered_before().until_open(100, both), Some(8));
}

#[test]
fn one_failure_of_who_was_answered_before_is_no_second_witness() {
    let one = |number| (if number == 4 { OTHER } else { HONEST }, WEAK);
    assert_eq!(both_answered_before().until_open(100, one), None);
}

#[test]
fn a_caller_that_is_alone_needs_fifteen() {
    let every = |millis| Bench::every(Duration::from_millis(millis));
    assert_eq!(every(500).until_open(100, |_| (HONEST, WEAK)), Some(15));
    // And five seconds in which nobody else is answered.
    assert_eq!(every(100).until_open(100, |_| (HONEST, WEAK)), Some(51));
}

#[test]
fn right_after_it_was_closed_nobody_is_alone() {
    let mut bench = Bench::new();
    bench.half_open();
    for _ in 0..3 {
        bench.call(ATTACKER, Outcome::SUCCESS);
    }
    assert_eq!(bench.breaker.phase(), Phase::Closed);
    assert_eq!(bench.until_open(4_900, |_| (ATTACKER, WEAK)), None);
}

#[test]
fn a_caller_that_was_answered_before_is_alone_when_nobody_is_answered_any_more() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.pass(100);
        bench.call(HONEST, Outcome::SUCCESS);
    }
    // Ten calls a second: in 5 s there would have been fifty answers.
    let opened = (1..=100).find(|_| {
        bench.pass(100);
        bench.call(HONEST, WEAK);
        bench.breaker.phase() == Phase::Open
    });
    assert_eq!(opened, Some(51));
}

#[test]
fn good_calls_of_its_own_make_no_caller_alone() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.pass(1000);
        bench.call(HONEST, Outcome::SUCCESS);
    }
    for _ in 0..1000 {
        bench.call(ATTACKER, Outcome::SUCCESS);
    }
    bench.pass(500);
    assert_eq!(bench.until_open(400, |_| (ATTACKER, WEAK)), None);
    bench.call(HONEST, Outcome::SUCCESS);
    // It is remembered that somebody else was answered.
    bench.pass(20_000);
    assert_eq!(bench.until_open(9_000, |_| (ATTACKER, WEAK)), None);
}

#[test]
fn one_witness_gives_the_old_rule() {
    let mut bench = Bench::new();
    bench.settings.witnesses = Witnesses::One;
    assert_eq!(bench.until_open(100, |_| (HONEST, WEAK)), Some(5));
}

#[test]
fn while_others_are_answered_one_caller_opens_nothing_however_much_it_sends() {
    for between in [1, 4, 14, 50, 1000] {
        let mut bench = Bench::new();
        let opened = bench.until_open(20_000, |number| {
            if number % (between + 1) == 0 {
                (HONEST, Outcome::SUCCESS)
            } else {
                (ATTACKER, WEAK)
            }
        });
        assert_eq!(opened, None, "{between} bad calls for each good one");
    }
}

#[test]
fn an_attacker_cannot_hide_others_by_good_calls_of_its_own() {
    let mut bench = Bench::new();
    let opened = bench.until_open(20_000, |number| match number % 20 {
        0 => (HONEST, Outcome::SUCCESS),
        5 | 10 => (ATTACKER, Outcome::SUCCESS),
        _ => (ATTACKER, WEAK),
    });
    assert_eq!(opened, None);
}

#[test]
fn good_calls_right_after_bad_ones_hide_nobody() {
    let mut bench = Bench::new();
    for _ in 0..10 {
        bench.pass(1000);
        bench.call(HONEST, Outcome::SUCCESS);
        // Nobody else can be seen to be answered after one of these failures.
        let burst = |number| (ATTACKER, if number == 19 { Outcome::SUCCESS } else { WEAK });
        assert_eq!(bench.until_open(20, burst), None);
    }
}

#[test]
fn others_that_fail_now_and_then_are_no_second_witness_for_an_attacker() {
    let mut bench = Bench::new();
    // Of each hundred honest calls one fails; between two of them the attacker fails ten times.
    let opened = bench.until_open(100_000, |number| match (number % 11, number / 11 % 100) {
        (0, 7) => (Caller::from_hash(100 + number), WEAK),
        (0, _) => (Caller::from_hash(100 + number % 50), Outcome::SUCCESS),
        _ => (ATTACKER, WEAK),
    });
    assert_eq!(opened, None);
}

#[test]
fn a_service_that_fails_for_all_opens_though_one_caller_calls_most() {
    let mut bench = Bench::new();
    for number in 0..1000 {
        bench.pass(10);
        let caller = if number % 10 == 0 { OTHER } else { HONEST };
        bench.call(caller, Outcome::SUCCESS);
    }
    let opened = bench
        .until_open(100, |number| {
            (if number % 10 == 9 { OTHER } else { HONEST }, WEAK)
        })
        .expect("it fails for all");
    assert!(opened <= 30, "{opened}");
}

#[test]
fn an_outage_opens_it_at_once_whatever_one_caller_has_complained_about_before() {
    let mut bench = Bench::every(Duration::from_millis(10));
    let opened = bench.until_open(1_000, |number| match number % 10 {
        0 => (HONEST, Outcome::SUCCESS),
        _ => (ATTACKER, WEAK),
    });
    assert_eq!(opened, None);
    bench.call(HONEST, Outcome::SUCCESS);
    let opened = bench.until_open(100, |_| (HONEST, Outcome::FAILURE));
    assert_eq!(opened, Some(5));
}

#[test]
fn where_some_calls_fail_anyway_a_burst_of_failures_waits_for_the_answers_of_other_calls() {
    let fail = |bench: &mut Bench| {
        let report = Report {
            usual_millis: 300,
            ..Report::new(bench.permit(), Outcome::FAILURE)
        };
        bench.breaker.report(&bench.settings, report, bench.now, 0);
        bench.breaker.phase()
    };
    let bench = |every: u32| {
        let mut bench = Bench::new();
        for number in 1..=200 {
            bench.pass(10);
            let failed = number % every == 0;
            let outcome = if failed {
                Outcome::FAILURE
            } else {
                Outcome::SUCCESS
            };
            bench.call(HONEST, outcome);
        }
        bench.call(HONEST, Outcome::SUCCESS);
        bench
    };
    let mut one_in_ten = bench(10);
    for _ in 0..50 {
        assert_eq!(fail(&mut one_in_ten), Phase::Closed);
    }
    one_in_ten.pass(300);
    assert_eq!(fail(&mut one_in_ten), Phase::Open);
    let mut few_good_calls = Bench::new();
    for _ in 0..30 {
        few_good_calls.call(HONEST, Outcome::SUCCESS);
    }
    for mut bench in [bench(100), few_good_calls] {
        for _ in 0..4 {
            assert_eq!(fail(&mut bench), Phase::Closed);
        }
        assert_eq!(fail(&mut bench), Phase::Open);
    }
}

#[test]
fn silence_opens_it_and_one_caller_that_leaves_does_not() {
    let silent = |number: u32| (Caller::from_hash(1 + number % 5), Outcome::Unanswered);
    let mut bench = Bench::new();
    assert_eq!(bench.until_open(1000, silent), Some(25));
    // A load generator that leaves, beside others that are answered.
    let mut bench = Bench::new();
    let opened = bench.until_open(20_000, |number| {
        if number % 20 == 0 {
            (HONEST, Outcome::SUCCESS)
        } else {
            (ATTACKER, Outcome::Unanswered)
        }
    });
    assert_eq!(opened, None);
    // One that is alone needs three times as many, and five seconds.
    let alone = |_| (ATTACKER, Outcome::Unanswered);
    let mut bench = Bench::every(Duration::from_millis(100));
    assert_eq!(bench.until_open(1000, alone), Some(60));
    assert_eq!(Bench::new().until_open(10_000, alone), Some(5_000));
}

#[test]
fn half_answered_is_not_silence() {
    let mut bench = Bench::new();
    let opened = bench.until_open(5_000, |number| {
        let caller = Caller::from_hash(1 + number % 7);
        let outcome = if number % 2 == 0 {
            Outcome::SUCCESS
        } else {
            Outcome::Unanswered
        };
        (caller, outcome)
    });
    assert_eq!(opened, None);
}

#[test]
fn a_half_open_breaker_is_held_open_by_no_single_caller() {
    let mut bench = Bench::new();
    bench.half_open();
    assert_eq!(bench.call(ATTACKER, WEAK), None);
    assert_eq!(bench.call(HONEST, Outcome::SUCCESS), None);
    for _ in 0..1000 {
        assert_eq!(bench.call(ATTACKER, WEAK), None);
    }
    bench.call(HONEST, Outcome::SUCCESS);
    let closed = bench.call(HONEST, Outcome::SUCCESS).expect("the third");
    assert_eq!(closed.cause, Cause::ProbesSucceeded);
}

#[test]
fn a_half_open_breaker_opens_again_by_one_strong_or_two_weak_failures_or_three_of_a_caller_alone() {
    for failures in [
        vec![(HONEST, Outcome::FAILURE)],
        vec![(HONEST, WEAK), (OTHER, WEAK)],
        vec![(HONEST, WEAK), (OTHER, Outcome::Unanswered)],
        vec![(HONEST, WEAK); 3],
    ] {
        let mut bench = Bench::new();
        bench.half_open();
        let _ = bench.permit();
        bench.pass(5000);
        let (last, first) = failures.split_last().expect("some");
        for (caller, outcome) in first {
            assert_eq!(bench.call(*caller, *outcome), None, "{failures:?}");
        }
        let opened = bench.call(last.0, last.1).expect("enough");
        assert_eq!(opened.cause, Cause::ProbeFailed, "{failures:?}");
    }
}

#[test]
fn a_half_open_breaker_waits_five_seconds_for_others_before_one_caller_decides() {
    let mut bench = Bench::new();
    bench.half_open();
    for _ in 0..100 {
        assert_eq!(bench.call(ATTACKER, WEAK), None);
    }
    bench.pass(4999);
    assert_eq!(bench.call(ATTACKER, WEAK), None);
    bench.pass(1);
    assert!(bench.call(ATTACKER, WEAK).is_some());
}

#[test]
fn a_caller_that_holds_a_place_gets_another_only_if_nobody_else_wants_it() {
    let mut bench = Bench::new();
    bench.half_open();
    assert!(bench.permit_of(ATTACKER).is_some());
    assert_eq!(bench.permit_of(ATTACKER), None);
    bench.pass(999);
    assert_eq!(bench.permit_of(ATTACKER), None);
    let honest = bench.permit_of(HONEST).expect("a place is free");
    bench.report(honest, Outcome::SUCCESS, HONEST);
    bench.pass(999);
    assert_eq!(bench.permit_of(ATTACKER), None, "somebody came since");
    bench.pass(1);
    assert!(bench.permit_of(ATTACKER).is_some(), "nobody else wants it");
    // Callers of whom nothing is known can't be told apart.
    assert!(bench.permit_of(Caller::UNKNOWN).is_some());
}

#[test]
fn with_one_witness_callers_are_not_told_apart_half_open() {
    let mut bench = Bench::new();
    bench.settings.witnesses = Witnesses::One;
    bench.half_open();
    for _ in 0..3 {
        assert!(bench.permit_of(HONEST).is_some());
    }
}

#[test]
fn whoever_held_a_place_for_long_and_in_vain_comes_after_the_others() {
    for outcome in [Outcome::Neutral, WEAK, Outcome::Unanswered] {
        let mut bench = Bench::new();
        bench.settings.half_open.max_in_flight = 1;
        bench.half_open();
        let permit = bench.permit_of(ATTACKER).expect("the only place");
        bench.pass(500);
        assert_eq!(bench.permit_of(HONEST), None);
        bench.report(permit, outcome, ATTACKER);
        assert_eq!(bench.permit_of(ATTACKER), None, "{outcome:?}");
        assert!(bench.permit_of(HONEST).is_some());
    }
    // One that is soon over keeps nobody out.
    let mut bench = Bench::new();
    bench.settings.half_open.max_in_flight = 1;
    bench.half_open();
    let permit = bench.permit_of(ATTACKER).expect("the only place");
    bench.pass(100);
    bench.report(permit, Outcome::Neutral, ATTACKER);
    assert!(bench.permit_of(ATTACKER).is_some());
}

#[test]
fn a_lease_that_expires_was_held_in_vain() {
    let mut bench = Bench::new();
    bench.settings.half_open.max_in_flight = 1;
    bench.half_open();
    assert!(bench.permit_of(ATTACKER).is_some());
    bench.pass(14_500);
    assert_eq!(bench.permit_of(HONEST), None);
    bench.pass(500);
    bench.breaker.clone().admit(&bench.settings, bench.now);
    let mut other = bench.breaker.clone();
    assert!(
        other.admit_caller(&bench.settings, HONEST, bench.now).0
            != bench
                .breaker
                .clone()
                .admit_caller(&bench.settings, ATTACKER, bench.now)
                .0
    );
}

#[test]
fn a_caller_that_is_alone_closes_it_though_it_holds_places_in_vain() {
    let mut bench = Bench::new();
    bench.half_open();
    let permit = bench.permit_of(HONEST).expect("the first");
    bench.pass(500);
    bench.report(permit, Outcome::Neutral, HONEST);
    let closed = (1..100).find(|_| {
        bench.pass(100);
        if let Some(permit) = bench.permit_of(HONEST) {
            bench.report(permit, Outcome::SUCCESS, HONEST);
        }
        bench.breaker.phase() == Phase::Closed
    });
    assert!(closed.is_some_and(|tenths| tenths <= 30), "{closed:?}");
}

#[test]
fn the_failure_rate_leaves_out_what_one_caller_may_have_brought_about() {
    let mut bench = Bench::new();
    bench.settings.consecutive_failures = None;
    // The attacker fails a hundred times for each honest call, of which one in ten fails.
    let opened = bench.until_open(50_000, |number| match (number % 101, number / 101 % 10) {
        (0, 5) => (Caller::from_hash(10 + number % 9), WEAK),
        (0, _) => (Caller::from_hash(10 + number % 9), Outcome::SUCCESS),
        _ => (ATTACKER, WEAK),
    });
    assert_eq!(opened, None);
    // A service that fails for most of its callers opens by the rate.
    let mut bench = Bench::new();
    bench.settings.consecutive_failures = None;
    let opened = bench.until_open(1000, |number| {
        let caller = Caller::from_hash(1 + number % 7);
        (
            caller,
            if number % 5 < 2 {
                Outcome::SUCCESS
            } else {
                WEAK
            },
        )
    });
    assert!(opened.is_some_and(|calls| calls <= 25), "{opened:?}");
}
