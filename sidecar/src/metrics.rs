//! All names of metrics, and the registry that shows them.

use crate::database::watchdog::Act;
use crate::envoy::merge::merge;
use crate::envoy::translate::Gateway;
use crate::jobs::runner::Outcome;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use std::time::Duration;

/// What the numbers of [`names::BREAKER_STATE`] mean, here and in the filter.
pub const STATES: &str = "0 closed, 1 open, 2 half-open.";

/// What the numbers of [`names::BREAKER_MODE`] mean, here and in the filter.
pub const MODES: &str = "0 enforce, 1 shadow, 2 disabled, 3 forced_open, 4 forced_closed.";

/// Names of metrics. The README's table lists them.
pub mod names {
    use levee_filter::metrics as filter;

    /// Where a breaker is.
    pub const BREAKER_STATE: &str = filter::STATE;
    /// What it does with what it decides.
    pub const BREAKER_MODE: &str = filter::MODE;
    /// Failed commands.
    pub const BREAKER_FAILURES: &str = filter::FAILURES;
    /// Commands by outcome.
    pub const BREAKER_REQUESTS: &str = filter::REQUESTS;
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
    /// Rows that a job handled.
    pub const JOB_ROWS: &str = "job_rows_total";
    /// Batches of a job that handled at least one row.
    pub const JOB_BATCHES: &str = "job_batches_total";
    /// Runs of a job, by how they ended.
    pub const JOB_RUNS: &str = "job_runs_total";
    /// How long runs of a job took.
    pub const JOB_DURATION: &str = "job_duration_seconds";
    /// 1 while a run of a job is under way.
    pub const JOB_RUNNING: &str = "job_running";
    /// When the last run of a job ended, in Unix time.
    pub const JOB_LAST_RUN: &str = "job_last_run_timestamp_seconds";
    /// When the next run of a job is due, in Unix time.
    pub const JOB_NEXT_RUN: &str = "job_next_run_timestamp_seconds";
    /// Rows that jobs of the preset `expired_tokens` deleted.
    pub const AUTH_ROWS: &str = "auth_cleanup_expired_tokens_total";
    /// Their runs that failed.
    pub const AUTH_FAILED: &str = "auth_cleanup_failed_total";
    /// How long their runs took.
    pub const AUTH_DURATION: &str = "auth_cleanup_duration_seconds";
    /// Rows that jobs of the preset `stale_calls` ended.
    pub const VIDEO_ROWS: &str = "video_cleanup_stale_calls_total";
    /// Their runs that failed.
    pub const VIDEO_FAILED: &str = "video_cleanup_failed_total";
    /// How long their runs took.
    pub const VIDEO_DURATION: &str = "video_cleanup_duration_seconds";
    /// Statements that were cancelled, and sessions that were ended, by class.
    pub const QUERY_TIMEOUT: &str = "db_query_timeout_total";
    /// Sessions that were ended since their statement did not heed its cancellation.
    pub const TERMINATED: &str = "db_sessions_terminated_total";
    /// Times that the watchdog could not look, or not do what was to be done.
    pub const WATCHDOG_FAILED: &str = "db_watchdog_failed_total";
    /// How long requests took at the upstream of Envoy's. Envoy counts it.
    pub const REQUEST_DURATION: &str = "proxy_request_duration_seconds";
    /// 1 if Envoy could be read just now, 0 if not.
    pub const ENVOY_UP: &str = "levee_envoy_up";
    /// Readings of Envoy that failed.
    pub const ENVOY_FAILED: &str = "levee_envoy_scrapes_failed_total";
    /// How long the last reading of Envoy took.
    pub const ENVOY_DURATION: &str = "levee_envoy_scrape_duration_seconds";
    /// Always 1, with the version.
    pub const BUILD_INFO: &str = "levee_build_info";
}

const UPSTREAM: &[&str] = &["upstream"];
const JOB: &[&str] = &["job"];

/// Upper bounds of the buckets for durations, in seconds: from a local read to the longest deadlines.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// The same for runs of jobs: from a quick one to an hour.
const RUN_SECONDS: &[f64] = &[
    0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];

/// What a job clears away, which has metrics of its own besides those of all jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Expired tokens.
    ExpiredTokens,
    /// Stale calls.
    StaleCalls,
}

