//! The one place of this crate that reads a clock: how long a step took.
#![allow(clippy::disallowed_methods)] // progress lines, not decisions

use std::time::{Duration, Instant};

/// Runs `step`, and says how long it took.
pub fn timed<T>(step: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = step();
    (result, start.elapsed())
}
