//! A job that deletes rows of a table, or sets their columns, in batches.

use super::connect::Database;
use super::error::Error;
use super::preset::Preset;
use super::spec::Spec;
use super::sql::{Begin, Parameter, Statement, Type, Types, moving_column};
use crate::jobs::{self, Batch, ErrorKind, Job, Run};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row};
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
    claim: String,
}

impl Job for Cleanup {
    type Run = CleanupRun;

    async fn begin(&self) -> Result<CleanupRun, jobs::Error> {
        let place = self.database.place().await;
        let mut connection = self.database.bounded(self.database.pool.acquire()).await?;
        // However the run ends, closing the connection releases the claim.
        connection.close_on_drop();
        let types = self.types(&mut connection).await?;
        self.check_columns(&types)?;
        self.check_key(&mut connection).await?;
        let run = CleanupRun {
            first: self.spec.batch(&types, Begin::First),
            next: self.spec.batch(&types, Begin::From),
            from: None,
            since_first: 0,
            count: self.spec.count(&types),
            claim: format!("levee/job/{}/{}", self.name, self.spec.quoted_table()),
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
    /// The types of the columns, with and without their lengths: a cast to `varchar(3)`, or to a domain of it, truncates a
    /// value silently, where an assignment or a comparison does not. `"char"` and `name` (18 and 19) always truncate, so
    /// they are treated as text.
    async fn types(&self, connection: &mut PoolConnection<Postgres>) -> Result<Types, Error> {
        let table = self.spec.quoted_table();
        let all = sqlx::query_as::<_, (String, String, String)>(
            "WITH RECURSIVE c (name, type, modifier) AS (\
             SELECT CAST(attname AS text), atttypid, atttypmod FROM pg_catalog.pg_attribute \
             WHERE attrelid = to_regclass($1)::oid AND attnum > 0 AND NOT attisdropped \
             UNION ALL SELECT c.name, t.typbasetype, t.typtypmod FROM c JOIN pg_catalog.pg_type t ON t.oid = c.type \
             WHERE t.typtype = 'd') \
             SELECT c.name, CASE WHEN c.type IN (18, 19) THEN 'text' ELSE format_type(c.type, -1) END, \
             CASE WHEN c.type IN (18, 19) THEN 'text' ELSE format_type(c.type, c.modifier) END \
             FROM c JOIN pg_catalog.pg_type t ON t.oid = c.type WHERE t.typtype <> 'd'",
        )
        .bind(&table)
        .persistent(false)
        .fetch_all(&mut **connection);
        let all = self.database.bounded(all).await?.into_iter();
        let types: Types = all
            .map(|(name, plain, exact)| (name, Type { plain, exact }))
            .collect();
        if types.is_empty() {
            let hint = match self.spec.schema {
                Some(_) => "",
                None => " where the search path looks; give its schema by itself, under schema",
            };
            return Err(Error::Permanent(format!("there is no table {table}{hint}")));
        }
        Ok(types)
    }

    fn check_columns(&self, types: &Types) -> Result<(), Error> {
        let table = self.spec.quoted_table();
        let missing: Vec<String> = self
            .spec
            .columns()
            .iter()
            .filter(|column| !types.contains_key(column.as_str()))
            .map(|column| column.quoted())
            .collect();
        if !missing.is_empty() {
            let known: Vec<&str> = types.keys().map(String::as_str).collect();
            return Err(Error::Permanent(format!(
                "table {table} has no column {}; it has: {}",
                missing.join(", "),
                known.join(", ")
            )));
        }
        if let Some(column) = moving_column(&self.spec, types) {
            return Err(Error::Permanent(format!(
                "column {} would be set again and again, to a word that means another time at each batch; give a time, or \
                 {{ago: 0s}} for the current one",
                column.quoted()
            )));
        }
        Ok(())
    }

    async fn check_key(&self, connection: &mut PoolConnection<Postgres>) -> Result<(), Error> {
        let table = self.spec.quoted_table();
        let unique = sqlx::query_scalar::<_, bool>(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a \
             ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = to_regclass($1)::oid \
             AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1 AND a.attnotnull \
             AND a.attname = $2)",
        )
        .bind(&table)
        .bind(self.spec.key.as_str())
        .persistent(false)
        .fetch_one(&mut **connection);
        if !self.database.bounded(unique).await? {
            return Err(Error::Permanent(format!(
                "column {} of table {table} is not unique by itself, or may be null; the key must be unique and NOT NULL",
                self.spec.key.quoted()
            )));
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

    async fn count(&mut self) -> Result<u64, jobs::Error> {
        let count = bound(&self.count, 0, None).fetch_one(&mut *self.connection);
        Ok(number(&self.database.bounded(count).await?, 0)?)
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

/// The number in a column of a row.
fn number(row: &PgRow, column: usize) -> Result<u64, Error> {
    let number: i64 = row.try_get(column).map_err(|error| unexpected(&error))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn unexpected(error: &sqlx::Error) -> Error {
    Error::Permanent(format!("an unexpected answer: {error}"))
}

/// The statement with its parameters.
fn bound(
    statement: &Statement,
    size: u32,
    from: Option<&str>,
) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    // Not prepared, so it is planned with the values each time: a plan without them may sort all rows for each batch.
    let mut query = sqlx::query(AssertSqlSafe(statement.text.clone())).persistent(false);
    for parameter in &statement.parameters {
        query = match parameter {
            Parameter::Value(value) => query.bind(value.clone()),
            Parameter::Size => query.bind(i64::from(size)),
            Parameter::From => query.bind(from.map(str::to_owned)),
        };
    }
    query
}
