//! Levee's own connections to the database: few, bounded in all, and never without a `statement_timeout`.

use super::ACQUIRE_TIMEOUT;
use super::dialect::Dialect;
use super::error::Error;
use super::watchdog::APPLICATION_NAME;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a statement waits for a lock, such as that of a migration: shorter than a stop may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// The server ends a statement at its timeout. If the network drops everything, this side must give up too, but not
/// before the server does.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Database {
    pub pool: PgPool,
    pub dialect: Dialect,
    pub statement_timeout: Duration,
    places: Arc<Semaphore>,
}

impl Database {
    /// At most `connections` connections, made when needed.
    pub fn new(
        options: PgConnectOptions,
        dialect: Dialect,
        connections: u32,
        statement_timeout: Duration,
    ) -> Self {
        let timeouts = [
            ("statement_timeout", statement_timeout),
            ("lock_timeout", LOCK_TIMEOUT.min(statement_timeout)),
            (
                "idle_in_transaction_session_timeout",
                Duration::from_mins(1),
            ),
        ];
        let settings: Vec<String> = timeouts
            .into_iter()
            .map(|(name, value)| format!("SET {name} = {}", value.as_millis()))
            .chain(
                dialect
                    .connection_settings()
                    .iter()
                    .map(|setting| (*setting).to_owned()),
            )
            .collect();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .max_lifetime(Duration::from_hours(1))
            .idle_timeout(Duration::from_mins(30))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(true)
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move {
                    // One by one: a pooler in between may not accept several statements at once.
                    for setting in settings {
                        sqlx::query(AssertSqlSafe(setting))
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

    /// Waits for a free connection, however long others keep theirs.
    ///
    /// # Panics
    /// Never: the places are not closed.
    pub async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("the places are never closed")
    }

    /// Waits for `step`, a little longer than the server may take.
    ///
    /// # Errors
    /// `step` failed or took too long.
    pub async fn bounded<T>(
        &self,
        step: impl Future<Output = Result<T, sqlx::Error>> + Send,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.statement_timeout + GRACE, step).await {
            Ok(result) => result.map_err(|error| Error::from(&error)),
            Err(_) => Err(Error::Transient(format!(
                "no answer from the database within {}",
                humantime::format_duration(self.statement_timeout + GRACE)
            ))),
        }
    }
}
