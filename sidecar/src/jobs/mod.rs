//! Jobs: work that is done in small batches, again and again. Nothing here knows of SQL.
//!
//! A [`Job`] begins a [`Run`], and a run's one step is a batch. The [`Runner`](runner::Runner) around it
//! decides when, how large, how fast, and when to stop.

pub mod metrics;
pub mod pace;
pub mod report;
pub mod runner;

use std::future::Future;
use std::time::Duration;

/// Something that can be run.
pub trait Job: Send + Sync + 'static {
    /// One run of it.
    type Run: Run;

    /// Makes sure that it can be run. Changes nothing.
    ///
    /// # Errors
    /// It can't be run now.
    fn begin(&self) -> impl Future<Output = Result<Self::Run, Error>> + Send;
}

/// A run that has begun. Dropping it ends it.
pub trait Run: Send {
    /// Takes the right to handle items, before the first batch. Dropping the run gives it back.
    ///
    /// # Errors
    /// Another instance has it.
    fn claim(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Handles at most `size` items.
    ///
    /// # Errors
    /// Nothing was handled.
    fn batch(&mut self, size: u32) -> impl Future<Output = Result<Batch, Error>> + Send;

    /// How many items there are. Changes nothing.
    ///
    /// # Errors
    /// It could not be counted.
    fn count(&mut self) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Ends it, and gives back the right, before it returns. Dropping it does so too, but later.
    fn end(self) -> impl Future<Output = ()> + Send;

    /// How far copies of the data are behind, if there are any and if that is known.
    fn lag(&mut self) -> impl Future<Output = Option<Duration>> + Send;
}

/// What came of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Items that were handled.
    pub rows: u64,
    /// Whether there are no more to be had.
    pub is_last: bool,
}

/// What kept a step from being done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What to do about it.
    pub kind: Kind,
    /// What went wrong, and what would be right.
    pub message: String,
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another instance is at it.
    Elsewhere,
    /// It may go well the next time: begin anew, after a while.
    Transient,
    /// It took too long: try less.
    Slow,
    /// It will not go well before somebody has changed something.
    Permanent,
}