/// The metrics of one job.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    rows: IntCounter,
    batches: IntCounter,
    runs: Vec<(Outcome, IntCounter)>,
    duration: Histogram,
    /// 1 while a run is under way.
    pub running: IntGauge,
    /// When the last run ended, in Unix time.
    pub last_run: IntGauge,
    /// When the next run is due, in Unix time.
    pub next_run: IntGauge,
    own: Option<PresetMetrics>,
}

#[derive(Clone, Debug)]
struct PresetMetrics {
    rows: IntCounter,
    failed: IntCounter,
    duration: Histogram,
}

impl JobMetrics {
    /// Rows in all, and runs that failed.
    pub fn totals(&self) -> (u64, u64) {
        let failed = self
            .runs
            .iter()
            .find(|(outcome, _)| *outcome == Outcome::Failed);
        (self.rows.get(), failed.map_or(0, |(_, count)| count.get()))
    }

    /// A batch handled so many rows.
    pub fn handled(&self, rows: u64) {
        self.rows.inc_by(rows);
        self.batches.inc_by(u64::from(rows > 0));
        if let Some(own) = &self.own {
            own.rows.inc_by(rows);
        }
    }

    /// A run ended.
    pub fn ended(&self, outcome: Outcome, took: Duration) {
        for (other, count) in &self.runs {
            count.inc_by(u64::from(*other == outcome));
        }
        if outcome == Outcome::Elsewhere {
            return;
        }
        self.duration.observe(took.as_secs_f64());
        if let Some(own) = &self.own {
            own.failed.inc_by(u64::from(outcome == Outcome::Failed));
            own.duration.observe(took.as_secs_f64());
        }
    }
}

/// The metrics of the watchdog at one database.
#[derive(Clone, Debug)]
pub struct WatchdogMetrics {
    timeouts: IntCounterVec,
    terminated: IntCounter,
    database: String,
    /// Times that it could not look, or not do what was to be done.
    pub failed: IntCounter,
}

impl WatchdogMetrics {
    /// A statement was cancelled, or a session ended. A statement counts once, whatever it took to end it.
    pub fn acted(&self, act: Act) {
        if matches!(act, Act::Terminate(_)) {
            self.terminated.inc();
            return;
        }
        self.timeouts
            .with_label_values(&[self.database.as_str(), act.class()])
            .inc();
    }
}

/// The metrics of reading Envoy.
#[derive(Clone, Debug)]
pub struct EnvoyMetrics {
    /// 1 if Envoy could be read just now, 0 if not.
    pub up: IntGauge,
    /// Readings that failed.
    pub failed: IntCounter,
    /// How long the last reading took, in seconds.
    pub duration: Gauge,
}

