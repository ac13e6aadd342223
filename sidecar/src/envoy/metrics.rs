//! Metrics of reading Envoy, and the one that is made from Envoy's own.

use prometheus::{
    Gauge, IntCounter, IntGauge, Registry, register_gauge_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// How long requests took at the upstream, as Envoy measured it.
pub const REQUEST_DURATION: &str = "proxy_request_duration_seconds";
pub const UP: &str = "levee_envoy_up";
pub const FAILED: &str = "levee_envoy_scrapes_failed_total";
pub const DURATION: &str = "levee_envoy_scrape_duration_seconds";

#[derive(Clone, Debug)]
pub struct EnvoyMetrics {
    /// 1 if the last reading succeeded, else 0.
    pub up: IntGauge,
    pub failed: IntCounter,
    /// How long the last reading took, in seconds.
    pub duration: Gauge,
}

impl EnvoyMetrics {
    /// # Errors
    /// `registry` already has one of the names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            up: register_int_gauge_with_registry!(
                UP,
                "1 if Envoy could be read just now.",
                registry
            )?,
            failed: register_int_counter_with_registry!(
                FAILED,
                "Readings of Envoy that failed.",
                registry
            )?,
            duration: register_gauge_with_registry!(
                DURATION,
                "How long the last reading of Envoy took.",
                registry
            )?,
        })
    }
}
