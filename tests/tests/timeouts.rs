//! Time limits: each ends only what it should, on time, with the right status, flag and counter.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour, Gate, Response, SeenRequest};
use levee_harness::client::Request;
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::{EnvoyConfig, SEEN_HEADER_LIMIT, SEEN_WHOLE_LIMIT};
use levee_harness::raw::{RawConnection, Read};
use levee_harness::wait;
use serde_json::{Value, json};

const MS: Duration = Duration::from_millis(1);
/// How much later than its limit a request may end. Generous for busy machines, but below the next limit.
const SLACK: Duration = Duration::from_secs(3);

async fn gateway(service: &str, backend: &Backend, plugin: Value) -> Envoy {
    Envoy::start(
        EnvoyConfig::gateway()
            .upstream(service, backend.address())
            .plugin(&plugin),
    )
    .await
    .unwrap()
}

async fn counted_once(envoy: &Envoy, service: &str, kind: &str) {
    for each in ["request", "response_header", "connect"] {
        let wanted = f64::from(u8::from(each == kind));
        envoy
            .wait_for_metric(
                "proxy_request_timeout_total",
                &[("service", service), ("kind", each)],
                wanted,
            )
            .await
            .unwrap();
    }
    envoy
        .wait_for_metric(
            "circuit_breaker_failures_total",
            &[("service", service)],
            1.0,
        )
        .await
        .unwrap();
}

fn assert_about(took: Duration, limit: Duration) {
    assert!(
        took + 50 * MS >= limit && took < limit + SLACK,
        "took {took:?}, the limit is {limit:?}"
    );
}

#[tokio::test]
async fn headers_that_do_not_come_end_the_request_with_504() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Stall);
    let envoy = gateway(
        "video",
        &video,
        json!({"timeouts": {"response_header": "500ms"}}),
    )
    .await;
    let answer = Request::get("/v1/video/x")
        .send(envoy.address())
        .await
        .unwrap();
    assert_eq!(answer.status, 504);
    assert_about(answer.took, 500 * MS);
    let line = envoy
        .access_log()
        .of_request(answer.request_id())
        .await
        .unwrap();
    assert_eq!(
        (line.text("flags"), line.text("details")),
        ("UT", "upstream_per_try_timeout")
    );
    video
        .wait_until("the cancellation", |seen| seen.cancelled == 1)
        .await
        .unwrap();
    counted_once(&envoy, "video", "response_header").await;
}

#[tokio::test]
async fn a_body_that_does_not_end_is_cut_by_the_class() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::StallInBody("the beginning".into()));
    let timeouts = json!({"timeouts": {"response_header": "500ms", "classes": {"default": "1s"}}});
    let envoy = gateway("video", &video, timeouts).await;
    let answer = Request::get("/v1/video/x")
        .send(envoy.address())
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "the beginning")
    );
    assert!(
        answer.broken.is_some(),
        "the client must see that the body is not complete"
    );
    assert_about(answer.took, 1000 * MS);
    let line = envoy
        .access_log()
        .of_request(answer.request_id())
        .await
        .unwrap();
    assert_eq!(
        (line.number("status"), line.text("flags")),
        (Some(200), "UT"),
        "{line:?}"
    );
    video
        .wait_until("the cancellation", |seen| seen.cancelled == 1)
        .await
        .unwrap();
    counted_once(&envoy, "video", "request").await;
}

