//! The tasks of all parts.

use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};

/// What happens to a task at a stop.
#[derive(Debug, Default)]
pub struct Tasks {
    /// Finish the work in flight.
    draining: JoinSet<()>,
    /// Dropped.
    background: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    Completely,
    /// Some did not end in time.
    Partly,
}

impl Tasks {
    /// Runs a task that finishes its work when it is stopped.
    pub fn drain(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.draining.try_join_next().is_some() {}
        self.draining.spawn(task);
    }

    /// Runs a task until it is aborted, or until the end of the process.
    pub fn run(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        while self.background.try_join_next().is_some() {}
        self.background.spawn(task)
    }

    /// Waits for tasks that finish their work.
    pub async fn drained(&mut self, within: Duration) -> Drained {
        let drained = async { while self.draining.join_next().await.is_some() {} };
        match tokio::time::timeout(within, drained).await {
            Ok(()) => Drained::Completely,
            Err(_) => Drained::Partly,
        }
    }
}
