//! How large the next batch is, and how long to wait before it.

use std::time::Duration;

/// The least that a batch shrinks to.
const SMALLEST: u32 = 10;

/// After a batch a job rests at least so many times as long as the batch took: so it is at work a fifth of the time at most,
/// however slow the database is.
const REST: u32 = 4;

/// It need not rest longer than this, so that a job on a table without an index comes to its end too.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Waits so long at least where copies are behind.
const LAG_PAUSE: Duration = Duration::from_secs(1);

/// How a job is to be paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The largest batch, and the first one.
    pub batch: u32,
    /// How long a batch should take. One that takes longer halves the next; one that takes less than half lets it grow.
    pub aim: Duration,
    /// The wait after a batch, which is longer after a slow one. None: it does not rest at all.
    pub pause: Duration,
    /// How far copies may be behind before the job waits for them.
    pub max_lag: Duration,
}

/// The pace of one run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    settings: Settings,
    size: u32,
    last: Duration,
}

impl Pace {
    /// Begins with the largest batch.
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            size: settings.batch,
            last: Duration::ZERO,
        }
    }

    /// How large the next batch may be.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// A batch took so long.
    pub fn took(&mut self, took: Duration) {
        self.last = took;
        if took > self.settings.aim {
            self.size = (self.size / 2).max(SMALLEST.min(self.settings.batch));
        } else if took < self.settings.aim / 2 {
            let grown = self.size.saturating_add((self.size / 4).max(1));
            self.size = grown.min(self.settings.batch);
        }
    }

    /// How long to wait before the next batch. `lag`: how far copies are behind.
    pub fn pause(&self, lag: Option<Duration>) -> Duration {
        let pause = match self.settings.pause {
            Duration::ZERO => Duration::ZERO,
            pause => pause.max((self.last * REST).min(LONGEST_REST)),
        };
        if self.is_too_far(lag) {
            return pause.max(LAG_PAUSE);
        }
        pause
    }

    /// Whether copies are so far behind that nothing should be done at all.
    pub fn is_too_far(&self, lag: Option<Duration>) -> bool {
        lag.is_some_and(|lag| lag > self.settings.max_lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn settings(batch: u32) -> Settings {
        Settings {
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
        let restless = Settings {
            pause: Duration::ZERO,
            ..settings(1000)
        };
        let mut pace = Pace::new(restless);
        pace.took(1000 * MS);
        assert_eq!(pace.pause(None), Duration::ZERO);
    }

    #[test]
    fn copies_that_are_behind_are_waited_for() {
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
