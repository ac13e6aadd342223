//! Statistics of repetitions.

use serde::Serialize;

/// Repetitions of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    /// Requires at least one repetition.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            median: middle(&values),
            lowest: values[0],
            highest: values[values.len() - 1],
        }
    }
}

/// The median of at least one value.
pub fn median(values: Vec<f64>) -> f64 {
    Spread::of(values).median
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_repetitions_does_not_matter() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]);
        let expected = Spread {
            median: 2.0,
            lowest: 1.0,
            highest: 3.0,
        };
        assert_eq!(spread, expected);
    }

    #[test]
    fn the_middle_of_two_is_between_them() {
        assert!((median(vec![1.0, 4.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
