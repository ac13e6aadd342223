//! What a job's configuration says.

use super::pace::PaceSettings;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobSettings {
    /// From the start of one run to the start of the next. `None`: the job is not scheduled.
    pub every: Option<Duration>,
    pub pace: PaceSettings,
    /// The most items of one run.
    pub max_rows: u64,
    /// The longest run, from its first batch on. The current batch is finished.
    pub max_time: Duration,
    /// Whether scheduled runs only count.
    pub dry_run: bool,
}
