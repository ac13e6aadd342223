//! Metrics of jobs.

use super::report::Outcome;
use super::{Backlog, Run};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    register_histogram_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_vec_with_registry,
};
use std::time::Duration;

pub const ROWS: &str = "job_rows_total";
pub const SKIPPED: &str = "job_rows_skipped_total";
pub const BATCHES: &str = "job_batches_total";
pub const RUNS: &str = "job_runs_total";
pub const BACKLOG: &str = "job_backlog_rows";
pub const OLDEST: &str = "job_oldest_row_age_seconds";
pub const AT_LIMIT: &str = "job_runs_at_limit";
pub const DURATION: &str = "job_duration_seconds";
pub const RUNNING: &str = "job_running";
pub const LAST_RUN: &str = "job_last_run_timestamp_seconds";
pub const NEXT_RUN: &str = "job_next_run_timestamp_seconds";

const JOB: &[&str] = &["job"];

const DURATION_HELP: &str = "How long runs took.";

/// Upper bounds of the buckets for durations of runs, from a quick one to an hour.
const SECONDS: &[f64] = &[
    0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];

/// Names of metrics that one kind of job has in addition to those of all jobs.
#[derive(Clone, Copy, Debug)]
pub struct OwnNames {
    /// Counter: rows that were handled.
    pub rows: &'static str,
    /// Counter: runs that failed.
    pub failed: &'static str,
    /// Histogram: how long runs took.
    pub duration: &'static str,
}

/// The families of all jobs.
#[derive(Clone, Debug)]
pub struct JobFamilies {
    registry: Registry,
    rows: IntCounterVec,
    skipped: IntCounterVec,
    batches: IntCounterVec,
    runs: IntCounterVec,
    duration: HistogramVec,
    running: IntGaugeVec,
    last_run: IntGaugeVec,
    next_run: IntGaugeVec,
    at_limit: IntGaugeVec,
    backlog: IntGaugeVec,
    oldest: IntGaugeVec,
}

/// The metrics of one job.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    rows: IntCounter,
    /// Items that can't be handled, once for each run.
    pub skipped: IntCounter,
    batches: IntCounter,
    runs: Vec<(Outcome, IntCounter)>,
    duration: Histogram,
    /// 1 while a run is in progress.
    pub running: IntGauge,
    /// In Unix time.
    pub last_run: IntGauge,
    /// In Unix time.
    pub next_run: IntGauge,
    at_limit: IntGauge,
    /// These have no series before their values are known.
    backlog: IntGaugeVec,
    oldest: IntGaugeVec,
    name: String,
    own: Option<OwnMetrics>,
}

#[derive(Clone, Debug)]
struct OwnMetrics {
    rows: IntCounter,
    failed: IntCounter,
    duration: Histogram,
}

impl JobFamilies {
    /// # Errors
    /// `registry` already has one of the names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register_int_counter_vec_with_registry!(name, help, labels, registry)
        };
        let gauge = |name: &str, help: &str| {
            register_int_gauge_vec_with_registry!(name, help, JOB, registry)
        };
        Ok(Self {
            rows: counter(ROWS, "Rows that a job handled.", JOB)?,
            skipped: counter(
                SKIPPED,
                "Rows that a constraint or a trigger kept a job from handling, once for each run.",
                JOB,
            )?,
            batches: counter(BATCHES, "Batches that handled at least one row.", JOB)?,
            runs: counter(RUNS, "Runs by how they ended.", &["job", "outcome"])?,
            duration: register_histogram_vec_with_registry!(
                DURATION,
                DURATION_HELP,
                JOB,
                SECONDS.to_vec(),
                registry
            )?,
            running: gauge(RUNNING, "1 while a run is under way.")?,
            last_run: gauge(LAST_RUN, "When the last run ended.")?,
            next_run: gauge(NEXT_RUN, "When the next run is due.")?,
            at_limit: gauge(AT_LIMIT, "Runs in a row that ended at a limit.")?,
            backlog: gauge(
                BACKLOG,
                "About how many rows are left, as the database's planner estimates it.",
            )?,
            oldest: gauge(OLDEST, "How long ago the oldest row that is left was over.")?,
            registry: registry.clone(),
        })
    }

    /// The metrics of the job `name`, and those of its kind under the names `own`.
    ///
    /// # Errors
    /// Another job has the same `own` names.
    pub fn job(&self, name: &str, own: Option<&OwnNames>) -> prometheus::Result<JobMetrics> {
        let runs = |outcome: Outcome| {
            let count = self.runs.with_label_values(&[name, outcome.name()]);
            (outcome, count)
        };
        Ok(JobMetrics {
            rows: self.rows.with_label_values(&[name]),
            skipped: self.skipped.with_label_values(&[name]),
            batches: self.batches.with_label_values(&[name]),
            runs: Outcome::ALL.into_iter().map(runs).collect(),
            duration: self.duration.with_label_values(&[name]),
            running: self.running.with_label_values(&[name]),
            last_run: self.last_run.with_label_values(&[name]),
            next_run: self.next_run.with_label_values(&[name]),
            at_limit: self.at_limit.with_label_values(&[name]),
            backlog: self.backlog.clone(),
            oldest: self.oldest.clone(),
            name: name.to_owned(),
            own: own
                .map(|names| OwnMetrics::register(names, &self.registry))
                .transpose()?,
        })
    }
}

