//! Counts of recent calls.

use crate::time::{Instant, nanos};
use std::time::Duration;

/// The number of buckets of a window. Calls leave a window one bucket at a time, so its counts are
/// exact to a tenth of its length.
pub const BUCKETS: usize = 10;

/// Numbers of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All calls with a result that is not neutral.
    pub total: u32,
    /// Calls that failed.
    pub failures: u32,
    /// Those of them that a caller may have brought about.
    pub weak: u32,
    /// Calls that took too long, whether they failed or not.
    pub slow: u32,
    /// Calls that nobody answered before their callers gave up. They are not in `total`.
    pub unanswered: u32,
    /// Calls that failed in scopes, before one of the same scope was answered. They are in `total`.
    pub in_scopes: u32,
}

impl Counts {
    /// Whether nothing in here could open a breaker.
    pub const fn is_clean(&self) -> bool {
        self.failures | self.slow | self.unanswered | self.in_scopes == 0
    }

    #[inline]
    fn add(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        self.failures = self.failures.saturating_add(other.failures);
        self.weak = self.weak.saturating_add(other.weak);
        self.slow = self.slow.saturating_add(other.slow);
        self.unanswered = self.unanswered.saturating_add(other.unanswered);
        self.in_scopes = self.in_scopes.saturating_add(other.in_scopes);
    }
}

/// A sliding window over counts: a ring of [`BUCKETS`] buckets, addressed by absolute time, so
/// that windows filled by different workers can be added.
///
/// The newest bucket's index and end and the sum of the others are cached, so most calls neither
/// divide nor sum. The cache is rebuilt when time crosses into another bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Length of a bucket in nanoseconds, at least 1.
    width: u64,
    /// Number of the newest bucket: its start divided by `width`.
    newest: u64,
    /// Bucket `n` is at index `n % BUCKETS`.
    buckets: [Counts; BUCKETS],
    /// Cached: the index of bucket `newest`.
    place: usize,
    /// Cached: when bucket `newest` ends, in nanoseconds.
    ends: u64,
    /// Cached: the sum of all buckets but the newest.
    older: Counts,
}

impl Window {
    /// An empty window over `length`.
    pub fn new(length: Duration) -> Self {
        Self::from_parts(Parts {
            width: Self::width(length),
            newest: 0,
            buckets: [Counts::default(); BUCKETS],
        })
    }

    /// The length of each bucket of a window over `length`, in nanoseconds.
    #[inline]
    fn width(length: Duration) -> u64 {
        (nanos(length) / BUCKETS as u64).max(1)
    }

    /// Removes all counts.
    pub fn clear(&mut self) {
        self.buckets = [Counts::default(); BUCKETS];
        self.older = Counts::default();
    }

    /// Adds `counts` at `now`. If `now` is before a time already seen, they enter the newest bucket,
    /// so a clock that goes back loses nothing.
    #[inline]
    pub fn add(&mut self, now: Instant, counts: Counts) {
        self.advance(now);
        self.buckets[self.place].add(counts);
    }

    /// Adds one call that was answered well.
    #[inline]
    pub(crate) fn add_success(&mut self, now: Instant) {
        self.advance(now);
        let bucket = &mut self.buckets[self.place];
        bucket.total = bucket.total.saturating_add(1);
    }

    /// The sum of the window at `now`.
    #[inline]
    pub fn totals(&mut self, now: Instant) -> Counts {
        self.advance(now);
        self.sum()
    }

    /// The sum of the window when time last advanced.
    #[inline]
    pub fn sum(&self) -> Counts {
        let mut sum = self.older;
        sum.add(self.buckets[self.place]);
        sum
    }

    /// Whether the [`sum`](Self::sum) is clean.
    #[inline]
    pub(crate) fn is_clean(&self) -> bool {
        self.older.is_clean() && self.buckets[self.place].is_clean()
    }

