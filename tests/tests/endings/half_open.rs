//! Probes that last, and probes whose failure Envoy marks as its own overflow.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::{Connection, Request, Unread};
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour, status};
use levee_harness::raw::RawConnection;
use levee_harness::wait;
use serde_json::json;

use crate::answers::{no_retry_left, retries};
use crate::case::gateway;
use crate::page;

const LIVES: &str =
    "a probe whose good response headers have come, and that has lived for 1 s since";
const UPLOADS: &str = "a probe whose upload is not complete after 1 s";

pub const ROWS: [&str; 2] = [LIVES, UPLOADS];

const PATH: &str = "/v1/video/levee.Demo/Call";

/// A gateway to `video`, whose breaker stays open for a second. Three probes at once, three successes close it.
fn config() -> EnvoyConfig {
    gateway()
        .without_health_checks()
        .plugin(&json!({"breaker": {"open_for": "1s"}}))
}

/// Waits until the breaker has this state.
async fn state(envoy: &Envoy, wanted: f64) {
    let labels = [("service", "video")];
    let seen = envoy.wait_for_metric("circuit_breaker_state", &labels, wanted);
    seen.await.unwrap();
}

const CLOSED: f64 = 0.0;
const OPEN: f64 = 1.0;

/// Opens the breaker by five calls that fail.
async fn open(envoy: &Envoy, call: &Request) {
    for _ in 0..5 {
        let _ = grpc::send(call, envoy.address()).await;
    }
    state(envoy, OPEN).await;
}

/// Waits until a stream is let through and its headers are there, and keeps it open.
async fn begin_stream(envoy: &Envoy, call: &Request) -> (Connection, Unread) {
    wait::until("a stream to begin", wait::GENEROUS, || async {
        let mut connection = Connection::open_http2(envoy.address()).await.unwrap();
        let answer = connection.send_unread(call).await.unwrap();
        if answer.is_refusal() {
            Err("refused")
        } else {
            Ok((connection, answer))
        }
    })
    .await
    .unwrap()
}

/// Three streams that stay open close the breaker, long before their leases end.
async fn streams_close_the_breaker(envoy: &Envoy, call: &Request) {
    assert_eq!(page::outcome_of(LIVES).label, "success");
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(begin_stream(envoy, call).await);
    }
    wait::until("the breaker to close", Duration::from_secs(4), || async {
        let metrics = envoy.metrics().await.unwrap();
        let state = metrics.sum("circuit_breaker_state", &[("service", "video")]);
        if state == CLOSED { Ok(()) } else { Err(state) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn streams_that_have_begun_well_close_a_half_open_breaker() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(503));
    let envoy = Envoy::start(config().upstream("video", video.address()));
    let envoy = envoy.await.unwrap();
    let get = Request::get(PATH);
    open(&envoy, &get).await;
    video.always(Behaviour::StallInBody("the first of many".into()));
    streams_close_the_breaker(&envoy, &get).await;
}

#[tokio::test]
async fn grpc_streams_that_have_begun_well_close_a_half_open_breaker() {
    let video = GrpcBackend::start().unwrap();
    video.always(GrpcBehaviour::TrailersOnly(status::UNAVAILABLE));
    let config = config().upstream("video", video.address());
    let envoy = Envoy::start(config.upstream_http2("video")).await.unwrap();
    let call = grpc::call(PATH);
    open(&envoy, &call).await;
    video.always(GrpcBehaviour::StallInStream);
    streams_close_the_breaker(&envoy, &call).await;
}

#[tokio::test]
async fn uploads_that_do_not_end_give_their_places_back() {
    assert_eq!(page::outcome_of(UPLOADS).label, "neutral");
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(503));
    let envoy = Envoy::start(config().upstream("video", video.address()));
    let envoy = envoy.await.unwrap();
    open(&envoy, &Request::get(PATH)).await;
    video.always(Behaviour::status(200));
    let before = video.requests();
    let mut uploads = Vec::new();
    while uploads.len() < 3 {
        let mut upload = RawConnection::open(envoy.address()).await.unwrap();
        let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nbegin");
        upload.send(head).await.unwrap();
        // A refusal answers at once.
        if upload
            .read_status(Duration::from_millis(100))
            .await
            .is_err()
        {
            uploads.push(upload);
        }
    }
    assert_eq!(video.requests() - before, 3);
    assert!(
        envoy.get(PATH).await.unwrap().is_refusal(),
        "all places are taken"
    );
    let answer = envoy
        .first_let_through(PATH, Duration::from_secs(4))
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_probe_that_fails_opens_the_breaker_again_also_if_envoy_may_not_retry_it() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(503));
    let config = config()
        .upstream("video", video.address())
        .route("video", &retries("5xx"))
        .cluster("video", &no_retry_left());
    let envoy = Envoy::start(config).await.unwrap();
    open(&envoy, &Request::get(PATH)).await;
    let before = video.requests();
    assert_eq!(
        envoy
            .first_let_through(PATH, wait::GENEROUS)
            .await
            .unwrap()
            .status,
        503
    );
    assert!(envoy.get(PATH).await.unwrap().is_refusal());
    assert_eq!(video.requests() - before, 1);
}
