//! Metrics of the Redis proxy. Its breakers share their families with those of the filter.

use levee_filter::metrics as filter;
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    register_histogram_vec_with_registry, register_int_counter_vec_with_registry,
    register_int_gauge_vec_with_registry,
};

pub const RETRY: &str = "redis_retry_total";
pub const RETRY_FAILED: &str = "redis_retry_failed_total";
pub const BUDGET_EXHAUSTED: &str = "redis_retry_budget_exhausted_total";
pub const BUDGET_LEFT: &str = "redis_retry_budget_left";
pub const CONNECTIONS: &str = "redis_proxy_connections";
pub const CONNECTIONS_TOTAL: &str = "redis_proxy_connections_total";
pub const REFUSED: &str = "redis_proxy_connections_refused_total";
pub const DURATION: &str = "redis_proxy_command_duration_seconds";
pub const BYTES: &str = "redis_proxy_bytes_total";

const SERVICE: &[&str] = &["service"];
const UPSTREAM: &[&str] = &["upstream"];

/// Upper bounds of the buckets of [`DURATION`], from a local read to the longest deadlines.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// The families of all upstreams.
#[derive(Clone, Debug)]
pub struct RedisFamilies {
    state: IntGaugeVec,
    mode: IntGaugeVec,
    failures: IntCounterVec,
    requests: IntCounterVec,
    retry: IntCounterVec,
    retry_failed: IntCounterVec,
    budget_exhausted: IntCounterVec,
    budget_left: IntGaugeVec,
    connections: IntGaugeVec,
    connections_total: IntCounterVec,
    refused: IntCounterVec,
    duration: HistogramVec,
    bytes: IntCounterVec,
}

/// The metrics of one upstream.
#[derive(Clone, Debug)]
pub struct RedisMetrics {
    /// Numbers as in [`filter::STATES`].
    pub state: IntGauge,
    /// Numbers as in [`filter::MODES`].
    pub mode: IntGauge,
    pub failures: IntCounter,
    /// Commands with a reply.
    pub success: IntCounter,
    pub failure: IntCounter,
    /// Commands whose client left.
    pub neutral: IntCounter,
    /// Commands that the breaker refused.
    pub rejected: IntCounter,
    pub retries: IntCounter,
    pub retry_failed: IntCounter,
    pub budget_exhausted: IntCounter,
    /// Set when the metrics page is read.
    pub budget_left: IntGauge,
    pub connections: IntGauge,
    pub connections_total: IntCounter,
    pub refused_limit: IntCounter,
    pub refused_idle: IntCounter,
    pub refused_protocol: IntCounter,
    pub duration_success: Histogram,
    /// Commands that Redis answered with an error.
    pub duration_error: Histogram,
    /// Commands that Levee answered with an error.
    pub duration_failure: Histogram,
    pub bytes_to: IntCounter,
    pub bytes_from: IntCounter,
}

impl RedisFamilies {
    /// # Errors
    /// `registry` already has one of the names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register_int_counter_vec_with_registry!(name, help, labels, registry)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register_int_gauge_vec_with_registry!(name, help, labels, registry)
        };
        Ok(Self {
            state: gauge(filter::STATE, filter::STATES, SERVICE)?,
            mode: gauge(filter::MODE, filter::MODES, SERVICE)?,
            failures: counter(filter::FAILURES, "Failed requests.", SERVICE)?,
            requests: counter(
                filter::REQUESTS,
                "Requests by outcome.",
                &["service", "outcome"],
            )?,
            retry: counter(RETRY, "Further attempts.", UPSTREAM)?,
            retry_failed: counter(
                RETRY_FAILED,
                "Commands that failed though they were tried again.",
                UPSTREAM,
            )?,
            budget_exhausted: counter(
                BUDGET_EXHAUSTED,
                "Retries that could not be paid for.",
                UPSTREAM,
            )?,
            budget_left: gauge(BUDGET_LEFT, "Retries that could be paid for.", UPSTREAM)?,
            connections: gauge(CONNECTIONS, "Clients that are connected.", UPSTREAM)?,
            connections_total: counter(CONNECTIONS_TOTAL, "Clients that were accepted.", UPSTREAM)?,
            refused: counter(
                REFUSED,
                "Clients that were refused or ended.",
                &["upstream", "reason"],
            )?,
            duration: register_histogram_vec_with_registry!(
                DURATION,
                "From a command's arrival to its reply.",
                &["upstream", "outcome"],
                SECONDS.to_vec(),
                registry
            )?,
            bytes: counter(BYTES, "Bytes passed on.", &["upstream", "direction"])?,
        })
    }

    /// The metrics of the upstream `name`.
    pub fn upstream(&self, name: &str) -> RedisMetrics {
        let service = format!("redis:{name}");
        let requests = |outcome| {
            self.requests
                .with_label_values(&[service.as_str(), outcome])
        };
        let duration = |outcome| self.duration.with_label_values(&[name, outcome]);
        let refused = |reason| self.refused.with_label_values(&[name, reason]);
        RedisMetrics {
            state: self.state.with_label_values(&[&service]),
            mode: self.mode.with_label_values(&[&service]),
            failures: self.failures.with_label_values(&[&service]),
            success: requests("success"),
            failure: requests("failure"),
            neutral: requests("neutral"),
            rejected: requests("rejected"),
            retries: self.retry.with_label_values(&[name]),
            retry_failed: self.retry_failed.with_label_values(&[name]),
            budget_exhausted: self.budget_exhausted.with_label_values(&[name]),
            budget_left: self.budget_left.with_label_values(&[name]),
            connections: self.connections.with_label_values(&[name]),
            connections_total: self.connections_total.with_label_values(&[name]),
            refused_limit: refused("limit"),
            refused_idle: refused("idle"),
            refused_protocol: refused("protocol"),
            duration_success: duration("success"),
            duration_error: duration("error"),
            duration_failure: duration("failure"),
            bytes_to: self.bytes.with_label_values(&[name, "to_redis"]),
            bytes_from: self.bytes.with_label_values(&[name, "from_redis"]),
        }
    }
}