    /// Adds the buckets of `other`, each at its own time. Buckets too old for this window are left
    /// out. If `other` has another length, nothing is added.
    pub fn absorb(&mut self, other: &Self) {
        if self.width != other.width {
            return;
        }
        self.advance_to(other.newest);
        if other.sum() == Counts::default() {
            return;
        }
        let oldest = (self.newest + 1).saturating_sub(BUCKETS as u64);
        let first = (other.newest + 1)
            .saturating_sub(BUCKETS as u64)
            .max(oldest);
        for number in first..=other.newest {
            self.buckets[Self::place(number)].add(other.buckets[Self::place(number)]);
        }
        self.rebuild_cache();
    }

    /// Makes this a window over `length`. If the length changes, the counts are removed.
    #[inline]
    pub fn resize(&mut self, length: Duration) {
        // Nearly always it is as long as it was. A product costs less than a quotient.
        let rest = nanos(length).wrapping_sub(self.width.wrapping_mul(BUCKETS as u64));
        if rest >= BUCKETS as u64 {
            self.resize_slowly(length);
        }
    }

    #[cold]
    fn resize_slowly(&mut self, length: Duration) {
        let width = Self::width(length);
        if width != self.width {
            self.restart(width);
        }
    }

    #[cold]
    fn restart(&mut self, width: u64) {
        *self = Self::from_parts(Parts {
            width,
            newest: 0,
            buckets: [Counts::default(); BUCKETS],
        });
    }

    #[inline]
    fn advance(&mut self, now: Instant) {
        if now.as_nanos() >= self.ends {
            self.enter_bucket_of(now);
        }
    }

    #[inline(never)]
    fn enter_bucket_of(&mut self, now: Instant) {
        // `newest + 1` must not overflow, even at the end of time.
        self.advance_to((now.as_nanos() / self.width).min(u64::MAX - 1));
    }

    fn advance_to(&mut self, number: u64) {
        if number <= self.newest {
            return;
        }
        let passed = (number - self.newest).min(BUCKETS as u64);
        for emptied in (number + 1 - passed)..=number {
            self.buckets[Self::place(emptied)] = Counts::default();
        }
        self.newest = number;
        self.rebuild_cache();
    }

    fn rebuild_cache(&mut self) {
        self.place = Self::place(self.newest);
        self.ends = (self.newest + 1).saturating_mul(self.width);
        let newest = self.buckets[self.place];
        let older = |part: fn(&Counts) -> u32| {
            let all: u64 = self
                .buckets
                .iter()
                .map(|bucket| u64::from(part(bucket)))
                .sum();
            u32::try_from(all - u64::from(part(&newest))).unwrap_or(u32::MAX)
        };
        self.older = Counts {
            total: older(|bucket| bucket.total),
            failures: older(|bucket| bucket.failures),
            weak: older(|bucket| bucket.weak),
            slow: older(|bucket| bucket.slow),
            unanswered: older(|bucket| bucket.unanswered),
            in_scopes: older(|bucket| bucket.in_scopes),
        };
    }

    #[allow(clippy::cast_possible_truncation)] // less than BUCKETS
    const fn place(number: u64) -> usize {
        (number % BUCKETS as u64) as usize
    }

    pub(crate) const fn parts(&self) -> Parts {
        Parts {
            width: self.width,
            newest: self.newest,
            buckets: self.buckets,
        }
    }

    pub(crate) fn from_parts(parts: Parts) -> Self {
        // The parts may come from any bytes, and `newest + 1` must not overflow.
        let mut window = Self {
            width: parts.width.max(1),
            newest: parts.newest.min(u64::MAX - 1),
            buckets: parts.buckets,
            place: 0,
            ends: 0,
            older: Counts::default(),
        };
        window.rebuild_cache();
        window
    }
}

