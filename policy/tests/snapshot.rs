//! A breaker is stored as bytes and read back.

use levee_policy::breaker::{Breaker, BreakerSettings, Outcome, Permit, Report, Verdict};
use levee_policy::callers::Caller;
use levee_policy::replica::{Recorded, Replica, Visit};
use levee_policy::time::Instant;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn breaker_after(calls: &[(u32, u8)]) -> (Breaker, Instant) {
    let settings = BreakerSettings::default();
    let mut now = Instant::from_nanos(7);
    let mut breaker = Breaker::new(&settings, now);
    for (millis, outcome) in calls {
        now = now.after(Duration::from_millis(u64::from(*millis)));
        if let (Verdict::Admit(permit), _) = breaker.admit(&settings, now) {
            let caller = Caller::from_hash(u32::from(outcome / 10));
            let outcome = match outcome % 10 {
                0..2 => Outcome::FAILURE,
                2..5 => Outcome::WEAK_FAILURE,
                5 => Outcome::Unanswered,
                6 => Outcome::Success { slow: true },
                7 => Outcome::SUCCESS,
                8 => Outcome::Neutral,
                _ => continue, // lost
            };
            let report = Report {
                caller,
                again_after_secs: *millis,
                ..Report::new(permit, outcome)
            };
            breaker.report(&settings, report, now, u64::MAX);
        }
    }
    (breaker, now)
}

#[test]
fn another_layout_or_length_is_not_read() {
    let (breaker, _) = breaker_after(&[]);
    let bytes = breaker.to_bytes();
    assert!(Breaker::from_bytes(&bytes).is_some());
    for length in 0..bytes.len() {
        assert_eq!(Breaker::from_bytes(&bytes[..length]), None);
    }
    assert_eq!(Breaker::from_bytes(&[&bytes[..], &[0]].concat()), None);
    let mut other = bytes;
    other[0] += 1;
    assert_eq!(Breaker::from_bytes(&other), None);
    let mut no_state = bytes;
    no_state[1] = 3;
    assert_eq!(Breaker::from_bytes(&no_state), None);
}

/// Numbers at the ends of their ranges, which evenly distributed bytes never reach.
fn extreme_bytes() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![Just(0), Just(1), Just(u32::MAX), any::<u32>()];
    let length = Breaker::new(&BreakerSettings::default(), Instant::default())
        .to_bytes()
        .len();
    vec(word, length.div_ceil(4)).prop_map(move |words| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Numbers start after the layout and the state.
        bytes.rotate_right(2);
        bytes.truncate(length);
        bytes
    })
}

fn extreme_number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()]
}

