//! One run: batch after batch, until nothing is left, a limit is reached or the process stops.

use super::metrics::JobMetrics;
use super::others::{LOOK_EVERY, Others};
use super::pace::{Pace, Took};
use super::report::{JobStatus, Outcome, Report};
use super::settings::JobSettings;
use super::{Batch, Error, ErrorKind, Job, Left, Run};
use crate::clock::Clock;
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::random::SplitMix64;
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How many failures in a row end the run.
const ATTEMPTS: u32 = 5;

/// The waits between attempts.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(5),
    factor: 2,
    jitter: Jitter::shorter(Ratio::percent(50)),
};

/// How often the lag of replicas is queried.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// How many items that can't be handled the log of a run names.
const SAID: u64 = 100;

/// How many of them its report has.
const REPORTED: usize = 10;

/// How often a run that rests shows that it is alive.
const HOLD_EVERY: Duration = Duration::from_secs(1);
/// How often a long run estimates what is left.
const BACKLOG_EVERY: Duration = Duration::from_mins(5);

/// The most of an item's key, or of the reason why it can't be handled, that is shown.
const MAX_TEXT: usize = 300;

/// How often a long run logs its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What a run needs of its job.
#[derive(Clone, Copy, Debug)]
pub struct RunContext<'a, J> {
    pub name: &'a str,
    pub job: &'a J,
    pub settings: &'a JobSettings,
    pub clock: Clock,
    pub metrics: &'a JobMetrics,
    pub status: &'a Mutex<JobStatus>,
}

/// Runs batches until the end, adding them to `report`. `stop` ends the run after the current batch.
///
/// # Errors
/// The failure that ended the run.
pub async fn run<J: Job>(
    context: RunContext<'_, J>,
    seed: u64,
    stop: watch::Receiver<bool>,
    report: &mut Report,
) -> Result<Outcome, Error> {
    let mut batches = Batches {
        pace: Pace::new(context.settings.pace),
        random: SplitMix64::new(seed),
        run: None,
        first_batch: None,
        lag: Lag::default(),
        others: Others::default(),
        last_look: None,
        is_waiting: false,
        failures: 0,
        last_error: None,
        last_progress: report.began,
        last_backlog: None,
        left: HashSet::new(),
        context,
    };
    let result = batches.repeat(stop, report).await;
    if !matches!(result, Ok(Outcome::Stopped)) {
        batches.estimate_backlog().await;
    }
    if let Some(run) = batches.run {
        run.end().await;
    }
    result
}

/// How far replicas are behind.
#[derive(Debug, Default)]
struct Lag {
    behind: Option<Duration>,
    queried: Option<Instant>,
}

impl Lag {
    /// Queries it, unless it was queried just before.
    async fn update(&mut self, run: &mut impl Run, now: Instant) {
        if self.queried.is_none_or(|last| now.since(last) >= LAG_EVERY) {
            *self = Self {
                behind: run.lag().await,
                queried: Some(now),
            };
        }
    }
}

struct Batches<'a, J: Job> {
    context: RunContext<'a, J>,
    random: SplitMix64,
    /// `None` before the first batch, and after the connection was lost.
    run: Option<J::Run>,
    pace: Pace,
    lag: Lag,
    others: Others,
    last_look: Option<Instant>,
    /// Whether the log already says that the run waits for replicas.
    is_waiting: bool,
    /// When the first batch began: waiting for a connection counts for no limit.
    first_batch: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    last_error: Option<Error>,
    last_progress: Instant,
    /// When it last estimated what is left.
    last_backlog: Option<Instant>,
    /// Hashes of the keys of items that can't be handled.
    left: HashSet<u64>,
}

enum Step {
    /// A batch that was to have so many items.
    Handled(Batch, u32),
    /// Nothing was done, since replicas are too far behind.
    Lagging,
}

enum Next {
    Wait(Duration),
    End(Outcome),
}

