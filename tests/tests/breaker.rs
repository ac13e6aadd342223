//! The breaker in a real gateway: it opens, refuses, probes and closes, and ignores what must not affect it.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour, Gate, Response};
use levee_harness::client::{Answer, Connection, Request};
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour, status};
use levee_harness::raw::Crowd;
use levee_harness::wait;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const VIDEO: &str = "/v1/video/x";

async fn gateway(video: &Backend, plugin: Value) -> Envoy {
    Envoy::start(
        EnvoyConfig::gateway()
            .upstream("video", video.address())
            .plugin(&plugin),
    )
    .await
    .unwrap()
}

/// Sends failing requests until the breaker refuses.
async fn open_the_breaker(envoy: &Envoy, video: &Backend) {
    video.always(Behaviour::status(502));
    envoy.first_refusal(VIDEO, wait::GENEROUS).await.unwrap();
}

async fn transitions(envoy: &Envoy, to: &str, wanted: f64) {
    let labels = [("service", "video"), ("to", to)];
    envoy
        .wait_for_metric("circuit_breaker_transitions_total", &labels, wanted)
        .await
        .unwrap();
}

/// Sends a request without waiting for its response.
fn send_in_background(envoy: &Envoy, requests: &mut JoinSet<Answer>) {
    let address = envoy.address();
    requests.spawn(async move { Request::get(VIDEO).send(address).await.unwrap() });
}

#[tokio::test]
async fn the_sixth_request_to_a_failing_service_is_refused_without_touching_it() {
    let (video, chat) = (Backend::start().unwrap(), Backend::start().unwrap());
    video.always(Behaviour::status(502));
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .upstream("chat", chat.address())
        .plugin_exactly(&json!({}));
    let envoy = Envoy::start(config).await.unwrap();
    for _ in 0..5 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 502);
        assert_eq!(envoy.get("/v1/chat/x").await.unwrap().status, 200);
    }
    let mut connection = Connection::open(envoy.address()).await.unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let refused = connection.send(&Request::get(VIDEO)).await.unwrap();
        fastest = fastest.min(refused.took);
        assert_eq!(
            (refused.status, refused.header("x-levee-reason")),
            (503, "circuit_open")
        );
        let retry_after: u64 = refused.header("retry-after").parse().unwrap();
        assert!(
            (29..=60).contains(&retry_after),
            "open for about 30 s: {retry_after}"
        );
        assert_eq!(refused.header("content-type"), "application/json");
        assert!(
            serde_json::from_slice::<Value>(&refused.body).is_ok(),
            "{}",
            refused.text()
        );
        let line = envoy
            .access_log()
            .of_request(refused.request_id())
            .await
            .unwrap();
        assert_eq!(
            (
                line.text("details"),
                line.text("service"),
                line.text("upstream")
            ),
            ("levee_circuit_open", "video", "")
        );
        assert_eq!(
            envoy.get("/v1/chat/x").await.unwrap().status,
            200,
            "others are untouched"
        );
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    assert_eq!(video.requests(), 5);
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "video")], 1.0)
        .await
        .unwrap();
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "chat")], 0.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_service_that_is_down_opens_its_breaker_and_closes_it_when_it_is_back() {
    let video = Backend::start_refusing().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "500ms"}})).await;
    for _ in 0..5 {
        let answer = envoy.get(VIDEO).await.unwrap();
        assert_eq!((answer.status, answer.is_refusal()), (503, false));
        assert_eq!(
            envoy
                .access_log()
                .of_request(answer.request_id())
                .await
                .unwrap()
                .text("flags"),
            "UF"
        );
    }
    assert!(envoy.get(VIDEO).await.unwrap().is_refusal());
    video.accept().unwrap();
    for _ in 0..3 {
        assert_eq!(
            envoy
                .first_let_through(VIDEO, wait::GENEROUS)
                .await
                .unwrap()
                .status,
            200
        );
    }
    transitions(&envoy, "closed", 1.0).await;
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "video")], 0.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_service_that_could_not_be_reached_is_asked_again_long_before_thirty_seconds() {
    let video = Backend::start_refusing().unwrap();
    let envoy = gateway(&video, json!({})).await;
    for _ in 0..5 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 503);
    }
    assert!(envoy.get(VIDEO).await.unwrap().is_refusal());
    video.accept().unwrap();
    let back = Stopwatch::start();
    let first = envoy.first_let_through(VIDEO, wait::GENEROUS).await;
    assert_eq!(first.unwrap().status, 200);
    assert!(
        back.elapsed() < Duration::from_secs(10),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test]