#[test]
fn no_bytes_make_an_untracked_call_count() {
    let settings = BreakerSettings::default();
    let now = Instant::from_nanos(7);
    let mut bytes = Breaker::new(&settings, now).to_bytes();
    bytes[10..14].fill(0); // the generation
    let mut breaker = Breaker::from_bytes(&bytes).unwrap();
    for _ in 0..5 {
        let untracked = Permit::UNTRACKED;
        assert_eq!(
            breaker.record(&settings, untracked, Outcome::FAILURE, now, 0),
            None
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn a_breaker_is_read_back_unchanged(calls in vec((0_u32..20_000, any::<u8>()), 0..100)) {
        let (breaker, _) = breaker_after(&calls);
        prop_assert_eq!(Breaker::from_bytes(&breaker.to_bytes()), Some(breaker));
    }

    #[test]
    fn no_bytes_cause_a_panic(
        bytes in extreme_bytes(),
        state in 0_u8..3,
        window in extreme_number(),
        now in extreme_number(),
        step in extreme_number(),
    ) {
        let mut bytes = bytes;
        (bytes[0], bytes[1]) = (5, state);
        let Some(mut breaker) = Breaker::from_bytes(&bytes) else {
            return Err(TestCaseError::fail("the layout is right"));
        };
        let settings = BreakerSettings {
            window: Duration::from_nanos(window),
            ..BreakerSettings::default()
        };
        let mut now = Instant::from_nanos(now);
        let mut replica = Replica::new(&settings, &breaker, now);
        for outcome in [
            Outcome::SUCCESS, Outcome::FAILURE, Outcome::Neutral, Outcome::WEAK_FAILURE,
            Outcome::Unanswered, Outcome::SUCCESS, Outcome::FAILURE,
        ] {
            if let (Verdict::Admit(permit), _) = breaker.admit(&settings, now) {
                breaker.record(&settings, permit, outcome, now, u64::MAX);
            }
            let visited = replica.visit(&settings, &mut breaker, Visit::Admit(Caller::UNKNOWN), now, 0);
            replica.adopt(&breaker, now);
            if let Some(Verdict::Admit(permit)) = visited.verdict
                && replica.record(permit, outcome, now) == Recorded::VisitNeeded
            {
                let visit = Visit::Record(Report::new(permit, outcome));
                let _ = replica.visit(&settings, &mut breaker, visit, now, 0);
                replica.adopt(&breaker, now);
            }
            now = now.after(Duration::from_nanos(step));
        }
    }
}

/// An open breaker of another process, whose clock was `ahead` of the current one.
fn open_and_ahead_by(ahead: Duration) -> (Breaker, Instant) {
    let settings = BreakerSettings::default();
    let now = Instant::from_nanos(1_000_000_000_000);
    let theirs = now.after(ahead);
    let mut breaker = Breaker::new(&settings, theirs);
    for _ in 0..5 {
        let (Verdict::Admit(permit), _) = breaker.admit(&settings, theirs) else {
            panic!("closed");
        };
        breaker.record(&settings, permit, Outcome::FAILURE, theirs, 0);
    }
    (breaker, now)
}

#[test]
fn a_resumed_breaker_stays_open_for_the_rest_of_its_time() {
    let settings = BreakerSettings::default();
    let (breaker, now) = open_and_ahead_by(Duration::ZERO);
    let mut resumed = breaker.resumed(&settings, now);
    let before = now.after(Duration::from_secs(29));
    assert!(matches!(
        resumed.admit(&settings, before).0,
        Verdict::Refuse { .. }
    ));
    let after = now.after(Duration::from_secs(30));
    assert!(matches!(resumed.admit(&settings, after).0, Verdict::Admit(probe) if probe.is_probe()));
}

#[test]
fn a_clock_set_back_between_two_processes_keeps_no_breaker_open_forever() {
    let settings = BreakerSettings::default();
    let (breaker, now) = open_and_ahead_by(Duration::from_hours(1000));
    let mut resumed = breaker.resumed(&settings, now);
    assert_eq!(resumed.since(), now);
    let longest = now.after(Duration::from_mins(5).mul_f64(1.1));
    assert!(matches!(
        resumed.admit(&settings, longest).0,
        Verdict::Admit(_)
    ));
}

#[test]
fn probes_of_a_previous_process_hold_no_places() {
    let settings = BreakerSettings::default();
    let (mut breaker, now) = open_and_ahead_by(Duration::ZERO);
    let due = now.after(Duration::from_secs(30));
    for _ in 0..3 {
        assert!(matches!(breaker.admit(&settings, due).0, Verdict::Admit(_)));
    }
    let mut resumed = breaker.clone().resumed(&settings, due);
    assert!(matches!(
        breaker.admit(&settings, due).0,
        Verdict::Refuse { .. }
    ));
    assert!(matches!(resumed.admit(&settings, due).0, Verdict::Admit(_)));
}

#[test]
fn calls_from_the_future_are_not_counted() {
    let settings = BreakerSettings {
        consecutive_failures: None,
        ..BreakerSettings::default()
    };
    let now = Instant::from_nanos(1_000_000_000_000);
    let theirs = now.after(Duration::from_hours(1));
    let mut breaker = Breaker::new(&settings, theirs);
    let (Verdict::Admit(permit), _) = breaker.admit(&settings, theirs) else {
        panic!("closed");
    };
    for _ in 0..19 {
        breaker.record(&settings, permit, Outcome::FAILURE, theirs, 0);
    }
    let mut resumed = breaker.resumed(&settings, now);
    assert_eq!(
        resumed.record(&settings, permit, Outcome::FAILURE, now, 0),
        None
    );
}
