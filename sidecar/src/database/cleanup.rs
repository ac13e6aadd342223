//! A job that deletes rows of a table, or sets their columns, in batches.

use super::backlog;
use super::claim::{self, Claimed, Former, Holder};
use super::connect::Database;
use super::doubt;
use super::error::Error;
use super::fit::{Misfit, misfit};
use super::identifier::Identifier;
use super::load;
use super::preset::Preset;
use super::query::{Values, bound, number, unexpected};
use super::reading::Moment;
use super::spec::{Condition, Spec};
use super::sql::{Begin, End, Statement, Which};
use super::table::{self, Table};
use super::walk::{Found, Walk};
use crate::jobs::others::Look;
use crate::jobs::{self, Backlog, Batch, ErrorKind, Job, Left, Preview, Run, Sample};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

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

/// A run with its own connection, which holds the claim and is closed at the end.
#[derive(Debug)]
pub struct CleanupRun {
    connection: PgConnection,
    _place: OwnedSemaphorePermit,
    database: Database,
    spec: Spec,
    table: Table,
    walk: Walk,
    claim: String,
    former: Arc<Former>,
    warnings: Vec<String>,
}

impl Job for Cleanup {
    type Run = CleanupRun;

    async fn begin(&self) -> Result<CleanupRun, jobs::Error> {
        let place = self.database.place().await;
        // However the run ends, closing the connection releases the claim.
        let mut connection = self.database.connect().await?;
        let (table, warnings) = table::find(&self.database, &mut connection, &self.spec).await?;
        self.check_fit(&mut connection, &table).await?;
        let run = CleanupRun {
            spec: self.spec.clone(),
            table,
            walk: Walk::default(),
            claim: format!("levee/job/{}/{}", self.name, self.spec.quoted_table()),
            former: self.former.clone(),
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
        for begin in [Begin::First, Begin::From] {
            let statement = run.spec.batch(&run.table, begin, Which::All);
            let explain = Statement {
                text: format!("EXPLAIN {}", statement.text),
                parameters: statement.parameters,
            };
            let values = Values {
                size: 1,
                ..Values::default()
            };
            let explained = bound(&explain, values).execute(&mut run.connection);
            self.database.bounded(explained).await?;
        }
        let missing =
            backlog::missing_index(&self.database, &mut run.connection, &run.spec, &run.table);
        run.warnings.extend(missing.await?);
        Ok(run)
    }
}

impl Run for CleanupRun {
    async fn claim(&mut self) -> Result<(), jobs::Error> {
        let Some(statements) = self.database.dialect.claim_job() else {
            return Ok(());
        };
        let patience = self.database.longest();
        let (connection, key) = (&mut self.connection, &self.claim);
        let message = match claim::take(connection, statements, key, &self.former, patience).await?
        {
            Claimed::Here { .. } => return Ok(()),
            Claimed::Elsewhere(None) => "another instance is running it".to_owned(),
            Claimed::Elsewhere(Some(Holder {
                process, client, ..
            })) => format!("another instance is running it (process {process} of {client:?})"),
        };
        Err(jobs::Error {
            kind: ErrorKind::Elsewhere,
            message,
        })
    }

    async fn hold(&mut self) {
        // If that fails, so does the next batch, which says it.
        let _ = self.database.bounded(self.connection.ping()).await;
    }

