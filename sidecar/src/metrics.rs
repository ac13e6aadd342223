//! All names of metrics, and the registry that shows them.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Names of metrics. The README's table lists them.
pub mod names {
    /// 0 closed, 1 open, 2 half-open.
    pub const BREAKER_STATE: &str = "circuit_breaker_state";
    /// Failed commands.
    pub const BREAKER_FAILURES: &str = "circuit_breaker_failures_total";
    /// Commands by outcome.
    pub const BREAKER_REQUESTS: &str = "circuit_breaker_requests_total";
    /// Further attempts.
    pub const RETRY: &str = "redis_retry_total";
    /// Commands that failed though they were tried again, or wanted to be.
    pub const RETRY_FAILED: &str = "redis_retry_failed_total";
    /// Times that a retry could not be paid for.
    pub const BUDGET_EXHAUSTED: &str = "redis_retry_budget_exhausted_total";
    /// Retries that could be paid for.
    pub const BUDGET_LEFT: &str = "redis_retry_budget_left";
    /// Clients that are connected.
    pub const CONNECTIONS: &str = "redis_proxy_connections";
    /// Clients that were accepted.
    pub const CONNECTIONS_TOTAL: &str = "redis_proxy_connections_total";
    /// Clients that were refused or ended, by reason.
    pub const REFUSED: &str = "redis_proxy_connections_refused_total";
    /// From a command's arrival to its reply.
    pub const DURATION: &str = "redis_proxy_command_duration_seconds";
    /// Bytes passed on, by direction.
    pub const BYTES: &str = "redis_proxy_bytes_total";
    /// Always 1, with the version.
    pub const BUILD_INFO: &str = "levee_build_info";
}

const UPSTREAM: &[&str] = &["upstream"];

/// Upper bounds of the buckets for durations, in seconds: from a local read to the longest deadlines.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// All metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    breaker_state: IntGaugeVec,
    breaker_failures: IntCounterVec,
    breaker_requests: IntCounterVec,
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

/// The metrics of one Redis upstream.
#[derive(Clone, Debug)]
pub struct RedisMetrics {
    /// Where the breaker is.
    pub state: IntGauge,
    /// Failed commands.
    pub failures: IntCounter,
    /// Commands that were answered.
    pub success: IntCounter,
    /// Commands that failed.
    pub failure: IntCounter,
    /// Commands that nobody waited for any more.
    pub neutral: IntCounter,
    /// Commands that the breaker refused.
    pub rejected: IntCounter,
    /// Further attempts.
    pub retries: IntCounter,
    /// Commands that failed though retried.
    pub retry_failed: IntCounter,
    /// Retries that could not be paid for.
    pub budget_exhausted: IntCounter,
    /// Retries that could be paid for; set when metrics are read.
    pub budget_left: IntGauge,
    /// Clients.
    pub connections: IntGauge,
    /// Clients ever.
    pub connections_total: IntCounter,
    /// Refused: more than the limit.
    pub refused_limit: IntCounter,
    /// Ended: idle.
    pub refused_idle: IntCounter,
    /// Ended: what they sent was not the protocol.
    pub refused_protocol: IntCounter,
    /// Durations of commands that were answered.
    pub duration_success: Histogram,
    /// Durations of commands that Redis answered by an error.
    pub duration_error: Histogram,
    /// Durations of commands that Levee answered by an error.
    pub duration_failure: Histogram,
    /// Bytes to the upstream.
    pub bytes_to: IntCounter,
    /// Bytes from the upstream.
    pub bytes_from: IntCounter,
}

impl Metrics {
    /// A registry with all metrics.
    ///
    /// # Panics
    /// If two metrics have the same name.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)
                .expect("names and labels are constants");
            register(&registry, &vec);
            vec
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)
                .expect("names and labels are constants");
            register(&registry, &vec);
            vec
        };
        let duration = HistogramVec::new(
            HistogramOpts::new(names::DURATION, "From a command's arrival to its reply.")
                .buckets(SECONDS.to_vec()),
            &["upstream", "outcome"],
        )
        .expect("names and labels are constants");
        register(&registry, &duration);
        let build = gauge(names::BUILD_INFO, "Always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            breaker_state: gauge(
                names::BREAKER_STATE,
                "0 closed, 1 open, 2 half-open.",
                &["service"],
            ),
            breaker_failures: counter(names::BREAKER_FAILURES, "Failed requests.", &["service"]),
            breaker_requests: counter(
                names::BREAKER_REQUESTS,
                "Requests by outcome.",
                &["service", "outcome"],
            ),
            retry: counter(names::RETRY, "Further attempts.", UPSTREAM),
            retry_failed: counter(
                names::RETRY_FAILED,
                "Commands that failed though they were tried again.",
                UPSTREAM,
            ),
            budget_exhausted: counter(
                names::BUDGET_EXHAUSTED,
                "Retries that could not be paid for.",
                UPSTREAM,
            ),
            budget_left: gauge(
                names::BUDGET_LEFT,
                "Retries that could be paid for.",
                UPSTREAM,
            ),
            connections: gauge(names::CONNECTIONS, "Clients that are connected.", UPSTREAM),
            connections_total: counter(
                names::CONNECTIONS_TOTAL,
                "Clients that were accepted.",
                UPSTREAM,
            ),
            refused: counter(
                names::REFUSED,
                "Clients that were refused or ended.",
                &["upstream", "reason"],
            ),
            bytes: counter(names::BYTES, "Bytes passed on.", &["upstream", "direction"]),
            duration,
            registry,
        }
    }

    /// Those of the Redis upstream `name`.
    pub fn redis(&self, name: &str) -> RedisMetrics {
        let service = format!("redis:{name}");
        let requests = |outcome| {
            self.breaker_requests
                .with_label_values(&[service.as_str(), outcome])
        };
        let duration = |outcome| self.duration.with_label_values(&[name, outcome]);
        let refused = |reason| self.refused.with_label_values(&[name, reason]);
        RedisMetrics {
            state: self.breaker_state.with_label_values(&[&service]),
            failures: self.breaker_failures.with_label_values(&[&service]),
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

    /// All of them in the text format of Prometheus.
    pub fn text(&self) -> String {
        let encoder = prometheus::TextEncoder::new();
        encoder
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register(registry: &Registry, metric: &(impl prometheus::core::Collector + Clone + 'static)) {
    registry
        .register(Box::new(metric.clone()))
        .expect("each name is registered once");
}
