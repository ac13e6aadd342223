//! The size of the next batch, and the rest before it.
//!
//! A batch takes a processor of the database, and a session of a service that wakes up meanwhile may wait for one as long as
//! the batch takes. So what a service notices is bounded in two ways while others use the database: by the length of a batch,
//! and by the share of time in which one runs. p99 stays as it is if fewer than one statement in a hundred meets a batch.
//! While nobody else uses it, batches grow and hardly rest.
//!
//! Others do it like this, and what is taken from them:
//!
//! - `PostgreSQL`'s autovacuum adds up what its work costs and sleeps when that reaches a limit, so that it is bounded in time
//!   and not in rows. Here the cost is the time that the database reports for a batch.
//! - gh-ost sleeps a multiple of the time that each chunk took (`--nice-ratio`), pt-archiver likewise (`--sleep-coef`): when the
//!   database is slow for whatever reason, the rests become longer by themselves. This is the rest of [`Pace::rest`].
//! - gh-ost stops while the server is loaded (`--max-load`, by default when many threads run). A limit on load has to be known for
//!   each server. Here the question is only whether somebody else is there, and the answer chooses between two paces.
//! - Both wait for replicas that are behind; so does [`Pace::is_too_far`].

use super::others::Usage;
use levee_policy::ratio::Ratio;
use std::time::Duration;

/// The first batch, unless it never rests.
const FIRST: u32 = 100;

/// The first batch of a job that never rests.
const FIRST_WITHOUT_REST: u32 = 1_000;

/// Batches don't shrink below this.
const MIN_BATCH: u32 = 10;

/// How long a batch should take while others use the database.
const AIM_BESIDE_OTHERS: Duration = Duration::from_millis(3);

/// While nobody else uses the database, rest for this part of the time that a batch took.
const QUIET_REST: u32 = 10;

/// The longest rest, so that a job on a table without an index comes to its end too.
const MAX_REST: Duration = Duration::from_secs(10);

/// The shortest wait while replicas are too far behind.
const LAG_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceSettings {
    /// The size of the largest batch.
    pub batch: u32,
    /// How long a batch should take at most. A longer one halves the next; one below half of it lets the next grow.
    pub aim: Duration,
    pub rest: Rest,
    /// Wait while replicas are further behind than this.
    pub max_lag: Duration,
}

/// When to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Never, whatever others do.
    Never,
    /// By what others do.
    Beside {
        /// The shortest rest.
        pause: Duration,
        /// The share of time in which a batch may run while others use the database.
        share: Ratio,
    },
}

/// A batch that was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    pub asked: u32,
    /// Rows that were found.
    pub found: u64,
    /// Until the answer.
    pub time: Duration,
    /// How long the database worked on it, without waiting for its commit.
    pub work: Duration,
}

/// The pace of one run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    settings: PaceSettings,
    usage: Usage,
    size: u32,
    time: Duration,
    work: Duration,
    scan: Scan,
}

/// What a batch takes however small it is.
#[derive(Clone, Copy, Debug)]
enum Scan {
    /// Next to nothing.
    None,
    /// It reads all there is. `None`: no batch has shown yet how long that takes.
    All(Option<Duration>),
}

impl Scan {
    /// Learns from a batch that took `needed`. Returns how long it takes.
    fn learn(&mut self, needed: Duration) -> Duration {
        let Self::All(known) = self else {
            return Duration::ZERO;
        };
        let scan = known.map_or(needed, |known| needed.min(known));
        *known = Some(scan);
        scan
    }
}

impl Pace {
    pub fn new(settings: PaceSettings) -> Self {
        let first = match settings.rest {
            Rest::Never => FIRST_WITHOUT_REST,
            Rest::Beside { .. } => FIRST,
        };
        Self {
            settings,
            usage: Usage::Unknown,
            size: first.min(settings.batch),
            time: Duration::ZERO,
            work: Duration::ZERO,
            scan: Scan::None,
        }
    }

