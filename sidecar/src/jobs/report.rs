//! The result of a run, and the state of a job.

use super::{Left, Preview};
use levee_policy::time::Instant;
use std::time::Duration;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was left to do.
    Done,
    /// The run reached one of its limits; the next one continues.
    Limit,
    /// The process was told to stop.
    Stopped,
    /// Another instance is running the job.
    Elsewhere,
    /// See the error.
    Failed,
}

impl Outcome {
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::Limit,
        Self::Stopped,
        Self::Elsewhere,
        Self::Failed,
    ];

    /// Its name in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Limit => "limit",
            Self::Stopped => "stopped",
            Self::Elsewhere => "elsewhere",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Report {
    pub began: Instant,
    pub took: Duration,
    pub dry_run: bool,
    pub outcome: Outcome,
    /// Items that were handled or, in a dry run, would have been.
    pub rows: u64,
    /// Batches that handled at least one item.
    pub batches: u64,
    /// Items that can't be handled.
    pub skipped: u64,
    /// The first of them.
    pub left: Vec<Left>,
    /// Of a dry run.
    pub preview: Option<Preview>,
    pub error: Option<String>,
}

/// The state of a job.
#[derive(Clone, Debug, Default)]
pub struct JobStatus {
    pub running: Option<Progress>,
    pub last: Option<Report>,
    /// When the next scheduled run is due.
    pub next: Option<Instant>,
    /// Why the job can't run as it is configured.
    pub problem: Option<String>,
    /// What it does less of, or more, than its configuration lets one expect.
    pub warnings: Vec<String>,
}

/// A run in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub since: Instant,
    /// Items handled so far.
    pub rows: u64,
}