/// All metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    job_rows: IntCounterVec,
    job_batches: IntCounterVec,
    job_runs: IntCounterVec,
    job_duration: HistogramVec,
    job_running: IntGaugeVec,
    job_last_run: IntGaugeVec,
    job_next_run: IntGaugeVec,
    query_timeout: IntCounterVec,
    watchdog_failed: IntCounterVec,
    terminated: IntCounterVec,
    registry: Registry,
    breaker_state: IntGaugeVec,
    breaker_mode: IntGaugeVec,
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
    /// What it does with what it decides.
    pub mode: IntGauge,
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
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let vec = HistogramVec::new(options, labels).expect("names and labels are constants");
            register(&registry, &vec);
            vec
        };
        let duration = histogram(
            names::DURATION,
            "From a command's arrival to its reply.",
            SECONDS,
            &["upstream", "outcome"],
        );
        let build = gauge(names::BUILD_INFO, "Always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            breaker_state: gauge(names::BREAKER_STATE, STATES, &["service"]),
            breaker_mode: gauge(names::BREAKER_MODE, MODES, &["service"]),
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
            job_rows: counter(names::JOB_ROWS, "Rows that a job handled.", JOB),
            job_batches: counter(
                names::JOB_BATCHES,
                "Batches that handled at least one row.",
                JOB,
            ),
            job_runs: counter(
                names::JOB_RUNS,
                "Runs by how they ended.",
                &["job", "outcome"],
            ),
            job_duration: histogram(names::JOB_DURATION, "How long runs took.", RUN_SECONDS, JOB),
            job_running: gauge(names::JOB_RUNNING, "1 while a run is under way.", JOB),
            job_last_run: gauge(names::JOB_LAST_RUN, "When the last run ended.", JOB),
            job_next_run: gauge(names::JOB_NEXT_RUN, "When the next run is due.", JOB),
            query_timeout: counter(
                names::QUERY_TIMEOUT,
                "Statements that were cancelled, and sessions that were ended.",
                &["database", "class"],
            ),
            terminated: counter(
                names::TERMINATED,
                "Sessions that were ended since their statement did not heed its cancellation.",
                &["database"],
            ),
            watchdog_failed: counter(
                names::WATCHDOG_FAILED,
                "Times that the watchdog could not look, or not do what was to be done.",
                &["database"],
            ),
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
            mode: self.breaker_mode.with_label_values(&[&service]),
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

    /// Those of the job `name`. Those of its preset are registered with the first job that has it.
    pub fn job(&self, name: &str, preset: Option<Preset>) -> JobMetrics {
        let runs = |outcome: Outcome| {
            let count = self.job_runs.with_label_values(&[name, outcome.name()]);
            (outcome, count)
        };
        JobMetrics {
            rows: self.job_rows.with_label_values(&[name]),
            batches: self.job_batches.with_label_values(&[name]),
            runs: Outcome::ALL.into_iter().map(runs).collect(),
            duration: self.job_duration.with_label_values(&[name]),
            running: self.job_running.with_label_values(&[name]),
            last_run: self.job_last_run.with_label_values(&[name]),
            next_run: self.job_next_run.with_label_values(&[name]),
            own: preset.map(|preset| self.preset(preset)),
        }
    }

    fn preset(&self, preset: Preset) -> PresetMetrics {
        let (rows, failed, duration) = match preset {
            Preset::ExpiredTokens => (names::AUTH_ROWS, names::AUTH_FAILED, names::AUTH_DURATION),
            Preset::StaleCalls => (
                names::VIDEO_ROWS,
                names::VIDEO_FAILED,
                names::VIDEO_DURATION,
            ),
        };
        let counter = |name, help| {
            let counter = IntCounter::new(name, help).expect("names are constants");
            register(&self.registry, &counter);
            counter
        };
        let options = HistogramOpts::new(duration, "How long runs took.");
        let duration = Histogram::with_opts(options.buckets(RUN_SECONDS.to_vec()))
            .expect("names are constants");
        register(&self.registry, &duration);
        PresetMetrics {
            rows: counter(rows, "Rows that were handled."),
            failed: counter(failed, "Runs that failed."),
            duration,
        }
    }

    /// Those of the watchdog at `database`.
    pub fn watchdog(&self, database: &str) -> WatchdogMetrics {
        // So that they are there before anything has happened.
        for class in ["query", "long_query", "idle_in_transaction"] {
            self.query_timeout.with_label_values(&[database, class]);
        }
        WatchdogMetrics {
            timeouts: self.query_timeout.clone(),
            terminated: self.terminated.with_label_values(&[database]),
            failed: self.watchdog_failed.with_label_values(&[database]),
            database: database.to_owned(),
        }
    }

    /// Those of reading Envoy, which are there only where Envoy is read.
    ///
    /// # Panics
    /// When they are asked for again.
    pub fn envoy(&self) -> EnvoyMetrics {
        let metrics = EnvoyMetrics {
            up: IntGauge::new(names::ENVOY_UP, "1 if Envoy could be read just now.")
                .expect("names are constants"),
            failed: IntCounter::new(names::ENVOY_FAILED, "Readings of Envoy that failed.")
                .expect("names are constants"),
            duration: Gauge::new(
                names::ENVOY_DURATION,
                "How long the last reading of Envoy took.",
            )
            .expect("names are constants"),
        };
        register(&self.registry, &metrics.up);
        register(&self.registry, &metrics.failed);
        register(&self.registry, &metrics.duration);
        metrics
    }

    /// All that the sidecar counts, in the text format of Prometheus.
    pub fn text(&self) -> String {
        self.text_with(&Gateway::default())
    }

    /// The same, with what Envoy says.
    pub fn text_with(&self, gateway: &Gateway) -> String {
        let encoder = prometheus::TextEncoder::new();
        encoder
            .encode_to_string(&merge(self.registry.gather(), gateway))
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
