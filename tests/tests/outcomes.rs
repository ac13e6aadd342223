//! What counts as failure, success or neutral.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour, status};
use levee_harness::raw::Crowd;
use levee_harness::wait;
use serde_json::{Value, json};

const SUCCESS: [f64; 3] = [1.0, 0.0, 0.0];
const FAILURE: [f64; 3] = [0.0, 1.0, 0.0];
const NEUTRAL: [f64; 3] = [0.0, 0.0, 1.0];

/// A breaker that counts but never opens, with a short header limit.
fn counting() -> Value {
    json!({
        "breaker": {"consecutive_failures": 1_000_000, "failure_rate": {"ratio": 1.0, "minimum_requests": 1_000_000}},
        "timeouts": {"class": "default", "response_header": "300ms", "classes": {"default": "600ms"}},
    })
}

async fn counted(envoy: &Envoy, service: &str) -> [f64; 3] {
    let metrics = envoy.metrics().await.unwrap();
    ["success", "failure", "neutral"].map(|outcome| {
        metrics.sum(
            "circuit_breaker_requests_total",
            &[("service", service), ("outcome", outcome)],
        )
    })
}

/// Waits until exactly `change` has been counted since `before`.
async fn counts(envoy: &Envoy, service: &str, before: [f64; 3], change: [f64; 3], what: &str) {
    let wanted: Vec<f64> = before
        .iter()
        .zip(change)
        .map(|(before, change)| before + change)
        .collect();
    wait::until(
        &format!("{what} to be counted as {change:?}"),
        wait::GENEROUS,
        || async {
            let now = counted(envoy, service).await;
            if now.as_slice() == wanted {
                Ok(())
            } else {
                Err(format!("{before:?} became {now:?}"))
            }
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn each_end_of_a_request_is_counted_as_what_it_is() {
    let video = Backend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&counting());
    let envoy = Envoy::start(config).await.unwrap();
    let cases = [
        ("200", Behaviour::status(200), SUCCESS),
        ("302", Behaviour::status(302), SUCCESS),
        ("400", Behaviour::status(400), SUCCESS),
        ("404", Behaviour::status(404), SUCCESS),
        ("429", Behaviour::status(429), NEUTRAL),
        ("500", Behaviour::status(500), FAILURE),
        ("501", Behaviour::status(501), SUCCESS),
        ("505", Behaviour::status(505), SUCCESS),
        ("502", Behaviour::status(502), FAILURE),
        ("503", Behaviour::status(503), FAILURE),
        ("504", Behaviour::status(504), FAILURE),
        (
            "a delay within the limits",
            Behaviour::Delay(Duration::from_millis(100), Response::status(200)),
            SUCCESS,
        ),
        ("a reset before the headers", Behaviour::Reset, FAILURE),
        (
            "a reset in the body",
            Behaviour::ResetInBody("part".into()),
            FAILURE,
        ),
        ("a close before the headers", Behaviour::Close, FAILURE),
        ("a stall before the headers", Behaviour::Stall, FAILURE),
        (
            "a stall in the body",
            Behaviour::StallInBody("part".into()),
            FAILURE,
        ),
    ];
    for (what, behaviour, change) in cases {
        let before = counted(&envoy, "video").await;
        video.always(behaviour);
        envoy.get("/v1/video/x").await.unwrap();
        counts(&envoy, "video", before, change, what).await;
    }
    let before = counted(&envoy, "video").await;
    video.refuse();
    envoy.get("/v1/video/x").await.unwrap();
    counts(&envoy, "video", before, FAILURE, "a refused connection").await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_body_is_neutral() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::StallInBody("part".into()));
    let timeouts = json!({"timeouts": {"response_header": "10s", "classes": {"default": "30s"}}});
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&timeouts);
    let envoy = Envoy::start(config).await.unwrap();
    let crowd = Crowd::ask(envoy.address(), "/v1/video/x", 1).await.unwrap();
    let mut client = crowd.into_clients().remove(0);
    assert_eq!(client.read_status(wait::GENEROUS).await, Ok(200));
    drop(client);
    counts(&envoy, "video", [0.0; 3], NEUTRAL, "a client that left").await;
    video
        .wait_until("the cancellation", |seen| seen.cancelled == 1)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_service_without_hosts_fails() {
    let mut config = EnvoyConfig::gateway().plugin(&counting());
    let clusters = &mut config.value_mut()["static_resources"]["clusters"];
    assert_eq!(clusters[2]["name"], "video");
    clusters[2]["load_assignment"]["endpoints"] = json!([]);
    let envoy = Envoy::start(config).await.unwrap();
    let answer = envoy.get("/v1/video/x").await.unwrap();
    assert_eq!(
        envoy
            .access_log()
            .of_request(answer.request_id())
            .await
            .unwrap()
            .text("flags"),
        "UH"
    );
    counts(&envoy, "video", [0.0; 3], FAILURE, "no healthy host").await;
}

#[tokio::test]
async fn envoys_own_overflow_is_neutral() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Stall);
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .cluster(
            "video",
            &json!({"circuit_breakers": {"thresholds": [
                {"max_connections": 1, "max_pending_requests": 1, "max_requests": 1},
            ]}}),
        );
    let envoy = Envoy::start(config).await.unwrap();
    let held = Crowd::ask(envoy.address(), "/v1/video/x", 1).await.unwrap();
    video.wait_in_flight(1).await.unwrap();
    let waiting = Crowd::ask(envoy.address(), "/v1/video/x", 1).await.unwrap();
    let overflows = wait::until("an overflow", wait::GENEROUS, || async {
        let answer = Request::get("/v1/video/x")
            .bound(Duration::from_millis(500))
            .send(envoy.address())
            .await;
        match answer {
            Ok(answer) if answer.header("x-envoy-overloaded") == "true" => Ok(answer),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(
        envoy
            .access_log()
            .of_request(overflows.request_id())
            .await
            .unwrap()
            .text("flags"),
        "UO"
    );
    counts(&envoy, "video", [0.0; 3], NEUTRAL, "an overflow").await;
    held.leave();
    waiting.leave();
}

#[tokio::test]
async fn another_filters_answer_is_neutral() {
    let video = Backend::start().unwrap();
    let mut config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&counting());
    let manager =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let filters = config
        .value_mut()
        .pointer_mut(manager)
        .unwrap()
        .as_array_mut()
        .unwrap();
    // After Levee's filter, which has admitted the request by then.
    filters.insert(
        1,
        json!({"name": "fault", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "abort": {"http_status": 503, "percentage": {"numerator": 100}},
            "headers": [{"name": "please-fail", "present_match": true}],
        }}),
    );
    let envoy = Envoy::start(config).await.unwrap();
    let aborted = Request::get("/v1/video/x").header("please-fail", "1");
    assert_eq!(aborted.send(envoy.address()).await.unwrap().status, 503);
    counts(&envoy, "video", [0.0; 3], NEUTRAL, "another filter's 503").await;
    assert_eq!(video.requests(), 0);
    video.check_only_http().unwrap();
}

