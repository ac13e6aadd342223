//! Runs a job: on schedule and by hand, one run at a time, batch after batch, until there is no more to do.

use super::metrics::{JobMetrics, Totals};
use super::pace::{self, Pace};
use super::report::{Outcome, Report};
use super::{Batch, Error, Job, Kind, Run};
use crate::clock::Clock;
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::random::SplitMix64;
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The first run comes within this time of the start, so that instances that start at once don't run at once.
const FIRST_WITHIN: Duration = Duration::from_mins(1);

/// How far the time between runs is spread: up to so much shorter.
const SPREAD: Ratio = Ratio::percent(10);

/// How often a step is tried in a row.
const ATTEMPTS: u32 = 5;

/// The waits between them.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(5),
    factor: 2,
    jitter: Jitter::shorter(Ratio::percent(50)),
};

/// How often copies are asked how far they are behind.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// How often a long run says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// When and how a job is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From the start of one run to the start of the next. `None`: only by hand.
    pub every: Option<Duration>,
    /// How its batches are paced.
    pub pace: pace::Settings,
    /// The most items of one run.
    pub max_rows: u64,
    /// The longest that one run takes from its first batch on; the batch at hand is finished.
    pub max_time: Duration,
    /// Whether runs on schedule only count.
    pub dry_run: bool,
}

/// What can be seen of a job.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Since when a run is under way, and how many items it has handled.
    pub running: Option<(Instant, u64)>,
    /// The last run.
    pub last: Option<Report>,
    /// When the next one is due.
    pub next: Option<Instant>,
    /// Why it can't be run at all.
    pub problem: Option<String>,
}

/// It is being run already, by this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run is under way")]
pub struct Busy;

/// How far copies are behind.
#[derive(Debug, Default)]
struct Lag {
    behind: Option<Duration>,
    asked: Option<Instant>,
}

impl Lag {
    /// Asks, if it was not asked just before.
    async fn look(&mut self, run: &mut impl Run, now: Instant) {
        if self.asked.is_none_or(|asked| now.since(asked) >= LAG_EVERY) {
            *self = Self {
                behind: run.lag().await,
                asked: Some(now),
            };
        }
    }
}

/// A job with its schedule.
#[derive(Debug)]
pub struct Runner<J> {
    /// Its name.
    pub name: String,
    /// When and how it is run.
    pub settings: Settings,
    /// What is run.
    pub job: J,
    clock: Clock,
    metrics: JobMetrics,
    turn: Arc<Semaphore>,
    status: Mutex<Status>,
    random: Mutex<SplitMix64>,
    stop: watch::Receiver<bool>,
}

