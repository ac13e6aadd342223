//! A run's way through its table: where the next batch begins, how large it may be, and which rows are passed by.
//!
//! Rows are walked in the order of one column, which need not be unique. So a batch begins *at* the last row of the previous
//! one, and rows that were found there and not handled are passed by through their keys: else a batch that finds only those
//! would find them again.

use crate::jobs::Left;
use std::num::NonZeroU32;
use std::time::Duration;

/// The most keys that are remembered past the position at which they were found.
const MAX_REMEMBERED: usize = 10_000;

/// The result of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Rows that were handled.
    pub rows: u64,
    /// Rows that were found, handled or not.
    pub found: u64,
    /// The last one's place in the order. `None`: null, or nothing was found.
    pub last: Option<String>,
    /// Rows that were found and not handled.
    pub left: Vec<Left>,
    /// How long the database worked on it.
    pub work: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// The place at which the next batch begins. `None`: at the first row.
    from: Option<String>,
    /// Rows handled since it last began at the first row.
    rows: u64,
    /// Rows handled on the way before. `None`: it is on its first way.
    rows_before: Option<u64>,
    /// The largest batch, after one that failed for one of its rows.
    careful: Option<NonZeroU32>,
    /// Single rows in a row that were left.
    left_in_a_row: u32,
    /// Keys of rows that were left since the last change of place.
    left_here: Vec<String>,
    /// Keys of rows that were left before.
    left_before: Vec<String>,
}

impl Walk {
    /// The place at which the next batch begins. `None`: at the first row.
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// Keys of rows that the next batch passes by.
    pub fn passed_by(&self) -> Vec<String> {
        // On the first way, the rows left before are behind.
        let before = self.rows_before.map(|_| &self.left_before);
        let before = before.into_iter().flatten();
        before.chain(&self.left_here).cloned().collect()
    }

    /// The size of the next batch, if it may have up to `most` rows.
    pub fn size(&self, most: u32) -> u32 {
        self.careful.map_or(most, |careful| careful.get().min(most))
    }

    /// Whether the next batch is one row, since that may be the one for which the others failed.
    pub fn is_at_one(&self) -> bool {
        self.careful == Some(NonZeroU32::MIN)
    }

    pub const fn is_at_first(&self) -> bool {
        self.from.is_none()
    }

    /// Whether batches are small, after one that failed.
    pub const fn is_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// A batch of `size` rows took too long, or met somebody's lock, perhaps for one of them: look at far fewer next, since
    /// each such attempt is long.
    pub fn failed_slowly(&mut self, size: u32) {
        self.careful = Some(NonZeroU32::new(size / 16).unwrap_or(NonZeroU32::MIN));
    }

    /// A batch of `size` rows failed for one of them: look at half of them next.
    pub fn failed(&mut self, size: u32) {
        self.careful = Some(NonZeroU32::new(size / 2).unwrap_or(NonZeroU32::MIN));
    }

    /// A batch of up to `size` rows, of at most `most`, found this. Returns whether nothing is left to do.
    pub fn found(&mut self, size: u32, most: u32, found: &Found) -> bool {
        self.grow(most, found);
        let was_first = self.from.is_none();
        self.rows = found.rows + if was_first { 0 } else { self.rows };
        if found.last != self.from {
            self.remember();
        }
        let keys = found.left.iter().map(|left| left.key.clone());
        self.left_here.extend(keys);
        let is_end = found.found < u64::from(size);
        if !is_end {
            self.from.clone_from(&found.last);
            return false;
        }
        // Start again at the first row for rows that were locked, as long as that finds any. If it finds about as many as
        // before, these are the same rows: something undoes what was done to them.
        let is_same = self
            .rows_before
            .is_some_and(|before| self.rows * 2 > before);
        let is_last = was_first || self.rows == 0 || is_same;
        self.from = None;
        self.rows_before = Some(self.rows);
        self.remember();
        is_last
    }

    /// After a batch that did not fail, the next may be twice as large; but among rows of which one after the other is left,
    /// it stays at one.
    fn grow(&mut self, most: u32, found: &Found) {
        self.left_in_a_row = match (self.is_at_one(), found.rows) {
            (true, 0) => self.left_in_a_row + 1,
            _ => 0,
        };
        if self.left_in_a_row > 1 {
            return;
        }
        self.careful = self
            .careful
            .map(|careful| careful.saturating_add(careful.get()))
            .filter(|careful| careful.get() < most);
    }

    fn remember(&mut self) {
        let room = MAX_REMEMBERED.saturating_sub(self.left_before.len());
        self.left_before.extend(self.left_here.drain(..).take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What is the matter with a row.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Row {
        Free,
        /// Handling it fails.
        Poison,
        /// A trigger keeps it, without an error.
        Kept,
    }

    /// A table: rows with their place, and what is the matter with them.
    struct Table(Vec<Option<(u32, Row)>>);

    impl Table {
        /// `Err`: one of the rows made it fail.
        fn batch(&mut self, walk: &Walk, size: u32) -> Result<Found, ()> {
            let passed_by: BTreeSet<String> = walk.passed_by().into_iter().collect();
            let from = walk.from().map_or(0, |from| from.parse().unwrap());
            let mut rows: Vec<(u32, usize, Row)> = self
                .0
                .iter()
                .enumerate()
                .filter_map(|(key, row)| row.map(|(place, row)| (place, key, row)))
                .filter(|(place, key, _)| *place >= from && !passed_by.contains(&key.to_string()))
                .collect();
            rows.sort_unstable_by_key(|(place, key, _)| (*place, *key));
            rows.truncate(size as usize);
            let left = |key: usize| Left {
                key: key.to_string(),
                why: String::new(),
            };
            let poison = rows.iter().any(|(_, _, row)| *row == Row::Poison);
            if poison && !(walk.is_at_one()) {
                return Err(());
            }
            let mut found = Found {
                found: rows.len() as u64,
                last: rows.last().map(|(place, _, _)| place.to_string()),
                ..Found::default()
            };
            for (_, key, row) in rows {
                match row {
                    Row::Free => {
                        self.0[key] = None;
                        found.rows += 1;
                    }
                    Row::Poison | Row::Kept => found.left.push(left(key)),
                }
            }
            Ok(found)
        }
    }

    proptest! {
        #[test]
        fn all_rows_are_handled_but_those_that_fail_or_are_kept(
            rows in prop::collection::vec((0u32..6, 0u32..6), 0..60),
            most in 1u32..20,
        ) {
            let mut table = Table(
                rows.iter()
                    .map(|(place, kind)| {
                        let row = match kind {
                            0 => Row::Poison,
                            1 => Row::Kept,
                            _ => Row::Free,
                        };
                        Some((*place, row))
                    })
                    .collect(),
            );
            let mut walk = Walk::default();
            let mut left = BTreeSet::new();
            let mut steps = 0;
            loop {
                steps += 1;
                prop_assert!(steps < 2_000, "it comes to an end");
                let size = walk.size(most);
                prop_assert!((1..=most).contains(&size));
                let Ok(found) = table.batch(&walk, size) else {
                    walk.failed(size);
                    continue;
                };
                left.extend(found.left.iter().map(|left| left.key.clone()));
                if walk.found(size, most, &found) {
                    break;
                }
            }
            for (key, row) in table.0.iter().enumerate() {
                let is_bad = rows[key].1 < 2;
                prop_assert_eq!(row.is_some(), is_bad);
                prop_assert_eq!(left.contains(&key.to_string()), is_bad);
            }
        }
    }
}