#[tokio::test]
async fn grpc_statuses_are_counted_as_what_they_are() {
    let auth = GrpcBackend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .upstream_http2("auth")
        .plugin(&counting())
        .plugin(&json!({"services": {"auth": {"timeouts": {"class": "default"}}}}));
    let envoy = Envoy::start(config).await.unwrap();
    let call = grpc::call("/v1/auth/levee.Demo/Call");
    let statuses = [
        (status::OK, SUCCESS),
        (status::NOT_FOUND, SUCCESS),
        (status::RESOURCE_EXHAUSTED, NEUTRAL),
        (status::UNKNOWN, FAILURE),
        (status::DEADLINE_EXCEEDED, FAILURE),
        (status::INTERNAL, FAILURE),
        (status::UNAVAILABLE, FAILURE),
        (status::DATA_LOSS, FAILURE),
    ];
    let of_status = statuses.iter().flat_map(|&(status, change)| {
        [
            (GrpcBehaviour::Trailers(status), change),
            (GrpcBehaviour::TrailersOnly(status), change),
        ]
    });
    let stalls = [
        (GrpcBehaviour::Stall, FAILURE),
        (GrpcBehaviour::StallInStream, FAILURE),
    ];
    for (behaviour, change) in of_status.chain(stalls) {
        let before = counted(&envoy, "auth").await;
        auth.always(behaviour);
        // A cut stream may end in an error; only its count matters here.
        let _ = grpc::send(&call, envoy.address()).await;
        counts(&envoy, "auth", before, change, &format!("{behaviour:?}")).await;
    }
}