async fn half_open_lets_three_through_at_once_and_closes_after_three_successes() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "300ms"}})).await;
    open_the_breaker(&envoy, &video).await;
    let before = video.requests();
    let gate = Gate::closed();
    video.always(Behaviour::Hold(gate.clone(), Response::status(200)));
    // Sends requests until three are held; the others must be refused.
    let mut requests = JoinSet::new();
    wait::until_now("three probes in flight", wait::GENEROUS, || {
        send_in_background(&envoy, &mut requests);
        if video.seen().in_flight == 3 {
            Ok(())
        } else {
            Err(video.seen().in_flight)
        }
    })
    .await
    .unwrap();
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "video")], 2.0)
        .await
        .unwrap();
    for _ in 0..10 {
        assert!(
            envoy.get(VIDEO).await.unwrap().is_refusal(),
            "the places are taken"
        );
    }
    assert_eq!(video.requests(), before + 3);
    gate.open();
    let answers = requests.join_all().await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 200).count(),
        3
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 || answer.is_refusal())
    );
    assert_eq!(video.seen().most_in_flight, 3);
    for _ in 0..10 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 200, "closed");
    }
    transitions(&envoy, "closed", 1.0).await;
}

#[tokio::test]
async fn a_failed_probe_opens_it_again_for_longer() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "500ms"}})).await;
    open_the_breaker(&envoy, &video).await;
    let mut open_for = Vec::new();
    for _ in 0..3 {
        let watch = Stopwatch::start();
        assert_eq!(
            envoy
                .first_let_through(VIDEO, wait::GENEROUS)
                .await
                .unwrap()
                .status,
            502,
            "the probe fails"
        );
        open_for.push(watch.elapsed());
    }
    // The first had begun before it was measured. Each is twice the one before, plus at most a tenth.
    assert!(open_for[1] >= Duration::from_millis(950), "{open_for:?}");
    assert!(open_for[2] >= Duration::from_millis(1950), "{open_for:?}");
    transitions(&envoy, "half_open", 3.0).await;
    transitions(&envoy, "open", 4.0).await;
}

#[tokio::test]
async fn a_call_from_before_that_fails_while_half_open_decides_nothing() {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, json!({"breaker": {"open_for": "300ms"}})).await;
    let mut requests = JoinSet::new();
    // Two calls are admitted while closed.
    let (fails, succeeds) = (Gate::closed(), Gate::closed());
    video.next([Behaviour::Hold(fails.clone(), Response::status(502))]);
    send_in_background(&envoy, &mut requests);
    video.wait_in_flight(1).await.unwrap();
    video.next([Behaviour::Hold(succeeds.clone(), Response::status(200))]);
    send_in_background(&envoy, &mut requests);
    video.wait_in_flight(2).await.unwrap();

    open_the_breaker(&envoy, &video).await;
    video.always(Behaviour::status(200));
    assert_eq!(
        envoy
            .first_let_through(VIDEO, wait::GENEROUS)
            .await
            .unwrap()
            .status,
        200,
        "one probe of three has succeeded"
    );
    fails.open();
    video.wait_in_flight(1).await.unwrap();
    assert_eq!(requests.join_next().await.unwrap().unwrap().status, 502);
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "video")], 2.0)
        .await
        .unwrap();
    succeeds.open();
    assert_eq!(requests.join_next().await.unwrap().unwrap().status, 200);
    // The success from before doesn't count either: it still takes two more.
    assert_eq!(envoy.get(VIDEO).await.unwrap().status, 200);
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "video")], 2.0)
        .await
        .unwrap();
    transitions(&envoy, "closed", 0.0).await;
    assert_eq!(envoy.get(VIDEO).await.unwrap().status, 200);
    transitions(&envoy, "closed", 1.0).await;
    transitions(&envoy, "open", 1.0).await;
}

