//! Time limits.

use std::time::Duration;

use levee_harness::backend::{Behaviour, Response};
use levee_harness::client::Connection;
use levee_harness::grpc::GrpcBehaviour;
use levee_harness::raw::{Crowd, RawConnection};
use levee_harness::wait;
use serde_json::{Value, json};

use crate::case::{Case, Service, Target, compare_with_the_table, gateway};

const BEFORE_HEADERS: &str = "Levee's time limit, before the response headers";
const WAITING: &str = "Levee's time limit, while waiting for a connection";
const STALLED: &str =
    "Levee's time limit in the response body, with less than 16 KiB of it passed on";
const NOT_READ: &str = "the same, with more of it passed on";
const FOREIGN_IN_BODY: &str = "`max_stream_duration` or an idle timeout in the response body";
const COMPLETE: &str = "a time limit, or the caller leaves, when the answer is complete at Envoy";
const FOREIGN: &str = "`max_stream_duration` or an idle timeout, before the response headers";
const UPLOAD: &str = "an upload that is not complete when a time limit of Envoy ends it";

/// The header by which a request names the status that it wants of Envoy's own answers.
const REWRITE: &str = "x-rewrite";
/// More than the kernel's and Envoy's buffers hold together.
const LARGE: usize = 16 << 20;

pub fn class(limit: &str) -> Value {
    json!({"timeouts": {"class": "short", "classes": {"short": limit}}})
}

pub fn max_stream_duration(limit: &str) -> Value {
    json!({"route": {"max_stream_duration": {"max_stream_duration": limit}}})
}

pub fn idle_timeout(limit: &str) -> Value {
    json!({"route": {"idle_timeout": limit}})
}

/// The cluster's `max_stream_duration`.
fn of_the_cluster(limit: &str) -> Value {
    json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "common_http_protocol_options": {"max_stream_duration": limit},
    }}})
}

fn body(size: usize) -> Behaviour {
    Behaviour::Answer(Response::status(200).body(vec![b'x'; size]))
}

pub fn cases() -> Vec<Case> {
    let mut cases = before_the_headers();
    cases.extend(with_another_status());
    cases.extend(in_the_body());
    cases.extend(with_the_answer_complete_at_envoy());
    cases.extend(waiting_for_a_connection());
    cases.extend(uploads());
    cases
}

fn before_the_headers() -> Vec<Case> {
    let header_limit = json!({"timeouts": {"response_header": "300ms"}});
    let stall = || Behaviour::Stall;
    vec![
        Case::get(BEFORE_HEADERS, "response_header", stall()).settings(header_limit.clone()),
        Case::get(BEFORE_HEADERS, "the class", stall()).settings(class("300ms")),
        Case::call(BEFORE_HEADERS, "gRPC", GrpcBehaviour::Stall).settings(header_limit),
        Case::get(FOREIGN, "of the route", stall()).route(max_stream_duration("1.200s")),
        Case::get(FOREIGN, "of the cluster", stall()).cluster(of_the_cluster("1.200s")),
        Case::get(FOREIGN, "an idle timeout", stall()).route(idle_timeout("1.200s")),
    ]
}

/// Makes Envoy give its own answers the status that a request names, with a body of their own or not.
fn rewriting() -> Value {
    let mappers: Vec<Value> = [200, 400, 503]
        .into_iter()
        .map(|status| {
            let name = status.to_string();
            json!({
                "filter": {"header_filter": {"header": {"name": REWRITE, "string_match": {"exact": name}}}},
                "status_code": status,
                "body_format_override": {"json_format": {"error": "%RESPONSE_CODE_DETAILS%"}},
            })
        })
        .chain([json!({
            "filter": {"header_filter": {"header": {"name": REWRITE, "string_match": {"exact": "404"}}}},
            "status_code": 404,
        })])
        .collect();
    json!({"local_reply_config": {"mappers": mappers}})
}

fn with_another_status() -> Vec<Case> {
    let rewritten = |row, what, status: u16| {
        Case::new(
            row,
            what,
            Service::Http(Behaviour::Stall),
            move |target| async move {
                let get = target.get().header(REWRITE, status.to_string());
                assert_eq!(get.send(target.gateway).await.unwrap().status, status);
            },
        )
    };
    let header_limit = || json!({"timeouts": {"response_header": "300ms"}});
    let upload = Case::new(
        UPLOAD,
        "as 400",
        Service::Http(Behaviour::status(200)),
        |target: Target| async move {
            let mut upload = begin_upload_with(&target, "x-rewrite: 400\r\n").await;
            assert_eq!(upload.read_status(wait::GENEROUS).await, Ok(400));
        },
    );
    vec![
        rewritten(BEFORE_HEADERS, "as 200", 200).settings(header_limit()),
        rewritten(BEFORE_HEADERS, "as 503", 503).settings(header_limit()),
        rewritten(BEFORE_HEADERS, "as 404", 404).settings(header_limit()),
        rewritten(BEFORE_HEADERS, "the class, as 200", 200).settings(class("300ms")),
        rewritten(FOREIGN, "as 200", 200).route(max_stream_duration("1.200s")),
        rewritten(FOREIGN, "idle, as 503", 503).route(idle_timeout("1.200s")),
        upload.route(idle_timeout("0.300s")),
    ]
}

