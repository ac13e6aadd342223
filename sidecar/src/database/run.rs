//! One run of a cleanup job: its connection, its claim, and its batches.

use super::backlog;
use super::claim::{self, Claimed, Former, Holder};
use super::connect::Database;
use super::error::Error;
use super::load;
use super::query::{Values, bound, number, unexpected};
use super::spec::Spec;
use super::sql::{Begin, End, Statement, Which};
use super::table::{self, Table};
use super::walk::{Found, Walk};
use crate::jobs::others::Look;
use crate::jobs::{self, Backlog, Batch, Left, Preview, Run, Sample};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// How many small steps a batch takes while it looks for rows that can't be handled.
const MOST_STEPS: u32 = 64;

/// How many rows may fail for reasons that need not be their own before one was handled: then it is not the rows.
const MOST_SUSPECTS: u32 = 100;

/// The same for rows that take too long, or that somebody else locks.
const MOST_SLOW_SUSPECTS: u32 = 3;

/// What the run claims.
#[derive(Debug)]
pub struct ClaimOf {
    pub key: String,
    /// The session of the run before.
    pub former: Arc<Former>,
}

/// What was found out about the job before its first batch.
#[derive(Debug)]
pub struct Findings {
    pub warnings: Vec<String>,
    /// Each batch reads all of the table; a warning that says which index mends that.
    pub missing_index: Option<String>,
    /// The table's [`shape`](table::shape).
    pub shape: Option<String>,
}

/// A run with its own connection, which holds the claim and is closed at the end.
#[derive(Debug)]
pub struct CleanupRun {
    connection: PgConnection,
    _place: OwnedSemaphorePermit,
    database: Database,
    spec: Spec,
    table: Table,
    /// The table's shape when the run began.
    shape: Option<String>,
    claim: ClaimOf,
    warnings: Vec<String>,
    reads_all: bool,
    walk: Walk,
    handled: u64,
    suspects: Suspects,
}

/// Rows that failed for reasons that need not be their own.
#[derive(Debug, Default)]
struct Suspects {
    count: u32,
    slow: u32,
    last: Option<Error>,
}

impl Suspects {
    /// Takes the failure of a single row. Returns it if it can't be the row's.
    fn add(&mut self, error: &Error, handled: u64) -> Result<(), Error> {
        let is_slow = match error {
            Error::Row(_) => return Ok(()),
            Error::Transient(_) => return Err(error.clone()),
            Error::Permanent(_) => false,
            Error::Timeout(_) | Error::Busy(_) => true,
        };
        self.count += 1;
        self.slow += u32::from(is_slow);
        self.last = Some(error.clone());
        let is_too_many = self.count >= MOST_SUSPECTS || self.slow >= MOST_SLOW_SUSPECTS;
        if handled == 0 && is_too_many {
            return Err(error.clone());
        }
        Ok(())
    }
}

impl Run for CleanupRun {
    async fn claim(&mut self) -> Result<(), jobs::Error> {
        let Some(statements) = self.database.dialect.claim_job() else {
            return Ok(());
        };
        let patience = self.database.longest();
        let ClaimOf { key, former } = &self.claim;
        let connection = &mut self.connection;
        let message = match claim::take(connection, statements, key, former, patience).await? {
            Claimed::Here { .. } => return Ok(()),
            Claimed::Elsewhere(None) => "another instance is running it".to_owned(),
            Claimed::Elsewhere(Some(Holder {
                process, client, ..
            })) => format!("another instance is running it (process {process} of {client:?})"),
        };
        Err(jobs::Error {
            kind: jobs::ErrorKind::Elsewhere,
            message,
        })
    }

    async fn hold(&mut self) {
        // If that fails, so does the next batch, which says it.
        let _ = self.database.bounded(self.connection.ping()).await;
    }

    async fn batch(&mut self, most: u32) -> Result<Batch, jobs::Error> {
        let mut batch = Batch::default();
        let (mut looked, mut steps) = (0, 0);
        loop {
            steps += 1;
            let room = most - looked;
            let size = self.walk.size(room);
            let found = match self.step(size).await {
                Ok(found) => found,
                Err(Error::Row(_) | Error::Permanent(_)) if !self.walk.is_at_one() => {
                    self.walk.failed(size);
                    continue;
                }
                Err(error) => {
                    if matches!(error, Error::Timeout(_) | Error::Busy(_)) {
                        self.walk.failed_slowly(size);
                    }
                    // What was done before counts. If the error stays, the next batch meets it.
                    return match looked {
                        0 => Err(error.into()),
                        _ => Ok(batch),
                    };
                }
            };
            let is_last = self.walk.found(size, most, &found);
            self.handled += found.rows;
            looked = looked.saturating_add(u32::try_from(found.found).unwrap_or(u32::MAX));
            self.add(&mut batch, found);
            let is_done = looked >= most || steps >= MOST_STEPS;
            if is_last {
                self.check_suspects()?;
            }
            if is_last || is_done || !self.walk.is_careful() {
                return Ok(Batch { is_last, ..batch });
            }
        }
    }

