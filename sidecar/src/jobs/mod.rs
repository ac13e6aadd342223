//! Jobs: work that is done in small batches, again and again. Nothing here knows SQL.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`runner`] | when a job runs: on schedule or on request, one run at a time |
//! | [`batches`] | one run, batch after batch |
//! | [`pace`] | the size of the next batch, and the wait before it |
//! | [`others`] | whether others use the database |
//! | [`settings`] | what a job's configuration says |
//! | [`report`] | the result of a run, and the state of a job |
//! | [`metrics`] | the metrics of jobs |

pub mod batches;
pub mod metrics;
pub mod others;
pub mod pace;
pub mod report;
pub mod runner;
pub mod settings;

use others::Look;
use std::future::Future;
use std::time::Duration;

pub trait Job: Send + Sync + 'static {
    type Run: Run;

    /// Prepares a run, and checks that it can work. Changes nothing.
    ///
    /// # Errors
    /// The job can't run now.
    fn begin(&self) -> impl Future<Output = Result<Self::Run, Error>> + Send;
}

/// A run that has begun. Dropping it ends it.
pub trait Run: Send {
    /// Claims the job for this instance, before the first batch. Dropping the run releases the claim.
    ///
    /// # Errors
    /// [`ErrorKind::Elsewhere`] if another instance has it.
    fn claim(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Shows, between two batches, that the holder of the claim is alive.
    fn hold(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Handles at most `size` items. Those that can't be handled are passed by.
    ///
    /// # Errors
    /// Nothing was handled.
    fn batch(&mut self, size: u32) -> impl Future<Output = Result<Batch, Error>> + Send;

    /// What a run would handle. Changes nothing.
    ///
    /// # Errors
    /// That could not be found out.
    fn preview(&mut self) -> impl Future<Output = Result<Preview, Error>> + Send;

    /// What is left to do, roughly. Changes nothing. `None`: there is no estimate.
    ///
    /// # Errors
    /// That could not be found out.
    fn backlog(&mut self) -> impl Future<Output = Result<Option<Backlog>, Error>> + Send;

    /// What the job does less of, or more, than its configuration lets one expect.
    fn warnings(&self) -> &[String];

    /// Whether each batch reads all there is, however few items it handles.
    fn reads_all(&self) -> bool {
        false
    }

    /// Ends the run and releases the claim before it returns. Dropping the run does that too, but later.
    fn end(self) -> impl Future<Output = ()> + Send;

    /// What others do at the database. `None`: that can't be seen.
    fn look(&mut self) -> impl Future<Output = Option<Look>> + Send;

    /// How far replicas of the data are behind. `None`: there are none, or it is not known.
    fn lag(&mut self) -> impl Future<Output = Option<Duration>> + Send;
}

/// What a run would handle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    pub rows: u64,
    pub oldest: Option<Sample>,
    pub newest: Option<Sample>,
}

/// What is left to do, roughly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub rows: u64,
    /// For how long the time of the first item has been over. `None`: there is no item, or that is not known.
    pub oldest: Option<Duration>,
}

/// One of the items that a run would handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub key: String,
    /// What it was chosen by, such as its time.
    pub value: String,
    /// How long ago that time was. `None`: it is none.
    pub age: Option<Duration>,
}

impl Sample {
    /// The age in its two largest units: `2 days 3 hours`.
    pub fn age_in_words(&self) -> Option<String> {
        let seconds = self.age?.as_secs();
        let units = [
            (seconds / 86_400, "day"),
            (seconds / 3_600 % 24, "hour"),
            (seconds / 60 % 60, "minute"),
            (seconds % 60, "second"),
        ];
        let first = units.iter().position(|(count, _)| *count > 0);
        let shown = units.iter().skip(first.unwrap_or(3)).take(2);
        let words: Vec<String> = shown
            .filter(|(count, _)| *count > 0 || first.is_none())
            .map(|(count, unit)| format!("{count} {unit}{}", if *count == 1 { "" } else { "s" }))
            .collect();
        Some(words.join(" "))
    }
}

/// An item that can't be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub key: String,
    pub why: String,
}

/// The result of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Items that were handled.
    pub rows: u64,
    /// Items that were passed by. A run may come by one more than once.
    pub left: Vec<Left>,
    /// How long it was worked on, where that is known: without waiting for the network and for the disk.
    pub work: Option<Duration>,
    /// Whether nothing is left.
    pub is_last: bool,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    /// What was wrong, and what would be right.
    pub message: String,
}

/// How to react to an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Another instance is running the job.
    Elsewhere,
    /// May succeed later: begin again, after a wait.
    Transient,
    /// The batch took too long: try a smaller one.
    Slow,
    /// Somebody else was in the way: try again, after a wait.
    Busy,
    /// Fails until somebody changes something.
    Permanent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_two_units_at_most() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (61, "1 minute 1 second"),
            (7_200, "2 hours"),
            (31 * 86_400 + 59, "31 days"),
            (86_400 + 7_200 + 5, "1 day 2 hours"),
        ] {
            let sample = Sample {
                key: String::new(),
                value: String::new(),
                age: Some(Duration::from_secs(seconds)),
            };
            assert_eq!(sample.age_in_words().as_deref(), Some(words));
        }
    }
}