impl OwnMetrics {
    fn register(names: &OwnNames, registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            rows: register_int_counter_with_registry!(
                names.rows,
                "Rows that were handled.",
                registry
            )?,
            failed: register_int_counter_with_registry!(
                names.failed,
                "Runs that failed.",
                registry
            )?,
            duration: register_histogram_with_registry!(
                names.duration,
                DURATION_HELP,
                SECONDS.to_vec(),
                registry
            )?,
        })
    }
}

/// What a job has done since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    pub rows: u64,
    pub failed_runs: u64,
}

impl JobMetrics {
    pub fn totals(&self) -> Totals {
        let failed = self
            .runs
            .iter()
            .find(|(outcome, _)| *outcome == Outcome::Failed);
        Totals {
            rows: self.rows.get(),
            failed_runs: failed.map_or(0, |(_, count)| count.get()),
        }
    }

    /// Counts a batch that handled `rows` rows.
    pub fn handled(&self, rows: u64) {
        self.rows.inc_by(rows);
        self.batches.inc_by(u64::from(rows > 0));
        if let Some(own) = &self.own {
            own.rows.inc_by(rows);
        }
    }

    /// Shows what is left of `run`, where that can be estimated.
    pub async fn estimate(&self, run: &mut impl Run) {
        match run.backlog().await {
            Ok(Some(backlog)) => self.left(backlog),
            Ok(None) => {}
            Err(error) => {
                log::debug!(job = self.name.as_str(); "what is left is not known: {error}");
            }
        }
    }

    /// Shows what is left.
    pub fn left(&self, backlog: Backlog) {
        let Backlog { rows, oldest } = backlog;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let labels = &[self.name.as_str()];
        self.backlog.with_label_values(labels).set(signed(rows));
        match oldest {
            None if rows > 0 => {
                let _ = self.oldest.remove_label_values(labels);
            }
            oldest => {
                let seconds = oldest.unwrap_or_default().as_secs();
                self.oldest.with_label_values(labels).set(signed(seconds));
            }
        }
    }

    /// Counts a run.
    pub fn ended(&self, outcome: Outcome, took: Duration) {
        for (other, count) in &self.runs {
            count.inc_by(u64::from(*other == outcome));
        }
        match outcome {
            Outcome::Limit => self.at_limit.inc(),
            Outcome::Done | Outcome::Stopped | Outcome::Failed => self.at_limit.set(0),
            // Not a run of this instance, or not to its end.
            Outcome::Elsewhere => {}
        }
        if outcome == Outcome::Elsewhere {
            return;
        }
        self.duration.observe(took.as_secs_f64());
        if let Some(own) = &self.own {
            own.failed.inc_by(u64::from(outcome == Outcome::Failed));
            own.duration.observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_in_a_row_that_ended_at_a_limit_are_counted() {
        let families = JobFamilies::register(&Registry::new()).unwrap();
        let metrics = families.job("x", None).unwrap();
        for (outcome, at_limit) in [
            (Outcome::Limit, 1),
            (Outcome::Limit, 2),
            // Another instance ran it.
            (Outcome::Elsewhere, 2),
            (Outcome::Limit, 3),
            (Outcome::Failed, 0),
            (Outcome::Limit, 1),
            (Outcome::Stopped, 0),
            (Outcome::Limit, 1),
            (Outcome::Done, 0),
        ] {
            metrics.ended(outcome, Duration::ZERO);
            assert_eq!(metrics.at_limit.get(), at_limit, "{outcome:?}");
        }
    }
}