#[tokio::test]
async fn a_probe_whose_client_leaves_gives_its_permit_back() {
    let video = Backend::start().unwrap();
    let breaker =
        json!({"breaker": {"open_for": "300ms", "half_open": {"max_in_flight": 1, "lease": "1h"}}});
    let envoy = gateway(&video, breaker).await;
    open_the_breaker(&envoy, &video).await;
    video.always(Behaviour::Stall);
    let probe = wait::until("a probe to be held", wait::GENEROUS, || async {
        let probe = Crowd::ask(envoy.address(), VIDEO, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        if video.seen().in_flight == 1 {
            Ok(probe)
        } else {
            Err("refused")
        }
    })
    .await
    .unwrap();
    assert!(
        envoy.get(VIDEO).await.unwrap().is_refusal(),
        "the only place is taken"
    );
    video.always(Behaviour::status(200));
    probe.leave();
    video
        .wait_until("the cancellation", |seen| seen.cancelled == 1)
        .await
        .unwrap();
    assert_eq!(
        envoy
            .first_let_through(VIDEO, wait::GENEROUS)
            .await
            .unwrap()
            .status,
        200
    );
    transitions(&envoy, "open", 1.0).await;
}

#[tokio::test]
async fn a_probe_that_hangs_frees_its_place_when_its_lease_ends() {
    let video = Backend::start().unwrap();
    let plugin = json!({
        "breaker": {"open_for": "300ms", "half_open": {"max_in_flight": 1, "lease": "500ms"}},
        "timeouts": {"response_header": "20s"},
    });
    let envoy = gateway(&video, plugin).await;
    open_the_breaker(&envoy, &video).await;
    let gate = Gate::closed();
    video.next([Behaviour::Hold(gate.clone(), Response::status(200))]);
    video.always(Behaviour::status(200));
    let mut requests = JoinSet::new();
    wait::until_now("the hanging probe", wait::GENEROUS, || {
        if video.seen().in_flight == 1 {
            return Ok(());
        }
        send_in_background(&envoy, &mut requests);
        Err("refused")
    })
    .await
    .unwrap();
    assert_eq!(
        envoy
            .first_let_through(VIDEO, wait::GENEROUS)
            .await
            .unwrap()
            .status,
        200,
        "another probe while the first still hangs"
    );
    video.wait_in_flight(1).await.unwrap();
    envoy
        .wait_for_metric(
            "circuit_breaker_probe_leases_expired_total",
            &[("service", "video")],
            1.0,
        )
        .await
        .unwrap();
    gate.open();
}

#[tokio::test]
async fn clients_that_leave_open_nothing_and_the_service_sees_it() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Stall);
    let envoy = gateway(&video, json!({})).await;
    for vanish in [false, true] {
        let crowd = Crowd::ask(envoy.address(), VIDEO, 30).await.unwrap();
        video.wait_in_flight(30).await.unwrap();
        if vanish {
            crowd.vanish();
        } else {
            crowd.leave();
        }
        video.wait_in_flight(0).await.unwrap();
    }
    assert_eq!(video.seen().cancelled, 60);
    let neutral = [("service", "video"), ("outcome", "neutral")];
    envoy
        .wait_for_metric("circuit_breaker_requests_total", &neutral, 60.0)
        .await
        .unwrap();
    envoy
        .wait_for_metric(
            "circuit_breaker_failures_total",
            &[("service", "video")],
            0.0,
        )
        .await
        .unwrap();
    video.always(Behaviour::status(200));
    assert_eq!(envoy.get(VIDEO).await.unwrap().status, 200);
    transitions(&envoy, "open", 0.0).await;
}

