//! `levee job`: lists the jobs, or runs one.

use crate::admin::describe_report;
use crate::clock::Clock;
use crate::config::database::{Database, Job as JobConfig};
use crate::database::cleanup::Cleanup;
use crate::database::spec::Action;
use crate::jobs::report::Report;
use crate::jobs::runner::Runner;
use crate::jobs::{Job, Run};
use crate::logging;
use crate::parts;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often the progress bar is updated.
const REFRESH: Duration = Duration::from_millis(100);

pub fn list(database: &Database) {
    for job in &database.jobs {
        let what = match job.spec.action {
            Action::Delete => "delete from",
            Action::Set(_) => "set columns of",
        };
        let every = match job.settings.every {
            Some(every) => format!("every {}", humantime::format_duration(every)),
            None => "manual runs only".to_owned(),
        };
        println!("{}: {what} {}, {every}", job.name, job.spec.quoted_table());
    }
}

/// Runs the job once and prints the result as JSON. Progress goes to standard error if that is a terminal.
///
/// # Errors
/// The run could not start. A run that failed is a [`Report`].
pub async fn run(database: &Database, job: &JobConfig, dry_run: bool) -> Result<Report> {
    let (stop, stopped) = watch::channel(false);
    let job = parts::database::build_job(database, job, Clock::start(), &stopped)?;
    let dry_run = dry_run || job.settings.dry_run;
    let bar = progress_bar(&job, dry_run).await?;
    let report = run_with_progress(&job, dry_run, &bar, &stop).await?;
    bar.finish_and_clear();
    logging::set_progress_bar(false);
    let mut value = describe_report(&report);
    value["job"] = json!(job.name);
    println!("{value:#}");
    Ok(report)
}

/// Hidden in a dry run, and if standard error is no terminal.
async fn progress_bar(job: &Runner<Cleanup>, dry_run: bool) -> Result<ProgressBar> {
    let template = "{spinner} {msg} {wide_bar} {human_pos}/{human_len} rows, {eta}";
    let style = ProgressStyle::with_template(template).context("the progress bar's template")?;
    let bar = ProgressBar::new_spinner()
        .with_message(job.name.clone())
        .with_style(style);
    if dry_run {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    logging::set_progress_bar(!bar.is_hidden());
    // If counting fails, the bar just has no length.
    if !bar.is_hidden()
        && let Ok(mut run) = job.job.begin().await
        && let Ok(preview) = run.preview().await
    {
        bar.set_length(preview.rows);
    }
    Ok(bar)
}

/// SIGINT and SIGTERM end the run after the current batch.
async fn run_with_progress(
    job: &Runner<Cleanup>,
    dry_run: bool,
    bar: &ProgressBar,
    stop: &watch::Sender<bool>,
) -> Result<Report> {
    let mut run = std::pin::pin!(job.run(job.turn()?, dry_run));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            report = &mut run => return Ok(report),
            _ = interrupt.recv() => { let _ = stop.send(true); }
            _ = terminate.recv() => { let _ = stop.send(true); }
            () = tokio::time::sleep(REFRESH) => {
                bar.set_position(job.status().running.map_or(0, |progress| progress.rows));
                bar.tick();
            }
        }
    }
}
