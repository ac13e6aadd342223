//! What `levee status` says. The names here are those of its JSON, and of `GET /v1/status`: they are kept.
//!
//! What is not known is null. Times are in seconds, seen from `at`.

use serde::{Deserialize, Serialize};

/// Whether all that is configured could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    Whole,
    Partial,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The sidecar's version.
    pub version: Option<String>,
    /// When this was so (RFC 3339).
    pub at: Option<String>,
    /// The sidecar itself: where all of it is from.
    pub sidecar: Source,
    /// Envoy, as the sidecar reads it: where `services` are from.
    pub envoy: Source,
    /// The database, where `jobs` and `watchdog` are. Whether it can be reached, they say.
    pub database: Source,
    /// Services behind Envoy.
    pub services: Vec<Service>,
    /// Redis upstreams.
    pub redis: Vec<Redis>,
    /// Cleanup jobs.
    pub jobs: Vec<Job>,
    /// The watchdog, if there is one.
    pub watchdog: Option<Watchdog>,
}

impl Status {
    /// Whether all that is configured could be read.
    pub fn completeness(&self) -> Completeness {
        if self.sidecar.problem.is_none() && self.envoy.problem.is_none() {
            Completeness::Whole
        } else {
            Completeness::Partial
        }
    }
}

/// Where something is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Whether the configuration has it.
    pub configured: bool,
    /// Where.
    pub address: Option<String>,
    /// Why it can't be read.
    pub problem: Option<String>,
}

/// How long something has been so. Both are the same where it is known exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Since {
    /// At least so long.
    pub at_least_seconds: f64,
    /// At most so long. Null: it was so when it was first looked at.
    pub at_most_seconds: Option<f64>,
}

/// Requests, or commands, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// Answered.
    pub success: u64,
    /// Failed.
    pub failure: u64,
    /// That say nothing.
    pub neutral: u64,
    /// Refused by the breaker.
    pub rejected: u64,
}

impl Requests {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.success
            .saturating_add(self.failure)
            .saturating_add(self.neutral)
            .saturating_add(self.rejected)
    }
}

/// Requests that ran out of time, by the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// Of the whole request.
    pub request: u64,
    /// Of the response's headers.
    pub response_header: u64,
    /// Of connecting.
    pub connect: u64,
}

/// How long requests that were answered took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// Half of them took at most so long.
    pub p50_seconds: Option<f64>,
    /// 99 % of them took at most so long.
    pub p99_seconds: Option<f64>,
    /// Of how many seconds. Null: since Envoy started.
    pub window_seconds: Option<f64>,
}

/// A service behind Envoy. Counts are since Envoy started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `closed`, `open`, `half_open`. Null: a cluster that the filter has no breaker for.
    pub state: Option<String>,
    /// `enforce`, `shadow`, `disabled`, `forced_open`, `forced_closed`. Null as above, and of a filter that does not say it.
    pub mode: Option<String>,
    /// Since when.
    pub since: Option<Since>,
    /// By outcome.
    pub requests: Requests,
    /// That mode `shadow` would have refused. They were let pass, and are in `requests` by what became of them.
    pub shadow_rejected: u64,
    /// That failed.
    pub failures: u64,
    /// That ran out of time.
    pub timeouts: Timeouts,
    /// How long they took.
    pub durations: Option<Durations>,
}

/// A Redis upstream. Counts are since the sidecar started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redis {
    /// Its name.
    pub name: String,
    /// Where services connect.
    pub listen: String,
    /// Where Redis is.
    pub upstream: String,
    /// `closed`, `open`, `half_open`.
    pub state: String,
    /// `enforce`, `shadow`, `disabled`, `forced_open`, `forced_closed`.
    pub mode: String,
    /// Since when it is in its state.
    pub since: Since,
    /// Retries that could be paid for.
    pub budget_left: u64,
    /// Clients that are connected.
    pub connections: u64,
    /// The most that may be.
    pub connections_limit: u64,
    /// Commands that wait for Redis.
    pub attempts_in_flight: i64,
    /// Commands by outcome.
    pub requests: Requests,
    /// Commands that failed.
    pub failures: u64,
    /// Further attempts.
    pub retries: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_seconds_ago: Option<f64>,
}

/// A cleanup job. Totals are since the sidecar started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Whether its runs only count.
    pub dry_run: bool,
    /// For how long a run has been under way. Null: none is.
    pub running_seconds: Option<f64>,
    /// Rows that the run under way has handled.
    pub running_rows: Option<u64>,
    /// How the last run ended: `done`, `limit`, `stopped`, `elsewhere`, `failed`.
    pub last_outcome: Option<String>,
    /// When it ended.
    pub last_seconds_ago: Option<f64>,
    /// The rows that it handled.
    pub last_rows: Option<u64>,
    /// What went wrong in it.
    pub last_error: Option<String>,
    /// When the next is due; negative if it is late. Null: by hand only.
    pub next_in_seconds: Option<f64>,
    /// Rows that were handled.
    pub rows_total: u64,
    /// Runs that failed.
    pub failures_total: u64,
    /// Why it can't be run at all.
    pub problem: Option<String>,
}

/// The watchdog. Acts are since the sidecar started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watchdog {
    /// Why it can't do its work.
    pub problem: Option<String>,
    /// Another instance acts.
    pub stands_by: bool,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// When it last looked.
    pub looked_seconds_ago: Option<f64>,
    /// Sessions that it watches.
    pub watched: u64,
    /// Statements that it cancelled, and sessions that it ended.
    pub acts: u64,
}
