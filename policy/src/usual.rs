//! How long a service usually takes to answer.

use std::time::Duration;

/// The shortest wait that is ever longer than usual. Waits are measured by a clock that advances
/// ten times a second, so shorter ones can't be told from none.
pub const SHORTEST: Duration = Duration::from_millis(300);
/// Longer than usual while nothing is known.
pub const UNKNOWN: Duration = Duration::from_secs(1);

/// Bucket n > 0 holds waits from 2^(n-1) to 2^n units.
const BUCKETS: usize = 16;
/// A unit is 2^26 ns, 67 ms: a shift instead of a division.
const UNIT_BITS: u32 = 26;
/// With this many answers all buckets are halved, so that old answers are forgotten.
const FULL: u32 = 1 << 14;

/// The durations of recent answers, as powers of two. Adding one takes constant time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usual {
    buckets: [u32; BUCKETS],
    answers: u32,
}

impl Usual {
    /// An answer took this long.
    #[inline]
    pub fn add(&mut self, took: Duration) {
        let units = crate::time::nanos(took) >> UNIT_BITS;
        let place = (u64::BITS - units.leading_zeros()) as usize;
        self.buckets[place.min(BUCKETS - 1)] += 1;
        self.answers += 1;
        if self.answers >= FULL {
            self.forget_half();
        }
    }

    #[cold]
    fn forget_half(&mut self) {
        self.answers = 0;
        for bucket in &mut self.buckets {
            *bucket /= 2;
            self.answers += *bucket;
        }
    }

    /// How long a call must have waited to have waited longer than usual: as long as 99 of 100
    /// answers took, rounded up to a power of two, at least [`SHORTEST`].
    pub fn exceeded_by(&self) -> Duration {
        if self.answers == 0 {
            return UNKNOWN;
        }
        let mut left = self.answers - self.answers / 100;
        for (place, bucket) in self.buckets.iter().enumerate() {
            left = left.saturating_sub(*bucket);
            if left == 0 {
                return Duration::from_nanos(1 << (UNIT_BITS as usize + place)).max(SHORTEST);
            }
        }
        Duration::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn after(answers: impl IntoIterator<Item = u64>) -> Duration {
        let mut usual = Usual::default();
        for millis in answers {
            usual.add(Duration::from_millis(millis));
        }
        usual.exceeded_by()
    }

    #[test]
    fn a_wait_is_long_if_it_is_longer_than_99_of_100_answers() {
        assert_eq!(after([]), UNKNOWN);
        assert_eq!(after([0]), SHORTEST);
        assert_eq!(after([0; 1000]), SHORTEST);
        // Rounded up to 67 ms times a power of two.
        assert_eq!(after([3_000; 1000]).as_millis(), 4_294);
        assert_eq!(
            after((0..1000).map(|n| if n % 50 == 0 { 3_000 } else { 0 })).as_millis(),
            4_294
        );
        assert_eq!(
            after((0..1000).map(|n| if n % 200 == 0 { 3_000 } else { 0 })),
            SHORTEST
        );
    }

    #[test]
    fn it_follows_a_service_that_has_changed() {
        let fast_then_slow = std::iter::repeat_n(0, 100_000).chain(std::iter::repeat_n(3_000, 500));
        assert_eq!(after(fast_then_slow).as_millis(), 4_294);
        let slow_then_fast =
            std::iter::repeat_n(3_000, 10_000).chain(std::iter::repeat_n(0, 200_000));
        assert_eq!(after(slow_then_fast), SHORTEST);
    }

    #[test]
    fn waits_beyond_all_buckets_are_usual_too() {
        assert!(after([u64::MAX / 1_000_000; 100]) >= Duration::from_mins(30));
    }
}
