//! The data of `levee status` and `GET /v1/status`. Field names are part of their JSON and never change.
//!
//! Unknown values are null. Times are in seconds, relative to `at`.

use serde::{Deserialize, Serialize};

/// Whether all that is configured could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    Whole,
    Partial,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The sidecar's.
    pub version: Option<String>,
    /// When the status was read (RFC 3339).
    pub at: Option<String>,
    /// The sidecar, which all of it comes from.
    pub sidecar: Source,
    /// Envoy, as the sidecar reads it: `services` come from it.
    pub envoy: Source,
    /// The database of `jobs` and `watchdog`, whose fields say whether it can be reached.
    pub database: Source,
    pub services: Vec<Service>,
    pub redis: Vec<Redis>,
    pub jobs: Vec<Job>,
    /// Null if none is configured.
    pub watchdog: Option<Watchdog>,
}

impl Status {
    pub fn completeness(&self) -> Completeness {
        if self.sidecar.problem.is_none() && self.envoy.problem.is_none() {
            Completeness::Whole
        } else {
            Completeness::Partial
        }
    }
}

/// Where data comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// The configuration has it.
    pub configured: bool,
    pub address: Option<String>,
    /// Why it can't be read.
    pub problem: Option<String>,
}

/// How long a state has lasted. Both bounds are equal if it is known exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Since {
    pub at_least_seconds: f64,
    /// Null: the state was already there at the first reading.
    pub at_most_seconds: Option<f64>,
}

/// Requests, or commands, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    pub success: u64,
    pub failure: u64,
    /// Neither success nor failure, such as one that the client cancelled.
    pub neutral: u64,
    /// Refused by the breaker.
    pub rejected: u64,
}

impl Requests {
    pub const fn total(&self) -> u64 {
        self.success
            .saturating_add(self.failure)
            .saturating_add(self.neutral)
            .saturating_add(self.rejected)
    }
}

/// Requests that timed out, by the limit that they exceeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// The whole request.
    pub request: u64,
    /// Until the response's headers.
    pub response_header: u64,
    pub connect: u64,
}

/// How long answered requests took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    pub count: u64,
    pub p50_seconds: Option<f64>,
    pub p99_seconds: Option<f64>,
    /// The span that was measured. Null: since Envoy started.
    pub window_seconds: Option<f64>,
}

/// A part of a service that has a breaker of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scope {
    pub name: String,
    /// `closed`, `open`, `half_open`.
    pub state: Option<String>,
}

/// A service behind Envoy. Counts are since Envoy started, and include its scopes'.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub name: String,
    /// `closed`, `open`, `half_open`. Null: the filter has no breaker for this cluster.
    pub state: Option<String>,
    /// `enforce`, `shadow`, `disabled`, `forced_open`, `forced_closed`. Null as above, and if
    /// the filter is too old to report it.
    pub mode: Option<String>,
    pub since: Option<Since>,
    pub scopes: Vec<Scope>,
    pub requests: Requests,
    /// Requests that mode `shadow` would have refused. They passed, and `requests` counts their outcomes.
    pub shadow_rejected: u64,
    pub failures: u64,
    pub timeouts: Timeouts,
    pub durations: Option<Durations>,
}

/// A Redis upstream. Counts are since the sidecar started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redis {
    pub name: String,
    /// The address that services connect to.
    pub listen: String,
    /// Redis' address.
    pub upstream: String,
    /// `closed`, `open`, `half_open`.
    pub state: String,
    /// `enforce`, `shadow`, `disabled`, `forced_open`, `forced_closed`.
    pub mode: String,
    pub since: Since,
    /// Retries that the budget allows now.
    pub budget_left: u64,
    /// Connected clients.
    pub connections: u64,
    /// Maximum of `connections`.
    pub connections_limit: u64,
    /// Commands waiting for Redis.
    pub attempts_in_flight: i64,
    pub requests: Requests,
    pub failures: u64,
    pub retries: u64,
    pub last_error: Option<String>,
    pub last_error_seconds_ago: Option<f64>,
}

/// A cleanup job. Totals are since the sidecar started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    pub name: String,
    /// Runs only count rows.
    pub dry_run: bool,
    /// How long the current run has taken. Null: there is none.
    pub running_seconds: Option<f64>,
    /// Rows that the current run has handled.
    pub running_rows: Option<u64>,
    /// How the last run ended: `done`, `limit`, `stopped`, `elsewhere`, `failed`.
    pub last_outcome: Option<String>,
    /// Since it ended.
    pub last_seconds_ago: Option<f64>,
    pub last_rows: Option<u64>,
    pub last_error: Option<String>,
    /// Until the next run is due; negative if late. Null: manual runs only.
    pub next_in_seconds: Option<f64>,
    pub rows_total: u64,
    pub failures_total: u64,
    /// Why it can't run at all.
    pub problem: Option<String>,
}

/// The watchdog. `acts` counts from the sidecar's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watchdog {
    /// Why it can't work.
    pub problem: Option<String>,
    /// Another instance acts.
    pub stands_by: bool,
    /// Null: it is not known.
    pub acting: Option<Acting>,
    /// It only logs what it would do.
    pub dry_run: bool,
    /// Since its last poll.
    pub looked_seconds_ago: Option<f64>,
    /// Sessions of watched roles.
    pub watched: u64,
    /// Cancelled statements plus terminated sessions.
    pub acts: u64,
}

/// Which watchdog acts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acting {
    /// The sidecar's own.
    pub here: bool,
    /// The database's process for its connection.
    pub process: Option<String>,
    /// Where its connection comes from.
    pub client: Option<String>,
}
