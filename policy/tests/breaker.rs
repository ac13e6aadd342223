//! The promises of the breaker, with one example each.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{
    Breaker, BreakerSettings, Cause, FailureRate, HalfOpen, Mode, Outcome, Permit, Phase, Report,
    SlowCalls, Transition, Verdict,
};
use levee_policy::evidence::Weight;
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use std::time::Duration;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A breaker with a clock.
struct Bench {
    settings: BreakerSettings,
    breaker: Breaker,
    now: Instant,
    random: u64,
}

fn exact() -> BreakerSettings {
    let open = Backoff {
        jitter: Jitter::NONE,
        ..BreakerSettings::default().open
    };
    let open_unreachable = Backoff {
        jitter: Jitter::NONE,
        ..BreakerSettings::default().open_unreachable
    };
    BreakerSettings {
        open,
        open_unreachable,
        ..BreakerSettings::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Bench {
    fn new(settings: BreakerSettings) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        Self {
            settings,
            breaker: Breaker::new(&settings, now),
            now,
            random: 0,
        }
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    fn ask(&mut self) -> Verdict {
        self.breaker.admit(&self.settings, self.now).0
    }

    fn permit(&mut self) -> Permit {
        match self.ask() {
            Verdict::Admit(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, permit: Permit, outcome: Outcome) -> Option<Transition> {
        self.breaker
            .record(&self.settings, permit, outcome, self.now, self.random)
    }

    fn call(&mut self, outcome: Outcome) -> Option<Transition> {
        let permit = self.permit();
        self.end(permit, outcome)
    }

    /// Calls that fail, and ask for so many seconds.
    fn fail_asking(&mut self, asked: &[u32]) {
        for asked in asked {
            let permit = self.permit();
            let report = Report {
                again_after_secs: *asked,
                ..Report::new(permit, Outcome::FAILURE)
            };
            let (now, random) = (self.now, self.random);
            self.breaker.report(&self.settings, report, now, random);
        }
    }

    fn retry_after(&mut self) -> Option<Duration> {
        match self.ask() {
            Verdict::Refuse { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    fn open(&mut self) {
        while self.breaker.phase() != Phase::Open {
            self.call(Outcome::FAILURE);
        }
    }

    fn half_open(&mut self) -> Permit {
        self.open();
        self.pass(seconds(30));
        self.permit()
    }
}

#[test]
fn the_fifth_failure_in_a_row_opens() {
    let mut bench = Bench::new(exact());
    for _ in 0..4 {
        assert_eq!(bench.call(Outcome::FAILURE), None);
    }
    let transition = bench.call(Outcome::FAILURE).unwrap();
    assert_eq!(transition.to, Phase::Open);
    assert_eq!(transition.cause, Cause::ConsecutiveFailures);
    assert_eq!(bench.retry_after(), Some(seconds(30)));
}

#[test]
fn a_success_ends_the_row_and_a_neutral_call_does_not() {
    let mut bench = Bench::new(BreakerSettings {
        failure_rate: None,
        ..exact()
    });
    for _ in 0..100 {
        for _ in 0..4 {
            bench.call(Outcome::FAILURE);
            bench.call(Outcome::Neutral);
        }
        bench.call(Outcome::SUCCESS);
    }
    assert_eq!(bench.breaker.phase(), Phase::Closed);
    // These failures have left the window.
    bench.pass(seconds(10));
    for _ in 0..4 {
        bench.call(Outcome::FAILURE);
        bench.call(Outcome::Neutral);
    }
    assert!(bench.call(Outcome::FAILURE).is_some());
}

#[test]
fn a_row_decides_only_where_it_is_improbable() {
    for (failures, of, length) in [
        (0, 100, 5),
        (3, 100, 5),
        (5, 100, 6),
        (13, 100, 9),
        (33, 100, 16),
        (9, 18, 5),
    ] {
        let mut bench = Bench::new(BreakerSettings {
            failure_rate: None,
            ..exact()
        });
        for call in 0..of {
            // Evenly spread, and a success at last.
            let fails = (call * failures) % of < failures && call > 0;
            bench.call(if fails {
                Outcome::FAILURE
            } else {
                Outcome::SUCCESS
            });
        }
        bench.call(Outcome::SUCCESS);
        let opened = (1..100).find(|_| bench.call(Outcome::FAILURE).is_some());
        assert_eq!(opened, Some(length), "{failures} of {of}");
    }
}

#[test]
fn half_of_twenty_calls_in_the_window_open_it_and_of_nineteen_do_not() {
    let mut bench = Bench::new(BreakerSettings {
        consecutive_failures: None,
        ..exact()
    });
    for _ in 0..9 {
        assert_eq!(bench.call(Outcome::FAILURE), None);
        assert_eq!(bench.call(Outcome::SUCCESS), None);
    }
    assert_eq!(bench.call(Outcome::SUCCESS), None);
    assert_eq!(
        bench.call(Outcome::FAILURE).unwrap().cause,
        Cause::FailureRate
    );
}

#[test]
fn calls_that_left_the_window_no_longer_count() {
    let mut bench = Bench::new(BreakerSettings {
        consecutive_failures: None,
        ..exact()
    });
    for _ in 0..19 {
        bench.call(Outcome::FAILURE);
    }
    bench.pass(seconds(10));
    for _ in 0..19 {
        assert_eq!(bench.call(Outcome::FAILURE), None);
    }
    assert!(bench.call(Outcome::FAILURE).is_some());
}

#[test]
fn a_neutral_call_opens_nothing_even_if_successes_have_left_the_window() {
    let mut bench = Bench::new(BreakerSettings {
        consecutive_failures: None,
        ..exact()
    });
    for _ in 0..30 {
        bench.call(Outcome::SUCCESS);
    }
    bench.pass(seconds(5));
    for _ in 0..20 {
        assert_eq!(bench.call(Outcome::FAILURE), None);
    }
    bench.pass(seconds(6)); // the successes have left the window
    assert_eq!(bench.call(Outcome::Neutral), None);
    assert_eq!(
        bench.call(Outcome::SUCCESS).unwrap().cause,
        Cause::FailureRate
    );
}

#[test]
fn ten_percent_of_errors_never_five_in_a_row_open_at_five_percent() {
    let rule = FailureRate {
        ratio: Ratio::percent(5),
        minimum_requests: 20,
    };
    let mut bench = Bench::new(BreakerSettings {
        failure_rate: Some(rule),
        ..exact()
    });
    let mut sent = 0;
    while bench.breaker.phase() == Phase::Closed {
        sent += 1;
        assert!(sent < 100);
        bench.call(if sent % 10 == 0 {
            Outcome::FAILURE
        } else {
            Outcome::SUCCESS
        });
        bench.pass(Duration::from_millis(1));
    }
    assert_eq!(sent, 20);
}

#[test]
fn one_in_a_thousand_never_opens_at_five_percent() {
    let rule = FailureRate {
        ratio: Ratio::percent(5),
        minimum_requests: 20,
    };
    let mut bench = Bench::new(BreakerSettings {
        failure_rate: Some(rule),
        ..exact()
    });
    for sent in 1..=100_000 {
        bench.call(if sent % 1000 == 0 {
            Outcome::FAILURE
        } else {
            Outcome::SUCCESS
        });
        bench.pass(Duration::from_millis(1));
    }
    assert_eq!(bench.breaker.phase(), Phase::Closed);
}

#[test]
fn slow_calls_open_it_if_the_rule_is_on_and_a_slow_probe_is_a_failure() {
    let rule = SlowCalls {
        longer_than: seconds(1),
        ratio: Ratio::percent(50),
        minimum_requests: 20,
    };
    let mut bench = Bench::new(BreakerSettings {
        slow_calls: Some(rule),
        ..exact()
    });
    for _ in 0..19 {
        assert_eq!(bench.call(Outcome::Success { slow: true }), None);
    }
    let transition = bench.call(Outcome::Success { slow: true }).unwrap();
    assert_eq!(transition.cause, Cause::SlowCalls);
    bench.pass(seconds(30));
    assert_eq!(
        bench.call(Outcome::Success { slow: true }).unwrap().cause,
        Cause::ProbeFailed
    );
}

#[test]
fn an_open_breaker_refuses_until_its_time_has_passed_and_late_failures_never_prolong_it() {
    let mut bench = Bench::new(exact());
    let late = bench.permit();
    bench.open();
    bench.pass(seconds(20));
    assert_eq!(bench.end(late, Outcome::FAILURE), None);
    bench.pass(Duration::from_nanos(9_999_999_999));
    assert_eq!(bench.retry_after(), Some(Duration::from_nanos(1)));
    bench.pass(Duration::from_nanos(1));
    assert!(bench.permit().is_probe());
    assert_eq!(bench.breaker.phase(), Phase::HalfOpen);
}

#[test]
fn each_reopening_in_a_row_lasts_twice_as_long_up_to_the_maximum() {
    let mut bench = Bench::new(exact());
    bench.open();
    for expected in [30, 60, 120, 240, 300, 300, 300] {
        assert_eq!(bench.retry_after(), Some(seconds(expected)));
        bench.pass(seconds(expected));
        let probe = bench.permit();
        assert_eq!(
            bench.end(probe, Outcome::FAILURE).unwrap().cause,
            Cause::ProbeFailed
        );
    }
    bench.pass(seconds(300));
    for _ in 0..3 {
        bench.call(Outcome::SUCCESS);
    }
    assert_eq!(bench.breaker.phase(), Phase::Closed);
    bench.open();
    assert_eq!(bench.retry_after(), Some(seconds(30)), "it starts over");
}

#[test]
fn a_service_that_can_not_be_reached_is_asked_again_soon() {
    let mut bench = Bench::new(exact());
    for _ in 0..5 {
        bench.call(Outcome::UNREACHABLE);
    }
    for expected in [1, 2, 4, 5, 5] {
        assert_eq!(bench.retry_after(), Some(seconds(expected)));
        bench.pass(seconds(expected));
        bench.call(Outcome::UNREACHABLE);
    }
    // It is there, and fails: from now on asking costs it something.
    bench.pass(seconds(5));
    bench.call(Outcome::FAILURE);
    for expected in [30, 60] {
        assert_eq!(bench.retry_after(), Some(seconds(expected)));
        bench.pass(seconds(expected));
        bench.call(Outcome::FAILURE);
    }
    // Gone again.
    bench.pass(seconds(120));
    bench.call(Outcome::UNREACHABLE);
    assert_eq!(bench.retry_after(), Some(seconds(5)));
}

#[test]
fn the_last_failure_says_whether_a_service_can_be_reached() {
    for (last, expected) in [(Outcome::UNREACHABLE, 1), (Outcome::FAILURE, 30)] {
        let mut bench = Bench::new(exact());
        // It breaks off what was in flight, then takes no connections.
        for outcome in [
            Outcome::FAILURE,
            Outcome::UNREACHABLE,
            Outcome::FAILURE,
            Outcome::UNREACHABLE,
            last,
        ] {
            bench.call(outcome);
        }
        assert_eq!(bench.retry_after(), Some(seconds(expected)), "{last:?}");
    }
}

#[test]
fn it_stays_open_as_long_as_all_failures_of_the_row_ask_for() {
    let opened_for = |asked: &[u32]| {
        let mut bench = Bench::new(exact());
        bench.fail_asking(asked);
        bench.retry_after()
    };
    assert_eq!(opened_for(&[60; 5]), Some(seconds(60)));
    assert_eq!(opened_for(&[60, 50, 70, 80, 90]), Some(seconds(50)));
    assert_eq!(opened_for(&[60, 60, 0, 60, 60]), Some(seconds(30)));
    assert_eq!(opened_for(&[0, 60, 60, 60, 60]), Some(seconds(30)));
    // Never shorter than it would be, never longer than the longest.
    assert_eq!(opened_for(&[1; 5]), Some(seconds(30)));
    assert_eq!(opened_for(&[86_400; 5]), Some(seconds(300)));
    let mut bench = Bench::new(BreakerSettings::default());
    bench.random = u64::MAX;
    bench.fail_asking(&[u32::MAX; 5]);
    let longest = bench.retry_after().unwrap();
    assert!(
        (seconds(329)..=seconds(330)).contains(&longest),
        "{longest:?}"
    );
}

#[test]
fn probes_that_ask_for_time_get_it_too() {
    let mut bench = Bench::new(exact());
    bench.fail_asking(&[40; 5]);
    for expected in [120, 120, 240] {
        bench.pass(seconds(299));
        bench.fail_asking(&[120]);
        assert_eq!(bench.retry_after(), Some(seconds(expected)));
    }
}

#[test]
fn a_rate_opens_for_no_longer_whatever_failures_ask_for() {
    let mut bench = Bench::new(exact());
    while bench.breaker.phase() == Phase::Closed {
        bench.call(Outcome::SUCCESS);
        bench.fail_asking(&[120]);
    }
    assert_eq!(bench.retry_after(), Some(seconds(30)));
}

#[test]
fn jitter_adds_up_to_a_tenth_and_is_drawn_once() {
    for (random, longest) in [(0, 30.0), (u64::MAX / 2, 31.5), (u64::MAX, 33.0)] {
        let mut bench = Bench::new(BreakerSettings::default());
        bench.random = random;
        bench.open();
        let first = bench.retry_after().unwrap();
        assert!((first.as_secs_f64() - longest).abs() < 0.001, "{first:?}");
        bench.random = 12_345;
        bench.pass(seconds(1));
        assert_eq!(
            bench.retry_after(),
            Some(first.checked_sub(seconds(1)).unwrap())
        );
    }
}

#[test]
fn the_limit_is_on_probes_in_flight_not_on_finished_ones() {
    let mut bench = Bench::new(BreakerSettings {
        half_open: HalfOpen {
            successes_to_close: 10,
            ..exact().half_open
        },
        ..exact()
    });
    let first = bench.half_open();
    let second = bench.permit();
    bench.permit();
    assert!(bench.retry_after().is_some());
    bench.end(first, Outcome::SUCCESS);
    bench.permit();
    assert!(bench.retry_after().is_some());
    bench.end(second, Outcome::Neutral);
    bench.permit();
    assert!(bench.retry_after().is_some());
}

#[test]
fn three_successes_close_and_neutral_ones_do_not() {
    let mut bench = Bench::new(exact());
    let probe = bench.half_open();
    bench.end(probe, Outcome::Neutral);
    for _ in 0..5 {
        assert_eq!(bench.call(Outcome::Neutral), None);
    }
    assert_eq!(bench.call(Outcome::SUCCESS), None);
    assert_eq!(bench.call(Outcome::SUCCESS), None);
    assert_eq!(
        bench.call(Outcome::SUCCESS).unwrap().cause,
        Cause::ProbesSucceeded
    );
}

#[test]
fn a_lost_probe_frees_its_place_when_its_lease_ends() {
    let mut bench = Bench::new(exact());
    bench.half_open();
    bench.permit();
    bench.permit();
    bench.pass(Duration::from_nanos(14_999_999_999));
    assert!(bench.retry_after().is_some());
    assert_eq!(bench.breaker.expired_leases(), 0);
    bench.pass(Duration::from_nanos(1));
    bench.permit();
    assert_eq!(bench.breaker.expired_leases(), 3);
}

#[test]
fn a_result_after_the_lease_still_counts_while_its_generation_lasts() {
    let mut bench = Bench::new(exact());
    let slow = bench.half_open();
    bench.pass(seconds(20));
    bench.permit();
    assert_eq!(bench.end(slow, Outcome::FAILURE).unwrap().to, Phase::Open);
}

#[test]
fn a_late_result_does_not_free_the_place_of_another_probe() {
    let mut bench = Bench::new(exact());
    let slow = bench.half_open();
    bench.pass(seconds(15));
    for _ in 0..3 {
        bench.permit();
    }
    bench.end(slow, Outcome::Neutral);
    assert!(bench.retry_after().is_some());
}

#[test]
fn a_probe_of_an_earlier_half_open_state_decides_nothing_in_a_later_one() {
    let mut bench = Bench::new(exact());
    let early = bench.half_open();
    bench.call(Outcome::FAILURE);
    bench.pass(seconds(60));
    bench.permit();
    bench.permit();
    bench.permit();
    assert_eq!(bench.end(early, Outcome::FAILURE), None);
    assert_eq!(bench.breaker.phase(), Phase::HalfOpen);
    assert!(bench.retry_after().is_some(), "nor does it free a place");
}

#[test]
fn a_call_admitted_while_closed_decides_nothing_while_half_open() {
    let mut bench = Bench::new(exact());
    let early = bench.permit();
    bench.half_open();
    for outcome in [Outcome::FAILURE, Outcome::SUCCESS, Outcome::Neutral] {
        assert_eq!(bench.end(early, outcome), None);
    }
    assert_eq!(bench.breaker.phase(), Phase::HalfOpen);
    bench.call(Outcome::SUCCESS);
    bench.call(Outcome::SUCCESS);
    assert_eq!(
        bench.breaker.phase(),
        Phase::HalfOpen,
        "the stale success was not one of three"
    );
}

#[test]
fn shadow_goes_through_the_states_and_refuses_nothing() {
    let mut bench = Bench::new(BreakerSettings {
        mode: Mode::Shadow,
        ..exact()
    });
    bench.open();
    assert_eq!(bench.ask(), Verdict::WouldRefuse);
    bench.pass(seconds(30));
    for _ in 0..3 {
        assert!(bench.permit().is_probe());
    }
    assert_eq!(bench.ask(), Verdict::WouldRefuse);
}

#[test]
fn the_other_modes_learn_nothing() {
    for (mode, refuses) in [
        (Mode::Disabled, false),
        (Mode::ForcedClosed, false),
        (Mode::ForcedOpen, true),
    ] {
        let mut bench = Bench::new(BreakerSettings { mode, ..exact() });
        for _ in 0..10 {
            assert_eq!(bench.retry_after().is_some(), refuses, "{mode:?}");
            bench.end(Permit::UNTRACKED, Outcome::FAILURE);
        }
        assert_eq!(bench.breaker.phase(), Phase::Closed);
    }
}

#[test]
fn failures_before_it_opened_are_forgotten_when_it_closes() {
    let mut bench = Bench::new(exact());
    bench.half_open();
    bench.call(Outcome::SUCCESS);
    bench.call(Outcome::SUCCESS);
    bench.pass(seconds(15));
    bench.call(Outcome::SUCCESS);
    assert_eq!(bench.breaker.phase(), Phase::Closed);
    for _ in 0..4 {
        assert_eq!(bench.call(Outcome::FAILURE), None);
    }
    assert!(bench.call(Outcome::FAILURE).is_some());
}

#[test]
fn sixty_percent_of_errors_never_five_in_a_row_open_by_the_default_rate() {
    let mut bench = Bench::new(exact());
    let mut transition = None;
    for sent in 0..20 {
        assert_eq!(transition, None);
        transition = bench.call(if sent % 5 < 3 {
            Outcome::FAILURE
        } else {
            Outcome::SUCCESS
        });
    }
    assert_eq!(transition.unwrap().cause, Cause::FailureRate);
}

#[test]
fn a_rule_that_is_off_opens_nothing() {
    let mut bench = Bench::new(BreakerSettings {
        consecutive_failures: None,
        failure_rate: None,
        ..exact()
    });
    for _ in 0..100 {
        assert_eq!(
            bench.call(Outcome::Failure {
                slow: true,
                weight: Weight::Strong
            }),
            None
        );
    }
    let mut bench = Bench::new(exact());
    for _ in 0..100 {
        assert_eq!(bench.call(Outcome::Success { slow: true }), None);
    }
}

#[test]
fn a_slow_failure_also_counts_as_slow() {
    let mut bench = Bench::new(BreakerSettings {
        consecutive_failures: None,
        failure_rate: None,
        slow_calls: Some(SlowCalls {
            longer_than: seconds(1),
            ratio: Ratio::percent(50),
            minimum_requests: 20,
        }),
        ..exact()
    });
    for _ in 0..19 {
        assert_eq!(
            bench.call(Outcome::Failure {
                slow: true,
                weight: Weight::Strong
            }),
            None
        );
    }
    let transition = bench
        .call(Outcome::Failure {
            slow: true,
            weight: Weight::Strong,
        })
        .unwrap();
    assert_eq!(transition.cause, Cause::SlowCalls);
}

#[test]
fn each_episode_has_its_own_jitter() {
    let mut bench = Bench::new(BreakerSettings::default());
    bench.open();
    assert_eq!(bench.retry_after(), Some(seconds(30)));
    bench.pass(seconds(30));
    bench.random = u64::MAX / 2 + 1;
    bench.call(Outcome::FAILURE);
    assert_eq!(bench.retry_after(), Some(seconds(63)));
}

#[test]
fn it_knows_when_its_phase_began() {
    let mut bench = Bench::new(exact());
    let begin = bench.now;
    bench.pass(seconds(7));
    bench.call(Outcome::FAILURE);
    assert_eq!(bench.breaker.since(), begin);
    bench.open();
    assert_eq!(bench.breaker.since(), begin.after(seconds(7)));
    bench.pass(seconds(31));
    bench.permit();
    assert_eq!(bench.breaker.since(), begin.after(seconds(38)));
}

#[test]
fn no_more_probes_go_out_than_there_are_places() {
    let mut bench = Bench::new(BreakerSettings {
        half_open: HalfOpen {
            max_in_flight: u8::MAX,
            ..exact().half_open
        },
        ..exact()
    });
    bench.half_open();
    for _ in 1..levee_policy::breaker::MAX_PROBES {
        bench.permit();
    }
    assert_eq!(bench.retry_after(), Some(Duration::ZERO));
}

#[test]
fn a_call_from_before_a_fixed_mode_teaches_nothing_but_frees_its_place() {
    for mode in [Mode::Disabled, Mode::ForcedOpen, Mode::ForcedClosed] {
        for outcome in [Outcome::FAILURE, Outcome::SUCCESS, Outcome::Neutral] {
            let mut bench = Bench::new(exact());
            let permits: Vec<Permit> = (0..30).map(|_| bench.permit()).collect();
            bench.settings.mode = mode;
            for permit in permits {
                assert_eq!(bench.end(permit, outcome), None, "{mode:?} {outcome:?}");
            }

            let mut bench = Bench::new(exact());
            let probes = [bench.half_open(), bench.permit(), bench.permit()];
            bench.settings.mode = mode;
            for probe in probes {
                assert_eq!(bench.end(probe, outcome), None, "{mode:?} {outcome:?}");
            }
            bench.settings.mode = Mode::Enforce;
            assert!(bench.permit().is_probe(), "{mode:?} {outcome:?}");
        }
    }
}

#[test]
fn modes_and_phases_are_at_their_numbers() {
    for (place, mode) in Mode::ALL.into_iter().enumerate() {
        assert_eq!(mode as usize, place, "{}", mode.name());
    }
    for (place, phase) in Phase::ALL.into_iter().enumerate() {
        assert_eq!(phase as usize, place, "{}", phase.name());
    }
}

#[test]
fn fixed_modes_impose_a_phase_and_forced_open_says_when_to_ask_again() {
    for (mode, learns, phase) in [
        (Mode::Enforce, true, None),
        (Mode::Shadow, true, None),
        (Mode::Disabled, false, Some(Phase::Closed)),
        (Mode::ForcedClosed, false, Some(Phase::Closed)),
        (Mode::ForcedOpen, false, Some(Phase::Open)),
    ] {
        assert_eq!(mode.learns(), learns, "{mode:?}");
        assert_eq!(mode.fixed_phase(), phase, "{mode:?}");
    }
    let mut bench = Bench::new(BreakerSettings {
        mode: Mode::ForcedOpen,
        ..exact()
    });
    assert_eq!(bench.retry_after(), Some(seconds(30)));
}
