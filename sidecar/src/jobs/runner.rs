//! When a job runs: on schedule or on request, one run at a time.

use super::batches::{self, RunContext};
use super::metrics::{JobMetrics, Totals};
use super::report::{JobStatus, Outcome, Progress, Report};
use super::settings::JobSettings;
use super::{Error, ErrorKind, Job, Preview, Run, Sample};
use crate::clock::Clock;
use levee_policy::backoff::Jitter;
use levee_policy::random::SplitMix64;
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The first run comes within this time of the start, spread over it: instances that start together don't run together.
const FIRST_WITHIN: Duration = Duration::from_mins(1);

/// Intervals are shortened by up to this much.
const SPREAD: Ratio = Ratio::percent(10);

/// How often what is left is estimated between runs.
const BACKLOG_EVERY: Duration = Duration::from_mins(5);

/// A run of this process is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run is under way")]
pub struct Busy;

/// A job with its schedule.
#[derive(Debug)]
pub struct Runner<J> {
    pub name: String,
    pub settings: JobSettings,
    pub job: J,
    clock: Clock,
    metrics: JobMetrics,
    turn: Arc<Semaphore>,
    status: Mutex<JobStatus>,
    random: Mutex<SplitMix64>,
    stop: watch::Receiver<bool>,
}

impl<J: Job> Runner<J> {
    /// `seed` spreads processes that start together.
    pub fn new(
        name: &str,
        settings: JobSettings,
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

    pub fn status(&self) -> JobStatus {
        self.lock().clone()
    }

    pub fn totals(&self) -> Totals {
        self.metrics.totals()
    }

    /// Runs the job on schedule until the process stops, and any run in progress has ended.
    pub async fn run_on_schedule(self: Arc<Self>) {
        let mut stop = self.stop.clone();
        self.begin(&mut stop).await;
        match self.settings.every {
            Some(every) => self.repeat(every, &mut stop).await,
            None => self.watch(None, &mut stop).await,
        }
        // Also waits for a run on request.
        let _ = self.turn.acquire().await;
    }

    async fn repeat(&self, every: Duration, stop: &mut watch::Receiver<bool>) {
        let first =
            Jitter::shorter(Ratio::percent(100)).apply(every.min(FIRST_WITHIN), self.draw());
        let mut due = self.clock.now().after(first);
        while !*stop.borrow() {
            self.lock().next = Some(due);
            self.metrics.next_run.set(unix_seconds(due));
            self.watch(Some(due), stop).await;
            if *stop.borrow() {
                break;
            }
            let began = self.clock.now();
            // If a run on request is in progress, skip this one.
            if let Ok(turn) = self.turn() {
                self.run(turn, self.settings.dry_run).await;
            }
            due = began.after(Jitter::shorter(SPREAD).apply(every, self.draw()));
        }
    }

    /// Estimates what is left every few minutes, until the next run is due or the process stops.
    async fn watch(&self, due: Option<Instant>, stop: &mut watch::Receiver<bool>) {
        loop {
            let look = self.clock.now().after(BACKLOG_EVERY);
            let is_due = due.is_some_and(|due| due <= look);
            let next = due.filter(|_| is_due).unwrap_or(look);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep_until(self.clock.timer(next)) => {}
            }
            if is_due {
                return;
            }
            // A run estimates it, too.
            if self.turn.available_permits() > 0
                && let Err(error) = self.check(stop).await
            {
                log::debug!(job = self.name.as_str(); "could not be checked: {error}");
            }
        }
    }

    /// Reports at the start what would make each run fail. Other jobs run all the same.
    async fn begin(&self, stop: &mut watch::Receiver<bool>) {
        match self.check(stop).await {
            Ok(()) if *stop.borrow() => {}
            Ok(()) => log::info!(job = self.name.as_str(); "checked"),
            Err(error) if error.kind == ErrorKind::Permanent => {
                log::error!(job = self.name.as_str(); "can't be run as it is: {error}");
            }
            Err(error) => log::warn!(job = self.name.as_str(); "could not be checked: {error}"),
        }
    }

