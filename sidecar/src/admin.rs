//! The admin interface: is it alive, is it ready, what does it see.

mod jobs;

pub use jobs::describe_report;

use crate::clock::Clock;
use crate::config::Secret;
use crate::database;
use crate::metrics::Metrics;
use crate::redis::listener::Proxy;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use levee_policy::breaker::{Mode, Phase};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Which parts are ready. A part that is stopping is not.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, bool>>>);

impl Readiness {
    /// `part` is ready, or not.
    pub fn set(&self, part: &str, ready: bool) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part.to_owned(), ready);
    }

    /// No part is ready any more.
    pub fn stopping(&self) {
        for ready in self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values_mut()
        {
            *ready = false;
        }
    }

    fn parts(&self) -> BTreeMap<String, bool> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What the admin interface shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// All metrics.
    pub metrics: Metrics,
    /// Which parts are ready.
    pub readiness: Readiness,
    /// The Redis proxies, with where they listen.
    pub redis: Arc<Vec<(SocketAddr, Arc<Proxy>)>>,
    /// The database's jobs and watchdog.
    pub database: Option<Arc<database::Part>>,
    /// What a client must show before it may change something.
    pub token: Option<Arc<Secret>>,
    /// The clock.
    pub clock: Clock,
}

impl Admin {
    /// Its pages.
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/v1/redis", get(redis))
            .merge(jobs::router())
            .with_state(self)
    }
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let parts = admin.readiness.parts();
    let ready = parts.values().all(|ready| *ready);
    let parts: BTreeMap<&String, &str> = parts
        .iter()
        .map(|(part, ready)| (part, if *ready { "ready" } else { "not ready" }))
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({"ready": ready, "parts": parts})))
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let now = admin.clock.now();
    for (_, proxy) in admin.redis.iter() {
        let status = proxy.gate.status(now);
        proxy
            .gate
            .metrics
            .budget_left
            .set(i64::from(status.budget_left));
    }
    (
        [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
        admin.metrics.text(),
    )
}

async fn redis(State(admin): State<Admin>) -> Json<Value> {
    let upstreams: Vec<Value> = admin
        .redis
        .iter()
        .map(|(address, proxy)| upstream(*address, proxy, admin.clock))
        .collect();
    Json(json!({"upstreams": upstreams}))
}

fn upstream(listen: SocketAddr, proxy: &Proxy, clock: Clock) -> Value {
    let now = clock.now();
    let status = proxy.gate.status(now);
    json!({
        "name": proxy.settings.name,
        "listen": listen.to_string(),
        "upstream": proxy.upstream.to_string(),
        "connections": {
            "open": proxy.gate.metrics.connections.get(),
            "limit": proxy.connections,
        },
        "attempts_in_flight": status.attempts_in_flight,
        "retry_budget_left": status.budget_left,
        "breaker": {
            "state": match status.phase {
                Phase::Closed => "closed",
                Phase::Open => "open",
                Phase::HalfOpen => "half_open",
            },
            "since_seconds": status.in_phase.as_secs_f64(),
            "mode": match status.mode {
                Mode::Enforce => "enforce",
                Mode::Shadow => "shadow",
                Mode::Disabled => "disabled",
                Mode::ForcedOpen => "forced_open",
                Mode::ForcedClosed => "forced_closed",
            },
        },
        "last_error": status.last_error.map(|error| json!({
            "message": error.message,
            "seconds_ago": now.since(error.at).as_secs_f64(),
        })),
    })
}