/// Sends `count` requests over a few connections. Returns whether any was refused.
async fn is_any_refused(envoy: &Envoy, count: usize) -> bool {
    let mut connection = Connection::open(envoy.address()).await.unwrap();
    for _ in 0..count {
        if connection
            .send(&Request::get(VIDEO))
            .await
            .unwrap()
            .is_refusal()
        {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn ten_percent_errors_open_it_where_five_are_allowed() {
    let video = Backend::start().unwrap();
    video.fail_per_thousand(100);
    let rate = json!({"breaker": {"failure_rate": {"ratio": 0.05}}});
    let envoy = gateway(&video, rate).await;
    assert!(is_any_refused(&envoy, 2000).await);
}

#[tokio::test]
async fn one_error_in_a_thousand_never_opens_it() {
    let video = Backend::start().unwrap();
    video.fail_per_thousand(1);
    let rate = json!({"breaker": {"failure_rate": {"ratio": 0.05}}});
    let envoy = gateway(&video, rate).await;
    assert!(!is_any_refused(&envoy, 5000).await);
    envoy
        .wait_for_metric(
            "circuit_breaker_failures_total",
            &[("service", "video")],
            5.0,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn one_failure_among_fewer_requests_than_the_minimum_never_opens_it() {
    let video = Backend::start().unwrap();
    video.next([Behaviour::status(502)]);
    let rate = json!({"breaker": {"failure_rate": {"ratio": 0.05, "minimum_requests": 20}}});
    let envoy = gateway(&video, rate).await;
    assert!(!is_any_refused(&envoy, 18).await);
    transitions(&envoy, "open", 0.0).await;
}

#[tokio::test]
async fn sixty_percent_errors_open_it_with_the_defaults_though_never_five_in_a_row() {
    let video = Backend::start().unwrap();
    video.fail_per_thousand(600);
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin_exactly(&json!({}));
    let envoy = Envoy::start(config).await.unwrap();
    assert!(is_any_refused(&envoy, 502).await);
}

#[tokio::test]
async fn modes_do_what_they_say() {
    for (mode, number, refused_when_well, refused_when_failing) in [
        ("shadow", 1.0, false, false),
        ("disabled", 2.0, false, false),
        ("forced_open", 3.0, true, true),
        ("forced_closed", 4.0, false, false),
    ] {
        let video = Backend::start().unwrap();
        let envoy = gateway(
            &video,
            json!({"services": {"video": {"breaker": {"mode": mode}}}}),
        )
        .await;
        assert_eq!(
            is_any_refused(&envoy, 10).await,
            refused_when_well,
            "{mode}"
        );
        video.always(Behaviour::status(502));
        assert_eq!(
            is_any_refused(&envoy, 10).await,
            refused_when_failing,
            "{mode}"
        );
        let service = [("service", "video")];
        envoy
            .wait_for_metric("circuit_breaker_mode", &service, number)
            .await
            .unwrap();
        if mode == "shadow" {
            envoy
                .wait_for_metric("circuit_breaker_shadow_rejected_total", &service, 5.0)
                .await
                .unwrap();
            transitions(&envoy, "open", 1.0).await;
        }
        if refused_when_well {
            assert_eq!(video.requests(), 0);
            video.check_only_http().unwrap();
        }
    }
}

#[tokio::test]
async fn a_fixed_fallback_answers_in_place_of_the_refusal() {
    let video = Backend::start().unwrap();
    let fallback = json!({"services": {"video": {"fallback": {
        "status": 200, "headers": {"content-type": "text/plain", "x-stale": "an hour"}, "body": "as of yesterday",
    }}}});
    let envoy = gateway(&video, fallback).await;
    video.always(Behaviour::status(502));
    for _ in 0..5 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 502);
    }
    let answer = envoy.get(VIDEO).await.unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "as of yesterday")
    );
    assert_eq!(
        (answer.header("content-type"), answer.header("x-stale")),
        ("text/plain", "an hour")
    );
    assert_eq!(video.requests(), 5);
}

#[tokio::test]
async fn a_fallback_route_takes_the_refused_requests_and_no_client_can_choose_it() {
    let (video, storage) = (Backend::start().unwrap(), Backend::start().unwrap());
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .upstream("storage", storage.address())
        .first_route(json!({
            "name": "fallback",
            "match": {"prefix": "/", "headers": [{"name": "x-levee-fallback", "string_match": {"exact": "copies"}}]},
            "route": {"cluster": "storage"},
        }))
        .plugin(&json!({"services": {"video": {"fallback": {"route": "copies"}}}}));
    let envoy = Envoy::start(config).await.unwrap();
    video.always(Behaviour::status(502));
    for _ in 0..5 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 502);
    }
    storage.always(Behaviour::status(203));
    for _ in 0..3 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 203);
    }
    assert_eq!((video.requests(), storage.requests()), (5, 3));
    // Only the filter may choose this route.
    let steering = Request::get("/v1/chat/x").header("x-levee-fallback", "copies");
    assert_ne!(steering.send(envoy.address()).await.unwrap().status, 203);
}

#[tokio::test]
async fn a_fallback_route_that_does_not_exist_does_not_switch_the_breaker_off() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::status(502));
    let envoy = gateway(
        &video,
        json!({"services": {"video": {"fallback": {"route": "typo"}}}}),
    )
    .await;
    for _ in 0..6 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 502);
    }
    envoy
        .wait_for_log("no route for x-levee-fallback: typo")
        .await
        .unwrap();
    let refused = envoy.get(VIDEO).await.unwrap();
    assert!(refused.is_refusal(), "{refused:?}");
    assert_eq!(video.requests(), 6);
}

