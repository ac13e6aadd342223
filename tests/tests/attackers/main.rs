//! What one caller can do to the others, and what a service that is broken still does to its breaker.
//!
//! Each attack is counted by the errors of honest callers at other addresses. The gateway believes `x-forwarded-for`, so
//! a caller is at the address that it names.

mod beside_honest;
mod broken;
mod callers;
mod now_and_then;

use std::net::SocketAddr;
use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::client::{Connection, Request};
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::go_client::InteropServer;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour, status};
use levee_harness::raw::RawConnection;
use levee_harness::wait::{self, GENEROUS};
use serde_json::{Value, json};

const ATTACKER: &str = "198.51.100.1";
const HONEST: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

const VIDEO: &str = "/v1/video/x";
const UNARY_CALL: &str = "/grpc.testing.TestService/UnaryCall";

/// More than three times the five that open a breaker.
const CALLS_OF_A_ROUND: usize = 20;
const ROUNDS: usize = 3;

fn believing(config: EnvoyConfig) -> EnvoyConfig {
    config.connection_manager(&json!({"xff_num_trusted_hops": 1}))
}

async fn gateway(video: &Backend, plugin: Value) -> Envoy {
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&plugin);
    Envoy::start(believing(config)).await.unwrap()
}

async fn grpc_gateway(auth: SocketAddr) -> Envoy {
    let config = EnvoyConfig::gateway()
        .upstream("auth", auth)
        .upstream_http2("auth")
        .first_route(json!({"match": {"prefix": "/"}, "route": {"cluster": "auth"}}));
    Envoy::start(believing(config)).await.unwrap()
}

fn at(caller: &str, request: Request) -> Request {
    request.header("x-forwarded-for", caller)
}

/// The status of a request that `caller` sends. A refusal by the breaker is `None`.
async fn ask(envoy: &Envoy, caller: &str, request: Request) -> Option<u16> {
    let answer = at(caller, request).send(envoy.address()).await.unwrap();
    (!answer.is_refusal()).then_some(answer.status)
}

/// The gRPC status of a good call.
async fn good_call(envoy: &Envoy, caller: &str) -> Option<u32> {
    let call = grpc_call(UNARY_CALL, &grpc::message(b"").unwrap());
    let answer = grpc::send(&at(caller, call), envoy.address()).await;
    grpc::status_of(&answer.unwrap())
}

