//! A gateway that takes a caller's address from `x-forwarded-for`, so that a test can be several callers.

use levee_harness::client::{Answer, Request};
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use serde_json::{Value, json};

use crate::case;

/// Starts it, with the service `video` as `change` makes it.
pub async fn gateway(change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> Envoy {
    gateway_that_trusts(json!({"xff_num_trusted_hops": 1}), change).await
}

/// The same with other settings of whom to trust.
pub async fn gateway_that_trusts(
    trust: Value,
    change: impl FnOnce(EnvoyConfig) -> EnvoyConfig,
) -> Envoy {
    let config = case::gateway().without_health_checks();
    Envoy::start(change(config.connection_manager(&trust)))
        .await
        .unwrap()
}

/// A GET of the caller with this address.
pub async fn ask_as(envoy: &Envoy, caller: &str) -> Answer {
    let get = Request::get("/v1/video/x").header("x-forwarded-for", caller);
    get.send(envoy.address()).await.unwrap()
}

/// Waits until the breaker of `video` is open.
pub async fn opens(envoy: &Envoy) {
    let service = [("service", "video")];
    let open = envoy.wait_for_metric("circuit_breaker_state", &service, 1.0);
    open.await.unwrap();
}

pub async fn is_open(envoy: &Envoy) -> bool {
    let metrics = envoy.metrics().await.unwrap();
    metrics.sum("circuit_breaker_state", &[("service", "video")]) > 0.0
}