/// A [`Window`] without what is cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// Length of a bucket in nanoseconds.
    pub(crate) width: u64,
    /// Number of the newest bucket: its start divided by `width`.
    pub(crate) newest: u64,
    /// Bucket `n` is at index `n % BUCKETS`.
    pub(crate) buckets: [Counts; BUCKETS],
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const FAILURE: Counts = Counts {
        total: 1,
        failures: 1,
        weak: 0,
        slow: 0,
        unanswered: 0,
        in_scopes: 0,
    };

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn ten_seconds() -> Window {
        Window::new(Duration::from_secs(10))
    }

    #[test]
    fn calls_leave_after_the_windows_length() {
        let mut window = ten_seconds();
        window.add(at(500), FAILURE);
        assert_eq!(window.totals(at(9_999)).failures, 1);
        assert_eq!(window.totals(at(10_000)).failures, 0);
    }

    #[test]
    fn a_long_pause_empties_it() {
        let mut window = ten_seconds();
        for second in 0..10 {
            window.add(at(second * 1000), FAILURE);
        }
        assert_eq!(window.totals(at(9_500)).failures, 10);
        assert_eq!(window.totals(at(10_000_000)).total, 0);
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let mut window = ten_seconds();
        window.add(at(50_000), FAILURE);
        window.add(at(3_000), FAILURE);
        assert_eq!(window.totals(at(50_000)).failures, 2);
    }

    #[test]
    fn counts_saturate() {
        let mut window = ten_seconds();
        window.add(
            at(0),
            Counts {
                total: u32::MAX,
                ..Counts::default()
            },
        );
        window.add(at(0), FAILURE);
        assert_eq!(window.totals(at(0)).total, u32::MAX);
    }

    #[test]
    fn nothing_overflows_at_the_end_of_time() {
        let end = Instant::from_nanos(u64::MAX);
        let mut window = Window::new(Duration::ZERO);
        window.add(end, FAILURE);
        assert_eq!(window.totals(end).failures, 1);
        let other = window.clone();
        window.absorb(&other);
        assert_eq!(window.totals(end).failures, 2);
        let mut read = Window::from_parts(Parts {
            width: 0,
            newest: u64::MAX,
            buckets: [Counts::default(); BUCKETS],
        });
        read.absorb(&other);
        read.add(end, FAILURE);
        assert_eq!(read.totals(end).failures, 2);
    }

    #[test]
    fn windows_of_other_lengths_are_not_added() {
        let mut window = ten_seconds();
        let mut longer = Window::new(Duration::from_secs(20));
        longer.add(at(500), FAILURE);
        window.absorb(&longer);
        assert_eq!(window.sum(), Counts::default());
    }

    #[test]
    fn sums_of_buckets_saturate_and_recover() {
        let full = Counts {
            total: u32::MAX,
            failures: u32::MAX,
            weak: u32::MAX,
            slow: u32::MAX,
            unanswered: u32::MAX,
            in_scopes: u32::MAX,
        };
        let mut window = ten_seconds();
        for second in 0..3 {
            window.add(at(second * 1000), full);
        }
        assert_eq!(window.totals(at(3_000)), full);
        window.add(at(12_000), FAILURE);
        assert_eq!(window.totals(at(12_000)), FAILURE);
    }

    /// A simple model: a list of calls, of which those of the last ten buckets count.
    fn model(calls: &[u64], now: u64) -> u32 {
        let oldest = (now / 1000 + 1).saturating_sub(BUCKETS as u64);
        let inside = calls.iter().filter(|call| **call / 1000 >= oldest);
        u32::try_from(inside.count()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_agrees_with_a_list(steps in prop::collection::vec(0_u64..4_000, 1..60)) {
            let mut window = ten_seconds();
            let mut calls = Vec::new();
            let mut now = 0;
            for step in steps {
                now += step;
                window.add(at(now), FAILURE);
                calls.push(now);
                prop_assert_eq!(window.totals(at(now)).total, model(&calls, now));
            }
        }

        #[test]
        fn windows_filled_separately_add_up(
            calls in prop::collection::vec((0_u64..4_000, any::<bool>()), 1..60),
        ) {
            let (mut whole, mut left, mut right) = (ten_seconds(), ten_seconds(), ten_seconds());
            let mut now = 0;
            for (step, goes_left) in calls {
                now += step;
                whole.add(at(now), FAILURE);
                let part = if goes_left { &mut left } else { &mut right };
                part.add(at(now), FAILURE);
            }
            left.absorb(&right);
            prop_assert_eq!(left.totals(at(now)), whole.totals(at(now)));
        }
    }
}
