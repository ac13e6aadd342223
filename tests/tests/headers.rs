//! The filter survives whatever clients and services put into headers.

use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::client::{Connection, Request};
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::raw::RawConnection;
use levee_harness::wait;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

/// Headers that the filter, or Envoy on its behalf, reads.
const READ: [&str; 6] = [
    "x-deadline-ms",
    "grpc-timeout",
    "content-type",
    "x-levee-fallback",
    "x-envoy-upstream-rq-timeout-ms",
    "x-random",
];

/// A gateway whose service sends each request's `x-random` back in headers that the filter may read.
async fn gateway(service: &Backend) -> Envoy {
    service.choose(|_, request| {
        let value = request.header("x-random").unwrap_or_default();
        let response = [
            "grpc-status",
            "grpc-message",
            "content-type",
            "x-levee-reason",
            "retry-after",
            "x-random",
        ]
        .iter()
        .fold(Response::status(200), |response, name| {
            response.header(name, value)
        });
        Behaviour::Answer(response)
    });
    let config = EnvoyConfig::gateway()
        .upstream("video", service.address())
        .plugin(&json!({
            "timeouts": {"client_deadline_header": "x-deadline-ms"},
            "breaker": {"mode": "shadow"},
        }));
    Envoy::start(config).await.unwrap()
}

fn assert_unharmed(envoy: &Envoy) {
    let log = envoy.log();
    for trouble in ["panicked", "Wasm VM failed", "proxy_wasm", "Plugin reload"] {
        assert!(!log.contains(trouble), "`{trouble}` in Envoy's log:\n{log}");
    }
}

#[tokio::test]
async fn headers_that_are_not_utf8_pass() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video).await;
    for name in READ {
        let mut client = RawConnection::open(envoy.address()).await.unwrap();
        let mut request = format!("GET /v1/video/x HTTP/1.1\r\nhost: x\r\n{name}: ").into_bytes();
        request.extend_from_slice(b"\xff\xfe\xc3\x28\x80\r\n\r\n");
        client.send(request).await.unwrap();
        assert_eq!(client.read_status(wait::GENEROUS).await, Ok(200), "{name}");
    }
    // Envoy itself rejects such a path.
    let mut client = RawConnection::open(envoy.address()).await.unwrap();
    client
        .send(b"GET /v1/video/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.read_status(wait::GENEROUS).await, Ok(400));
    assert_eq!(envoy.get("/v1/video/x").await.unwrap().status, 200);
    video.check_only_http().unwrap();
    assert_unharmed(&envoy);
}

#[tokio::test]
async fn ten_thousand_random_headers_pass() {
    const REQUESTS: usize = 10_000;
    let video = Backend::start().unwrap();
    let envoy = gateway(&video).await;
    let mut runner = TestRunner::new(Config::default());
    // All bytes valid in a header's value, with digits and units over-represented.
    let allowed = proptest::prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8];
    let random = proptest::collection::vec(allowed, 0..200);
    let numeric = "[0-9]{0,30}[HMSmun]?".prop_map(String::into_bytes);
    let values = proptest::prop_oneof![random, numeric];
    let mut connection = Connection::open(envoy.address()).await.unwrap();
    for number in 0..REQUESTS {
        let value = values.new_tree(&mut runner).unwrap().current();
        let request = Request::get("/v1/video/x")
            .header(READ[number % READ.len()], &value)
            .header("x-random", &value);
        let answer = connection.send(&request).await;
        // Envoy may reject a response's headers itself; then it closes the connection.
        match answer {
            Ok(answer) => assert!(
                [200, 502, 503, 504].contains(&answer.status),
                "{value:?}: {answer:?}"
            ),
            Err(_) => connection = Connection::open(envoy.address()).await.unwrap(),
        }
    }
    assert!(
        video.requests() > REQUESTS / 2,
        "most of them arrived: {}",
        video.requests()
    );
    assert_eq!(envoy.get("/v1/video/x").await.unwrap().status, 200);
    video.check_only_http().unwrap();
    assert_unharmed(&envoy);
}
