//! Levee's own connections to the database: few, bounded in all, and never without a `statement_timeout`.

use super::CONNECT_TIMEOUT;
use super::dialect::Dialect;
use super::error::{self, Error};
use super::pooler::{self, Route};
use super::watchdog::APPLICATION_NAME;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a statement waits for a lock, such as that of a migration: shorter than a stop may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// The server ends a statement at its timeout. If the network drops everything, this side must give up too, but not
/// before the server does.
const GRACE: Duration = Duration::from_secs(5);

/// The wait between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// See [`transactions_so_far`].
static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
pub struct Database {
    pub dialect: Dialect,
    pub statement_timeout: Duration,
    options: PgConnectOptions,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Database {
    /// Without the options, which hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("dialect", &self.dialect)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// At most `connections` connections at a time, for those that wait for a [`place`](Self::place).
    pub fn new(
        options: PgConnectOptions,
        dialect: Dialect,
        connections: u32,
        statement_timeout: Duration,
    ) -> Self {
        Self {
            dialect,
            statement_timeout,
            options: own_options(options),
            places: Arc::new(Semaphore::new(connections as usize)),
        }
    }

    /// The same with other options.
    #[must_use]
    pub fn with(&self, options: PgConnectOptions) -> Self {
        Self {
            options: own_options(options),
            ..self.clone()
        }
    }

    /// Waits until fewer than the most connections are used, however long others keep theirs.
    ///
    /// # Panics
    /// Never: the places are not closed.
    pub async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("the places are never closed")
    }

    /// A new connection, with its settings. Dropping it closes it.
    ///
    /// # Errors
    /// The server can't be reached within [`CONNECT_TIMEOUT`], or refuses, or a pooler is in between that gives each
    /// transaction another session.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        let mut last = None;
        match tokio::time::timeout(CONNECT_TIMEOUT, self.establish(&mut last)).await {
            Ok(connection) => connection,
            Err(_) => Err(error::unreachable(last.as_ref())),
        }
    }

    /// Tries again while the server refuses connections, starts or is full. `last` is the latest such error.
    async fn establish(&self, last: &mut Option<sqlx::Error>) -> Result<PgConnection, Error> {
        let (mut connection, route) = loop {
            match self.open().await {
                Ok(opened) => break opened,
                Err(error) if error::passes_soon(&error) => *last = Some(error),
                Err(error) => return Err(Error::from(&error)),
            }
            tokio::time::sleep(PAUSE).await;
        };
        // First, since a pooler would give the settings to others.
        if route == Route::Pooled {
            pooler::refuse(&mut connection, &self.options).await?;
        }
        self.set_up(&mut connection)
            .await
            .map_err(|error| Error::from(&error))?;
        Ok(connection)
    }

    async fn open(&self) -> sqlx::Result<(PgConnection, Route)> {
        if self.dialect.has_sessions_to_share() {
            pooler::open(&self.options).await
        } else {
            let connection = PgConnection::connect_with(&self.options).await?;
            Ok((connection, Route::Direct))
        }
    }

    async fn set_up(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let timeouts = [
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", LOCK_TIMEOUT.min(self.statement_timeout)),
            (
                "idle_in_transaction_session_timeout",
                Duration::from_mins(1),
            ),
        ];
        let timeouts = timeouts
            .into_iter()
            .map(|(name, value)| format!("SET {name} = {}", value.as_millis()));
        let version = connection.server_version_num().unwrap_or(0);
        let others = self.dialect.connection_settings(version).into_iter();
        // One by one: CockroachDB refuses some of them in one message.
        for setting in timeouts.chain(others.map(str::to_owned)) {
            count_statement();
            sqlx::query(AssertSqlSafe(setting))
                .persistent(false)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// The longest that a statement may take: a little longer than the server gives it.
    pub fn longest(&self) -> Duration {
        self.statement_timeout + GRACE
    }

    /// Waits for `step`, at most [`longest`](Self::longest).
    ///
    /// # Errors
    /// `step` failed or took too long.
    pub async fn bounded<T>(
        &self,
        step: impl Future<Output = Result<T, sqlx::Error>> + Send,
    ) -> Result<T, Error> {
        within(self.longest(), step).await
    }
}

/// The options of each connection of Levee's own.
pub fn own_options(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name(APPLICATION_NAME)
        // PgBouncer refuses it unless it is configured to ignore it, and floats need no such setting any more.
        .extra_float_digits(None)
        .disable_statement_logging()
}

/// About how many transactions this process has had.
pub fn transactions_so_far() -> u64 {
    TRANSACTIONS.load(Ordering::Relaxed)
}

/// The driver prepares a statement in a transaction of its own.
fn count_statement() {
    TRANSACTIONS.fetch_add(2, Ordering::Relaxed);
}

/// Waits for `step`, at most `bound`.
///
/// # Errors
/// `step` failed or took too long.
pub async fn within<T>(
    bound: Duration,
    step: impl Future<Output = Result<T, sqlx::Error>> + Send,
) -> Result<T, Error> {
    count_statement();
    match tokio::time::timeout(bound, step).await {
        Ok(result) => result.map_err(|error| Error::from(&error)),
        Err(_) => Err(Error::Transient(format!(
            "no answer from the database within {}",
            humantime::format_duration(bound)
        ))),
    }
}
