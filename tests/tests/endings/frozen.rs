//! An Envoy that stood still.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::process::Signal;
use levee_harness::wait;
use serde_json::json;
use tokio::task::JoinSet;

use crate::case::{counted, gateway};
use crate::page;

const FROZEN: &str = "a time limit or reset after Envoy stood still for 1 s or more";

pub const ROWS: [&str; 1] = [FROZEN];

const REQUESTS: u32 = 20;

#[tokio::test]
async fn an_envoy_that_stood_still_counts_its_absence_as_nobodys_failure() {
    let wanted = page::outcome_of(FROZEN);
    let video = Backend::start().unwrap();
    let answer = Response::status(200);
    video.always(Behaviour::Delay(Duration::from_millis(500), answer));
    let config = gateway()
        .without_health_checks()
        .upstream("video", video.address())
        .plugin(&json!({"timeouts": {"class": "short", "classes": {"short": "1s"}}}));
    let mut envoy = Envoy::start(config).await.unwrap();
    let mut requests = JoinSet::new();
    for _ in 0..REQUESTS {
        let gateway = envoy.address();
        requests.spawn(async move { Request::get("/v1/video/x").send(gateway).await });
    }
    video.wait_in_flight(REQUESTS as usize).await.unwrap();
    envoy.signal(Signal::Stop);
    // What the class allows must be over, and it must be noticed.
    tokio::time::sleep(Duration::from_secs(3)).await;
    envoy.signal(Signal::Continue);
    for answer in requests.join_all().await {
        assert_eq!(answer.unwrap().status, 504);
    }
    wait::until("the requests to be counted", wait::GENEROUS / 4, || async {
        let metrics = envoy.metrics().await.unwrap();
        let seen = counted(&metrics, "video", &wanted.label);
        if seen == REQUESTS {
            Ok(())
        } else {
            Err(metrics.show("circuit_breaker_requests_total"))
        }
    })
    .await
    .unwrap();
    let after = envoy.get("/v1/video/x").await.unwrap();
    assert_eq!(after.status, 200, "the breaker is closed");
}