    /// Takes into account that each batch reads all there is, or that none does.
    pub fn reads_all(&mut self, reads_all: bool) {
        self.scan = match (reads_all, self.scan) {
            (false, _) => Scan::None,
            (true, Scan::None) => Scan::All(None),
            (true, known) => known,
        };
    }

    /// The size of the next batch.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Whether it matters what others do.
    pub const fn heeds_others(&self) -> bool {
        matches!(self.settings.rest, Rest::Beside { .. })
    }

    /// Adapts to how others use the database: at once to their coming.
    pub fn saw(&mut self, usage: Usage) {
        let came = self.usage == Usage::Quiet && usage != Usage::Quiet;
        self.usage = usage;
        if came && self.heeds_others() {
            self.size = self.size.min(FIRST);
        }
    }

    /// Adapts the size to a batch: by halves down; by doubling up while nobody is there, otherwise by a quarter.
    pub fn took(&mut self, took: Took) {
        (self.time, self.work) = (took.time, took.work);
        let is_alone = self.is_alone();
        let (needed, aim) = if is_alone {
            (took.time, self.settings.aim)
        } else {
            (took.work, AIM_BESIDE_OTHERS.min(self.settings.aim))
        };
        // A smaller batch would not save the scan. So the rows of a batch may take as long as that.
        let scan = self.scan.learn(needed);
        let (needed, aim) = (needed.saturating_sub(scan), aim.max(scan));
        if needed > aim {
            let least = match self.scan {
                Scan::None => MIN_BATCH,
                Scan::All(_) => FIRST,
            };
            self.shrink(least);
        } else if needed < aim / 2 && took.found >= u64::from(took.asked) {
            let more = if is_alone { self.size } else { self.size / 4 };
            let grown = self.size.saturating_add(more.max(1));
            self.size = grown.min(self.settings.batch);
        }
    }

    /// Halves the next batch, to `least` rows at least.
    fn shrink(&mut self, least: u32) {
        let least = least.min(self.size).min(self.settings.batch);
        self.size = (self.size / 2).max(least);
    }

    /// Shrinks the next batch after one that was cut off at `limit`, whatever the aim is.
    pub fn timed_out(&mut self, limit: Duration) {
        let time = self.settings.aim.max(limit) * 2;
        (self.time, self.work) = (time, time);
        self.shrink(MIN_BATCH);
    }

    /// The rest before the next batch, with replicas `lag` behind.
    pub fn rest(&self, lag: Option<Duration>) -> Duration {
        let rest = match self.settings.rest {
            Rest::Never => Duration::ZERO,
            Rest::Beside { pause, .. } if self.is_alone() => pause.max(self.time / QUIET_REST),
            // At most half of the time is spent, commits included.
            Rest::Beside { pause, share } => {
                pause.max(rest_of(self.work, share).max(self.time).min(MAX_REST))
            }
        };
        if self.is_too_far(lag) {
            return rest.max(LAG_PAUSE);
        }
        rest
    }

    /// Whether replicas are so far behind that no batch may run.
    pub fn is_too_far(&self, lag: Option<Duration>) -> bool {
        lag.is_some_and(|lag| lag > self.settings.max_lag)
    }

    fn is_alone(&self) -> bool {
        self.usage == Usage::Quiet || !self.heeds_others()
    }
}

