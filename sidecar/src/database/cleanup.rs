//! A job that deletes rows of a table, or sets their columns, in batches.

use super::connect::Database;
use super::doubt;
use super::error::Error;
use super::fit::{Misfit, misfit};
use super::identifier::Identifier;
use super::preset::Preset;
use super::query::{bound, number, unexpected};
use super::reading::Moment;
use super::spec::{Condition, Spec};
use super::sql::{Begin, End, Statement};
use super::table::{self, Table};
use crate::jobs::{self, Batch, ErrorKind, Job, Preview, Run, Sample};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{Postgres, Row};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

#[derive(Clone, Debug)]
pub struct Cleanup {
    /// Instances whose jobs have the same name and table take turns.
    pub name: String,
    pub preset: Option<&'static Preset>,
    pub spec: Spec,
    pub database: Database,
}

/// A run with its own connection, which holds the claim and is closed at the end.
#[derive(Debug)]
pub struct CleanupRun {
    connection: PoolConnection<Postgres>,
    _place: OwnedSemaphorePermit,
    database: Database,
    first: Statement,
    next: Statement,
    /// Where the next batch begins: at the last row of the previous one. `None`: at the first row.
    from: Option<String>,
    /// Rows handled since it last began at the first row.
    since_first: u64,
    count: Statement,
    oldest: Statement,
    newest: Statement,
    claim: String,
    warnings: Vec<String>,
}

impl Job for Cleanup {
    type Run = CleanupRun;

    async fn begin(&self) -> Result<CleanupRun, jobs::Error> {
        let place = self.database.place().await;
        let mut connection = self.database.bounded(self.database.pool.acquire()).await?;
        // However the run ends, closing the connection releases the claim.
        connection.close_on_drop();
        let (table, warnings) = table::find(&self.database, &mut connection, &self.spec).await?;
        self.check_fit(&mut connection, &table).await?;
        let run = CleanupRun {
            first: self.spec.batch(&table, Begin::First),
            next: self.spec.batch(&table, Begin::From),
            from: None,
            since_first: 0,
            count: self.spec.count(&table),
            oldest: self.spec.end(&table, End::Oldest),
            newest: self.spec.end(&table, End::Newest),
            claim: format!("levee/job/{}/{}", self.name, self.spec.quoted_table()),
            warnings,
            database: self.database.clone(),
            connection,
            _place: place,
        };
        Ok(self.prepared(run).await?)
    }
}

impl From<Error> for jobs::Error {
    fn from(error: Error) -> Self {
        let (kind, message) = match error {
            Error::Transient(message) => (ErrorKind::Transient, message),
            Error::Timeout(message) => (ErrorKind::Slow, message),
            Error::Permanent(message) => (ErrorKind::Permanent, message),
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
                "column {} would be set again and again, to a word that means another time at each batch; give a time, or \
                 {{ago: 0s}} for the current one",
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

    /// Returns the run if the database can plan its statements.
    async fn prepared(&self, mut run: CleanupRun) -> Result<CleanupRun, Error> {
        for statement in [&run.first, &run.next] {
            let explain = Statement {
                text: format!("EXPLAIN {}", statement.text),
                parameters: statement.parameters.clone(),
            };
            let explained = bound(&explain, 1, None).execute(&mut *run.connection);
            self.database.bounded(explained).await?;
        }
        Ok(run)
    }
}

impl Run for CleanupRun {
    async fn claim(&mut self) -> Result<(), jobs::Error> {
        let Some(claim) = self.database.dialect.claim_job() else {
            return Ok(());
        };
        let claim = sqlx::query_scalar::<_, bool>(claim)
            .bind(&self.claim)
            .persistent(false)
            .fetch_one(&mut *self.connection);
        if self.database.bounded(claim).await? {
            return Ok(());
        }
        Err(jobs::Error {
            kind: ErrorKind::Elsewhere,
            message: "another instance is running it".to_owned(),
        })
    }

    async fn batch(&mut self, size: u32) -> Result<Batch, jobs::Error> {
        let statement = match self.from {
            None => &self.first,
            Some(_) => &self.next,
        };
        let query = bound(statement, size, self.from.as_deref());
        let done = query.fetch_one(&mut *self.connection);
        let done = self.database.bounded(done).await?;
        let (rows, found) = (number(&done, 0)?, number(&done, 1)?);
        let last: Option<String> = done.try_get(2).map_err(|error| unexpected(&error))?;
        let was_first = self.from.is_none();
        self.since_first = rows + if was_first { 0 } else { self.since_first };
        // Skip rows that a trigger keeps, unless a whole batch of them has the same position.
        let is_stuck = rows == 0 && last == self.from;
        let is_end = found < u64::from(size) || is_stuck;
        self.from = if is_end { None } else { last };
        // After the last row, start again at the first for rows that were locked, as long as that finds any.
        let is_last = is_end && (was_first || self.since_first == 0);
        Ok(Batch { rows, is_last })
    }

    async fn preview(&mut self) -> Result<Preview, jobs::Error> {
        let count = bound(&self.count, 0, None).fetch_one(&mut *self.connection);
        let rows = number(&self.database.bounded(count).await?, 0)?;
        let oldest = self.oldest.clone();
        let newest = self.newest.clone();
        Ok(Preview {
            rows,
            oldest: self.sample(&oldest).await?,
            newest: self.sample(&newest).await?,
        })
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    async fn end(self) {
        // The server holds the claim until it has seen the connection close.
        let _ = self.database.bounded(self.connection.close()).await;
    }

    async fn lag(&mut self) -> Option<Duration> {
        let lag = self.database.dialect.replica_lag()?;
        let lag = sqlx::query_scalar::<_, Option<f64>>(lag)
            .persistent(false)
            .fetch_one(&mut *self.connection);
        let seconds = self.database.bounded(lag).await.ok()??;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

impl CleanupRun {
    async fn sample(&mut self, statement: &Statement) -> Result<Option<Sample>, Error> {
        let row = bound(statement, 0, None).fetch_optional(&mut *self.connection);
        let Some(row) = self.database.bounded(row).await? else {
            return Ok(None);
        };
        let read = || {
            let age: Option<f64> = row.try_get(2)?;
            let value: Option<String> = row.try_get(1)?;
            Ok(Sample {
                key: row.try_get(0)?,
                value: value.unwrap_or_else(|| "null".to_owned()),
                age: age.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            })
        };
        read().map(Some).map_err(|error| unexpected(&error))
    }
}