#[tokio::test]
async fn each_service_has_its_own_rules_of_what_is_a_failure() {
    let (video, auth) = (Backend::start().unwrap(), GrpcBackend::start().unwrap());
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .upstream("auth", auth.address())
        .upstream_http2("auth")
        .plugin(&counting())
        .plugin(&json!({
            "failures": {"http": ["500-599", "!503"]},
            "services": {
                "video": {"failures": {"http": [404, "429", "500-599", "!500"]}},
                "auth": {"failures": {"grpc": ["NOT_FOUND", 8]}},
            },
        }));
    let envoy = Envoy::start(config).await.unwrap();
    for (code, change) in [
        (200, SUCCESS),
        (403, SUCCESS),
        (404, FAILURE),
        (410, SUCCESS),
        (429, FAILURE),
        (500, SUCCESS),
        (501, FAILURE),
        (503, FAILURE),
    ] {
        let before = counted(&envoy, "video").await;
        video.always(Behaviour::status(code));
        assert_eq!(envoy.get("/v1/video/x").await.unwrap().status, code);
        counts(&envoy, "video", before, change, &code.to_string()).await;
    }
    let call = grpc::call("/v1/auth/levee.Demo/Call");
    for (status, change) in [
        (status::OK, SUCCESS),
        (status::NOT_FOUND, FAILURE),
        (status::RESOURCE_EXHAUSTED, FAILURE),
        (status::UNAVAILABLE, SUCCESS),
    ] {
        for behaviour in [
            GrpcBehaviour::Trailers(status),
            GrpcBehaviour::TrailersOnly(status),
        ] {
            let before = counted(&envoy, "auth").await;
            auth.always(behaviour);
            grpc::send(&call, envoy.address()).await.expect("an answer");
            counts(&envoy, "auth", before, change, &format!("{behaviour:?}")).await;
        }
    }
}

#[tokio::test]
async fn a_service_that_says_when_to_come_back_is_left_alone_until_then() {
    let (video, auth) = (Backend::start().unwrap(), Backend::start().unwrap());
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .upstream("auth", auth.address())
        .plugin_exactly(&json!({
            "breaker": {"open_for": "1s", "witnesses": 1},
            "failures": {"http": ["429", "500-599"], "retry_after": true},
        }));
    let envoy = Envoy::start(config).await.unwrap();
    let limits = Response::status(429).header("retry-after", "60");
    video.always(Behaviour::Answer(limits));
    let pushes_back = Response::status(200)
        .header("grpc-status", "14")
        .header("grpc-retry-pushback-ms", "60000");
    auth.always(Behaviour::Answer(pushes_back));
    for path in ["/v1/video/x", "/v1/auth/x"] {
        for _ in 0..5 {
            assert!(!envoy.get(path).await.unwrap().is_refusal(), "{path}");
        }
        let refusal = envoy.get(path).await.unwrap();
        assert!(refusal.is_refusal(), "{path}");
        let seconds: u64 = refusal.header("retry-after").parse().unwrap();
        assert!((60..=80).contains(&seconds), "{path}: {seconds}");
    }
}

#[tokio::test]
async fn a_client_that_says_grpc_to_an_http_service_is_judged_by_what_the_service_answers() {
    let video = Backend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&counting());
    let envoy = Envoy::start(config).await.unwrap();
    for kind in ["application/grpc", "application/grpc-web+proto"] {
        for (code, expected) in [
            (200, SUCCESS),
            (415, SUCCESS),
            (429, NEUTRAL),
            (503, FAILURE),
        ] {
            video.always(Behaviour::status(code));
            let before = counted(&envoy, "video").await;
            let request = Request::post("/v1/video/x", "body").header("content-type", kind);
            assert_eq!(request.send(envoy.address()).await.unwrap().status, code);
            counts(&envoy, "video", before, expected, &format!("{kind} {code}")).await;
        }
    }
}

#[tokio::test]
async fn a_clients_own_shorter_deadline_is_neutral_and_counted_as_a_timeout() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Stall);
    let mut plugin = counting();
    plugin["timeouts"]["client_deadline_header"] = json!("x-deadline-ms");
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&plugin);
    let envoy = Envoy::start(config).await.unwrap();
    for (deadline, expected) in [("50", NEUTRAL), ("60000", FAILURE)] {
        let before = counted(&envoy, "video").await;
        let request = Request::get("/v1/video/x").header("x-deadline-ms", deadline);
        assert_eq!(request.send(envoy.address()).await.unwrap().status, 504);
        counts(&envoy, "video", before, expected, deadline).await;
    }
    let timeouts = envoy
        .metrics()
        .await
        .unwrap()
        .sum("proxy_request_timeout_total", &[("service", "video")]);
    assert!((timeouts - 2.0).abs() < f64::EPSILON, "{timeouts}");
}