fn grpc_call(path: &str, body: &[u8]) -> Request {
    Request::post(path, body.to_vec())
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Runs the rounds of an attack, with a call of each honest caller after each round. Returns how many of these failed.
async fn harm(is_served: impl AsyncFn(&str) -> bool, round: impl AsyncFn()) -> usize {
    for honest in HONEST {
        assert!(is_served(honest).await, "before the attack");
    }
    let mut failed = 0;
    for _ in 0..ROUNDS {
        round().await;
        for honest in HONEST {
            failed += usize::from(!is_served(honest).await);
        }
    }
    failed
}

// ---- malformed gRPC calls, to grpc-go's server

/// What `call` does, sent by one address again and again.
async fn harm_of_call(call: Request) -> usize {
    let server = InteropServer::start().unwrap();
    let envoy = grpc_gateway(server.address()).await;
    let call = at(ATTACKER, call);
    let is_served = async |honest: &str| good_call(&envoy, honest).await == Some(status::OK);
    harm(is_served, async || {
        for _ in 0..CALLS_OF_A_ROUND {
            // How it ends does not matter: some are reset.
            let _ = grpc::send(&call, envoy.address()).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_body_that_is_not_protobuf_harms_nobody_else() {
    let body = grpc::message(b"\xff\xff\xff\xff").unwrap();
    assert_eq!(harm_of_call(grpc_call(UNARY_CALL, &body)).await, 0);
}

#[tokio::test]
async fn a_call_without_a_body_harms_nobody_else() {
    assert_eq!(harm_of_call(grpc_call(UNARY_CALL, b"")).await, 0);
}

#[tokio::test]
async fn a_get_that_says_grpc_harms_nobody_else() {
    let get = Request::get(UNARY_CALL).header("content-type", "application/grpc");
    assert_eq!(harm_of_call(get).await, 0);
}

#[tokio::test]
async fn a_grpc_timeout_that_is_none_harms_nobody_else() {
    let call = grpc_call(UNARY_CALL, &grpc::message(b"").unwrap());
    assert_eq!(harm_of_call(call.header("grpc-timeout", "abc")).await, 0);
}

#[tokio::test]
async fn a_deadline_of_a_nanosecond_harms_nobody_else() {
    let call = grpc_call(UNARY_CALL, &grpc::message(b"").unwrap());
    assert_eq!(harm_of_call(call.header("grpc-timeout", "1n")).await, 0);
}

#[tokio::test]
async fn the_compressed_flag_without_an_encoding_harms_nobody_else() {
    let call = grpc_call(UNARY_CALL, b"\x01\0\0\0\x04abcd");
    assert_eq!(harm_of_call(call).await, 0);
}

#[tokio::test]
async fn binary_metadata_that_is_broken_harms_nobody_else() {
    let call = grpc_call(UNARY_CALL, &grpc::message(b"").unwrap());
    assert_eq!(harm_of_call(call.header("trace-bin", "%%%")).await, 0);
}

#[tokio::test]
async fn callers_with_a_deadline_of_1_ms_harm_nobody_else() {
    let auth = GrpcBackend::start().unwrap();
    let envoy = grpc_gateway(auth.address()).await;
    let is_served = async |honest: &str| good_call(&envoy, honest).await == Some(status::OK);
    let call = grpc_call(UNARY_CALL, &grpc::message(b"").unwrap()).header("grpc-timeout", "1m");
    let harm = harm(is_served, async || {
        // What servers do when a deadline has passed.
        let late = Duration::from_millis(2);
        let ends = [
            GrpcBehaviour::ResetAfter(late),
            GrpcBehaviour::Late(late, status::DEADLINE_EXCEEDED),
        ];
        for number in 0..CALLS_OF_A_ROUND {
            auth.always(ends[number / 10]);
            let call = at(&format!("198.51.100.{number}"), call.clone());
            // Such a call ends in an error.
            let _ = grpc::send(&call, envoy.address()).await;
        }
        auth.always(GrpcBehaviour::Trailers(status::OK));
    })
    .await;
    assert_eq!(harm, 0);
}

// ---- HTTP requests that a service can't serve

/// What `request` does, sent by one address to a service that answers it with `code`, and others well.
async fn harm_of_request(request: Request, code: u16) -> usize {
    let video = Backend::start().unwrap();
    video.choose(move |_, request| {
        Behaviour::status(if request.method == "GET" { 200 } else { code })
    });
    let envoy = gateway(&video, json!({})).await;
    let is_served =
        async |honest: &str| ask(&envoy, honest, Request::get(VIDEO)).await == Some(200);
    harm(is_served, async || {
        for _ in 0..CALLS_OF_A_ROUND {
            assert_eq!(ask(&envoy, ATTACKER, request.clone()).await, Some(code));
        }
    })
    .await
}

#[tokio::test]
async fn a_method_that_a_service_does_not_know_harms_nobody_else() {
    let request = Request::new("PROPFIND".parse().unwrap(), VIDEO);
    assert_eq!(harm_of_request(request, 501).await, 0);
}

#[tokio::test]
async fn a_body_that_a_service_can_not_parse_harms_nobody_else() {
    let request = Request::post(VIDEO, "{");
    assert_eq!(harm_of_request(request, 500).await, 0);
}

#[tokio::test]
async fn one_who_calls_while_nobody_else_does_can_shut_a_service_for_the_next() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "500ms"}})).await;
    video.choose(|_, request| Behaviour::status(if request.method == "GET" { 200 } else { 500 }));
    let watch = Stopwatch::start();
    while ask(&envoy, ATTACKER, Request::post(VIDEO, "{")).await == Some(500) {
        assert!(watch.elapsed() < GENEROUS);
    }
    // Nobody was answered for that long.
    assert!(watch.elapsed() >= Duration::from_millis(4_900));
    assert_eq!(ask(&envoy, HONEST[0], Request::get(VIDEO)).await, None);
    let took = until_closed(&envoy, async || ()).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

// ---- slow readers and slow uploads

fn short() -> Value {
    json!({"timeouts": {"class": "default", "classes": {"default": "500ms"}, "response_header": "400ms"}})
}

async fn neutral(envoy: &Envoy, wanted: f64) {
    let labels = [("service", "video"), ("outcome", "neutral")];
    envoy
        .wait_for_metric("circuit_breaker_requests_total", &labels, wanted)
        .await
        .unwrap();
}

#[tokio::test]
async fn five_slow_readers_harm_nobody() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, short()).await;
    video.always(Behaviour::Answer(
        Response::status(200).body(vec![b'x'; 16 << 20]),
    ));
    let mut readers = Vec::new();
    for reader in 1..=5 {
        let mut connection = RawConnection::open(envoy.address()).await.unwrap();
        let head = format!(
            "GET {VIDEO} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 198.51.100.{reader}\r\n\r\n"
        );
        connection.send(head).await.unwrap();
        readers.push(connection);
    }
    neutral(&envoy, 5.0).await;
    video.always(Behaviour::status(200));
    for honest in HONEST {
        let answered = ask(&envoy, honest, Request::get(VIDEO)).await;
        assert_eq!(answered, Some(200));
    }
    drop(readers);
}

