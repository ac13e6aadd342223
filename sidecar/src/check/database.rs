//! What the database says of a `levee.yaml`: whether each job can run there as it is configured.

use super::finding::{Finding, Severity};
use crate::config::Config;
use crate::config::database::Job as JobConfig;
use crate::database::cleanup::Cleanup;
use crate::database::connect::Database as Connected;
use crate::jobs::{Error, ErrorKind, Job, Run};
use crate::parts::database::connect;
use crate::yaml;
use std::sync::Arc;

/// Looks at the table of each job of a configuration without errors. Changes nothing.
///
/// # Errors
/// There is nothing to look at, or the database can't be asked now.
pub async fn look(text: &str) -> Result<Vec<Finding>, String> {
    let document = yaml::parse(text).map_err(|mistake| mistake.message)?;
    let config = Config::read(&document).map_err(|_| "it has errors".to_owned())?;
    let config = config.database.ok_or("it has no section database")?;
    let database = connect(&config, 1);
    let mut findings = Vec::new();
    for job in &config.jobs {
        let path = format!("database.jobs.{}", job.name);
        let line = document.root.line_of(&path);
        let found = look_at(&database, job).await;
        let found = found.map_err(|error| error.message)?;
        findings.extend(found.into_iter().map(|(severity, message)| Finding {
            line,
            path: path.clone(),
            message,
            severity,
            trap: None,
        }));
    }
    Ok(findings)
}

async fn look_at(database: &Connected, job: &JobConfig) -> Result<Vec<(Severity, String)>, Error> {
    let cleanup = Cleanup {
        name: job.name.clone(),
        preset: job.preset,
        spec: job.spec.clone(),
        database: database.clone(),
        former: Arc::default(),
    };
    match cleanup.begin().await {
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
