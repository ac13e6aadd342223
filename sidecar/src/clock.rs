//! The only place that reads a clock.

#![allow(
    clippy::disallowed_methods,
    reason = "this is where the sidecar reads the clock"
)]

use levee_policy::time::{Instant, nanos};
use std::time::{Duration, SystemTime};

/// A monotonic clock that counts from the Unix epoch, so stored moments keep their meaning for the next process. It is
/// set by the system's clock when it starts; later steps of the system's clock don't move it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: std::time::Instant,
    origin: Instant,
}

impl Clock {
    pub fn start() -> Self {
        let unix = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started: std::time::Instant::now(),
            origin: Instant::from_nanos(nanos(unix)),
        }
    }

    pub fn now(&self) -> Instant {
        self.origin.after(self.started.elapsed())
    }

    /// `at` as a deadline for tokio's timers.
    pub fn timer(&self, at: Instant) -> tokio::time::Instant {
        (self.started + at.since(self.origin).min(Duration::from_hours(24 * 365))).into()
    }
}

/// The time of day, for display only: no decision depends on it.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The system's monotonic clock, in which systemd reads times.
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}
