//! Requests over HTTP/3 are judged as those over HTTP/1.1 and 2.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::certificate::Certificate;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::go_client::http3;
use levee_harness::wait::{self, GENEROUS};
use serde_json::{Value, json};
use tempfile::TempDir;

const VIDEO: &str = "/v1/video/x";
const REFUSED: &str = "503 circuit_open";

struct Gateway {
    envoy: Envoy,
    certificate: Certificate,
    _directory: TempDir,
}

impl Gateway {
    async fn start(video: &Backend, plugin: Value) -> Self {
        Self::start_with(video, plugin, json!({})).await
    }

    /// As [`Self::start`]. `manager` is merged into the connection manager.
    async fn start_with(video: &Backend, plugin: Value, manager: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificate = Certificate::make_in(directory.path()).unwrap();
        let config = EnvoyConfig::gateway()
            .upstream("video", video.address())
            .plugin(&plugin)
            .connection_manager(&manager)
            .http3(&certificate);
        let envoy = Envoy::start(config).await.unwrap();
        Self {
            envoy,
            certificate,
            _directory: directory,
        }
    }

    /// Sends requests one after the other on one connection.
    async fn ask(&self, count: usize) -> Vec<String> {
        self.ask_for(count, GENEROUS).await
    }

    /// As [`Self::ask`]. Each is cancelled after `deadline`.
    async fn ask_for(&self, count: usize, deadline: Duration) -> Vec<String> {
        let (to, certificate) = (self.envoy.address(), &self.certificate);
        http3(to, VIDEO, certificate, count, deadline)
            .await
            .unwrap()
    }

    /// Waits until this much has been counted as success, failure and neutral.
    async fn counts(&self, wanted: [f64; 3]) {
        let what = format!("{wanted:?} to be counted");
        wait::until(&what, GENEROUS, || async {
            let metrics = self.envoy.metrics().await.unwrap();
            let counted = ["success", "failure", "neutral"].map(|outcome| {
                let labels = [("service", "video"), ("outcome", outcome)];
                metrics.sum("circuit_breaker_requests_total", &labels)
            });
            if counted.as_slice() == wanted {
                Ok(())
            } else {
                Err(format!("{counted:?}"))
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn good_requests_are_counted_once_each() {
    let video = Backend::start().unwrap();
    let gateway = Gateway::start(&video, json!({})).await;
    assert_eq!(gateway.ask(20).await, ["200"; 20]);
    video.always(Behaviour::status(404));
    assert_eq!(gateway.ask(5).await, ["404"; 5]);
    gateway.counts([25.0, 0.0, 0.0]).await;
}

#[tokio::test]
async fn a_failing_service_opens_its_breaker_and_closes_it_when_it_is_well_again() {
    let video = Backend::start().unwrap();
    let gateway = Gateway::start(&video, json!({"breaker": {"open_for": "1s"}})).await;
    video.always(Behaviour::status(503));
    let answers = gateway.ask(10).await;
    assert_eq!(answers[..5], ["503"; 5]);
    assert_eq!(answers[5..], [REFUSED; 5]);
    assert_eq!(video.requests(), 5);
    gateway.counts([0.0, 5.0, 0.0]).await;
    video.always(Behaviour::status(200));
    wait::until("it to close", GENEROUS, || async {
        let answers = gateway.ask(10).await;
        if answers == ["200"; 10] {
            Ok(())
        } else {
            Err(answers.join(", "))
        }
    })
    .await
    .unwrap();
    let closed = [("service", "video"), ("to", "closed")];
    gateway
        .envoy
        .wait_for_metric("circuit_breaker_transitions_total", &closed, 1.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn time_limits_and_connections_that_fail_open_it_too() {
    let video = Backend::start().unwrap();
    let limits = json!({"timeouts": {"response_header": "100ms"}});
    let gateway = Gateway::start(&video, limits).await;
    video.always(Behaviour::Stall);
    assert_eq!(gateway.ask(3).await, ["504"; 3]);
    gateway.counts([0.0, 3.0, 0.0]).await;
    let kinds = [("service", "video"), ("kind", "response_header")];
    gateway
        .envoy
        .wait_for_metric("proxy_request_timeout_total", &kinds, 3.0)
        .await
        .unwrap();
    video.refuse();
    assert_eq!(gateway.ask(3).await, ["503", "503", REFUSED]);
    gateway.counts([0.0, 5.0, 0.0]).await;
}

#[tokio::test]
async fn only_the_http_status_of_a_grpc_answer_counts() {
    let video = Backend::start().unwrap();
    let gateway = Gateway::start(&video, json!({})).await;
    let unavailable = Response::status(200).header("grpc-status", "14");
    video.always(Behaviour::Answer(unavailable));
    assert_eq!(gateway.ask(10).await, ["200"; 10]);
    gateway.counts([10.0, 0.0, 0.0]).await;
}

#[tokio::test]
async fn an_answer_of_envoys_own_with_another_status_is_taken_for_one_that_has_stalled() {
    let video = Backend::start().unwrap();
    let limits = json!({"timeouts": {"response_header": "100ms"}});
    let rewrites = json!({"local_reply_config": {"mappers": [{
        "filter": {"status_code_filter": {"comparison": {
            "op": "EQ", "value": {"default_value": 504, "runtime_key": "none"},
        }}},
        "status_code": 200,
    }]}});
    let gateway = Gateway::start_with(&video, limits, rewrites).await;
    video.always(Behaviour::Stall);
    assert_eq!(gateway.ask(5).await, ["200"; 5]);
    // Weak failures of one caller: fifteen would open it.
    gateway.counts([0.0, 5.0, 0.0]).await;
    assert_eq!(gateway.ask(1).await, ["200"]);
}

#[tokio::test]
async fn a_client_that_leaves_after_a_long_wait_is_unanswered() {
    let video = Backend::start().unwrap();
    let gateway = Gateway::start(&video, json!({})).await;
    video.always(Behaviour::Stall);
    gateway.ask_for(2, Duration::from_millis(1_500)).await;
    gateway.counts([0.0, 0.0, 2.0]).await;
    let labels = [("service", "video")];
    gateway
        .envoy
        .wait_for_metric("circuit_breaker_unanswered_total", &labels, 2.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_is_neutral() {
    let video = Backend::start().unwrap();
    let gateway = Gateway::start(&video, json!({})).await;
    video.always(Behaviour::Stall);
    let answers = gateway.ask_for(6, Duration::from_millis(50)).await;
    assert!(
        answers.iter().all(|answer| answer.starts_with("error")),
        "{answers:?}"
    );
    gateway.counts([0.0, 0.0, 6.0]).await;
    video.always(Behaviour::status(200));
    assert_eq!(gateway.ask(1).await, ["200"]);
}
