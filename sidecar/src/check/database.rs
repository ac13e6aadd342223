//! What the database says of a `levee.yaml`: whether each job can run there as it is configured.

use super::finding::{Finding, Severity};
use super::levee::Valid;
use crate::config::database::{Job as JobConfig, Watchdog};
use crate::database::connect::Database as Connected;
use crate::database::error::Error as DatabaseError;
use crate::database::rights;
use crate::jobs::{Error, ErrorKind, Job, Run};
use crate::parts::database::{cleanup, connect};

/// Looks at the table of each job, and at the watchdog's rights. Changes nothing.
///
/// # Errors
/// There is nothing to look at, or the database can't be asked now.
pub async fn look(valid: &Valid) -> Result<Vec<Finding>, String> {
    let config = valid.config.database.as_ref();
    let config = config.ok_or("it has no section database")?;
    let database = connect(config, 1);
    let mut findings = Vec::new();
    let mut add = |path: String, found: Vec<(Severity, String)>| {
        let line = valid.document.root.line_of(&path);
        findings.extend(found.into_iter().map(|(severity, message)| Finding {
            line,
            path: path.clone(),
            message,
            severity,
            trap: None,
        }));
    };
    for job in &config.jobs {
        let found = look_at(&database, job).await;
        let found = found.map_err(|error| error.message)?;
        add(format!("database.jobs.{}", job.name), found);
    }
    if let Some(watchdog) = &config.watchdog {
        let found = look_at_watchdog(&database, watchdog).await;
        let found = found.map_err(|error| error.to_string())?;
        add("database.watchdog".to_owned(), found);
    }
    Ok(findings)
}

/// What keeps the watchdog from its work.
async fn look_at_watchdog(
    database: &Connected,
    watchdog: &Watchdog,
) -> Result<Vec<(Severity, String)>, DatabaseError> {
    let mut connection = match database.connect().await {
        Ok(connection) => connection,
        Err(DatabaseError::Permanent(message)) => return Ok(vec![(Severity::Error, message)]),
        Err(error) => return Err(error),
    };
    let Some(checks) = database.dialect.watchdog_checks() else {
        return Ok(Vec::new());
    };
    let settings = &watchdog.settings;
    let found = rights::check(&mut connection, checks, settings, database.longest()).await?;
    let problem = found.problem.map(|problem| (Severity::Error, problem));
    Ok(problem.into_iter().collect())
}

async fn look_at(database: &Connected, job: &JobConfig) -> Result<Vec<(Severity, String)>, Error> {
    match cleanup(job, database.clone()).begin().await {
        Ok(run) => {
            let warnings = run.warnings().iter();
            let warnings = warnings.map(|text| (Severity::Warning, text.clone()));
            let found = warnings.collect();
            run.end().await;
            Ok(found)
        }
        Err(error) if error.kind == ErrorKind::Permanent => {
            Ok(vec![(Severity::Error, error.message)])
        }
        Err(error) => Err(error),
    }
}
