//! Whether a row of failures is news, or expected of a service that fails now and then anyway.
//!
//! If a service fails with probability p, N failures in a row have probability pᴺ. Their surprise is
//! -log₂ pᴺ = N log₂(1/p) bits. A row decides only if that is as much as a row of the configured length is
//! worth at [`EVERY_FAILURE`]: five failures in a row are enough where one in 32 calls fails, at least
//! sixteen where one in three does. So rows open a service whose calls fail independently falsely some
//! six times a year at most, whatever its error rate, if it has about a hundred calls in ten seconds or
//! more (`cargo xtask bench decisions`).

/// The surprise that each failure of the configured number must amount to, in bits: 2⁻⁵ is 3 %.
const EVERY_FAILURE: u64 = 5;
/// With more calls in the window than this, rows are more frequent, too, and each doubling requires
/// one bit more.
const MANY_CALLS: u32 = 1 << 6;
/// Fewer calls than this say nothing about what is to be expected.
const FEW_CALLS: u32 = 20;

/// The surprise that a portion must amount to, in bits.
const PORTION: i64 = 3 * EVERY_FAILURE.cast_signed();

/// Where fewer than one in so many calls fail, a burst of calls would have to be large to have a row of
/// failures among its first results.
const SOME: u32 = 64;

/// One bit.
const BIT: u64 = 1 << 16;

/// What a service is expected to do, by what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub(crate) calls: u32,
    /// How many of them failed.
    pub(crate) failed: u32,
}

impl Expected {
    /// Whether some calls fail anyway.
    pub(crate) const fn some_fail(self) -> bool {
        self.calls >= FEW_CALLS && self.failed > 0 && self.failed >= self.calls / SOME
    }

    /// Whether so many failures in a row are improbable, where `usual` ones are enough for a service that
    /// hardly ever fails.
    pub(crate) fn is_refuted_by(self, failures_in_row: u32, usual: u32) -> bool {
        let Self { calls, failed } = self;
        let failed = failed.min(calls);
        if failed == 0 || calls < FEW_CALLS {
            return failures_in_row >= usual;
        }
        let each = log2(u64::from(calls)) - log2(u64::from(failed));
        let rarity = log2(u64::from(calls.max(MANY_CALLS))) - log2(u64::from(MANY_CALLS));
        let needed = u64::from(usual) * EVERY_FAILURE * BIT + rarity;
        failures_in_row >= usual && u64::from(failures_in_row) * each >= needed
    }
}

impl Expected {
    /// Whether it is improbable that so many of these calls fail: by the relative entropy of the two portions
    /// (Sanov's theorem).
    pub(crate) fn is_refuted_by_portion(self, failures: u32, of: u32) -> bool {
        let Self { calls, failed } = self;
        if failed == 0 || calls < FEW_CALLS {
            return true;
        }
        if u64::from(failures) * u64::from(calls) <= u64::from(failed) * u64::from(of) {
            return false;
        }
        // How many bits more than expected each call is worth of which `part` of all were expected.
        let each = |found: u32, expected: u32| {
            let log =
                |number: u32| i64::try_from(log2(u64::from(number.max(1)))).unwrap_or(i64::MAX);
            log(found) - log(of) + log(calls) - log(expected)
        };
        let (well, expected_well) = (of.saturating_sub(failures), calls.saturating_sub(failed));
        let bits = i64::from(failures) * each(failures, failed)
            + i64::from(well) * each(well, expected_well);
        bits >= PORTION << BIT.ilog2()
    }
}

/// The binary logarithm of `number`, which is not 0, in units of 1 / [`BIT`], rounded down: bit by bit, since the
/// square of a number has twice its logarithm.
fn log2(number: u64) -> u64 {
    let whole = u64::from(number.ilog2());
    // From 1 to less than 2, with 31 bits after the point.
    let mut rest = number << number.leading_zeros() >> 32;
    let mut logarithm = whole;
    for _ in 0..BIT.ilog2() {
        rest = (rest * rest) >> 31;
        let is_set = rest >> 32;
        rest >>= is_set;
        logarithm = (logarithm << 1) | is_set;
    }
    logarithm
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn is_news(row: u32, usual: u32, calls: u32, failed: u32) -> bool {
        Expected { calls, failed }.is_refuted_by(row, usual)
    }

    fn length_that_decides(calls: u32, failed: u32) -> u32 {
        (1..=u32::MAX)
            .find(|row| is_news(*row, 5, calls, failed))
            .unwrap()
    }

    #[test]
    fn how_long_a_row_must_be() {
        for (calls, failed, length) in [
            // Nothing is known, or little.
            (0, 0, 5),
            (19, 19, 5),
            (20, 1, 6),
            (20, 4, 11),
            (1_000, 0, 5),
            (1_000, 10, 5),
            (1_000, 60, 8),
            (1_000, 100, 9),
            (1_000, 330, 19),
            (1_000, 500, 29),
            (1_000, 900, 191),
            // Ten thousand calls a second.
            (100_000, 0, 5),
            (100_000, 1_000, 6),
            (100_000, 33_000, 23),
            (u32::MAX, u32::MAX / 3, 33),
        ] {
            assert_eq!(
                length_that_decides(calls, failed),
                length,
                "{failed} of {calls}"
            );
        }
    }

    #[test]
    fn how_large_a_portion_must_be() {
        let refutes = |failures, of, calls, failed| {
            Expected { calls, failed }.is_refuted_by_portion(failures, of)
        };
        for (of, calls, failed, needed) in [
            // Nothing is known, or nothing fails.
            (20, 0, 0, 1),
            (20, 19, 19, 1),
            (20, 1_000, 0, 1),
            (20, 1_000, 10, 5),
            (20, 1_000, 100, 11),
            (20, 1_000, 333, 17),
            (100, 1_000, 10, 9),
            (100, 1_000, 333, 56),
            (1_000, 1_000, 333, 402),
        ] {
            assert!(
                refutes(needed, of, calls, failed),
                "{needed} {of} {calls} {failed}"
            );
            assert!(
                needed == 1 || !refutes(needed - 1, of, calls, failed),
                "{needed} {of} {calls} {failed}"
            );
        }
        assert!(!refutes(20, 20, 1_000, 1_000), "all fail");
    }

    #[test]
    fn what_is_configured_is_never_undercut() {
        for usual in [1, 5, 100] {
            assert!(!is_news(usual - 1, usual, 1_000_000, 0));
            assert!(is_news(usual, usual, 1_000_000, 0));
            assert!(!is_news(usual - 1, usual, 1_000_000, 1));
        }
        assert!(!is_news(u32::MAX - 1, u32::MAX, u32::MAX, u32::MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn more_failures_before_never_make_a_row_more_of_a_surprise(
            calls in 0_u32..200_000, failed in 0_u32..200_000, row in 0_u32..100,
        ) {
            let before = is_news(row, 5, calls.max(failed), failed);
            prop_assert!(before || !is_news(row, 5, calls.max(failed + 1), failed + 1));
        }

        #[test]
        fn the_logarithm_is_exact(number in 1_u64..(1 << 50)) {
            #[expect(clippy::cast_precision_loss, reason = "50 bits are exact")]
            let (expected, found) = ((number as f64).log2(), log2(number) as f64 / BIT as f64);
            prop_assert!((expected - found).abs() < 0.000_1, "{expected} {found}");
        }
    }
}