fn in_the_body() -> Vec<Case> {
    let stalls = || Behaviour::StallInBody("part".into());
    let call = || GrpcBehaviour::StallInStream;
    let foreign = |what| Case::get(FOREIGN_IN_BODY, what, stalls());
    vec![
        Case::get(STALLED, "HTTP", stalls()).settings(class("300ms")),
        Case::call(STALLED, "gRPC", call()).settings(class("300ms")),
        foreign("the route's duration").route(max_stream_duration("0.300s")),
        foreign("the cluster's duration").cluster(of_the_cluster("0.300s")),
        foreign("idle").route(idle_timeout("0.300s")),
        of_a_client_that_does_not_read(NOT_READ, "HTTP/1").settings(class("1s")),
        of_a_client_that_does_not_read(FOREIGN_IN_BODY, "HTTP/1").route(max_stream_duration("1s")),
        of_a_closed_window(NOT_READ, "HTTP/2").settings(class("1s")),
        of_a_closed_window(FOREIGN_IN_BODY, "HTTP/2").route(max_stream_duration("1s")),
        of_a_closed_window(FOREIGN_IN_BODY, "HTTP/2, idle").route(idle_timeout("0.500s")),
    ]
}

/// An HTTP/1 client that reads nothing of a large answer.
fn of_a_client_that_does_not_read(row: &'static str, what: &'static str) -> Case {
    Case::new(row, what, Service::Http(body(LARGE)), |target| async move {
        let crowd = Crowd::ask(target.gateway, &target.path, 1).await.unwrap();
        target.all_are_cancelled().await;
        drop(crowd);
    })
}

/// An HTTP/2 client that takes 1,000 bytes of an answer.
fn of_a_closed_window(row: &'static str, what: &'static str) -> Case {
    Case::new(row, what, Service::Http(body(LARGE)), |target| async move {
        let (connection, answer) = unread(&target).await;
        target.all_are_cancelled().await;
        drop((connection, answer));
    })
}

async fn unread(target: &Target) -> (Connection, levee_harness::client::Unread) {
    let mut connection = Connection::open_http2_with_window(target.gateway, 1_000)
        .await
        .unwrap();
    let answer = connection.send_unread(&target.get()).await.unwrap();
    assert_eq!(answer.status, 200);
    (connection, answer)
}

impl Target {
    /// Waits until all five requests were given up at the service.
    async fn all_are_cancelled(&self) {
        let backend = self.backend.as_ref().unwrap();
        backend
            .wait_until("five requests given up", |seen| seen.cancelled == 5)
            .await
            .unwrap();
    }
}

fn with_the_answer_complete_at_envoy() -> Vec<Case> {
    let small = || Service::Http(body(10_000));
    let waits = |target: Target| async move {
        let (_connection, _answer) = unread(&target).await;
        // Longer than the case's limit.
        tokio::time::sleep(Duration::from_millis(800)).await;
    };
    let leaves = |target: Target| async move {
        drop(unread(&target).await);
    };
    vec![
        Case::new(COMPLETE, "Envoy's flush timeout", small(), waits)
            .route(json!({"route": {"flush_timeout": "0.300s"}})),
        Case::new(COMPLETE, "the caller leaves", small(), leaves),
    ]
}

/// An upload holds the only connection, while others wait.
fn waiting_for_a_connection() -> Vec<Case> {
    let one = json!({"circuit_breakers": {"thresholds": [{"max_connections": 1}]}});
    let waits = |target: Target| async move {
        if target.number == 0 {
            let mut upload = begin_upload(&target).await;
            assert_ne!(
                upload.read_to_end(Duration::from_millis(900)).await,
                levee_harness::raw::Read::Closed
            );
        } else {
            target.service_is_asked().await;
            assert_eq!(target.get().send(target.gateway).await.unwrap().status, 504);
        }
    };
    let service = Service::Http(Behaviour::status(200));
    vec![
        Case::new(WAITING, "behind an upload", service, waits)
            .cluster(one)
            .settings(class("300ms"))
            .times(6),
    ]
}

pub async fn begin_upload(target: &Target) -> RawConnection {
    begin_upload_with(target, "").await
}

/// With more headers, each as a line.
async fn begin_upload_with(target: &Target, headers: &str) -> RawConnection {
    let mut upload = RawConnection::open(target.gateway).await.unwrap();
    let path = &target.path;
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n{headers}\r\nbegin");
    upload.send(head).await.unwrap();
    upload
}

fn uploads() -> Vec<Case> {
    let service = Service::Http(Behaviour::status(200));
    let stops = |target: Target| async move {
        let mut upload = begin_upload(&target).await;
        assert_eq!(upload.read_status(wait::GENEROUS).await, Ok(408));
    };
    vec![Case::new(UPLOAD, "idle", service, stops).route(idle_timeout("0.300s"))]
}

#[tokio::test]
async fn time_limits_are_counted_as_the_table_says() {
    let config = gateway().connection_manager(&rewriting());
    compare_with_the_table(config, cases()).await;
}
