//! Services that hang, and callers who give up before Levee's limits do.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::{Connection, NoAnswer, Request};
use levee_harness::envoy::Envoy;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour};
use levee_harness::wait;
use tokio::task::JoinSet;

use crate::callers::open_stream;
use crate::callers_by_address::{gateway, is_open, opens};
use crate::case::counted;

const CALLS: u32 = 50;

/// Calls of two callers by turns, all at once, each given up after a while.
async fn give_up(envoy: &Envoy, call: &Request, after: Duration) {
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let caller = format!("192.0.2.{}", number % 2);
        let call = call.clone().header("x-forwarded-for", caller).bound(after);
        let gateway = envoy.address();
        calls.spawn(async move {
            let mut connection = Connection::open_http2(gateway).await.unwrap();
            let answer = connection.send(&call).await;
            assert_eq!(answer.unwrap_err(), NoAnswer::TooLate(after));
        });
    }
    calls.join_all().await;
    wait::until("all calls to be counted", wait::GENEROUS / 4, || async {
        let metrics = envoy.metrics().await.unwrap();
        let neutral = counted(&metrics, "video", "neutral");
        if neutral == CALLS {
            Ok(())
        } else {
            Err(metrics.show("circuit_breaker_requests_total"))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_service_that_hangs_longer_than_its_callers_wait_opens_the_breaker() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Stall);
    let envoy = gateway(|config| config.upstream("video", video.address())).await;
    let get = Request::get("/v1/video/x");
    give_up(&envoy, &get, Duration::from_millis(1_200)).await;
    opens(&envoy).await;
}

async fn hung_grpc_service() -> (GrpcBackend, Envoy) {
    let video = GrpcBackend::start().unwrap();
    video.always(GrpcBehaviour::Stall);
    let envoy = gateway(|config| {
        let config = config.upstream("video", video.address());
        config.upstream_http2("video")
    })
    .await;
    (video, envoy)
}

#[tokio::test]
async fn a_grpc_service_that_hangs_longer_than_its_callers_deadlines_opens_the_breaker() {
    let (_video, envoy) = hung_grpc_service().await;
    let call = grpc::call("/v1/video/levee.Demo/Call").header("grpc-timeout", "1S");
    give_up(&envoy, &call, Duration::from_millis(1_150)).await;
    opens(&envoy).await;
}

#[tokio::test]
async fn a_grpc_service_that_never_answers_streams_opens_the_breaker() {
    let (_video, envoy) = hung_grpc_service().await;
    let call = open_stream("/v1/video/levee.Demo/Chat");
    give_up(&envoy, &call, Duration::from_millis(1_200)).await;
    opens(&envoy).await;
}

#[tokio::test]
async fn callers_that_leave_at_once_open_nothing() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Stall);
    let envoy = gateway(|config| config.upstream("video", video.address())).await;
    let get = Request::get("/v1/video/x");
    give_up(&envoy, &get, Duration::from_millis(200)).await;
    // The worker judges rates at its ticks.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!is_open(&envoy).await);
}