    async fn batch(&mut self, most: u32) -> Result<Batch, jobs::Error> {
        loop {
            let size = self.walk.size(most);
            let found = if self.walk.is_at_one() {
                self.handle_one().await
            } else {
                self.handle(size).await
            };
            match found {
                Ok(found) => {
                    let is_last = self.walk.found(size, most, &found);
                    let Found {
                        rows, left, work, ..
                    } = found;
                    return Ok(Batch {
                        rows,
                        left,
                        work,
                        is_last,
                    });
                }
                Err(Error::Row(_)) => self.walk.failed(size),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn preview(&mut self) -> Result<Preview, jobs::Error> {
        let count = self.spec.count(&self.table);
        let count = bound(&count, Values::default()).fetch_one(&mut self.connection);
        let rows = number(&self.database.bounded(count).await?, 0)?;
        Ok(Preview {
            rows,
            oldest: self.sample(End::Oldest).await?,
            newest: self.sample(End::Newest).await?,
        })
    }

    async fn backlog(&mut self) -> Result<Option<Backlog>, jobs::Error> {
        let backlog = backlog::estimate(
            &self.database,
            &mut self.connection,
            &self.spec,
            &self.table,
        );
        Ok(backlog.await?)
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    async fn end(self) {
        // The server holds the claim until it has seen the connection close.
        let _ = self.database.bounded(self.connection.close()).await;
    }

    async fn look(&mut self) -> Option<Look> {
        load::look(&self.database, &mut self.connection).await
    }

    async fn lag(&mut self) -> Option<Duration> {
        let lag = self.database.dialect.replica_lag()?;
        let lag = sqlx::query_scalar::<_, Option<f64>>(lag)
            .persistent(false)
            .fetch_one(&mut self.connection);
        let seconds = self.database.bounded(lag).await.ok()??;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

impl CleanupRun {
    /// Handles a batch.
    async fn handle(&mut self, size: u32) -> Result<Found, Error> {
        let keys = self.walk.passed_by();
        let statement = self.statement(Spec::batch, &keys);
        let values = Values {
            size,
            from: self.walk.from(),
            keys: &keys,
        };
        let done = bound(&statement, values).fetch_one(&mut self.connection);
        read_found(&self.database.bounded(done).await?)
    }

    /// Handles one row, so that it is known which one it is that can't be handled.
    async fn handle_one(&mut self) -> Result<Found, Error> {
        let passed_by = self.walk.passed_by();
        let pick = self.statement(Spec::pick, &passed_by);
        let batch = self.spec.batch(&self.table, self.begin(), Which::These);
        let (database, from) = (&self.database, self.walk.from());
        let mut transaction = database.bounded(self.connection.begin()).await?;
        let values = Values {
            size: 1,
            from,
            keys: &passed_by,
        };
        let picked = bound(&pick, values).fetch_optional(&mut *transaction);
        let Some(picked) = database.bounded(picked).await? else {
            return Ok(Found::default());
        };
        let read = || Ok((picked.try_get(0)?, picked.try_get(1)?));
        let (key, last): (String, Option<String>) = read().map_err(|error| unexpected(&error))?;
        let keys = vec![key];
        let values = Values {
            keys: &keys,
            ..values
        };
        let done = async {
            let done = bound(&batch, values).fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(done)
        };
        match database.bounded(done).await {
            Ok(done) => read_found(&done),
            // The transaction was rolled back.
            Err(Error::Row(why)) => Ok(Found {
                rows: 0,
                found: 1,
                last,
                work: None,
                left: keys
                    .into_iter()
                    .map(|key| Left {
                        key,
                        why: why.clone(),
                    })
                    .collect(),
            }),
            Err(error) => Err(error),
        }
    }

    fn begin(&self) -> Begin {
        match self.walk.from() {
            None => Begin::First,
            Some(_) => Begin::From,
        }
    }

    fn statement(
        &self,
        write: fn(&Spec, &Table, Begin, Which) -> Statement,
        passed_by: &[String],
    ) -> Statement {
        let which = match passed_by {
            [] => Which::All,
            _ => Which::Others,
        };
        write(&self.spec, &self.table, self.begin(), which)
    }

    async fn sample(&mut self, end: End) -> Result<Option<Sample>, Error> {
        let statement = self.spec.end(&self.table, end);
        let row = bound(&statement, Values::default()).fetch_optional(&mut self.connection);
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

/// The answer to a batch.
fn read_found(row: &PgRow) -> Result<Found, Error> {
    let read = || Ok((row.try_get(2)?, row.try_get(3)?, row.try_get(4)?));
    let (last, kept, seconds): (Option<String>, Option<Vec<String>>, Option<f64>) =
        read().map_err(|error| unexpected(&error))?;
    let left = kept.unwrap_or_default().into_iter().map(|key| Left {
        key,
        why: "a trigger keeps it".to_owned(),
    });
    Ok(Found {
        rows: number(row, 0)?,
        found: number(row, 1)?,
        work: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        last,
        left: left.collect(),
    })
}
