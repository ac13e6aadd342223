//! Callers that do not wait.

use std::time::Duration;

use levee_harness::backend::Behaviour;
use levee_harness::client::{Connection, NoAnswer, Request};
use levee_harness::grpc::{self, GrpcBehaviour};
use levee_harness::raw::{Crowd, Read};
use levee_harness::wait;
use serde_json::json;

use crate::case::{Case, Service, Target, compare_with_the_table, gateway};
use crate::limits::{begin_upload, class, idle_timeout, max_stream_duration};

const LEAVES_LATE: &str = "the caller leaves before the response headers, after longer than usual";
const LEAVES_SOON: &str = "the caller leaves before the response headers, sooner";
const LEAVES_UPLOADING: &str = "the caller leaves while it still uploads";
const LEAVES_IN_BODY: &str = "the caller leaves in the response body";
const DEADLINE_LATE: &str =
    "the caller's deadline, before the response headers, after longer than usual";
const DEADLINE_SOON: &str = "the caller's deadline, before the response headers, sooner";

const STREAM_UNANSWERED: &str = "a streaming gRPC call (its request is not complete) ends without response headers, longer than usual after its last message";

/// Longer than usual, while nothing is known of the service.
const LONG: Duration = Duration::from_millis(1_500);
const SHORT: Duration = Duration::from_millis(300);

pub fn cases() -> Vec<Case> {
    let mut cases = that_leave();
    cases.extend(with_deadlines());
    cases.extend(that_stream());
    cases
}

/// A gRPC call that has sent a message and keeps its side open.
pub fn open_stream(path: &str) -> Request {
    grpc::call(path).slow_body(grpc::PING, 2, wait::GENEROUS)
}

fn that_stream() -> Vec<Case> {
    let stall = || Service::Grpc(GrpcBehaviour::Stall);
    let calls = |bound: Duration| {
        move |target: Target| async move {
            let call = open_stream(&target.path).header("grpc-timeout", "1200m");
            let _ = grpc::send(&call.bound(bound), target.gateway).await;
        }
    };
    let waits = |target: Target| async move {
        let _ = grpc::send(&open_stream(&target.path), target.gateway).await;
    };
    let by_envoy = json!({"route": {"max_stream_duration": {"grpc_timeout_header_max": "30s"}}});
    // Its last message comes late.
    let goes_on = |target: Target| async move {
        let call = open_stream(&target.path).slow_body(grpc::PING, 4, LONG / 3);
        let _ = grpc::send(&call.bound(LONG * 7 / 6), target.gateway).await;
    };
    let uploads = |target: Target| async move {
        let upload = Request::post(&target.path, "").slow_body("part", 2, wait::GENEROUS);
        let _ = grpc::send(&upload.bound(LONG), target.gateway).await;
    };
    vec![
        Case::new(
            STREAM_UNANSWERED,
            "the caller leaves, and no limit of Levee's runs",
            stall(),
            calls(LONG + SHORT),
        )
        .settings(class("300ms")),
        Case::new(
            STREAM_UNANSWERED,
            "its deadline in Envoy",
            stall(),
            calls(wait::GENEROUS),
        )
        .route(by_envoy),
        Case::new(STREAM_UNANSWERED, "the stream's age", stall(), waits)
            .route(max_stream_duration("1.200s")),
        Case::new(STREAM_UNANSWERED, "idle", stall(), waits).route(idle_timeout("1.200s")),
        Case::new(LEAVES_UPLOADING, "gRPC, soon", stall(), calls(SHORT)),
        Case::new(LEAVES_UPLOADING, "gRPC, goes on", stall(), goes_on),
        Case::new(LEAVES_UPLOADING, "HTTP/2", stall(), uploads),
    ]
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