impl<J: Job> Runner<J> {
    /// A job that has not been run. `seed` spreads processes that start at once.
    pub fn new(
        name: &str,
        settings: Settings,
        job: J,
        clock: Clock,
        metrics: JobMetrics,
        seed: u64,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            settings,
            job,
            clock,
            metrics,
            turn: Arc::new(Semaphore::new(1)),
            status: Mutex::default(),
            random: Mutex::new(SplitMix64::new(seed)),
            stop,
        }
    }

    /// What can be seen of it.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    pub fn totals(&self) -> Totals {
        self.metrics.totals()
    }

    /// Runs it on schedule until the process is asked to stop, and a run that is under way has stopped.
    pub async fn run_on_schedule(self: Arc<Self>) {
        let mut stop = self.stop.clone();
        let first_within = self
            .settings
            .every
            .unwrap_or(FIRST_WITHIN)
            .min(FIRST_WITHIN);
        self.check().await;
        let mut due = self
            .clock
            .now()
            .after(Jitter::shorter(Ratio::percent(100)).apply(first_within, self.draw()));
        while !self.is_stopping() {
            let Some(every) = self.settings.every else {
                let _ = stop.wait_for(|stop| *stop).await;
                break;
            };
            self.lock().next = Some(due);
            self.metrics.next_run.set(unix_seconds(due));
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep_until(self.clock.timer(due)) => {}
            }
            let began = self.clock.now();
            // A run by hand that is under way does for this one.
            if let Ok(turn) = self.turn() {
                self.run(turn, self.settings.dry_run).await;
            }
            due = began.after(Jitter::shorter(SPREAD).apply(every, self.draw()));
        }
        // Ends when no run holds it any more.
        let _ = self.turn.acquire().await;
    }

    /// Says at the start what would fail, and lets the others run.
    async fn check(&self) {
        let mut stop = self.stop.clone();
        let begun = tokio::select! {
            begun = self.job.begin() => begun,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match begun.map(drop) {
            Ok(()) => log::info!(job = self.name.as_str(); "checked"),
            Err(error) if error.kind == Kind::Permanent => {
                log::error!(job = self.name.as_str(); "can't be run as it is: {error}");
                self.lock().problem = Some(error.message);
            }
            Err(error) => log::warn!(job = self.name.as_str(); "could not be checked: {error}"),
        }
    }

    /// The right to run it.
    ///
    /// # Errors
    /// A run is under way.
    pub fn turn(&self) -> Result<OwnedSemaphorePermit, Busy> {
        self.turn.clone().try_acquire_owned().map_err(|_| Busy)
    }

    /// Runs it once.
    pub async fn run(&self, turn: OwnedSemaphorePermit, dry_run: bool) -> Report {
        let began = self.clock.now();
        self.lock().running = Some((began, 0));
        self.metrics.running.set(1);
        let mut report = Report {
            began,
            took: Duration::ZERO,
            dry_run,
            outcome: Outcome::Done,
            rows: 0,
            batches: 0,
            error: None,
        };
        let result = if dry_run {
            self.count(&mut report).await
        } else {
            self.batches(&mut report).await
        };
        report.took = self.clock.now().since(began);
        match result {
            Ok(outcome) => report.outcome = outcome,
            Err(error) if error.kind == Kind::Elsewhere => {
                report.outcome = Outcome::Elsewhere;
                report.error = Some(error.message);
            }
            Err(error) => {
                report.outcome = Outcome::Failed;
                report.error = Some(error.message);
            }
        }
        self.finish(&report);
        drop(turn);
        report
    }

    fn finish(&self, report: &Report) {
        let Report {
            rows,
            batches,
            dry_run,
            outcome,
            ..
        } = report;
        let took = humantime::format_duration(Duration::from_millis(
            u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        ));
        let name = self.name.as_str();
        match (&report.error, outcome) {
            (Some(error), Outcome::Failed) => {
                log::error!(job = name, rows = rows, batches = batches; "failed after {rows} rows in {took}: {error}");
            }
            (Some(error), _) => log::info!(job = name; "not run: {error}"),
            (None, _) if *dry_run => {
                log::info!(job = name, rows = rows; "dry run: {rows} rows would be handled");
            }
            (None, outcome) => {
                log::info!(job = name, rows = rows, batches = batches; "{}: {rows} rows in {batches} batches, {took}", outcome.name());
            }
        }
        if !dry_run {
            self.metrics.ended(*outcome, report.took);
            let ended = report.began.after(report.took);
            self.metrics.last_run.set(unix_seconds(ended));
        }
        self.metrics.running.set(0);
        let mut status = self.lock();
        status.running = None;
        if status.problem.is_some() {
            status.problem.clone_from(&report.error);
        }
        status.last = Some(report.clone());
    }

    async fn count(&self, report: &mut Report) -> Result<Outcome, Error> {
        let mut run = self.job.begin().await?;
        report.rows = run.count().await?;
        Ok(Outcome::Done)
    }

    async fn batches(&self, report: &mut Report) -> Result<Outcome, Error> {
        let mut run = None;
        let result = self.batches_of(&mut run, report).await;
        if let Some(run) = run {
            run.end().await;
        }
        result
    }

    async fn batches_of(
        &self,
        run: &mut Option<J::Run>,
        report: &mut Report,
    ) -> Result<Outcome, Error> {
        let mut stop = self.stop.clone();
        let mut pace = Pace::new(self.settings.pace);
        let mut last_error = None;
        let mut is_waiting = false;
        let (mut failures, mut first_batch) = (0, None);
        let mut lag = Lag::default();
        let mut told = report.began;
        loop {
            if self.is_stopping() {
                return Ok(Outcome::Stopped);
            }
            let rows_left = self.settings.max_rows.saturating_sub(report.rows);
            let mut began = self.clock.now();
            let is_too_long = |first: Instant| began.since(first) >= self.settings.max_time;
            if rows_left == 0 || first_batch.is_some_and(is_too_long) {
                return Ok(Outcome::Limit);
            }
            let size = pace
                .size()
                .min(u32::try_from(rows_left).unwrap_or(u32::MAX));
            let batch = match self.begin(run).await {
                Ok(run) => {
                    // It may have waited for others to end: that counts for no limit.
                    began = self.clock.now();
                    first_batch.get_or_insert(began);
                    lag.look(run, began).await;
                    if pace.is_too_far(lag.behind) {
                        Ok(None)
                    } else {
                        run.batch(size).await.map(Some)
                    }
                }
                Err(error) => Err(error),
            };
            let wait = match batch {
                Ok(None) => {
                    if !is_waiting {
                        let behind = humantime::format_duration(lag.behind.unwrap_or_default());
                        log::warn!(job = self.name.as_str(); "waits for replicas, which are {behind} behind");
                    }
                    is_waiting = true;
                    pace.pause(lag.behind)
                }
                Ok(Some(Batch { rows, is_last })) => {
                    (failures, is_waiting) = (0, false);
                    pace.took(self.clock.now().since(began));
                    report.rows += rows;
                    report.batches += u64::from(rows > 0);
                    self.metrics.handled(rows);
                    if let Some((_, so_far)) = &mut self.lock().running {
                        *so_far = report.rows;
                    }
                    if is_last {
                        return Ok(Outcome::Done);
                    }
                    pace.pause(lag.behind)
                }
                Err(error) => {
                    failures += 1;
                    // After a connection was lost, the server may hold our own claim for a moment.
                    let is_final = match error.kind {
                        Kind::Permanent => true,
                        Kind::Elsewhere => first_batch.is_none(),
                        Kind::Transient | Kind::Slow => false,
                    };
                    if is_final || failures >= ATTEMPTS {
                        // What went wrong before says more than that our own claim is still held.
                        let before = last_error.filter(|_| error.kind == Kind::Elsewhere);
                        return Err(before.unwrap_or(error));
                    }
                    log::warn!(job = self.name.as_str(); "attempt {failures} of {ATTEMPTS}: {error}");
                    if error.kind == Kind::Slow {
                        pace.took(self.settings.pace.aim.max(self.clock.now().since(began)) * 2);
                    } else {
                        *run = None;
                    }
                    if error.kind != Kind::Elsewhere {
                        last_error = Some(error);
                    }
                    BACKOFF.wait(failures - 1, self.draw())
                }
            };
            if self.clock.now().since(told) >= PROGRESS_EVERY {
                told = self.clock.now();
                log::info!(job = self.name.as_str(), rows = report.rows; "{} rows so far", report.rows);
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The run, which is begun if there is none.
    async fn begin<'a>(&self, run: &'a mut Option<J::Run>) -> Result<&'a mut J::Run, Error> {
        match run {
            Some(run) => Ok(run),
            none => {
                let mut begun = self.job.begin().await?;
                begun.claim().await?;
                Ok(none.insert(begun))
            }
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    fn draw(&self) -> u64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64()
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(
    clippy::cast_possible_wrap,
    reason = "seconds since 1970 fit for a while"
)]
const fn unix_seconds(at: Instant) -> i64 {
    (at.as_nanos() / 1_000_000_000) as i64
}
