//! One breaker for the whole process, for any number of workers.

use std::collections::BTreeSet;
use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::{Connection, Request};
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::wait;
use serde_json::{Value, json};

const VIDEO: &str = "/v1/video/x";
const WORKERS: u32 = 4;
/// How soon after the fifth failure every worker must refuse. Typically it takes a hundredth of this.
const SOON: Duration = Duration::from_millis(500);

async fn gateway(video: &Backend, plugin: Value) -> Envoy {
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&plugin);
    Envoy::start_with(
        config,
        &Start {
            concurrency: WORKERS,
            ..Start::default()
        },
    )
    .await
    .unwrap()
}

/// Opens connections until each worker has one, and returns one for each worker.
async fn one_for_each_worker(envoy: &Envoy) -> Vec<Connection> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut known: BTreeSet<String> = workers_with_connections(envoy).await;
    assert!(known.is_empty(), "no connection was made before: {known:?}");
    for _ in 0..200 {
        let mut connection = Connection::open(envoy.address()).await.unwrap();
        // A route without a service: the connection is certainly served, and no breaker sees it.
        assert_eq!(
            connection
                .send(&Request::get("/nowhere"))
                .await
                .unwrap()
                .status,
            404
        );
        let now = workers_with_connections(envoy).await;
        if now.len() > known.len() {
            known = now;
            connections.push(connection);
        }
        if known.len() == WORKERS as usize {
            return connections;
        }
    }
    panic!("200 connections reached only these workers: {known:?}");
}

async fn workers_with_connections(envoy: &Envoy) -> BTreeSet<String> {
    let metrics = envoy.metrics().await.unwrap();
    metrics
        .named("envoy_listener_worker_downstream_cx_total")
        .filter(|series| series.value > 0.0)
        .map(|series| series.labels["envoy_worker_id"].clone())
        .collect()
}

#[tokio::test]
async fn five_failures_on_any_workers_open_it_for_all_and_all_refuse_soon() {
    // How the failures are distributed over the workers.
    for pattern in [[0, 0, 0, 0, 0], [0, 1, 2, 3, 0], [3, 3, 1, 1, 2]] {
        let video = Backend::start().unwrap();
        let envoy = gateway(&video, json!({})).await;
        let mut connections = one_for_each_worker(&envoy).await;
        // Each worker has seen the service work: only a message from another worker can change that.
        for connection in &mut connections {
            let answer = connection.send(&Request::get(VIDEO)).await.unwrap();
            assert_eq!(answer.status, 200);
        }
        video.always(Behaviour::status(502));
        for worker in pattern {
            let answer = connections[worker]
                .send(&Request::get(VIDEO))
                .await
                .unwrap();
            assert_eq!(answer.status, 502, "not yet open");
        }
        tokio::time::sleep(SOON).await;
        for (worker, connection) in connections.iter_mut().enumerate() {
            let answer = connection.send(&Request::get(VIDEO)).await.unwrap();
            assert!(
                answer.is_refusal(),
                "{pattern:?}: worker {worker} let a request through"
            );
        }
        assert_eq!(video.requests(), 4 + 5);
        let rejected = [("service", "video"), ("outcome", "rejected")];
        envoy
            .wait_for_metric("circuit_breaker_requests_total", &rejected, 4.0)
            .await
            .unwrap();
        let to_open = [("service", "video"), ("to", "open")];
        envoy
            .wait_for_metric("circuit_breaker_transitions_total", &to_open, 1.0)
            .await
            .unwrap();
    }
}

/// Measured on an idle machine: 1 to 2 ms, the time of the four requests themselves.
#[tokio::test]
async fn after_the_fifth_failure_workers_let_through_few_requests_if_any() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(502));
    let envoy = gateway(&video, json!({})).await;
    let mut connections = one_for_each_worker(&envoy).await;
    for _ in 0..5 {
        connections[0].send(&Request::get(VIDEO)).await.unwrap();
    }
    let opened = Stopwatch::start();
    for connection in &mut connections {
        while !connection
            .send(&Request::get(VIDEO))
            .await
            .unwrap()
            .is_refusal()
        {
            assert!(
                opened.elapsed() < SOON,
                "a worker still lets requests through"
            );
        }
    }
    println!(
        "all workers refused after {:?}; {} slipped through",
        opened.elapsed(),
        video.requests() - 5
    );
}

