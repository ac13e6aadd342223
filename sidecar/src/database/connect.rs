//! Levee's own connections to the database: few, bounded in all, and never without a `statement_timeout`.

use super::sql::Dialect;
use crate::jobs::{Error, Kind};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What Levee's connections call themselves. The watchdog leaves them alone.
pub const APPLICATION_NAME: &str = "levee";

/// How long a statement waits for a lock, such as that of a migration: less than a stop may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection is waited for: a server that is starting has so long.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// The server ends a statement at its timeout. A network that swallows everything needs a clock on this side too,
/// and that one must not be quicker.
const GRACE: Duration = Duration::from_secs(5);

/// A database.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its connections.
    pub pool: PgPool,
    /// How it speaks.
    pub dialect: Dialect,
    /// The longest that a statement may take.
    pub statement_timeout: Duration,
    places: Arc<Semaphore>,
}

impl Database {
    /// Connections that are made when they are needed.
    pub fn new(
        options: PgConnectOptions,
        dialect: Dialect,
        connections: u32,
        statement_timeout: Duration,
    ) -> Self {
        let mut settings = format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}",
            statement_timeout.as_millis(),
            LOCK_TIMEOUT.min(statement_timeout).as_millis(),
            Duration::from_mins(1).as_millis(),
        );
        if dialect == Dialect::Postgres {
            // A server that has lost us must notice: it holds our claim until then.
            settings.push_str(
                "; SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3",
            );
        }
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .max_lifetime(Duration::from_hours(1))
            .idle_timeout(Duration::from_mins(30))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(true)
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move {
                    // One after the other: a pooler in between may not take several statements at once.
                    for setting in settings.split("; ") {
                        sqlx::query(AssertSqlSafe(setting.to_owned()))
                            .persistent(false)
                            .execute(&mut *connection)
                            .await?;
                    }
                    connection.ping().await
                })
            })
            .connect_lazy_with(
                options
                    .application_name(APPLICATION_NAME)
                    .disable_statement_logging(),
            );
        Self {
            pool,
            dialect,
            statement_timeout,
            places: Arc::new(Semaphore::new(connections as usize)),
        }
    }

    /// Waits until a connection may be had, however long others keep theirs.
    ///
    /// # Panics
    /// Never: the places are not closed.
    pub async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("nobody closes it")
    }

    /// Waits for `step`, but not longer than the server may take.
    ///
    /// # Errors
    /// Those of `step`, in words, and its being too long.
    pub async fn bounded<T>(
        &self,
        step: impl Future<Output = Result<T, sqlx::Error>> + Send,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.statement_timeout + GRACE, step).await {
            Ok(result) => result.map_err(|error| explain(&error)),
            Err(_) => Err(Error {
                kind: Kind::Transient,
                message: format!(
                    "no answer from the database within {}",
                    humantime::format_duration(self.statement_timeout + GRACE)
                ),
            }),
        }
    }
}

/// What went wrong, and what to do about it
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub fn explain(error: &sqlx::Error) -> Error {
    let sqlx::Error::Database(told) = error else {
        let message = match error {
            // Until then the driver tries again what may pass: that it is refused, that the server is full or starting.
            sqlx::Error::PoolTimedOut => format!(
                "the database can't be reached: no connection within {}; is it up, are host and port of the URL right, and \
                 has it connections left (max_connections)?",
                humantime::format_duration(ACQUIRE_TIMEOUT)
            ),
            sqlx::Error::Io(why) => format!("the connection to the database failed: {why}"),
            other => format!("the database: {other}"),
        };
        return Error {
            kind: Kind::Transient,
            message,
        };
    };
    let code = told.code().unwrap_or_default();
    let hint = match &*code {
        "25006" => "; is this a replica? Levee needs the primary",
        "42501" => "; grant it to the role that Levee logs in as",
        "28P01" | "28000" => "; see the URL that database.url_env or url_file names",
        _ => "",
    };
    Error {
        kind: kind_of(&code),
        message: format!("{} (SQLSTATE {code}){hint}", told.message()),
    }
}

/// What to do about an error with this SQLSTATE.
fn kind_of(code: &str) -> Kind {
    match code {
        // Serialisation failure, not known whether it was done, deadlock, lock not available; the server is ending,
        // starting, or full. A batch that was done after all is not found again.
        // CockroachDB: data or nodes can't be reached (58C..).
        "40001" | "40003" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03" | "53300" | "58C00"
        | "58C01" => Kind::Transient,
        code if code.starts_with("08") => Kind::Transient,
        "57014" => Kind::Slow,
        _ => Kind::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        for (codes, kind) in [
            (
                &[
                    "40001", "40003", "40P01", "55P03", "57P03", "08006", "58C00",
                ][..],
                Kind::Transient,
            ),
            (&["57014"], Kind::Slow),
            (
                &["25006", "42501", "42P01", "23503", "28P01"],
                Kind::Permanent,
            ),
        ] {
            for code in codes {
                assert_eq!(kind_of(code), kind, "{code}");
            }
        }
    }
}
