//! Callers that do not wait.

use std::time::Duration;

use levee_harness::backend::Behaviour;
use levee_harness::client::{Connection, NoAnswer};
use levee_harness::grpc::{self, GrpcBehaviour};
use levee_harness::raw::{Crowd, Read};
use levee_harness::wait;
use serde_json::json;

use crate::case::{Case, Service, Target, compare_with_the_table, gateway};
use crate::limits::begin_upload;

const LEAVES_LATE: &str = "the caller leaves before the response headers, after longer than usual";
const LEAVES_SOON: &str = "the caller leaves before the response headers, sooner";
const LEAVES_UPLOADING: &str = "the caller leaves while it still uploads";
const LEAVES_IN_BODY: &str = "the caller leaves in the response body";
const DEADLINE_LATE: &str =
    "the caller's deadline, before the response headers, after longer than usual";
const DEADLINE_SOON: &str = "the caller's deadline, before the response headers, sooner";

/// Longer than usual, while nothing is known of the service.
const LONG: Duration = Duration::from_millis(1_200);
const SHORT: Duration = Duration::from_millis(100);

pub fn cases() -> Vec<Case> {
    let mut cases = that_leave();
    cases.extend(with_deadlines());
    cases
}

fn that_leave() -> Vec<Case> {
    let stall = || Service::Http(Behaviour::Stall);
    let part = Service::Http(Behaviour::StallInBody("part".into()));
    let leaves = |after: Duration| {
        move |target: Target| async move {
            let answer = target.get().bound(after).send(target.gateway).await;
            assert_eq!(answer.unwrap_err(), NoAnswer::TooLate(after));
        }
    };
    let resets = |after: Duration| {
        move |target: Target| async move {
            let mut connection = Connection::open_http2(target.gateway).await.unwrap();
            let answer = connection.send(&target.get().bound(after)).await;
            assert_eq!(answer.unwrap_err(), NoAnswer::TooLate(after));
            // The connection outlives the stream.
            tokio::time::sleep(SHORT).await;
        }
    };
    vec![
        Case::new(LEAVES_LATE, "HTTP/1", stall(), leaves(LONG)),
        Case::new(LEAVES_LATE, "HTTP/2", stall(), resets(LONG)),
        Case::new(LEAVES_SOON, "HTTP/1", stall(), leaves(SHORT)),
        Case::new(LEAVES_SOON, "HTTP/2", stall(), resets(SHORT)),
        Case::new(LEAVES_UPLOADING, "", stall(), |target| async move {
            let mut upload = begin_upload(&target).await;
            assert_eq!(upload.read_to_end(LONG).await, Read::TooLate);
        }),
        Case::new(LEAVES_IN_BODY, "", part, |target| async move {
            let crowd = Crowd::ask(target.gateway, &target.path, 1).await.unwrap();
            let mut client = crowd.into_clients().remove(0);
            assert_eq!(client.read_status(wait::GENEROUS).await, Ok(200));
        }),
    ]
}

/// A gRPC call with a deadline.
fn calls(deadline: &'static str, bound: Duration) -> impl Fn(Target) -> crate::case::Ends {
    move |target| {
        Box::pin(async move {
            let call = target.call().header("grpc-timeout", deadline).bound(bound);
            let _ = grpc::send(&call, target.gateway).await;
        })
    }
}

fn with_deadlines() -> Vec<Case> {
    let stall = || Service::Grpc(GrpcBehaviour::Stall);
    let resets = |after| Service::Grpc(GrpcBehaviour::ResetAfter(after));
    let by_envoy = || json!({"route": {"max_stream_duration": {"grpc_timeout_header_max": "30s"}}});
    let header = |deadline: &'static str| {
        move |target: Target| async move {
            let request = target.get().header("x-deadline-ms", deadline);
            assert_eq!(request.send(target.gateway).await.unwrap().status, 504);
        }
    };
    let http = || Service::Http(Behaviour::Stall);
    let late = LONG + SHORT;
    vec![
        Case::new(
            DEADLINE_LATE,
            "the caller ends it",
            stall(),
            calls("1200m", late),
        ),
        Case::new(
            DEADLINE_LATE,
            "the service does",
            resets(late),
            calls("1200m", wait::GENEROUS),
        ),
        Case::new(
            DEADLINE_LATE,
            "Envoy does",
            stall(),
            calls("1200m", wait::GENEROUS),
        )
        .route(by_envoy()),
        Case::new(DEADLINE_LATE, "Levee's header", http(), header("1200")),
        Case::new(
            DEADLINE_SOON,
            "the caller ends it",
            stall(),
            calls("50m", SHORT),
        ),
        Case::new(
            DEADLINE_SOON,
            "the service does",
            resets(SHORT),
            calls("50m", wait::GENEROUS),
        ),
        Case::new(
            DEADLINE_SOON,
            "below a millisecond",
            resets(SHORT),
            calls("1n", wait::GENEROUS),
        ),
        Case::new(
            DEADLINE_SOON,
            "Envoy does",
            stall(),
            calls("50m", wait::GENEROUS),
        )
        .route(by_envoy()),
        Case::new(DEADLINE_SOON, "Levee's header", http(), header("50")),
    ]
}

#[tokio::test]
async fn callers_that_do_not_wait_are_counted_as_the_table_says() {
    compare_with_the_table(gateway(), cases()).await;
}
