//! The metrics at Envoy's `/stats/prometheus` have exactly the documented names, types and labels.

use std::collections::BTreeMap;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::wait;
use serde_json::json;

/// A gateway on which a service failed until its breaker opened: 3 successes, one neutral answer, 5 failures, and 3
/// refusals.
async fn gateway_after_an_outage() -> Envoy {
    let video = Backend::start().unwrap();
    let envoy = Envoy::start(EnvoyConfig::gateway().upstream("video", video.address()))
        .await
        .unwrap();
    video.next([200, 200, 404, 429, 502, 502, 502, 502, 502].map(Behaviour::status));
    for _ in 0..12 {
        envoy.get("/v1/video/x").await.unwrap();
    }
    envoy
}

#[tokio::test]
async fn each_metric_has_the_promised_name_labels_and_value() {
    let envoy = gateway_after_an_outage().await;
    for (name, label, wanted) in [
        ("circuit_breaker_state", None, 1.0),
        ("circuit_breaker_mode", None, 0.0),
        ("circuit_breaker_failures_total", None, 5.0),
        (
            "circuit_breaker_requests_total",
            Some(("outcome", "success")),
            3.0,
        ),
        (
            "circuit_breaker_requests_total",
            Some(("outcome", "failure")),
            5.0,
        ),
        (
            "circuit_breaker_requests_total",
            Some(("outcome", "neutral")),
            1.0,
        ),
        (
            "circuit_breaker_requests_total",
            Some(("outcome", "rejected")),
            3.0,
        ),
        (
            "circuit_breaker_transitions_total",
            Some(("to", "open")),
            1.0,
        ),
        (
            "circuit_breaker_transitions_total",
            Some(("to", "half_open")),
            0.0,
        ),
        (
            "circuit_breaker_transitions_total",
            Some(("to", "closed")),
            0.0,
        ),
        ("circuit_breaker_shadow_rejected_total", None, 0.0),
        ("circuit_breaker_probe_leases_expired_total", None, 0.0),
        (
            "proxy_request_timeout_total",
            Some(("kind", "request")),
            0.0,
        ),
        (
            "proxy_request_timeout_total",
            Some(("kind", "response_header")),
            0.0,
        ),
        (
            "proxy_request_timeout_total",
            Some(("kind", "connect")),
            0.0,
        ),
    ] {
        let labels: Vec<(&str, &str)> = [("service", "video")].into_iter().chain(label).collect();
        envoy.wait_for_metric(name, &labels, wanted).await.unwrap();
    }
}

#[tokio::test]
async fn there_are_no_others_and_each_is_of_the_promised_type() {
    let envoy = gateway_after_an_outage().await;
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "video")], 1.0)
        .await
        .unwrap();
    let metrics = envoy.metrics().await.unwrap();
    let is_ours = |name: &str| {
        ["circuit_breaker", "proxy_request", "wasmcustom"]
            .iter()
            .any(|own| name.starts_with(own))
    };
    let mut kinds = BTreeMap::new();
    for series in metrics.all().iter().filter(|series| is_ours(&series.name)) {
        kinds.insert(
            series.name.as_str(),
            metrics.kind(&series.name).unwrap_or_default(),
        );
        for label in series.labels.keys() {
            assert!(
                ["service", "outcome", "to", "kind"].contains(&label.as_str()),
                "{series}"
            );
        }
    }
    let wanted = BTreeMap::from([
        ("circuit_breaker_failures_total", "counter"),
        ("circuit_breaker_mode", "gauge"),
        ("circuit_breaker_probe_leases_expired_total", "counter"),
        ("circuit_breaker_requests_total", "counter"),
        ("circuit_breaker_shadow_rejected_total", "counter"),
        ("circuit_breaker_state", "gauge"),
        ("circuit_breaker_transitions_total", "counter"),
        ("circuit_breaker_unanswered_total", "counter"),
        ("proxy_request_timeout_total", "counter"),
    ]);
    assert_eq!(kinds, wanted);
}

#[tokio::test]
async fn service_names_with_dots_and_bars_stay_whole_and_aliases_shorten_them() {
    let names = [
        "outbound|8080||auth.default.svc.cluster.local",
        "a.service.b",
        "outbound|80||chat.svc",
    ];
    let backend = Backend::start().unwrap();
    let mut config = EnvoyConfig::gateway()
        .only_services(names)
        .plugin(&json!({"aliases": {names[2]: "chat"}}));
    for (number, name) in names.iter().enumerate() {
        let route = json!({"match": {"prefix": format!("/{number}")}, "route": {"cluster": name}});
        config = config.upstream(name, backend.address()).first_route(route);
    }
    let envoy = Envoy::start(config).await.unwrap();
    for path in ["/0", "/1", "/2"] {
        assert_eq!(envoy.get(path).await.unwrap().status, 200);
    }
    for service in [names[0], names[1], "chat"] {
        envoy
            .wait_for_metric("circuit_breaker_state", &[("service", service)], 0.0)
            .await
            .unwrap();
        let success = [("service", service), ("outcome", "success")];
        envoy
            .wait_for_metric("circuit_breaker_requests_total", &success, 1.0)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn services_over_the_limit_are_counted_and_still_served() {
    let backend = Backend::start().unwrap();
    let config = ["auth", "chat", "video"]
        .iter()
        .fold(EnvoyConfig::gateway(), |config, name| {
            config.upstream(name, backend.address())
        })
        .plugin(&json!({"max_services": 1}));
    let envoy = Envoy::start(config).await.unwrap();
    for name in ["auth", "chat", "video", "auth"] {
        assert_eq!(
            envoy.get(&format!("/v1/{name}/x")).await.unwrap().status,
            200,
            "{name}"
        );
    }
    wait::until("the limit to be counted", wait::GENEROUS, || async {
        let metrics = envoy.metrics().await.unwrap();
        let over = metrics.sum("circuit_breaker_services_over_limit_total", &[]);
        if over > 0.0 {
            Ok(())
        } else {
            Err(metrics.show("circuit_breaker"))
        }
    })
    .await
    .unwrap();
}

/// Envoy's own histogram of upstream times exists for each service. The sidecar derives
/// `proxy_request_duration_seconds` from it.
#[tokio::test]
async fn envoys_histogram_of_upstream_times_is_there_for_each_service() {
    let auth = Backend::start().unwrap();
    let envoy = Envoy::start(EnvoyConfig::gateway().upstream("auth", auth.address()))
        .await
        .unwrap();
    Request::get("/v1/auth/x")
        .send(envoy.address())
        .await
        .unwrap();
    envoy
        .wait_for_metric(
            "envoy_cluster_upstream_rq_time_count",
            &[("envoy_cluster_name", "auth")],
            1.0,
        )
        .await
        .unwrap();
}