#[tokio::test]
async fn grpc_clients_are_refused_with_unavailable() {
    let auth = GrpcBackend::start().unwrap();
    auth.always(GrpcBehaviour::TrailersOnly(status::UNAVAILABLE));
    let config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .upstream_http2("auth");
    let envoy = Envoy::start(config).await.unwrap();
    let call = grpc::call("/v1/auth/levee.Demo/Call");
    for number in 0..7 {
        let answer = grpc::send(&call, envoy.address()).await.unwrap();
        assert_eq!(
            (answer.status, grpc::status_of(&answer)),
            (200, Some(status::UNAVAILABLE)),
            "{answer:?}"
        );
        let reason = answer.headers.get("x-levee-reason");
        assert_eq!(reason.is_some(), number >= 5, "{answer:?}");
    }
    assert_eq!(auth.seen().calls, 5);
}

/// How long a service that is back after answering 502 to everything is refused.
async fn refused_after_return(plugin: Value) -> Duration {
    let video = Backend::start().unwrap();
    let envoy = gateway(&video, plugin).await;
    open_the_breaker(&envoy, &video).await;
    video.always(Behaviour::status(200));
    let back = Stopwatch::start();
    let first = envoy
        .first_let_through(VIDEO, wait::GENEROUS)
        .await
        .unwrap();
    assert_eq!(first.status, 200);
    back.elapsed()
}

#[tokio::test]
async fn a_service_that_passes_a_health_check_is_served_long_before_its_open_time_is_over() {
    let open_for = json!({"breaker": {"open_for": "8s"}});
    let check = json!({"breaker": {"open_for": "8s", "health_check": {"path": "/healthz"}}});
    let (without, with) = (
        refused_after_return(open_for).await,
        refused_after_return(check).await,
    );
    println!("without checks {without:?}, with checks {with:?}");
    assert!(without > Duration::from_secs(7), "{without:?}");
    assert!(with < Duration::from_secs(5), "{with:?}");
}

#[tokio::test]
async fn health_checks_are_few_and_reach_the_service_as_they_are_configured() {
    let video = Backend::start().unwrap();
    let check = json!({"path": "/healthz?deep=1", "host": "video.internal", "every": "200ms", "timeout": "200ms"});
    let envoy = gateway(&video, json!({"breaker": {"health_check": check}})).await;
    let checks = |video: &Backend| video.seen().by_path.get("/healthz").copied().unwrap_or(0);
    for _ in 0..10 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 200);
    }
    assert_eq!(checks(&video), 0, "none while it is closed");
    open_the_breaker(&envoy, &video).await;
    let opened = Stopwatch::start();
    video
        .wait_until("five checks", |seen| {
            seen.by_path.get("/healthz") >= Some(&5)
        })
        .await
        .unwrap();
    let took = opened.elapsed();
    // Sent by one of the workers each time.
    assert!(took > Duration::from_millis(800), "{took:?}");
    let request = video.last_request().unwrap();
    assert_eq!(
        (&*request.method, &*request.target),
        ("GET", "/healthz?deep=1")
    );
    assert_eq!(request.header("host"), Some(&b"video.internal"[..]));
    assert_eq!(
        request.header("user-agent"),
        Some(&b"levee-health-check"[..])
    );
    assert_eq!(request.header("transfer-encoding"), None);
    envoy
        .wait_for_log("video: the health check was answered with 502")
        .await
        .unwrap();
    assert!(envoy.get(VIDEO).await.unwrap().is_refusal());
    // Its checks pass, calls don't: one probe, and it is open until the first open time is over.
    video.choose(|_, request| {
        Behaviour::status(if request.path() == "/healthz" {
            200
        } else {
            502
        })
    });
    transitions(&envoy, "half_open", 1.0).await;
    let probe = envoy
        .first_let_through(VIDEO, wait::GENEROUS)
        .await
        .unwrap();
    assert_eq!(probe.status, 502);
    let refused = envoy.first_refusal(VIDEO, wait::GENEROUS).await.unwrap();
    let retry_after: u64 = refused.header("retry-after").parse().unwrap();
    assert!(retry_after >= 80, "30 s and 60 s: {retry_after}");
    envoy
        .wait_for_log("video: Open to HalfOpen, HealthCheckPassed")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_health_check_that_hangs_or_has_no_host_is_no_harm() {
    let video = Backend::start().unwrap();
    let check = json!({"path": "/healthz", "every": "300ms", "timeout": "100ms"});
    let envoy = gateway(&video, json!({"breaker": {"health_check": check}})).await;
    open_the_breaker(&envoy, &video).await;
    video.choose(|_, _| Behaviour::Stall);
    video
        .wait_until("checks that are given up", |seen| seen.cancelled >= 3)
        .await
        .unwrap();
    envoy
        .wait_for_log("video: the health check was answered with 504")
        .await
        .unwrap();
    video.refuse();
    assert!(envoy.get(VIDEO).await.unwrap().is_refusal());
    video.always(Behaviour::status(200));
    video.accept().unwrap();
    let first = envoy
        .first_let_through(VIDEO, wait::GENEROUS)
        .await
        .unwrap();
    assert_eq!(first.status, 200);
}

