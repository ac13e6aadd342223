//! The ramp after a breaker has closed: a growing share of the calls is let through.
//!
//! A service that is just back may not bear its full load yet: its caches are cold, its pools are
//! empty. Each worker lets a share of its own calls through, so nothing is shared for it.

use std::time::Duration;

/// A whole call, in the unit of credit.
const WHOLE: u64 = 1 << 16;
/// The share at the beginning.
const FIRST: u64 = WHOLE / 10;

/// A worker's ramp. Shares are of its own calls.
#[derive(Clone, Debug)]
pub(crate) struct Ramp {
    /// How long it takes. Zero: there is none.
    takes: Duration,
    /// What refused calls have left. A call is let through when it adds up to a whole one.
    credit: u64,
}

impl Ramp {
    pub(crate) const fn new(takes: Duration) -> Self {
        Self {
            takes,
            credit: WHOLE,
        }
    }

    /// How much of it is left after `elapsed`.
    pub(crate) const fn left(&self, elapsed: Duration) -> Duration {
        self.takes.saturating_sub(elapsed)
    }

    /// Restarts the ramp. The next call is let through.
    pub(crate) const fn restart(&mut self) {
        self.credit = WHOLE;
    }

    /// Whether a call that comes after `elapsed` is let through.
    pub(crate) fn lets_through(&mut self, elapsed: Duration) -> bool {
        self.credit += self.share(elapsed);
        let is_whole = self.credit >= WHOLE;
        if is_whole {
            self.credit -= WHOLE;
        }
        is_whole
    }

    /// A tenth at the beginning, then in proportion to the time.
    fn share(&self, elapsed: Duration) -> u64 {
        let [elapsed, takes] = [elapsed, self.takes].map(|time| {
            u64::try_from(time.as_micros()).map_or(u64::MAX >> 16, |n| n.min(u64::MAX >> 16))
        });
        if elapsed >= takes {
            return WHOLE;
        }
        FIRST + (WHOLE - FIRST) * elapsed / takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_share_grows_from_a_tenth_to_all_and_stays_there() {
        let ramp = Ramp::new(Duration::from_secs(10));
        let percent = |millis| ramp.share(Duration::from_millis(millis)) * 1_000 / WHOLE;
        let shares = [0, 1_000, 5_000, 9_999, 10_000, 20_000].map(percent);
        assert_eq!(shares, [99, 189, 549, 999, 1_000, 1_000]);
    }

    #[test]
    fn no_length_overflows() {
        for takes in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            for elapsed in [
                Duration::ZERO,
                Duration::from_hours(9_000_000),
                Duration::MAX,
            ] {
                let mut ramp = Ramp::new(takes);
                assert!(ramp.lets_through(elapsed), "the first call");
                assert!(ramp.share(elapsed) <= WHOLE);
            }
        }
    }

    #[test]
    fn a_call_in_ten_is_let_through_at_first_and_none_is_saved_up() {
        let mut ramp = Ramp::new(Duration::from_secs(10));
        let first: Vec<bool> = (0..21).map(|_| ramp.lets_through(Duration::ZERO)).collect();
        assert!(first[0]);
        assert_eq!(first.iter().filter(|passed| **passed).count(), 3);
        let later = (0..100).filter(|_| ramp.lets_through(Duration::from_secs(5)));
        assert!((54..=56).contains(&later.count()));
        let all = |_| ramp.lets_through(Duration::from_secs(10));
        assert!((0..100).all(all));
    }
}
