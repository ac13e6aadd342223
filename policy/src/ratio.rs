//! A fraction of a whole, compared without rounding.

/// A fraction between 0 and 1, in millionths.
///
/// Integers make comparisons exact. In floating point, 7 of 100 would not reach 7 %, because
/// `0.07 * 100.0` is greater than 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio {
    millionths: u32,
}

const WHOLE: u32 = 1_000_000;

impl Ratio {
    /// 0.
    pub const ZERO: Self = Self { millionths: 0 };
    /// 1.
    pub const ONE: Self = Self { millionths: WHOLE };

    /// `percent` hundredths, at most 100.
    pub const fn percent(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self {
            millionths: percent as u32 * (WHOLE / 100),
        }
    }

    /// The ratio nearest to `value`, or `None` if `value` is not between 0 and 1.
    pub fn new(value: f64) -> Option<Self> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 1,000,000
        (0.0..=1.0).contains(&value).then(|| Self {
            millionths: (value * f64::from(WHOLE)).round() as u32,
        })
    }

    /// Whether `part / whole` is at least this ratio. Returns false if `whole` is 0.
    pub fn is_reached_by(self, part: u32, whole: u32) -> bool {
        whole > 0
            && u64::from(part) * u64::from(WHOLE) >= u64::from(self.millionths) * u64::from(whole)
    }

    /// This fraction of `amount`, rounded down.
    pub fn of(self, amount: u64) -> u64 {
        let share = u128::from(amount) * u128::from(self.millionths) / u128::from(WHOLE);
        u64::try_from(share).unwrap_or(amount) // at most `amount`, so it always fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_ratio_is_reached_exactly() {
        for percent in 1..=100_u8 {
            let ratio = Ratio::new(f64::from(percent) / 100.0).unwrap();
            assert_eq!(ratio, Ratio::percent(percent));
            assert!(ratio.is_reached_by(u32::from(percent), 100));
            assert!(!ratio.is_reached_by(u32::from(percent) - 1, 100));
        }
    }

    #[test]
    fn nothing_of_nothing_reaches_no_ratio() {
        assert!(!Ratio::ZERO.is_reached_by(0, 0));
        assert!(!Ratio::ONE.is_reached_by(0, 0));
    }

    #[test]
    fn values_outside_zero_to_one_are_refused() {
        for bad in [-0.01, 1.01, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::new(bad), None, "{bad}");
        }
    }
}