#[tokio::test]
async fn a_listener_may_be_replaced_while_its_filter_waits_for_a_health_check() {
    let video = Backend::start().unwrap();
    let check = |path: &str| json!({"path": path, "every": "2s", "timeout": "2s"});
    let config = |path| {
        EnvoyConfig::gateway()
            .upstream("video", video.address())
            .connection_manager(&json!({"drain_timeout": "0s"}))
            .plugin(&json!({"breaker": {"health_check": check(path)}}))
    };
    let mut envoy = Envoy::start_with_listeners_in_a_file(config("/old"))
        .await
        .unwrap();
    open_the_breaker(&envoy, &video).await;
    let gate = Gate::closed();
    video.always(Behaviour::Hold(gate.clone(), Response::status(200)));
    let waits =
        |path: &'static str| video.wait_until(path, move |seen| seen.by_path.contains_key(path));
    waits("/old").await.unwrap();
    envoy.replace_listeners(config("/new")).unwrap();
    waits("/new").await.unwrap();
    gate.open();
    video.always(Behaviour::status(200));
    let first = envoy
        .first_let_through(VIDEO, wait::GENEROUS)
        .await
        .unwrap();
    assert_eq!(first.status, 200);
    envoy.check_alive().unwrap();
    assert!(!envoy.log().contains("[critical]"), "{}", envoy.log());
}

#[tokio::test]
async fn a_grpc_service_is_asked_by_its_own_health_protocol() {
    let auth = GrpcBackend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .upstream_http2("auth")
        .plugin(&json!({"breaker": {"health_check": {"grpc_service": "auth.v1"}}}));
    let envoy = Envoy::start(config).await.unwrap();
    let call = grpc::call("/v1/auth/levee.Demo/Call");
    auth.always(GrpcBehaviour::TrailersOnly(status::UNAVAILABLE));
    for _ in 0..6 {
        let answer = grpc::send(&call, envoy.address()).await.unwrap();
        assert_eq!(grpc::status_of(&answer), Some(status::UNAVAILABLE));
    }
    envoy
        .wait_for_log("auth: the health check was not answered with SERVING")
        .await
        .unwrap();
    auth.always(GrpcBehaviour::Trailers(status::OK));
    let back = Stopwatch::start();
    wait::until("a good answer", wait::GENEROUS, || async {
        let answer = grpc::send(&call, envoy.address()).await.unwrap();
        match grpc::status_of(&answer) {
            Some(status::OK) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert!(
        back.elapsed() < Duration::from_secs(15),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test]
async fn after_an_outage_a_share_of_the_requests_goes_to_the_service_which_grows_to_all() {
    let video = Backend::start().unwrap();
    let plugin = json!({"breaker": {"open_for": "300ms", "recover_for": "6s"}});
    let envoy = gateway(&video, plugin).await;
    open_the_breaker(&envoy, &video).await;
    video.always(Behaviour::status(200));
    for _ in 0..3 {
        envoy
            .first_let_through(VIDEO, wait::GENEROUS)
            .await
            .unwrap();
    }
    transitions(&envoy, "closed", 1.0).await;
    let closed = Stopwatch::start();
    let mut refused_by_half = [0; 2];
    // A machine that is busy sends less, and later.
    while closed.elapsed() < Duration::from_secs(6) {
        let answer = envoy.get(VIDEO).await.unwrap();
        if answer.is_refusal() {
            assert!(matches!(answer.header("retry-after"), "1" | "2"));
            refused_by_half[usize::from(closed.elapsed() > Duration::from_secs(3))] += 1;
        } else {
            assert_eq!(answer.status, 200);
        }
    }
    assert!(refused_by_half[0] > 20, "{refused_by_half:?}");
    for _ in 0..50 {
        assert_eq!(envoy.get(VIDEO).await.unwrap().status, 200);
    }
    transitions(&envoy, "open", 1.0).await;
}
