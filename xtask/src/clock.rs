//! The only module of this crate that reads a clock.
#![allow(clippy::disallowed_methods)] // progress lines, not decisions

use std::time::{Duration, Instant};

/// Runs `step` and returns its result and duration.
pub fn timed<T>(step: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = step();
    (result, start.elapsed())
}
