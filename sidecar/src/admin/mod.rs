//! The admin interface over HTTP: health, readiness, metrics and the state of all parts.

mod connection;
mod jobs;
pub mod page;
mod ready;
mod reload;
pub mod reloaded;
mod serve;
mod state;
mod status;

pub use jobs::describe_report;
pub use serve::{MOST_CONNECTIONS, serve};
pub use state::{Admin, Live, RedisListener};

use crate::clock::Clock;
use crate::envoy::scrape;
use crate::envoy::translate::Gateway;
use crate::foreign_text::shown;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use prometheus::Registry;
use serde_json::{Value, json};
use std::time::Duration;

impl Live {
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/metrics", get(metrics))
            .route("/v1/redis", get(redis))
            .merge(ready::router())
            .merge(reload::router())
            .merge(jobs::router())
            .merge(status::router())
            .with_state(self)
    }
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    // The sidecar's own metrics are shown whether or not Envoy can be read.
    let gateway = match &admin.envoy {
        Some(envoy) => envoy.read(patience(&headers)).await.ok(),
        None => None,
    };
    let now = admin.clock.now();
    for RedisListener { proxy, .. } in admin.redis.iter() {
        let status = proxy.gate.status(now);
        proxy
            .gate
            .counts
            .budget_left
            .set(i64::from(status.budget_left));
    }
    // With thousands of clusters this takes long enough to stall other requests on the thread.
    let page = tokio::task::spawn_blocking(move || {
        let gateway = gateway.as_deref();
        let own = admin.registries.iter().flat_map(Registry::gather);
        page::merged(own.collect(), gateway.unwrap_or(&Gateway::default()))
    });
    (
        [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
        page.await.unwrap_or_default(),
    )
}

/// How long a scrape waits for Envoy: less than Prometheus' own timeout, which it sends in a header.
fn patience(headers: &HeaderMap) -> Duration {
    let said = headers
        .get("x-prometheus-scrape-timeout-seconds")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds * 0.8).ok());
    said.map_or(scrape::PATIENCE, |said| said.min(scrape::PATIENCE))
}

async fn redis(State(admin): State<Admin>) -> Json<Value> {
    let upstreams: Vec<Value> = admin
        .redis
        .iter()
        .map(|listener| upstream(listener, admin.clock))
        .collect();
    Json(json!({"upstreams": upstreams}))
}

fn upstream(listener: &RedisListener, clock: Clock) -> Value {
    let RedisListener { address, proxy } = listener;
    let now = clock.now();
    let status = proxy.gate.status(now);
    json!({
        "name": proxy.name,
        "listen": address.to_string(),
        "upstream": proxy.upstream.to_string(),
        "connections": {
            "open": proxy.gate.counts.connections.get(),
            "limit": proxy.connections(),
        },
        "attempts_in_flight": status.attempts_in_flight,
        "retry_budget_left": status.budget_left,
        "breaker": {
            "state": status.phase.name(),
            "since_seconds": status.in_phase.as_secs_f64(),
            "mode": status.mode.name(),
        },
        "last_error": status.last_error.map(|error| json!({
            "message": shown(&error.message),
            "seconds_ago": now.since(error.at).as_secs_f64(),
        })),
    })
}
