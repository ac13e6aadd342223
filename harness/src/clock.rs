//! The only place of the harness that reads a clock.

use std::time::{Duration, Instant};

/// Now, by the monotonic clock: for what is scheduled at an instant.
#[allow(
    clippy::disallowed_methods,
    reason = "the harness measures real processes: this is where it reads the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Measures the time since its start, by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(now())
    }

    /// The time since the start.
    #[allow(clippy::disallowed_methods, reason = "as in `now`")]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// The instant of the start plus `after`, for timers that take one.
    pub fn at(&self, after: Duration) -> Instant {
        self.0 + after
    }
}
