//! The table of jobs, and the watchdog.

use super::table::{Column, nothing, table};
use super::time::long_time;
use crate::status::view::{Acting, Job, Watchdog};

const COLUMNS: [Column; 6] = [
    Column::text("JOB"),
    Column::text("LAST RUN"),
    Column::text("NEXT RUN"),
    Column::number("ROWS"),
    Column::number("ALL ROWS"),
    Column::number("FAILURES"),
];

pub fn jobs(jobs: &[Job], width: usize) -> Vec<String> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    let mut lines = table(&COLUMNS, &rows, width);
    for job in jobs {
        if let Some(problem) = job.problem.as_ref().or(job.last_error.as_ref()) {
            lines.push(format!("{}: {problem}", job.name));
        }
    }
    lines
}

fn row(job: &Job) -> Vec<String> {
    let last = match (&job.last_outcome, job.last_seconds_ago) {
        (Some(outcome), Some(ago)) => format!("{outcome} {} ago", long_time(ago)),
        _ => "never".to_owned(),
    };
    let next = match (job.running_seconds, job.next_in_seconds) {
        (Some(seconds), _) => format!("running for {}", long_time(seconds)),
        (None, Some(seconds)) if seconds < 0.0 => format!("late by {}", long_time(-seconds)),
        (None, Some(seconds)) => format!("in {}", long_time(seconds)),
        (None, None) => "manual".to_owned(),
    };
    let name = if job.dry_run {
        format!("{} (dry run)", job.name)
    } else {
        job.name.clone()
    };
    let last_rows = job.running_rows.or(job.last_rows);
    vec![
        name,
        last,
        next,
        last_rows.map_or_else(nothing, |rows| rows.to_string()),
        job.rows_total.to_string(),
        job.failures_total.to_string(),
    ]
}

/// `1 session`, `2 sessions`.
fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// ` (process 123 of 10.0.0.3)`
fn whereabouts(acting: &Acting) -> String {
    match (&acting.process, &acting.client) {
        (Some(process), Some(client)) if !client.is_empty() => {
            format!(" (process {process} of {client})")
        }
        (Some(process), _) => format!(" (process {process})"),
        (None, _) => String::new(),
    }
}

pub fn watchdog(watchdog: Option<&Watchdog>) -> Vec<String> {
    let Some(watchdog) = watchdog else {
        return Vec::new();
    };
    let polled = match watchdog.looked_seconds_ago {
        Some(ago) => format!("polled {} ago", long_time(ago)),
        None => "has not polled yet".to_owned(),
    };
    let mut line = format!(
        "WATCHDOG  {polled}, {} watched, {}",
        counted(watchdog.watched, "session"),
        counted(watchdog.acts, "action")
    );
    if watchdog.dry_run {
        line += " (dry run: only logged)";
    }
    if watchdog.stands_by {
        line += ", on standby: another instance acts";
        line += &watchdog
            .acting
            .as_ref()
            .map_or_else(String::new, whereabouts);
    }
    let mut lines = vec![line];
    lines.extend(
        watchdog
            .problem
            .iter()
            .map(|problem| format!("watchdog: {problem}")),
    );
    lines
}