#[tokio::test]
async fn a_slow_answer_within_its_class_is_not_cut_by_the_header_limit() {
    let video = Backend::start().unwrap();
    let gate = Gate::closed();
    video.always(Behaviour::Hold(gate.clone(), Response::status(200)));
    let timeouts = json!({"timeouts": {"response_header": "20s", "class": "long"}});
    let envoy = gateway("video", &video, timeouts).await;
    let asked = tokio::spawn({
        let address = envoy.address();
        async move { Request::get("/v1/video/x").send(address).await }
    });
    video.wait_in_flight(1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.open();
    assert_eq!(asked.await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn a_silent_tls_server_is_given_up_after_the_connect_timeout() {
    let video = Backend::start().unwrap();
    video.be_silent().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .upstream_tls("video")
        .connect_timeout("video", 500 * MS)
        .without_health_checks();
    let envoy = Envoy::start(config).await.unwrap();
    let answer = Request::get("/v1/video/x")
        .send(envoy.address())
        .await
        .unwrap();
    assert_eq!(answer.status, 503);
    assert_about(answer.took, 500 * MS);
    assert_eq!(video.seen().connections, 1);
    let line = envoy
        .access_log()
        .of_request(answer.request_id())
        .await
        .unwrap();
    assert!(line.text("flags").contains("UF"), "{line:?}");
    counted_once(&envoy, "video", "connect").await;
}

#[tokio::test]
async fn a_three_second_upload_passes_under_a_one_second_header_limit() {
    let storage = Backend::start().unwrap();
    let timeouts = json!({"timeouts": {"response_header": "1s", "classes": {"long": "2s"}}});
    let envoy = gateway("storage", &storage, timeouts).await;
    let upload = Request::post("/v1/storage/file", "").slow_body(vec![b'x'; 1000], 7, 500 * MS);
    let answer = upload.send(envoy.address()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.took >= Duration::from_secs(3), "{:?}", answer.took);
}

#[tokio::test]
async fn a_clients_own_timeout_header_lengthens_nothing() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Stall);
    let timeouts = json!({"timeouts": {"response_header": "500ms", "classes": {"default": "1s"}}});
    let envoy = gateway("video", &video, timeouts).await;
    let greedy = Request::get("/v1/video/x")
        .header("x-envoy-upstream-rq-timeout-ms", "600000")
        .header("x-envoy-upstream-rq-per-try-timeout-ms", "600000");
    let answer = greedy.send(envoy.address()).await.unwrap();
    assert_eq!(answer.status, 504);
    assert_about(answer.took, 500 * MS);

    video.always(Behaviour::StallInBody("x".into()));
    let answer = greedy.send(envoy.address()).await.unwrap();
    assert!(answer.broken.is_some());
    assert_about(answer.took, 1000 * MS);
}

/// Even if Envoy doesn't remove the headers itself, as for an internal client in the plain configuration.
#[tokio::test]
async fn the_filter_overwrites_the_headers_by_itself() {
    let auth = Backend::start().unwrap();
    let config = EnvoyConfig::minimal()
        .upstream("auth", auth.address())
        .connection_manager(&json!({
            "use_remote_address": false,
            "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
        }))
        .show_limits_to_backends()
        .plugin(&json!({"timeouts": {"class": "medium"}}));
    let envoy = Envoy::start(config).await.unwrap();
    let request = Request::get("/x")
        .header("x-forwarded-for", "127.0.0.1")
        .header("x-envoy-upstream-rq-timeout-ms", "600000")
        .header("x-envoy-upstream-rq-per-try-timeout-ms", "600000");
    assert_eq!(request.send(envoy.address()).await.unwrap().status, 200);
    assert_limits(&auth.last_request().unwrap(), 10_000);
}

fn assert_limits(request: &SeenRequest, whole_ms: u64) {
    let limit = |name| {
        let value = request.header(name).expect("both limits are always set");
        std::str::from_utf8(value).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(limit(SEEN_WHOLE_LIMIT), whole_ms);
    assert!(
        (1..=whole_ms).contains(&limit(SEEN_HEADER_LIMIT)),
        "{request:?}"
    );
}

#[tokio::test]
async fn classes_go_by_service_and_by_path_with_the_five_defaults() {
    let backend = Backend::start().unwrap();
    let config = ["auth", "chat", "video", "storage"]
        .iter()
        .fold(EnvoyConfig::gateway(), |config, service| {
            config.upstream(service, backend.address())
        })
        .show_limits_to_backends()
        .plugin_exactly(&json!({
            "timeouts": {"rules": [
                {"path_prefix": "/v1/storage/archive", "class": "very_long"},
                {"path_prefix": "/v1/storage", "class": "long"},
            ]},
            "services": {
                "auth": {"timeouts": {"class": "short"}},
                "chat": {"timeouts": {"class": "medium"}},
            },
        }));
    let envoy = Envoy::start(config).await.unwrap();
    for (path, whole_ms) in [
        ("/v1/auth/x", 7_000),
        ("/v1/chat/x", 10_000),
        ("/v1/video/x", 30_000),
        ("/v1/storage/x", 60_000),
        ("/v1/storage/archive/x", 300_000),
    ] {
        let answer = Request::get(path).send(envoy.address()).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_limits(&backend.last_request().unwrap(), whole_ms);
    }
}

#[tokio::test]
async fn a_trusted_clients_deadline_shortens_and_never_lengthens() {
    let video = Backend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .show_limits_to_backends()
        .plugin(&json!({"timeouts": {"client_deadline_header": "x-deadline-ms"}}));
    let envoy = Envoy::start(config).await.unwrap();
    for (deadline, whole_ms) in [
        ("2000", 2_000),
        ("600000", 30_000),
        // A limit of 0 would mean none.
        ("0", 1),
        ("-5", 30_000),
        ("soon", 30_000),
        ("99999999999999999999999", 30_000),
    ] {
        let request = Request::get("/v1/video/x").header("x-deadline-ms", deadline);
        request.send(envoy.address()).await.unwrap();
        assert_limits(&video.last_request().unwrap(), whole_ms);
    }
}

/// Without the key of a WebSocket: the backend then sends bytes back as they are.
const UPGRADE: &str = "GET /v1/chat/socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\n\r\n";

#[tokio::test]
async fn the_wait_for_an_upgrade_is_bounded_by_the_header_limit() {
    let chat = Backend::start().unwrap();
    chat.always(Behaviour::Stall);
    let envoy = gateway(
        "chat",
        &chat,
        json!({"timeouts": {"response_header": "500ms"}}),
    )
    .await;
    let watch = Stopwatch::start();
    let mut socket = RawConnection::open(envoy.address()).await.unwrap();
    socket.send(UPGRADE).await.unwrap();
    assert_eq!(socket.read_status(wait::GENEROUS).await, Ok(504));
    assert_about(watch.elapsed(), 500 * MS);
    counted_once(&envoy, "chat", "response_header").await;
}

#[tokio::test]
async fn without_the_filter_the_wait_for_an_upgrade_is_bounded_by_the_route() {
    let chat = Backend::start().unwrap();
    chat.always(Behaviour::Stall);
    let config = EnvoyConfig::gateway()
        .without_filter()
        .upstream("chat", chat.address())
        .route("chat", &json!({"route": {"timeout": "0.5s"}}));
    let envoy = Envoy::start(config).await.unwrap();
    let mut socket = RawConnection::open(envoy.address()).await.unwrap();
    socket.send(UPGRADE).await.unwrap();
    assert_eq!(socket.read_status(wait::GENEROUS).await, Ok(504));
}

#[tokio::test]
async fn an_open_websocket_outlives_its_class_and_ends_when_it_is_idle() {
    let chat = Backend::start().unwrap();
    chat.always(Behaviour::UpgradeAndEcho);
    let timeouts =
        json!({"timeouts": {"response_header": "200ms", "classes": {"default": "500ms"}}});
    let config = EnvoyConfig::gateway()
        .upstream("chat", chat.address())
        .plugin(&timeouts)
        .route("chat", &json!({"route": {"idle_timeout": "1s"}}));
    let envoy = Envoy::start(config).await.unwrap();
    let mut socket = RawConnection::open(envoy.address()).await.unwrap();
    socket.send(UPGRADE).await.unwrap();
    assert_eq!(socket.read_status(wait::GENEROUS).await, Ok(101));
    for _ in 0..8 {
        socket.forget();
        socket.send("ping").await.unwrap();
        assert_eq!(
            socket.read_until(b"ping", wait::GENEROUS).await,
            Read::Found
        );
        tokio::time::sleep(250 * MS).await;
    }
    let idle_since = Stopwatch::start();
    let end = socket.read_to_end(wait::GENEROUS).await;
    assert!(matches!(end, Read::Closed | Read::Reset), "{end:?}");
    assert!(
        idle_since.elapsed() < 1000 * MS + SLACK,
        "{:?}",
        idle_since.elapsed()
    );
    let line = envoy.access_log().of_path("/v1/chat/socket").await.unwrap();
    assert_eq!(
        (line.number("status"), line.text("flags")),
        (Some(101), "SI"),
        "{line:?}"
    );
    let success = [("service", "chat"), ("outcome", "success")];
    envoy
        .wait_for_metric("circuit_breaker_requests_total", &success, 1.0)
        .await
        .unwrap();
    envoy
        .wait_for_metric(
            "circuit_breaker_failures_total",
            &[("service", "chat")],
            0.0,
        )
        .await
        .unwrap();
}
