//! Statistics of the rounds of a measurement.

use serde::Serialize;

/// Median, lowest and highest value of all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    /// `None` if there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[half - 1], sorted[half])
        } else {
            sorted[half]
        };
        Some(Self {
            median,
            lowest,
            highest,
        })
    }

    /// The ratios of rounds that were measured side by side.
    pub fn of_ratios(own: &[f64], other: &[f64]) -> Option<Self> {
        Self::of(own.iter().zip(other).map(|(own, other)| own / other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_rounds_does_not_matter() {
        let expected = Spread {
            median: 2.0,
            lowest: 1.0,
            highest: 3.0,
        };
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(expected));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let spread = Spread::of([1.0, 4.0, 2.0, 3.0]).unwrap();
        assert!((spread.median - 2.5).abs() < 1e-9, "{spread:?}");
    }

    #[test]
    fn no_rounds_have_no_median() {
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let spread = Spread::of_ratios(&[2.0, 9.0], &[1.0, 3.0]).unwrap();
        assert!((spread.median - 2.5).abs() < 1e-9, "{spread:?}");
    }
}
