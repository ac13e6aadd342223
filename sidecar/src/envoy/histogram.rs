//! A histogram: counts below upper bounds.

use std::cmp::Ordering;

/// Counts of values by size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Ascending upper bounds, each with the number of values up to it. Without the one for all, which is
    /// [`count`](Self::count).
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
    /// The number of values.
    pub count: u64,
}

impl Histogram {
    /// Adds `other`. Only bounds that both have are kept.
    pub fn add(&mut self, other: &Self) {
        self.buckets = self
            .common(other)
            .map(|(bound, own, others)| (bound, own.saturating_add(others)))
            .collect();
        self.sum += other.sum;
        self.count = self.count.saturating_add(other.count);
    }

    /// What was added since `earlier`. `None`: that is not an earlier state of this one.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let mut buckets = Vec::with_capacity(self.buckets.len());
        for (bound, own, others) in self.common(earlier) {
            buckets.push((bound, own.checked_sub(others)?));
        }
        Some(Self {
            buckets,
            sum: self.sum - earlier.sum,
            count: self.count.checked_sub(earlier.count)?,
        })
    }

    /// The value below which this share of all values is, interpolated linearly within a bucket. Beyond the last bound, it is
    /// that bound. `None`: there are no values.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss)] // A rank need not be exact.
        let (rank, float) = (share * self.count as f64, |count: u64| count as f64);
        let (mut lower, mut below) = (0.0, 0);
        for &(bound, count) in &self.buckets {
            if count > below && float(count) >= rank {
                let part = (rank - float(below)).max(0.0) / float(count - below);
                return Some(lower + (bound - lower) * part);
            }
            (lower, below) = (bound, count.max(below));
        }
        self.buckets.last().map(|(bound, _)| *bound)
    }

    /// The bounds that both have, with both counts.
    fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (f64, u64, u64)> + 'a {
        let mut others = other.buckets.iter().peekable();
        self.buckets.iter().filter_map(move |&(bound, own)| {
            while others
                .next_if(|(theirs, _)| theirs.total_cmp(&bound) == Ordering::Less)
                .is_some()
            {}
            others
                .next_if(|(theirs, _)| theirs.total_cmp(&bound) == Ordering::Equal)
                .map(|&(_, count)| (bound, own, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(f64, u64)], count: u64) -> Histogram {
        Histogram {
            buckets: buckets.to_vec(),
            sum: 0.0,
            count,
        }
    }

    #[test]
    fn of_different_bounds_those_that_both_have_are_left() {
        let mut sum = histogram(&[(0.1, 1), (0.5, 2), (1.0, 3)], 4);
        sum.add(&histogram(
            &[(0.1, 10), (0.2, 20), (1.0, 30), (5.0, 40)],
            50,
        ));
        assert_eq!(sum, histogram(&[(0.1, 11), (1.0, 33)], 54));
    }

    #[test]
    fn what_came_since_is_the_difference_and_a_restart_is_seen() {
        let (earlier, later) = (histogram(&[(0.1, 1)], 2), histogram(&[(0.1, 4)], 7));
        assert_eq!(later.since(&earlier), Some(histogram(&[(0.1, 3)], 5)));
        assert_eq!(earlier.since(&later), None);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        assert_eq!(histogram(&[(0.1, 0)], 0).quantile(0.5), None);
        let spread = histogram(&[(0.1, 0), (0.2, 50), (0.4, 100)], 100);
        for (share, wanted) in [
            (0.0, 0.1),
            (0.25, 0.15),
            (0.5, 0.2),
            (0.75, 0.3),
            (1.0, 0.4),
        ] {
            let found = spread.quantile(share).unwrap();
            assert!((found - wanted).abs() < 1e-9, "{share}: {found}");
        }
        assert_eq!(histogram(&[(0.1, 0)], 5).quantile(0.5), Some(0.1));
        assert_eq!(histogram(&[], 5).quantile(0.5), None);
    }
}
