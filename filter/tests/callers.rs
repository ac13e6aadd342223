//! Several workers whose callers differ: they count whose failures there are as one.

mod fake;

use fake::{Call, End, Gateway, Stream};
use std::time::Duration;

const WORKERS: usize = 4;
const ATTACKER: &str = "198.51.100.1";
const HONEST: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

/// A failure that a caller may have brought about.
const WEAK: End = End::Status(500);

/// In this time other workers tell whom they have answered.
const OTHERS_REPORT: Duration = Duration::from_millis(10);

fn request_of(caller: &str) -> Stream {
    Stream {
        cluster: b"auth".to_vec(),
        source: format!("{caller}:4711").into_bytes(),
        ..Stream::default()
    }
}

/// A whole request of `caller`. Returns whether it was let through.
fn ask(gateway: &mut Gateway, worker: usize, caller: &str, end: End) -> bool {
    let call = gateway.begin_stream(worker, request_of(caller));
    if call.was_refused {
        return false;
    }
    gateway.end(call, end);
    true
}

fn all_refuse(gateway: &mut Gateway) {
    for worker in 0..WORKERS {
        assert!(!ask(gateway, worker, HONEST, WEAK), "worker {worker}");
    }
}

#[test]
fn weak_failures_of_two_callers_open_it_at_the_fifth_on_whichever_workers_they_are_seen() {
    for calls in [
        [
            (0, HONEST),
            (1, OTHER),
            (0, HONEST),
            (1, OTHER),
            (0, HONEST),
        ],
        [
            (0, HONEST),
            (1, HONEST),
            (2, HONEST),
            (3, HONEST),
            (0, OTHER),
        ],
        [
            (3, OTHER),
            (0, HONEST),
            (1, HONEST),
            (0, HONEST),
            (1, HONEST),
        ],
    ] {
        let mut gateway = Gateway::new(WORKERS, "");
        for (worker, caller) in calls {
            assert!(ask(&mut gateway, worker, caller, WEAK), "{calls:?}");
            gateway.pass_without_ticks(OTHERS_REPORT);
        }
        all_refuse(&mut gateway);
    }
}

#[test]
fn weak_failures_of_one_caller_on_all_workers_are_one_callers() {
    let mut gateway = Gateway::new(WORKERS, "");
    for number in 0..15 {
        assert!(
            ask(&mut gateway, number % WORKERS, HONEST, WEAK),
            "{number}"
        );
        // Fifteen of them take more than the five seconds in which somebody else may be answered.
        gateway.pass_without_ticks(Duration::from_millis(360));
    }
    all_refuse(&mut gateway);
}

#[test]
fn a_plugin_that_ends_says_whom_it_has_answered() {
    let mut gateway = Gateway::new(2, "");
    assert!(ask(&mut gateway, 1, HONEST, End::Status(200)));
    gateway.end_plugin(1);
    for _ in 0..100 {
        assert!(ask(&mut gateway, 0, ATTACKER, WEAK));
        gateway.pass(Duration::from_millis(100));
    }
}

#[test]
fn one_caller_on_one_worker_opens_nothing_while_another_worker_answers_others() {
    let mut gateway = Gateway::new(WORKERS, "");
    for _ in 0..600 {
        assert!(ask(&mut gateway, 1, HONEST, End::Status(200)));
        for _ in 0..50 {
            assert!(ask(&mut gateway, 0, ATTACKER, WEAK));
        }
        gateway.pass(Duration::from_millis(100));
    }
}

#[test]
fn one_caller_opens_nothing_by_bursts_between_good_calls_of_others_on_another_worker() {
    let mut gateway = Gateway::new(WORKERS, "");
    for _ in 0..20 {
        for _ in 0..20 {
            assert!(ask(&mut gateway, 1, HONEST, End::Status(200)));
        }
        for _ in 0..20 {
            assert!(ask(&mut gateway, 0, ATTACKER, WEAK));
            gateway.pass(Duration::from_millis(150));
        }
    }
}

#[test]
fn one_caller_opens_nothing_after_another_worker_has_answered_others() {
    let mut gateway = Gateway::new(WORKERS, "");
    for _ in 0..10 {
        assert!(ask(&mut gateway, 1, HONEST, End::Status(200)));
        gateway.pass(Duration::from_millis(100));
    }
    for _ in 0..250 {
        assert!(ask(&mut gateway, 0, ATTACKER, WEAK));
        gateway.pass(Duration::from_millis(100));
    }
}

#[test]
fn a_burst_waits_for_the_news_of_whom_another_worker_has_answered() {
    let mut gateway = Gateway::new(WORKERS, "");
    for worker in 0..WORKERS {
        assert!(ask(&mut gateway, worker, ATTACKER, End::Status(200)));
    }
    gateway.pass(Duration::from_mins(1));
    assert!(ask(&mut gateway, 1, HONEST, End::Status(200)));
    for _ in 0..2 {
        let calls: Vec<Call> = (0..50)
            .map(|_| gateway.begin_quietly(0, request_of(ATTACKER)))
            .collect();
        for call in calls {
            assert!(!call.was_refused);
            gateway.end_quietly(call, WEAK);
        }
        gateway.deliver();
        gateway.pass_without_ticks(OTHERS_REPORT);
    }
    assert!(ask(&mut gateway, 1, HONEST, End::Status(200)));
}
