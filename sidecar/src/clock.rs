//! The only place that reads a clock.

#![allow(
    clippy::disallowed_methods,
    reason = "this is where the sidecar reads the clock"
)]

use levee_policy::time::{Instant, nanos};
use std::time::{Duration, SystemTime};

/// A monotonic clock. Its origin is that of Unix time, as the system's clock had it when this one was
/// started, so that what a process writes down can be read by the next one. It never steps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: std::time::Instant,
    origin: Instant,
}

impl Clock {
    /// Starts it.
    pub fn start() -> Self {
        let unix = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started: std::time::Instant::now(),
            origin: Instant::from_nanos(nanos(unix)),
        }
    }

    /// Now.
    pub fn now(&self) -> Instant {
        self.origin.after(self.started.elapsed())
    }

    /// When a timer of tokio's must fire so that it is `at` by this clock.
    pub fn timer(&self, at: Instant) -> tokio::time::Instant {
        (self.started + at.since(self.origin).min(Duration::from_hours(24 * 365))).into()
    }
}

/// The time of day, for people. Nothing is decided by it.
pub fn wall() -> SystemTime {
    SystemTime::now()
}
