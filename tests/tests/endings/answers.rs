//! Answers of the service.

use std::time::Duration;

use levee_harness::backend::{Behaviour, Response};
use levee_harness::grpc::{self, GrpcBehaviour, status};
use serde_json::{Value, json};

use crate::case::{Case, Service, compare_with_the_table, gateway};

const WELL: &str = "1xx, 2xx or 3xx";
const REFUSED: &str = "4xx other than 429, 501 or 505, whatever `grpc-status` comes along";
const TOO_MANY: &str = "429, or gRPC 8";
const ERROR: &str = "500, or 506 and above";
const UNAVAILABLE: &str = "502, 503 or 504";
const GRPC_ERROR: &str = "gRPC 2, 13 or 15";
const GRPC_TOO_LATE: &str = "gRPC 4 before the caller's deadline";
const AT_THE_DEADLINE: &str = "gRPC 4, or another failure, at the caller's deadline or later";
const GRPC_UNAVAILABLE: &str = "gRPC 14";
const GRPC_OTHER: &str = "any other gRPC status";
const LISTED: &str = "an answer that `failures` lists, such as 404, 429 or gRPC 5";
const LEFT_OUT: &str = "one that `failures` leaves out, such as 500, 503 or gRPC 14";
const NOT_RETRIED: &str = "a 503 that Envoy may not retry, or not any more (UO, URX)";

pub fn cases() -> Vec<Case> {
    let mut cases = of_http();
    cases.extend(of_grpc());
    cases.extend(by_rules());
    cases.extend(that_are_not_retried());
    cases
}

fn of_http() -> Vec<Case> {
    let with_grpc_status = Response::status(400).header("grpc-status", "13");
    let slow = Behaviour::Delay(Duration::from_millis(100), Response::status(200));
    let of_status = [
        (WELL, "200", 200),
        (WELL, "302", 302),
        (REFUSED, "400", 400),
        (REFUSED, "404", 404),
        (TOO_MANY, "429", 429),
        (ERROR, "500", 500),
        (REFUSED, "501", 501),
        (REFUSED, "505", 505),
        (ERROR, "506", 506),
        (ERROR, "599", 599),
        (UNAVAILABLE, "502", 502),
        (UNAVAILABLE, "503", 503),
        (UNAVAILABLE, "504", 504),
    ];
    let mut cases: Vec<Case> = of_status
        .into_iter()
        .map(|(row, what, status)| Case::get(row, what, Behaviour::status(status)))
        .collect();
    cases.push(Case::get(WELL, "200 after a while", slow));
    cases.push(Case::get(
        REFUSED,
        "400 with grpc-status 13",
        Behaviour::Answer(with_grpc_status),
    ));
    cases
}

fn of_grpc() -> Vec<Case> {
    let of_status = [
        (WELL, "OK", status::OK),
        (GRPC_OTHER, "NOT_FOUND", status::NOT_FOUND),
        (TOO_MANY, "RESOURCE_EXHAUSTED", status::RESOURCE_EXHAUSTED),
        (GRPC_ERROR, "UNKNOWN", status::UNKNOWN),
        (GRPC_ERROR, "INTERNAL", status::INTERNAL),
        (GRPC_ERROR, "DATA_LOSS", status::DATA_LOSS),
        (GRPC_TOO_LATE, "without one", status::DEADLINE_EXCEEDED),
        (GRPC_UNAVAILABLE, "UNAVAILABLE", status::UNAVAILABLE),
    ];
    let mut cases = Vec::new();
    for (row, what, status) in of_status {
        cases.push(Case::call(row, what, GrpcBehaviour::Trailers(status)));
        cases.push(Case::call(row, what, GrpcBehaviour::TrailersOnly(status)));
    }
    let late = GrpcBehaviour::Late(Duration::from_millis(250), status::DEADLINE_EXCEEDED);
    for (row, what, deadline) in [
        (GRPC_TOO_LATE, "a deadline of 20 s", "20S"),
        (AT_THE_DEADLINE, "a deadline of 200 ms", "200m"),
        (AT_THE_DEADLINE, "a deadline below a millisecond", "1n"),
    ] {
        let call = move |target: crate::case::Target| async move {
            let call = target.call().header("grpc-timeout", deadline);
            let _ = grpc::send(&call, target.gateway).await;
        };
        cases.push(Case::new(row, what, Service::Grpc(late), call));
    }
    cases
}

fn by_rules() -> Vec<Case> {
    let rules = json!({"failures": {"http": ["404", "429", "501"], "grpc": ["NOT_FOUND", 8]}});
    let http = [
        (LISTED, "404", 404),
        (LISTED, "429", 429),
        (LISTED, "501", 501),
        (LEFT_OUT, "500", 500),
        (LEFT_OUT, "503", 503),
    ];
    let grpc = [
        (LISTED, "NOT_FOUND", status::NOT_FOUND),
        (LISTED, "RESOURCE_EXHAUSTED", status::RESOURCE_EXHAUSTED),
        (LEFT_OUT, "UNKNOWN", status::UNKNOWN),
        (LEFT_OUT, "UNAVAILABLE", status::UNAVAILABLE),
    ];
    let http = http.map(|(row, what, code)| Case::get(row, what, Behaviour::status(code)));
    let grpc =
        grpc.map(|(row, what, status)| Case::call(row, what, GrpcBehaviour::Trailers(status)));
    (http.into_iter().chain(grpc))
        .map(|case| case.settings(rules.clone()))
        .collect()
}

/// A route that retries.
pub fn retries(on: &str) -> Value {
    json!({"route": {"retry_policy": {
        "retry_on": on, "num_retries": 1, "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.010s"},
    }}})
}

/// A cluster whose limit of retries is reached at once.
pub fn no_retry_left() -> Value {
    json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}})
}

fn that_are_not_retried() -> Vec<Case> {
    let fails = || Behaviour::status(503);
    let budget = json!({"circuit_breakers": {"thresholds": [
        {"retry_budget": {"budget_percent": {"value": 1.0}, "min_retry_concurrency": 0}},
    ]}});
    let many = json!({"circuit_breakers": {"thresholds": [{"max_retries": 100}]}});
    let limits = [
        ("max_retries", no_retry_left()),
        ("a retry budget", budget),
        ("all retries failed", many),
    ];
    limits
        .into_iter()
        .map(|(what, limit)| {
            Case::get(NOT_RETRIED, what, fails())
                .route(retries("5xx"))
                .cluster(limit)
        })
        .collect()
}

#[tokio::test]
async fn answers_are_counted_as_the_table_says() {
    compare_with_the_table(gateway(), cases()).await;
}