    async fn preview(&mut self) -> Result<Preview, jobs::Error> {
        let count = self.spec.count(&self.table);
        let count = bound(&count, Values::default()).fetch_one(&mut self.connection);
        let hint = |error| match error {
            Error::Timeout(message) => Error::Permanent(format!(
                "{message}; to count takes longer than database.statement_timeout: raise that, or create an index on {}",
                self.spec.order.quoted()
            )),
            other => other,
        };
        let rows = number(&self.database.bounded(count).await.map_err(hint)?, 0)?;
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

    fn reads_all(&self) -> bool {
        self.reads_all
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
    pub fn new(
        connection: PgConnection,
        place: OwnedSemaphorePermit,
        database: Database,
        spec: Spec,
        table: Table,
        claim: ClaimOf,
        findings: Findings,
    ) -> Self {
        let Findings {
            mut warnings,
            missing_index,
            shape,
        } = findings;
        let reads_all = missing_index.is_some();
        warnings.extend(missing_index);
        Self {
            connection,
            _place: place,
            database,
            spec,
            table,
            shape,
            claim,
            warnings,
            reads_all,
            walk: Walk::default(),
            handled: 0,
            suspects: Suspects::default(),
        }
    }

    async fn step(&mut self, size: u32) -> Result<Found, Error> {
        if self.walk.is_at_one() {
            self.handle_one().await
        } else {
            self.handle(size).await
        }
    }

    /// Adds what a step found to the batch.
    fn add(&self, batch: &mut Batch, found: Found) {
        batch.rows += found.rows;
        batch.work = match (batch.work, found.work) {
            (Some(before), Some(more)) => Some(before + more),
            (before, more) => before.or(more),
        };
        let is_single = self.spec.key.len() == 1;
        let left = found.left.into_iter().map(|Left { key, why }| {
            let inner = key.strip_prefix('(').and_then(|key| key.strip_suffix(')'));
            let shown = inner.filter(|_| is_single).map(str::to_owned);
            Left {
                key: shown.unwrap_or(key),
                why,
            }
        });
        batch.left.extend(left);
    }

    /// A run that could handle no row at all, for reasons that need not be the rows', has failed.
    fn check_suspects(&mut self) -> Result<(), Error> {
        match self.suspects.last.take() {
            Some(error) if self.handled == 0 => Err(error),
            _ => Ok(()),
        }
    }

    /// Handles a batch.
    async fn handle(&mut self, size: u32) -> Result<Found, Error> {
        let keys = self.walk.passed_by();
        let statement = self.statement(Spec::batch, &keys);
        let values = Values {
            size,
            from: self.walk.from(),
            keys: &keys,
        };
        let done = async {
            let mut transaction = self.connection.begin().await?;
            let done = bound(&statement, values)
                .fetch_one(&mut *transaction)
                .await?;
            if table::shape(&mut transaction, &self.spec, &self.table).await? != self.shape {
                return Ok(None);
            }
            transaction.commit().await?;
            Ok(Some(done))
        };
        let done = self.database.bounded(done).await?;
        read_found(&done.ok_or_else(|| table_has_changed(&self.table))?)
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
        let keys = [key];
        let values = Values {
            keys: &keys,
            ..values
        };
        let done = async {
            let done = bound(&batch, values).fetch_one(&mut *transaction).await?;
            if table::shape(&mut transaction, &self.spec, &self.table).await? != self.shape {
                return Ok(None);
            }
            transaction.commit().await?;
            Ok(Some(done))
        };
        let error = match database.bounded(done).await {
            Ok(Some(done)) => return read_found(&done),
            Ok(None) => return Err(table_has_changed(&self.table)),
            // The transaction was rolled back.
            Err(error) => error,
        };
        self.suspects.add(&error, self.handled)?;
        let [key] = keys;
        let why = error.to_string();
        Ok(Found {
            rows: 0,
            found: 1,
            last,
            work: None,
            left: vec![Left { key, why }],
        })
    }

    const fn begin(&self) -> Begin {
        if self.walk.is_at_first() {
            Begin::First
        } else {
            Begin::From
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

/// What was read of the table before the run is no longer so: its times may mean something else now.
fn table_has_changed(table: &Table) -> Error {
    Error::Permanent(format!(
        "{} has changed since the run began: it is another table, or a column has another type; the batch was rolled \
         back, and the next run looks at the table anew",
        table.name
    ))
}

/// The answer to a batch.
fn read_found(row: &PgRow) -> Result<Found, Error> {
    let read = || Ok((row.try_get(2)?, row.try_get(3)?, row.try_get(4)?));
    let (last, kept, seconds): (Option<String>, Option<Vec<String>>, Option<f64>) =
        read().map_err(|error| unexpected(&error))?;
    let left = kept.unwrap_or_default().into_iter().map(|key| Left {
        key,
        why: "a trigger or a policy keeps it".to_owned(),
    });
    Ok(Found {
        rows: number(row, 0)?,
        found: number(row, 1)?,
        work: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        last,
        left: left.collect(),
    })
}
