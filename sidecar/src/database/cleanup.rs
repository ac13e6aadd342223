//! A job that deletes rows of a table, or sets their columns, in batches.

use super::backlog;
use super::claim::Former;
use super::connect::Database;
use super::doubt;
use super::error::Error;
use super::fit::{Misfit, misfit};
use super::identifier::Identifier;
use super::preset::Preset;
use super::reading::Moment;
use super::run::{ClaimOf, CleanupRun, Findings};
use super::spec::{Condition, Spec};
use super::surprises;
use super::table::{self, Table};
use crate::jobs::{self, ErrorKind, Job};
use sqlx::postgres::PgConnection;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Cleanup {
    /// Instances whose jobs have the same name and table take turns.
    pub name: String,
    pub preset: Option<&'static Preset>,
    pub spec: Spec,
    pub database: Database,
    /// The session of the run before.
    pub former: Arc<Former>,
}

impl Job for Cleanup {
    type Run = CleanupRun;

    async fn begin(&self) -> Result<CleanupRun, jobs::Error> {
        let place = self.database.place().await;
        // However the run ends, closing the connection releases the claim.
        let mut connection = self.database.connect().await?;
        let table = table::find(&self.database, &mut connection, &self.spec).await?;
        let shape = table::shape(&mut connection, &self.spec, &table);
        let shape = self.database.bounded(shape).await?;
        if table::find(&self.database, &mut connection, &self.spec).await? != table {
            return Err(jobs::Error::from(Error::Transient(format!(
                "{} was changed while it was looked at",
                table.name
            ))));
        }
        self.check_fit(&mut connection, &table).await?;
        let database = self.database.clone();
        let spec = &self.spec;
        let missing_index = backlog::plan_batches(&database, &mut connection, spec, &table).await?;
        let warnings = surprises::warnings(&database, &mut connection, spec, &table).await?;
        let claim = format!("levee/job/{}/{}", self.name, self.spec.quoted_table());
        Ok(CleanupRun::new(
            connection,
            place,
            database,
            self.spec.clone(),
            table,
            ClaimOf {
                key: claim,
                former: self.former.clone(),
            },
            Findings {
                warnings,
                missing_index,
                shape,
            },
        ))
    }
}

impl From<Error> for jobs::Error {
    fn from(error: Error) -> Self {
        let (kind, message) = match error {
            Error::Transient(message) => (ErrorKind::Transient, message),
            Error::Busy(message) => (ErrorKind::Busy, message),
            Error::Timeout(message) => (ErrorKind::Slow, message),
            Error::Row(message) | Error::Permanent(message) => (ErrorKind::Permanent, message),
        };
        Self { kind, message }
    }
}

impl Cleanup {
    /// Refuses what doesn't fit the table, or leaves open which rows are meant.
    async fn check_fit(&self, connection: &mut PgConnection, table: &Table) -> Result<(), Error> {
        let name = &table.name;
        let message = match misfit(&self.spec, table) {
            None => return self.check_reading(connection, table).await,
            Some(Misfit::Missing(columns)) => {
                let missing: Vec<String> = columns.iter().map(Identifier::quoted).collect();
                let known: Vec<&str> = table.types.keys().map(String::as_str).collect();
                format!(
                    "table {name} has no column {}; it has: {}",
                    missing.join(", "),
                    known.join(", ")
                )
            }
            Some(Misfit::Moving(column)) => format!(
                "a value for column {} is a word that means another time at each batch; give a time, or, under set, {{ago: 0s}} for \
                 the current one",
                column.quoted()
            ),
            Some(Misfit::Unreadable { column, why }) => {
                doubt::refusal(&self.database, connection, &self.spec, table, &column, why).await?
            }
        };
        Err(Error::Permanent(message))
    }

    /// Refuses a zone or a unit that can't be right.
    async fn check_reading(
        &self,
        connection: &mut PgConnection,
        table: &Table,
    ) -> Result<(), Error> {
        if let Some(zone) = &self.spec.reading.zone {
            doubt::check_zone(&self.database, connection, zone).await?;
        }
        for condition in &self.spec.conditions {
            if let Condition::Before(column, _) = condition
                && let Ok(Moment::Number(unit)) = self.spec.reading.of(table.type_of(column))
            {
                doubt::check_unit(&self.database, connection, table, column, unit).await?;
            }
        }
        Ok(())
    }
}
