//! The gateway survives memory pressure, and clients that don't read their responses.

use levee_harness::access_log::Line;
use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::raw::{Crowd, Read};
use levee_harness::wait;
use serde_json::{Value, json};

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
        // Envoy watches for files that are moved into place.
        let new = directory.path().join("new");
        std::fs::write(&new, share).unwrap();
        std::fs::rename(new, &pressure).unwrap();
    };
    press("0");
    let video = Backend::start().unwrap();
    let mut config = EnvoyConfig::gateway().upstream("video", video.address());
    // Memory pressure can't be produced on demand, so the used share is read from a file instead.
    let monitor = &mut config.value_mut()["overload_manager"]["resource_monitors"][0];
    assert_eq!(monitor["name"], "envoy.resource_monitors.fixed_heap");
    monitor["typed_config"] = json!({
        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
        "filename": pressure,
    });
    let envoy = Envoy::start(config).await.unwrap();
    assert_eq!(status(&envoy).await, Some(200));

    press("0.96");
    wait::until("requests to be refused", wait::GENEROUS, || async {
        match status(&envoy).await {
            Some(503) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let before = video.requests();
    for _ in 0..10 {
        let answer = envoy.get("/v1/video/x").await.unwrap();
        assert_eq!((answer.status, answer.is_refusal()), (503, false));
    }
    let is_it = |line: &Line| line.text("details") == "overload";
    let line = envoy
        .access_log()
        .wait_for("of a refusal", wait::GENEROUS, is_it)
        .await
        .unwrap();
    assert_eq!(line.number("status"), Some(503), "{line:?}");
    assert_eq!(video.requests(), before, "the service was left alone");
    video.check_only_http().unwrap();
    assert_eq!(envoy.ask_admin("/ready").await.unwrap().status, 200);

    press("0.1");
    wait::until("requests to be answered", wait::GENEROUS, || async {
        match status(&envoy).await {
            Some(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let answered = f64::from(u32::try_from(video.requests()).unwrap());
    for (outcome, wanted) in [("success", answered), ("failure", 0.0), ("rejected", 0.0)] {
        let labels = [("service", "video"), ("outcome", outcome)];
        envoy
            .wait_for_metric("circuit_breaker_requests_total", &labels, wanted)
            .await
            .unwrap();
    }
    let service = [("service", "video")];
    envoy
        .wait_for_metric("circuit_breaker_state", &service, 0.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_limit_on_memory_is_in_force() {
    let video = Backend::start().unwrap();
    let mut config = EnvoyConfig::gateway().upstream("video", video.address());
    let monitor =
        &mut config.value_mut()["overload_manager"]["resource_monitors"][0]["typed_config"];
    monitor["max_heap_size_bytes"] = json!(MIB);
    let envoy = Envoy::start(config).await.unwrap();
    wait::until("requests to be refused", wait::GENEROUS, || async {
        match status(&envoy).await {
            Some(503) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn clients_that_take_no_answer_hold_little_and_are_ended_and_no_breaker_counts_them() {
    const CLIENTS: usize = 50;
    const BODY: usize = 16 * MIB;
    let video = Backend::start().unwrap();
    let film = Behaviour::Answer(Response::status(200).body(vec![b'x'; BODY]));
    video.choose(move |_, request| match request.path() {
        "/v1/video/film" => film.clone(),
        _ => Behaviour::status(200),
    });
    let mut config = EnvoyConfig::gateway().upstream("video", video.address());
    let bound = &mut config.value_mut()["static_resources"]["listeners"][0]["per_connection_buffer_high_watermark_timeout"];
    assert_eq!(*bound, "20s");
    *bound = json!("3s");
    let envoy = Envoy::start(config).await.unwrap();
    assert_eq!(status(&envoy).await, Some(200));
    let allocated = async || {
        let memory: Value =
            serde_json::from_slice(&envoy.ask_admin("/memory").await.unwrap().body).unwrap();
        let bytes = memory["allocated"].as_str().expect("a number of bytes");
        bytes.parse::<usize>().unwrap()
    };
    let before = allocated().await;

    let crowd = Crowd::ask(envoy.address(), "/v1/video/film", CLIENTS)
        .await
        .unwrap();
    video.wait_in_flight(CLIENTS).await.unwrap();
    assert_eq!(status(&envoy).await, Some(200), "others are served");
    let held = allocated().await.saturating_sub(before) / CLIENTS;
    println!("{held} bytes for a client");
    // A few times `per_connection_buffer_limit_bytes`: both sides, and data in transit.
    assert!(held < 512 * 1024, "{held} bytes for a client");

    // They end long before the limit of their class, which frees the service too.
    video.wait_in_flight(0).await.unwrap();
    for mut client in crowd.into_clients() {
        let end = client.read_to_end(wait::GENEROUS).await;
        assert!(matches!(end, Read::Closed | Read::Reset), "{end:?}");
        assert!(client.received().len() < BODY);
    }
    let neutral = [("service", "video"), ("outcome", "neutral")];
    let clients = f64::from(u32::try_from(CLIENTS).unwrap());
    envoy
        .wait_for_metric("circuit_breaker_requests_total", &neutral, clients)
        .await
        .unwrap();
    let failures = [("service", "video")];
    envoy
        .wait_for_metric("circuit_breaker_failures_total", &failures, 0.0)
        .await
        .unwrap();
    assert_eq!(status(&envoy).await, Some(200));
}
