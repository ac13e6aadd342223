//! What is counted at one upstream, as plain atomics. The program that has the sessions shows them, by whatever library.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn dec(&self) {
        self.add(-1);
    }

    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets of [`Durations`] in nanoseconds, from a local read to the longest deadlines.
const BOUNDS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How long commands took.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BOUNDS.len()],
    /// Longer than the last bound.
    longer: AtomicU64,
    nanos: AtomicU64,
}

/// [`Durations`] at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationCounts {
    /// Upper bounds in seconds, each with the number of durations up to it.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

impl Durations {
    pub fn observe(&self, duration: Duration) {
        let nanos = levee_policy::time::nanos(duration);
        let bucket = BOUNDS
            .iter()
            .zip(&self.buckets)
            .find(|(bound, _)| nanos <= **bound);
        bucket
            .map_or(&self.longer, |(_, count)| count)
            .fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    pub fn counts(&self) -> DurationCounts {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len());
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            count += bucket.load(Relaxed);
            buckets.push((Duration::from_nanos(*bound).as_secs_f64(), count));
        }
        DurationCounts {
            buckets,
            count: count + self.longer.load(Relaxed),
            sum_seconds: Duration::from_nanos(self.nanos.load(Relaxed)).as_secs_f64(),
        }
    }
}

/// What is counted at one upstream.
#[derive(Debug, Default)]
pub struct Counts {
    /// The breaker's phase, as [`levee_policy::breaker::Phase`] numbers it.
    pub state: Gauge,
    /// Its mode, as [`levee_policy::breaker::Mode`] numbers it.
    pub mode: Gauge,
    /// Commands with a reply of Redis.
    pub success: Counter,
    /// Commands without one, or that Redis could not serve.
    pub failure: Counter,
    /// Commands whose client left, or that have no reply.
    pub neutral: Counter,
    /// Commands that the breaker refused.
    pub rejected: Counter,
    /// Further attempts.
    pub retries: Counter,
    /// Commands that failed in spite of further attempts.
    pub retry_failed: Counter,
    /// Further attempts that the budget did not allow.
    pub budget_exhausted: Counter,
    /// What the budget would allow now. Set before the counts are shown.
    pub budget_left: Gauge,
    /// Connected clients.
    pub connections: Gauge,
    /// Clients that were accepted.
    pub connections_total: Counter,
    /// Clients refused for lack of a place.
    pub refused_limit: Counter,
    /// Clients closed since they were idle.
    pub refused_idle: Counter,
    /// Clients closed since what they sent was not the protocol.
    pub refused_protocol: Counter,
    /// Clients closed since their buffers took too much memory.
    pub refused_memory: Counter,
    /// Sessions that became raw pipes.
    pub raw: Counter,
    /// Of commands with a reply.
    pub duration_success: Durations,
    /// Of commands that Redis answered with an error.
    pub duration_error: Durations,
    /// Of commands that Levee answered with an error.
    pub duration_failure: Durations,
    /// Bytes to the upstream.
    pub bytes_to: Counter,
    /// Bytes from the upstream.
    pub bytes_from: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_up_to_each_bound_that_it_does_not_exceed() {
        let durations = Durations::default();
        for millis in [1, 2, 20_000] {
            durations.observe(Duration::from_millis(millis));
        }
        let seen = durations.counts();
        let up_to = |bound: f64| {
            let found = seen.buckets.iter().find(|(other, _)| *other >= bound);
            found.map(|(_, count)| *count)
        };
        assert_eq!(up_to(0.0005), Some(0));
        assert_eq!(up_to(0.001), Some(1));
        assert_eq!(up_to(0.0025), Some(2));
        assert_eq!(up_to(10.0), Some(2));
        assert_eq!((seen.count, seen.sum_seconds), (3, 20.003));
    }
}