#[tokio::test]
async fn a_success_on_one_worker_ends_a_row_of_failures_on_another() {
    let video = Backend::start().unwrap();
    let envoy = gateway(
        &video,
        json!({"breaker": {"failure_rate": {"ratio": 1.0, "minimum_requests": 1000}}}),
    )
    .await;
    let mut connections = one_for_each_worker(&envoy).await;
    for round in 0..3 {
        video.next([502, 502, 502, 502, 200].map(Behaviour::status));
        for worker in [0, 0, 1, 1] {
            let answer = connections[worker]
                .send(&Request::get(VIDEO))
                .await
                .unwrap();
            assert_eq!(answer.status, 502, "round {round}");
        }
        // The worker must know of the row of failures before its success can end it, and nothing exposes that.
        tokio::time::sleep(SOON).await;
        assert_eq!(
            connections[2]
                .send(&Request::get(VIDEO))
                .await
                .unwrap()
                .status,
            200
        );
    }
    let to_open = [("service", "video"), ("to", "open")];
    envoy
        .wait_for_metric("circuit_breaker_transitions_total", &to_open, 0.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn probes_are_counted_over_all_workers_and_all_see_it_close() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(502));
    // With two witnesses one caller would get one place at a time.
    let settings = json!({"breaker": {"open_for": "300ms", "witnesses": 1}});
    let envoy = gateway(&video, settings).await;
    let mut connections = one_for_each_worker(&envoy).await;
    for worker in [0, 1, 2, 3, 0] {
        connections[worker]
            .send(&Request::get(VIDEO))
            .await
            .unwrap();
    }
    let before = video.requests();
    video.always(Behaviour::Stall);
    // Many clients on all workers, repeatedly: never more than three requests at the backend.
    let crowds = wait::until("three probes in flight", wait::GENEROUS, || async {
        let crowd = levee_harness::raw::Crowd::ask(envoy.address(), VIDEO, 20)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if video.seen().in_flight == 3 {
            Ok(crowd)
        } else {
            Err(video.seen().in_flight)
        }
    })
    .await
    .unwrap();
    assert_eq!(
        (video.seen().most_in_flight, video.requests()),
        (3, before + 3)
    );
    video.always(Behaviour::status(200));
    crowds.leave();
    video.wait_in_flight(0).await.unwrap();
    for (worker, connection) in connections.iter_mut().enumerate() {
        let what = format!("worker {worker} to let requests through");
        let waited = Stopwatch::start();
        while connection
            .send(&Request::get(VIDEO))
            .await
            .unwrap()
            .is_refusal()
        {
            assert!(waited.elapsed() < wait::GENEROUS, "{what}");
        }
    }
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "video")], 0.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn errors_spread_over_all_workers_open_by_the_rate() {
    let video = Backend::start().unwrap();
    video.fail_per_thousand(100);
    let rate = json!({"breaker": {"failure_rate": {"ratio": 0.05}}});
    let envoy = gateway(&video, rate).await;
    let mut connections = one_for_each_worker(&envoy).await;
    let mut sent = 0;
    'sending: loop {
        for connection in &mut connections {
            let answer = connection.send(&Request::get(VIDEO)).await.unwrap();
            if answer.is_refusal() {
                break 'sending;
            }
            sent += 1;
            assert!(sent < 10_000, "10 % errors should have opened it");
        }
    }
    assert!(sent >= 20, "{sent}: fewer than the minimum");
    envoy
        .wait_for_log("video: Closed to Open, FailureRate")
        .await
        .unwrap();
}
