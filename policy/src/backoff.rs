//! Exponential backoff with jitter.

use crate::ratio::Ratio;
use crate::time::nanos;
use std::time::Duration;

/// How far a wait may deviate from its nominal length, so that many clients don't come back at the
/// same moment ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter {
    /// Shorter by at most this fraction. [`Ratio::ONE`] alone is known as full jitter.
    pub shorter: Ratio,
    /// Longer by at most this fraction.
    pub longer: Ratio,
}

impl Jitter {
    /// Exactly the nominal length.
    pub const NONE: Self = Self {
        shorter: Ratio::ZERO,
        longer: Ratio::ZERO,
    };

    /// The nominal length or up to `share` more.
    pub const fn longer(share: Ratio) -> Self {
        Self {
            shorter: Ratio::ZERO,
            longer: share,
        }
    }

    /// The nominal length or up to `share` less.
    pub const fn shorter(share: Ratio) -> Self {
        Self {
            shorter: share,
            longer: Ratio::ZERO,
        }
    }

    /// `nominal` with jitter by `random` (64 evenly distributed bits). The result is in whole
    /// nanoseconds, so short waits get jitter as fine as long ones.
    pub fn apply(self, nominal: Duration, random: u64) -> Duration {
        let nominal = nanos(nominal);
        let shortest = nominal - self.shorter.of(nominal);
        let range = (nominal - shortest).saturating_add(self.longer.of(nominal));
        // The upper 64 bits of range * random: evenly distributed in 0..range without a division.
        #[allow(clippy::cast_possible_truncation)] // shifted to 64 bits
        let offset = ((u128::from(range) * u128::from(random)) >> 64) as u64;
        Duration::from_nanos(shortest.saturating_add(offset))
    }
}

/// A capped exponential backoff: `base`, `base * factor`, `base * factor^2`, ... up to `max`, each
/// with `jitter`.
///
/// The cap is applied before the jitter, so the longest waits are spread, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub base: Duration,
    /// The longest wait before jitter.
    pub max: Duration,
    /// Each wait is this many times as long as the one before it. 1 repeats the base.
    pub factor: u32,
    /// How far each wait may deviate.
    pub jitter: Jitter,
}

impl Backoff {
    /// The wait before retry number `attempt`, counted from 0, without jitter.
    pub fn nominal(&self, attempt: u32) -> Duration {
        self.factor
            .checked_pow(attempt)
            .and_then(|growth| self.base.checked_mul(growth))
            .map_or(self.max, |wait| wait.min(self.max))
    }

    /// The wait before retry number `attempt`, with jitter by `random` (64 evenly distributed bits).
    pub fn wait(&self, attempt: u32, random: u64) -> Duration {
        self.jitter.apply(self.nominal(attempt), random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const REDIS: Backoff = Backoff {
        base: Duration::from_millis(100),
        max: Duration::from_secs(1),
        factor: 2,
        jitter: Jitter::shorter(Ratio::percent(50)),
    };

    #[test]
    fn waits_double_up_to_the_cap_and_never_overflow() {
        let waits: Vec<u128> = (0..6).map(|n| REDIS.nominal(n).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        for attempt in [31, 32, 63, 64, u32::MAX] {
            assert_eq!(REDIS.nominal(attempt), REDIS.max);
        }
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_reaches_them() {
        let mut random = SplitMix64::new(7);
        let second = Duration::from_secs(1);
        let jitter = Jitter {
            shorter: Ratio::percent(50),
            longer: Ratio::percent(10),
        };
        let drawn: Vec<Duration> = (0..10_000)
            .map(|_| jitter.apply(second, random.next_u64()))
            .collect();
        let shortest = drawn.iter().min().unwrap();
        let longest = drawn.iter().max().unwrap();
        assert!((500..505).contains(&shortest.as_millis()), "{shortest:?}");
        assert!((1095..1100).contains(&longest.as_millis()), "{longest:?}");
    }

    #[test]
    fn jitter_is_not_lost_on_short_waits() {
        let jitter = Jitter::longer(Ratio::percent(10));
        assert_eq!(
            jitter.apply(Duration::from_nanos(100), u64::MAX / 2),
            Duration::from_nanos(104)
        );
    }

    #[test]
    fn the_longest_durations_do_not_overflow() {
        let jitter = Jitter {
            shorter: Ratio::ONE,
            longer: Ratio::ONE,
        };
        assert_eq!(jitter.apply(Duration::MAX, 0), Duration::ZERO);
        assert!(jitter.apply(Duration::MAX, u64::MAX) > Duration::from_secs(1));
    }
}