#[tokio::test]
async fn closed_windows_of_one_caller_harm_nobody_else() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, short()).await;
    let large = Behaviour::Answer(Response::status(200).body(vec![b'x'; 4 << 20]));
    video.choose(move |_, request| {
        if request.method == "GET" {
            Behaviour::status(200)
        } else {
            large.clone()
        }
    });
    let is_served =
        async |honest: &str| ask(&envoy, honest, Request::get(VIDEO)).await == Some(200);
    let request = at(ATTACKER, Request::post(VIDEO, "more"));
    let harm = harm(is_served, async || {
        let mut connection = Connection::open_http2_with_window(envoy.address(), 1000)
            .await
            .unwrap();
        let before = timeouts(&envoy).await;
        let mut unread = Vec::new();
        for _ in 0..CALLS_OF_A_ROUND {
            unread.push(connection.send_unread(&request).await.unwrap());
        }
        wait::until("their time limits to end them", GENEROUS, || async {
            let ended = timeouts(&envoy).await - before;
            if ended >= 20.0 { Ok(()) } else { Err(ended) }
        })
        .await
        .unwrap();
    })
    .await;
    assert_eq!(harm, 0);
}

async fn timeouts(envoy: &Envoy) -> f64 {
    let labels = [("service", "video")];
    let metrics = envoy.metrics().await.unwrap();
    metrics.sum("proxy_request_timeout_total", &labels)
}

/// Begins an upload that never ends.
async fn slow_upload(envoy: &Envoy) -> RawConnection {
    upload(envoy, "x").await
}

/// An upload that begins with `body`, and never goes on.
async fn upload(envoy: &Envoy, body: &str) -> RawConnection {
    let mut connection = RawConnection::open(envoy.address()).await.unwrap();
    let head = format!(
        "POST {VIDEO} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {ATTACKER}\r\ncontent-length: 1000\r\n\r\n{body}"
    );
    connection.send(head).await.unwrap();
    connection
}

async fn open_by_503(envoy: &Envoy, video: &Backend) {
    video.always(Behaviour::status(503));
    for _ in 0..5 {
        assert_eq!(ask(envoy, HONEST[0], Request::get(VIDEO)).await, Some(503));
    }
    assert_eq!(ask(envoy, HONEST[0], Request::get(VIDEO)).await, None);
    video.always(Behaviour::status(200));
}

/// How long it takes until the breaker is closed, while an honest caller asks all the time.
async fn until_closed(envoy: &Envoy, mut meanwhile: impl AsyncFnMut()) -> Duration {
    let watch = Stopwatch::start();
    let closed = [("service", "video"), ("to", "closed")];
    loop {
        meanwhile().await;
        let answered = ask(envoy, HONEST[0], Request::get(VIDEO)).await;
        let metrics = envoy.metrics().await.unwrap();
        if metrics.sum("circuit_breaker_transitions_total", &closed) > 0.0 {
            return watch.elapsed();
        }
        assert!(watch.elapsed() < GENEROUS, "open: {answered:?}");
    }
}