/// How long to rest after `work`, so that it is `share` of the time.
fn rest_of(work: Duration, share: Ratio) -> Duration {
    const WHOLE: u64 = 1_000_000;
    let share = share.of(WHOLE).max(1);
    let nanos = work.as_nanos() * u128::from(WHOLE - share) / u128::from(share);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
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
            rest: Rest::Beside {
                pause: Duration::ZERO,
                share: Ratio::percent(2),
            },
            max_lag: Duration::from_secs(10),
        }
    }

    /// A pace that has seen this.
    fn pace(settings: PaceSettings, usage: Usage) -> Pace {
        let mut pace = Pace::new(settings);
        pace.saw(usage);
        pace
    }

    /// A full batch.
    fn full(pace: &Pace, time: Duration) -> Took {
        Took {
            asked: pace.size(),
            found: pace.size().into(),
            time,
            work: time,
        }
    }

    fn sizes(pace: &mut Pace, times: &[u32]) -> Vec<u32> {
        let mut sizes = vec![pace.size()];
        for time in times {
            let took = full(pace, *time * MS);
            pace.took(took);
            sizes.push(pace.size());
        }
        sizes
    }

    #[test]
    fn alone_batches_double_up_to_the_largest_while_they_are_quick() {
        let mut pace = pace(settings(1000), Usage::Quiet);
        let times = [1, 2, 4, 49, 49, 101, 99, 50, 49];
        let expected = [100, 200, 400, 800, 1000, 1000, 500, 500, 500, 1000];
        assert_eq!(sizes(&mut pace, &times), expected);
        assert_eq!(pace.rest(None), 49 * MS / 10);
    }

    #[test]
    fn beside_others_batches_stay_short_and_take_their_share() {
        for usage in [Usage::Busy, Usage::Unknown] {
            let mut pace = pace(settings(1000), usage);
            let sizes = sizes(&mut pace, &[1, 1, 2, 4, 4, 1]);
            assert_eq!(sizes, [100, 125, 156, 156, 78, 39, 48]);
            assert_eq!(pace.rest(None), 49 * MS, "2 %");
        }
    }

    #[test]
    fn others_that_come_are_given_way_at_once() {
        let mut pace = pace(settings(10_000), Usage::Quiet);
        sizes(&mut pace, &[1; 10]);
        assert_eq!(pace.size(), 10_000);
        pace.took(full(&pace, 50 * MS));
        pace.saw(Usage::Busy);
        assert_eq!(pace.size(), 100);
        assert_eq!(pace.rest(None), 50 * MS * 49, "for the last large one, too");
        pace.saw(Usage::Quiet);
        assert_eq!(pace.size(), 100, "it grows again by and by");
    }

    #[test]
    fn a_batch_that_is_not_full_says_nothing_about_larger_ones() {
        let mut pace = pace(settings(1000), Usage::Quiet);
        let took = full(&pace, MS);
        pace.took(Took { found: 99, ..took });
        assert_eq!(pace.size(), 100);
    }

    #[test]
    fn waiting_for_the_commit_does_not_count_as_work_but_lengthens_the_rest() {
        let mut pace = pace(settings(1000), Usage::Busy);
        let took = full(&pace, 100 * MS);
        pace.took(Took { work: MS, ..took });
        assert_eq!(pace.size(), 125);
        assert_eq!(pace.rest(None), 100 * MS);
    }

    #[test]
    fn batches_that_each_read_all_of_a_table_do_not_shrink_for_that() {
        for usage in [Usage::Busy, Usage::Quiet] {
            let mut pace = pace(settings(10_000), usage);
            pace.reads_all(true);
            let mut sizes = vec![pace.size()];
            for _ in 0..30 {
                // A row takes 0.1 ms.
                let time = 200 * MS + MS * pace.size() / 10;
                pace.took(full(&pace, time));
                sizes.push(pace.size());
            }
            assert!(
                sizes.iter().all(|size| (100..=2500).contains(size)),
                "{sizes:?}"
            );
            assert!(
                sizes.iter().any(|size| *size > 1000),
                "{usage:?}: {sizes:?}"
            );
            // Nor while the database is slow for another reason, below the first size.
            for _ in 0..20 {
                pace.took(full(&pace, 2000 * MS));
            }
            assert_eq!(pace.size(), 100);
            // After one that was cut off they do.
            pace.timed_out(30_000 * MS);
            assert_eq!(pace.size(), 50);
        }
    }

    #[test]
    fn a_slow_database_stretches_the_rest_within_a_limit() {
        let mut pace = pace(settings(1000), Usage::Busy);
        for (time, rest) in [(1, 49), (20, 980), (1000, 10_000), (60_000, 10_000)] {
            pace.took(full(&pace, time * MS));
            assert_eq!(pace.rest(None), rest * MS, "{time} ms");
        }
    }

    #[test]
    fn a_pause_is_the_shortest_rest_and_none_means_none() {
        let share = Ratio::percent(2);
        let pause = 80 * MS;
        let rest = Rest::Beside { pause, share };
        for (usage, rests) in [
            (Usage::Quiet, [80, 80, 100]),
            (Usage::Busy, [80, 490, 9_999]),
        ] {
            let mut pace = pace(
                PaceSettings {
                    rest,
                    ..settings(1000)
                },
                usage,
            );
            for (time, rest) in [1, 10, 1000].into_iter().zip(rests) {
                pace.took(full(&pace, time * MS));
                assert!(pace.rest(None) >= rest * MS, "{usage:?}, {time} ms");
            }
        }
        let rest = Rest::Never;
        let mut pace = pace(
            PaceSettings {
                rest,
                ..settings(5000)
            },
            Usage::Busy,
        );
        assert_eq!(
            sizes(&mut pace, &[1, 1, 1, 1]),
            [1000, 2000, 4000, 5000, 5000]
        );
        assert_eq!(pace.rest(None), Duration::ZERO);
    }

    #[test]
    fn replicas_that_are_behind_are_waited_for() {
        let pace = pace(settings(1000), Usage::Quiet);
        for (lag, rest) in [(0, 0), (10, 0), (11, 1000)] {
            let lag = Some(Duration::from_secs(lag));
            assert_eq!(pace.rest(lag), rest * MS);
            assert_eq!(pace.is_too_far(lag), rest == 1000);
        }
    }

    fn usage() -> impl Strategy<Value = Usage> {
        prop::sample::select(vec![Usage::Unknown, Usage::Quiet, Usage::Busy])
    }

    proptest! {
        #[test]
        fn a_batch_is_never_empty_nor_larger_than_allowed(
            batch in 1u32..1_000_000,
            steps in prop::collection::vec((usage(), 0u32..1000, 0u64..2_000_000), 0..50),
        ) {
            let mut pace = Pace::new(settings(batch));
            for (usage, time, found) in steps {
                pace.saw(usage);
                let asked = pace.size();
                prop_assert!((1..=batch).contains(&asked));
                let (time, work) = (time * MS, time * MS / 2);
                pace.took(Took { asked, found, time, work });
            }
            prop_assert!((1..=batch).contains(&pace.size()));
        }

        /// Against a database where a row takes so long, and a batch some time more.
        #[test]
        fn beside_others_it_works_for_its_share_of_the_time_however_slow_the_database_is(
            percent in 1u8..=100,
            row in 1u32..100_000,
            fixed in 0u32..1_000_000,
        ) {
            let share = Ratio::percent(percent);
            let rest = Rest::Beside { pause: Duration::ZERO, share };
            let mut pace = pace(PaceSettings { rest, ..settings(10_000) }, Usage::Busy);
            let (mut works, mut all) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..200 {
                let work = Duration::from_nanos((row * pace.size() + fixed).into());
                let took = Took { asked: pace.size(), found: pace.size().into(), time: work, work };
                pace.took(took);
                works += work;
                all += work + pace.rest(None);
                // 10,000,000 ns and more for ten rows are longer than it aims at: it can't do less.
                prop_assert!(work <= AIM_BESIDE_OTHERS * 4 || pace.size() <= FIRST);
            }
            let found = works.as_secs_f64() / all.as_secs_f64();
            prop_assert!(found <= f64::from(percent.min(50)) / 100.0 * 1.1, "{found}");
        }
    }
}
