//! The size of the next batch, and the wait before it.

use std::time::Duration;

/// Batches don't shrink below this.
const MIN_BATCH: u32 = 10;

/// Rest at least 4 times the batch's duration, i.e. busy at most 20 % of the time, however slow the database is.
const REST: u32 = 4;

/// The longest rest, so that a job on a table without an index comes to its end too.
const MAX_REST: Duration = Duration::from_secs(10);

/// The shortest wait while replicas are too far behind.
const LAG_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceSettings {
    /// The size of the largest batch, and of the first one.
    pub batch: u32,
    /// How long a batch should take. A longer one halves the next; one below half of it lets the next grow.
    pub aim: Duration,
    /// The shortest wait after a batch. Zero: don't rest at all.
    pub pause: Duration,
    /// Wait while replicas are further behind than this.
    pub max_lag: Duration,
}

/// The pace of one run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    settings: PaceSettings,
    size: u32,
    last: Duration,
}

impl Pace {
    pub const fn new(settings: PaceSettings) -> Self {
        Self {
            settings,
            size: settings.batch,
            last: Duration::ZERO,
        }
    }

    /// The size of the next batch.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Adapts the size to a batch that took this long.
    pub fn took(&mut self, took: Duration) {
        self.last = took;
        if took > self.settings.aim {
            self.size = (self.size / 2).max(MIN_BATCH.min(self.settings.batch));
        } else if took < self.settings.aim / 2 {
            let grown = self.size.saturating_add((self.size / 4).max(1));
            self.size = grown.min(self.settings.batch);
        }
    }

    /// Shrinks the next batch after one that was cut off at `limit`, whatever the aim is.
    pub fn timed_out(&mut self, limit: Duration) {
        self.took(self.settings.aim.max(limit) * 2);
    }

    /// The wait before the next batch, with replicas `lag` behind.
    pub fn pause(&self, lag: Option<Duration>) -> Duration {
        let pause = match self.settings.pause {
            Duration::ZERO => Duration::ZERO,
            pause => pause.max((self.last * REST).min(MAX_REST)),
        };
        if self.is_too_far(lag) {
            return pause.max(LAG_PAUSE);
        }
        pause
    }

    /// Whether replicas are so far behind that no batch may run.
    pub fn is_too_far(&self, lag: Option<Duration>) -> bool {
        lag.is_some_and(|lag| lag > self.settings.max_lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn settings(batch: u32) -> PaceSettings {
        PaceSettings {
            batch,
            aim: 100 * MS,
            pause: 50 * MS,
            max_lag: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_slow_batch_halves_the_next_and_quick_ones_let_it_grow_again() {
        let mut pace = Pace::new(settings(1000));
        let mut sizes = vec![pace.size()];
        for took in [200, 200, 80, 10, 10, 10, 10, 10, 10, 10] {
            pace.took(took * MS);
            sizes.push(pace.size());
        }
        assert_eq!(
            sizes,
            [1000, 500, 250, 250, 312, 390, 487, 608, 760, 950, 1000]
        );
    }

    #[test]
    fn a_slow_database_stretches_the_pause_within_a_limit() {
        let mut pace = Pace::new(settings(1000));
        for (took, pause) in [(1, 50), (12, 50), (20, 80), (1000, 4000), (60_000, 10_000)] {
            pace.took(took * MS);
            assert_eq!(pace.pause(None), pause * MS, "{took} ms");
        }
        let restless = PaceSettings {
            pause: Duration::ZERO,
            ..settings(1000)
        };
        let mut pace = Pace::new(restless);
        pace.took(1000 * MS);
        assert_eq!(pace.pause(None), Duration::ZERO);
    }

    #[test]
    fn replicas_that_are_behind_are_waited_for() {
        let pace = Pace::new(settings(1000));
        for (lag, pause) in [(0, 50), (10, 50), (11, 1000)] {
            let lag = Some(Duration::from_secs(lag));
            assert_eq!(pace.pause(lag), pause * MS);
            assert_eq!(pace.is_too_far(lag), pause == 1000);
        }
    }

    proptest! {
        #[test]
        fn a_batch_is_never_empty_nor_larger_than_allowed(
            batch in 1u32..1_000_000,
            took in prop::collection::vec(0u32..1000, 0..50),
        ) {
            let mut pace = Pace::new(settings(batch));
            for took in took {
                pace.took(took * MS);
                prop_assert!((1..=batch).contains(&pace.size()));
            }
        }
    }
}