impl<J: Job> Batches<'_, J> {
    async fn repeat(
        &mut self,
        mut stop: watch::Receiver<bool>,
        report: &mut Report,
    ) -> Result<Outcome, Error> {
        loop {
            if *stop.borrow() {
                return Ok(Outcome::Stopped);
            }
            let mut began = self.context.clock.now();
            if self.is_at_limit(report, began) {
                return Ok(Outcome::Limit);
            }
            let next = match self.step(&mut began, report).await {
                Ok(Step::Lagging) => self.wait_for_replicas(),
                Ok(Step::Handled(batch, asked)) => self.handled(batch, asked, began, report),
                Err(error) => Next::Wait(self.failed(error, began)?),
            };
            let wait = match next {
                Next::End(outcome) => return Ok(outcome),
                Next::Wait(wait) => wait,
            };
            self.log_progress(report);
            self.watch_backlog().await;
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = self.rest(wait) => {}
            }
        }
    }

    /// Waits, and shows meanwhile that the holder of the claim is alive.
    async fn rest(&mut self, wait: Duration) {
        let mut left = wait;
        while left > HOLD_EVERY
            && let Some(run) = &mut self.run
        {
            tokio::time::sleep(HOLD_EVERY).await;
            run.hold().await;
            left -= HOLD_EVERY;
        }
        tokio::time::sleep(left).await;
    }

    fn is_at_limit(&self, report: &Report, now: Instant) -> bool {
        let settings = self.context.settings;
        let is_too_long = |first: Instant| now.since(first) >= settings.max_time;
        report.rows >= settings.max_rows || self.first_batch.is_some_and(is_too_long)
    }

    /// Runs one batch. `began` becomes the time when it began.
    async fn step(&mut self, began: &mut Instant, report: &Report) -> Result<Step, Error> {
        let run = match &mut self.run {
            Some(run) => run,
            none => {
                let mut run = self.context.job.begin().await?;
                run.claim().await?;
                self.pace.reads_all(run.reads_all());
                none.insert(run)
            }
        };
        let now = self.context.clock.now();
        self.first_batch.get_or_insert(now);
        let last = self.last_look.filter(|last| now.since(*last) < LOOK_EVERY);
        if self.pace.heeds_others() && last.is_none() {
            self.last_look = Some(now);
            if let Some(look) = run.look().await {
                self.pace.saw(self.others.saw(look, now));
            }
        }
        self.lag.update(run, now).await;
        if self.pace.is_too_far(self.lag.behind) {
            return Ok(Step::Lagging);
        }
        let rows_left = self.context.settings.max_rows.saturating_sub(report.rows);
        let rows_left = u32::try_from(rows_left).unwrap_or(u32::MAX);
        let size = self.pace.size().min(rows_left);
        *began = self.context.clock.now();
        let batch = run.batch(size).await?;
        Ok(Step::Handled(batch, size))
    }

    fn wait_for_replicas(&mut self) -> Next {
        if !self.is_waiting {
            let behind = humantime::format_duration(self.lag.behind.unwrap_or_default());
            log::warn!(job = self.context.name; "waits for replicas, which are {behind} behind");
        }
        self.is_waiting = true;
        Next::Wait(self.pace.rest(self.lag.behind))
    }

    fn handled(&mut self, batch: Batch, asked: u32, began: Instant, report: &mut Report) -> Next {
        let Batch {
            rows,
            left,
            work,
            is_last,
        } = batch;
        let time = self.context.clock.now().since(began);
        self.pace.took(Took {
            asked,
            found: rows + left.len() as u64,
            time,
            work: work.unwrap_or(time),
        });
        self.passed_by(left, report);
        (self.failures, self.is_waiting) = (0, false);
        report.rows += rows;
        report.batches += u64::from(rows > 0);
        self.context.metrics.handled(rows);
        let status = self.context.status.lock();
        if let Some(progress) = &mut status.unwrap_or_else(PoisonError::into_inner).running {
            progress.rows = report.rows;
        }
        if is_last {
            return Next::End(Outcome::Done);
        }
        Next::Wait(self.pace.rest(self.lag.behind))
    }

    /// Counts each item that can't be handled once, and says which ones they are.
    fn passed_by(&mut self, left: Vec<Left>, report: &mut Report) {
        for left in left {
            let mut hasher = DefaultHasher::new();
            left.key.hash(&mut hasher);
            if !self.left.insert(hasher.finish()) {
                continue;
            }
            report.skipped += 1;
            self.context.metrics.skipped.inc();
            let left = Left {
                key: shortened(left.key),
                why: shortened(left.why),
            };
            let Left { key, why } = &left;
            match report.skipped.cmp(&SAID) {
                Ordering::Less => {
                    log::warn!(job = self.context.name; "row {key} can't be handled: {why}");
                }
                Ordering::Equal => {
                    log::warn!(job = self.context.name; "row {key} can't be handled: {why}; further ones are only counted");
                }
                Ordering::Greater => {}
            }
            if report.left.len() < REPORTED {
                report.left.push(left);
            }
        }
    }

    /// How long to wait before the next attempt.
    ///
    /// # Errors
    /// There is none.
    fn failed(&mut self, error: Error, began: Instant) -> Result<Duration, Error> {
        self.failures += 1;
        let is_final = match error.kind {
            ErrorKind::Permanent => true,
            // After a lost connection, the server may hold our own claim for a moment.
            ErrorKind::Elsewhere => self.first_batch.is_none(),
            ErrorKind::Transient | ErrorKind::Slow | ErrorKind::Busy => false,
        };
        if is_final || self.failures >= ATTEMPTS {
            return Err(match (error.kind, self.last_error.take()) {
                // Another instance has taken over.
                (ErrorKind::Elsewhere, Some(earlier)) => Error {
                    message: format!("{}; before that: {earlier}", error.message),
                    ..error
                },
                _ => error,
            });
        }
        let failures = self.failures;
        log::warn!(job = self.context.name; "attempt {failures} of {ATTEMPTS}: {error}");
        match error.kind {
            ErrorKind::Slow => {
                let limit = self.context.clock.now().since(began);
                self.pace.timed_out(limit);
            }
            ErrorKind::Busy => {}
            ErrorKind::Transient | ErrorKind::Elsewhere | ErrorKind::Permanent => self.run = None,
        }
        if error.kind != ErrorKind::Elsewhere {
            self.last_error = Some(error);
        }
        Ok(BACKOFF.wait(failures - 1, self.random.next_u64()))
    }

    /// Estimates what is left, once in a while.
    async fn watch_backlog(&mut self) {
        let now = self.context.clock.now();
        let last = self.last_backlog.get_or_insert(now);
        let is_first = *last == now;
        if is_first || now.since(*last) >= BACKLOG_EVERY {
            *last = now;
            self.estimate_backlog().await;
        }
    }

    async fn estimate_backlog(&mut self) {
        if let Some(run) = &mut self.run {
            self.context.metrics.estimate(run).await;
        }
    }

    fn log_progress(&mut self, report: &Report) {
        let now = self.context.clock.now();
        if now.since(self.last_progress) >= PROGRESS_EVERY {
            self.last_progress = now;
            log::info!(job = self.context.name, rows = report.rows; "{} rows so far", report.rows);
        }
    }
}

/// At most [`MAX_TEXT`] bytes: what a row holds, or a trigger says, can be of any length.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push_str("...");
    }
    text
}
