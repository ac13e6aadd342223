//! `levee job` and `levee db`

use super::limits::{LimitsAction, Loosening};
use super::{Exit, block_on, failed, start_log_by};
use super::{job, limits};
use crate::cli::{Db, Job, JobRun, Limits};
use crate::config::database::Database;
use crate::jobs::report::Outcome;
use std::path::Path;

pub fn job(command: Job) -> Exit {
    match command {
        Job::List(file) => with_database(&file.config, async |database| {
            job::list(database);
            Ok(Exit::Done)
        }),
        Job::Run(arguments) => with_database(&arguments.file.config, async |database| {
            run_job(database, &arguments).await
        }),
    }
}

pub fn db(db: Db) -> Exit {
    let Db::Limits(arguments) = db;
    with_database(&arguments.file.config, async |database| {
        let loosening = if arguments.loosen {
            Loosening::Allowed
        } else {
            Loosening::Refused
        };
        let undo = &arguments.undo_file;
        limits::run(database, action(&arguments), loosening, undo).await?;
        Ok(Exit::Done)
    })
}

async fn run_job(database: &Database, arguments: &JobRun) -> anyhow::Result<Exit> {
    let name = &arguments.name;
    let Some(job) = database.jobs.iter().find(|job| job.name == *name) else {
        let names: Vec<&str> = database.jobs.iter().map(|job| job.name.as_str()).collect();
        eprintln!(
            "error: there is no job {name:?}; there are: {}",
            names.join(", ")
        );
        return Ok(Exit::Invalid);
    };
    let report = job::run(database, job, arguments.dry_run).await?;
    Ok(match report.outcome {
        Outcome::Done | Outcome::Limit => Exit::Done,
        Outcome::Failed | Outcome::Stopped => Exit::Failed,
        Outcome::Elsewhere => Exit::Elsewhere,
    })
}

const fn action(arguments: &Limits) -> LimitsAction {
    match (arguments.apply, arguments.rollback) {
        (true, _) => LimitsAction::Apply,
        (_, true) => LimitsAction::Rollback,
        _ => LimitsAction::Print,
    }
}

/// Reads the configuration and runs `act` with its section `database`.
fn with_database(path: &Path, act: impl AsyncFnOnce(&Database) -> anyhow::Result<Exit>) -> Exit {
    let config = match start_log_by(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let Some(database) = config.database else {
        eprintln!("error: {}: has no section database", path.display());
        return Exit::Invalid;
    };
    block_on(act(&database)).unwrap_or_else(|error| failed(&error))
}
