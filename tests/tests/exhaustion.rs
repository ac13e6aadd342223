//! The gateway itself is not used up: by too much memory in use, or by clients that take no answers.

use std::time::Duration;

use levee_tests::backend::{Backend, Behaviour, Response};
use levee_tests::client::Request;
use levee_tests::envoy::Envoy;
use levee_tests::envoy_config::EnvoyConfig;
use levee_tests::raw::{Crowd, Read};
use levee_tests::wait;
use serde_json::json;

const MIB: usize = 1 << 20;

async fn status(envoy: &Envoy) -> Option<u16> {
    let answer = Request::get("/v1/video/x").send(envoy.address()).await;
    answer.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn a_gateway_short_of_memory_refuses_requests_and_no_breaker_counts_them() {
    let directory = tempfile::tempdir().unwrap();
    let pressure = directory.path().join("pressure");
    let press = |share: &str| {
        // Envoy watches for files that are moved to their place.
        let new = directory.path().join("new");
        std::fs::write(&new, share).unwrap();
        std::fs::rename(new, &pressure).unwrap();
    };
    press("0");
    let video = Backend::start();
    let mut config = EnvoyConfig::gateway().upstream("video", video.address());
    // Memory can't be used up on demand: the share that is in use is read from a file in its place.
    let monitor = &mut config.value_mut()["overload_manager"]["resource_monitors"][0];
    assert_eq!(monitor["name"], "envoy.resource_monitors.fixed_heap");
    monitor["typed_config"] = json!({
        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
        "filename": pressure,
    });
    let envoy = Envoy::start(config).await;
    assert_eq!(status(&envoy).await, Some(200));

    press("0.96");
    wait::until("requests to be refused", wait::GENEROUS, || async {
        match status(&envoy).await {
            Some(503) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let before = video.requests();
    for _ in 0..10 {
        let answer = envoy.get("/v1/video/x").await;
        assert_eq!((answer.status, answer.is_refusal()), (503, false));
        let line = envoy.access_log().of_request(answer.request_id()).await;
        assert_eq!(line.text("flags"), "OM", "{line:?}");
    }
    assert_eq!(video.requests(), before, "the service was left alone");
    assert_eq!(envoy.ask_admin("/ready").await.status, 200);

    press("0.1");
    wait::until("requests to be answered", wait::GENEROUS, || async {
        match status(&envoy).await {
            Some(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let answered = f64::from(u32::try_from(video.requests()).unwrap());
    for (outcome, wanted) in [("success", answered), ("failure", 0.0), ("rejected", 0.0)] {
        let labels = [("service", "video"), ("outcome", outcome)];
        envoy
            .wait_for_metric("circuit_breaker_requests_total", &labels, wanted)
            .await;
    }
    let service = [("service", "video")];
    envoy
        .wait_for_metric("circuit_breaker_state", &service, 0.0)
        .await;
}

#[tokio::test]
async fn the_limit_on_memory_is_in_force() {
    let video = Backend::start();
    let mut config = EnvoyConfig::gateway().upstream("video", video.address());
    let monitor =
        &mut config.value_mut()["overload_manager"]["resource_monitors"][0]["typed_config"];
    monitor["max_heap_size_bytes"] = json!(MIB);
    let envoy = Envoy::start(config).await;
    wait::until("requests to be refused", wait::GENEROUS, || async {
        match status(&envoy).await {
            Some(503) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn clients_that_take_no_answer_hold_little_and_are_ended_and_others_are_served() {
    const CLIENTS: usize = 50;
    const BODY: usize = 16 * MIB;
    let video = Backend::start();
    video.choose(|_, request| match request.path() {
        "/v1/video/film" => Behaviour::Answer(Response::status(200).body(vec![b'x'; BODY])),
        _ => Behaviour::status(200),
    });
    let limits = json!({"timeouts": {"classes": {"default": "3s"}}});
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .plugin(&limits);
    let envoy = Envoy::start(config).await;
    assert_eq!(status(&envoy).await, Some(200));
    let allocated = async || {
        envoy
            .metrics()
            .await
            .sum("envoy_server_memory_allocated", &[])
    };
    let before = allocated().await;

    let crowd = Crowd::ask(envoy.address(), "/v1/video/film", CLIENTS)
        .await
        .unwrap();
    video.wait_in_flight(CLIENTS).await;
    assert_eq!(status(&envoy).await, Some(200), "others are served");
    // All that a connection may hold, several times: on both sides, and what is being copied.
    let most = 16.0 * 32768.0 * f64::from(u32::try_from(CLIENTS).unwrap());
    let held = allocated().await - before;
    println!("{held} bytes for {CLIENTS} clients");
    assert!(held < most, "{held} bytes for {CLIENTS} clients");

    // They are let go at the limit of their class, and with them what was held for them.
    video.wait_in_flight(0).await;
    for mut client in crowd.into_clients() {
        assert_ne!(client.read_to_end(wait::GENEROUS).await, Read::TooLate);
        assert!(client.received().len() < BODY);
    }
    wait::until("no request to be under way", wait::GENEROUS, || async {
        let metrics = envoy.metrics().await;
        let active = metrics.sum(
            "envoy_http_downstream_rq_active",
            &[("envoy_http_conn_manager_prefix", "gateway")],
        );
        if active == 0.0 {
            Ok(())
        } else {
            Err(metrics.show("envoy_http_downstream_rq_active"))
        }
    })
    .await;
    assert_eq!(status(&envoy).await, Some(200));
}