    /// Finds out whether the job can run, and what is left to do.
    ///
    /// # Errors
    /// It can't run.
    async fn check(&self, stop: &mut watch::Receiver<bool>) -> Result<(), Error> {
        let begun = tokio::select! {
            begun = self.job.begin() => begun,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        match begun {
            Ok(mut run) => {
                self.warn(run.warnings());
                self.lock().problem = None;
                self.metrics.estimate(&mut run).await;
                Ok(())
            }
            Err(error) => {
                if error.kind == ErrorKind::Permanent {
                    self.lock().problem = Some(error.message.clone());
                }
                Err(error)
            }
        }
    }

    /// Shows the warnings, and logs those that are new.
    fn warn(&self, warnings: &[String]) {
        let known = std::mem::replace(&mut self.lock().warnings, warnings.to_vec());
        for warning in warnings.iter().filter(|warning| !known.contains(warning)) {
            log::warn!(job = self.name.as_str(); "{warning}");
        }
    }

    /// The permit for one run.
    ///
    /// # Errors
    /// A run is in progress.
    pub fn turn(&self) -> Result<OwnedSemaphorePermit, Busy> {
        self.turn.clone().try_acquire_owned().map_err(|_| Busy)
    }

    /// Runs the job once.
    pub async fn run(&self, turn: OwnedSemaphorePermit, dry_run: bool) -> Report {
        let began = self.clock.now();
        self.lock().running = Some(Progress {
            since: began,
            rows: 0,
        });
        self.metrics.running.set(1);
        let mut report = Report {
            began,
            took: Duration::ZERO,
            dry_run,
            outcome: Outcome::Done,
            rows: 0,
            batches: 0,
            skipped: 0,
            left: Vec::new(),
            preview: None,
            error: None,
        };
        let result = if dry_run {
            self.count(&mut report).await
        } else {
            let (seed, stop) = (self.draw(), self.stop.clone());
            batches::run(self.context(), seed, stop, &mut report).await
        };
        report.took = self.clock.now().since(began);
        match result {
            Ok(outcome) => report.outcome = outcome,
            Err(error) => {
                report.outcome = match error.kind {
                    ErrorKind::Elsewhere => Outcome::Elsewhere,
                    ErrorKind::Transient
                    | ErrorKind::Slow
                    | ErrorKind::Busy
                    | ErrorKind::Permanent => Outcome::Failed,
                };
                report.error = Some(error.message);
            }
        }
        self.finish(&report);
        drop(turn);
        report
    }

    fn context(&self) -> RunContext<'_, J> {
        RunContext {
            name: &self.name,
            job: &self.job,
            settings: &self.settings,
            clock: self.clock,
            metrics: &self.metrics,
            status: &self.status,
        }
    }

    async fn count(&self, report: &mut Report) -> Result<Outcome, Error> {
        let mut run = self.job.begin().await?;
        let preview = run.preview().await?;
        report.rows = preview.rows;
        report.preview = Some(preview);
        Ok(Outcome::Done)
    }

    fn finish(&self, report: &Report) {
        log_report(&self.name, report);
        if !report.dry_run {
            self.metrics.ended(report.outcome, report.took);
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

    fn draw(&self) -> u64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64()
    }

    fn lock(&self) -> MutexGuard<'_, JobStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_report(name: &str, report: &Report) {
    let Report {
        rows,
        batches,
        outcome,
        ..
    } = report;
    let took = humantime::format_duration(Duration::from_millis(
        u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    ));
    match (&report.error, outcome) {
        (Some(error), Outcome::Failed) => {
            log::error!(job = name, rows = rows, batches = batches; "failed after {rows} rows in {took}: {error}");
        }
        (Some(error), _) if *rows > 0 => {
            log::warn!(job = name, rows = rows, batches = batches; "{} after {rows} rows in {took}: {error}", outcome.name());
        }
        (Some(error), _) => log::info!(job = name; "not run: {error}"),
        (None, _) if report.dry_run => {
            let ends = report.preview.as_ref().map(ends).unwrap_or_default();
            log::info!(job = name, rows = rows; "dry run: {rows} rows would be handled{ends}");
        }
        (None, outcome) => {
            let skipped = match report.skipped {
                0 => String::new(),
                skipped => format!(", {skipped} skipped"),
            };
            log::info!(job = name, rows = rows, batches = batches, skipped = report.skipped; "{}: {rows} rows in {batches} batches{skipped}, {took}", outcome.name());
        }
    }
}

/// `: from row 7 (2026-01-01, 2 days ago) to row 9 (...)`
fn ends(preview: &Preview) -> String {
    let describe = |sample: &Sample| {
        let ago = sample.age_in_words();
        let ago = ago.map_or_else(String::new, |age| format!(", {age} ago"));
        format!("row {} ({}{ago})", sample.key, sample.value)
    };
    match (&preview.oldest, &preview.newest) {
        (Some(oldest), Some(newest)) => {
            format!(": from {} to {}", describe(oldest), describe(newest))
        }
        _ => String::new(),
    }
}

#[allow(
    clippy::cast_possible_wrap,
    reason = "seconds since 1970 fit for a while"
)]
const fn unix_seconds(at: Instant) -> i64 {
    (at.as_nanos() / 1_000_000_000) as i64
}
