//! Weak failures, and how many callers must have seen them.

use std::cell::Cell;
use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::envoy::Envoy;
use levee_harness::wait;
use serde_json::{Value, json};

use crate::callers_by_address::{ask_as, gateway, gateway_that_trusts, is_open, opens};

const FIRST: &str = "192.0.2.1";
const SECOND: &str = "192.0.2.2";
/// Longer than other workers take to report whom they have answered.
const OTHERS_REPORT: Duration = Duration::from_millis(20);

/// `video` answers 500 to requests of [`FIRST`] or of all.
async fn start(fails_for_all: bool, breaker: Value) -> (Backend, Envoy) {
    let video = Backend::start().unwrap();
    video.choose(move |_, request| {
        let is_first = request
            .header("x-forwarded-for")
            .is_some_and(|callers| callers.starts_with(FIRST.as_bytes()));
        Behaviour::status(if fails_for_all || is_first { 500 } else { 200 })
    });
    let envoy = gateway(|config| {
        let config = config.upstream("video", video.address());
        config.plugin(&json!({"breaker": breaker}))
    })
    .await;
    (video, envoy)
}

#[tokio::test]
async fn five_weak_failures_of_two_callers_open_the_breaker() {
    let (video, envoy) = start(true, json!({})).await;
    assert_eq!(ask_as(&envoy, FIRST).await.status, 500);
    tokio::time::sleep(OTHERS_REPORT).await;
    for caller in [FIRST, FIRST, FIRST, SECOND] {
        assert_eq!(ask_as(&envoy, caller).await.status, 500);
    }
    opens(&envoy).await;
    assert!(ask_as(&envoy, SECOND).await.is_refusal());
    assert_eq!(video.requests(), 5);
}

/// How many failures a caller that is alone sees until it is refused.
async fn failures_of_one_caller(envoy: &Envoy) -> usize {
    let failures = Cell::new(0);
    wait::until("a refusal", wait::GENEROUS, || async {
        if ask_as(envoy, FIRST).await.is_refusal() {
            return Ok(());
        }
        failures.set(failures.get() + 1);
        Err(format!("{} failures", failures.get()))
    })
    .await
    .unwrap();
    failures.get()
}

#[tokio::test]
async fn the_first_caller_of_a_service_opens_the_breaker_by_fifteen_weak_failures() {
    let (_video, envoy) = start(true, json!({})).await;
    let failures = failures_of_one_caller(&envoy).await;
    assert!(failures >= 15, "{failures}");
}

#[tokio::test]
async fn a_caller_that_is_alone_opens_the_breaker_once_others_would_have_been_answered() {
    let (video, envoy) = start(true, json!({})).await;
    video.next(vec![Behaviour::status(200); 30]);
    for _ in 0..30 {
        assert_eq!(ask_as(&envoy, FIRST).await.status, 200);
    }
    let failures = failures_of_one_caller(&envoy).await;
    assert!(failures >= 15, "{failures}");
}

#[tokio::test]
async fn one_caller_opens_nothing_while_another_is_answered_well() {
    let (_video, envoy) = start(false, json!({})).await;
    for _ in 0..10 {
        assert_eq!(ask_as(&envoy, SECOND).await.status, 200);
        for _ in 0..30 {
            assert_eq!(ask_as(&envoy, FIRST).await.status, 500);
        }
    }
    assert!(!is_open(&envoy).await);
}

#[tokio::test]
async fn with_one_witness_weak_failures_are_as_good_as_strong_ones() {
    let (video, envoy) = start(true, json!({"witnesses": 1})).await;
    for _ in 0..5 {
        assert_eq!(ask_as(&envoy, FIRST).await.status, 500);
    }
    opens(&envoy).await;
    assert_eq!(video.requests(), 5);
}

/// Five weak failures by turns of two addresses that one client makes up.
async fn fail_as_two(trust: Value) -> Envoy {
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(500));
    let envoy =
        gateway_that_trusts(trust, |config| config.upstream("video", video.address())).await;
    assert_eq!(ask_as(&envoy, FIRST).await.status, 500);
    tokio::time::sleep(OTHERS_REPORT).await;
    for caller in [SECOND, FIRST, SECOND, FIRST] {
        assert_eq!(ask_as(&envoy, caller).await.status, 500);
    }
    envoy
}

#[tokio::test]
async fn an_edge_that_trusts_nobody_takes_a_client_for_one_caller_whatever_it_sends() {
    let edge = json!({"use_remote_address": true, "xff_num_trusted_hops": 0});
    assert!(!is_open(&fail_as_two(edge).await).await);
}

#[tokio::test]
async fn an_edge_that_trusts_everybody_lets_one_client_be_two_callers() {
    let envoy = fail_as_two(json!({"use_remote_address": false})).await;
    opens(&envoy).await;
}