#[tokio::test]
async fn slow_uploads_hold_no_place_of_a_half_open_breaker_for_long() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "500ms"}})).await;
    open_by_503(&envoy, &video).await;
    let mut uploads = Vec::new();
    let took = until_closed(&envoy, async || {
        if uploads.len() < 500 {
            uploads.push(slow_upload(&envoy).await);
        }
    })
    .await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn uploads_that_send_nothing_hold_no_place_of_a_half_open_breaker_for_long() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "500ms"}})).await;
    open_by_503(&envoy, &video).await;
    // The worker has not seen a body yet.
    let mut uploads = Vec::new();
    let took = until_closed(&envoy, async || {
        if uploads.len() < 500 {
            uploads.push(upload(&envoy, "").await);
        }
    })
    .await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn slow_requests_of_one_caller_do_not_keep_a_breaker_from_closing() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "500ms"}})).await;
    open_by_503(&envoy, &video).await;
    video.choose(|_, request| match request.path() {
        VIDEO => Behaviour::status(200),
        _ => Behaviour::Stall,
    });
    let mut slow = Vec::new();
    let took = until_closed(&envoy, async || {
        for _ in 0..3 {
            let request = at(ATTACKER, Request::get("/v1/video/slow"));
            let address = envoy.address();
            slow.push(tokio::spawn(async move { request.send(address).await }));
        }
        tokio::task::yield_now().await;
    })
    .await;
    for request in slow {
        request.abort();
    }
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn who_closes_a_breaker_can_not_open_it_at_once() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "300ms"}})).await;
    open_by_503(&envoy, &video).await;
    video.choose(|_, request| Behaviour::status(if request.method == "GET" { 200 } else { 500 }));
    let is_served = async || ask(&envoy, ATTACKER, Request::get(VIDEO)).await == Some(200);
    let mut good = 0;
    let watch = Stopwatch::start();
    while good < 3 {
        good += usize::from(is_served().await);
        assert!(watch.elapsed() < GENEROUS, "{good}");
    }
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(1) {
        assert_eq!(
            ask(&envoy, ATTACKER, Request::post(VIDEO, "{")).await,
            Some(500)
        );
    }
    for honest in HONEST {
        assert_eq!(ask(&envoy, honest, Request::get(VIDEO)).await, Some(200));
    }
}

#[tokio::test]
async fn bad_requests_keep_a_breaker_from_closing_only_for_a_while() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "300ms"}})).await;
    open_by_503(&envoy, &video).await;
    video.choose(|_, request| Behaviour::status(if request.method == "GET" { 200 } else { 500 }));
    let took = until_closed(&envoy, async || {
        ask(&envoy, ATTACKER, Request::post(VIDEO, "{")).await;
    })
    .await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_held_connection_limit_opens_nothing() {
    let video = Backend::start().unwrap();
    let limit = json!({"circuit_breakers": {"thresholds": [{"max_connections": 1}]}});
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .cluster("video", &limit)
        .without_health_checks()
        .plugin(&short());
    let envoy = Envoy::start(believing(config)).await.unwrap();
    let upload = slow_upload(&envoy).await;
    video.wait_in_flight(1).await.unwrap();
    for _ in 0..6 {
        for honest in HONEST {
            // As without Levee: Envoy has no connection for it.
            assert_eq!(ask(&envoy, honest, Request::get(VIDEO)).await, Some(504));
        }
    }
    upload.reset();
    for honest in HONEST {
        assert_eq!(ask(&envoy, honest, Request::get(VIDEO)).await, Some(200));
    }
}

// ---- services that are broken

/// How many requests reach a service that answers all with `code` before its breaker opens. The callers ask in turn.
async fn failures_until_open(code: u16, callers: &[&str], plugin: Value) -> usize {
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(code));
    let envoy = gateway(&video, plugin).await;
    let watch = Stopwatch::start();
    for caller in callers.iter().cycle() {
        if ask(&envoy, caller, Request::get(VIDEO)).await.is_none() {
            break;
        }
        assert!(watch.elapsed() < GENEROUS, "{} failures", video.requests());
    }
    video.requests()
}

#[tokio::test]
async fn a_broken_service_opens_after_five_failures_that_two_callers_see() {
    let failures = failures_until_open(500, &HONEST, json!({})).await;
    // One more if they all come within the 10 ms in which other workers report.
    assert!([5, 6].contains(&failures), "{failures}");
    assert_eq!(failures_until_open(503, &HONEST[..1], json!({})).await, 5);
}

#[tokio::test]
async fn a_broken_service_with_one_caller_opens_after_fifteen_failures_that_it_may_have_caused() {
    let failures = failures_until_open(500, &HONEST[..1], json!({})).await;
    assert!(failures >= 15, "{failures}");
    let old_rule = json!({"breaker": {"witnesses": 1}});
    assert_eq!(failures_until_open(500, &HONEST[..1], old_rule).await, 5);
}
