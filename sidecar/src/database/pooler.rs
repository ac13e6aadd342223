//! Notices a pooler that gives each transaction another session of the server, such as `PgBouncer` with
//! `pool_mode = transaction`. There, Levee's locks and settings would stay with sessions that services use later.

use super::error::Error;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};
use std::time::Duration;

/// How long the second connection may take. With a pooler in session mode it may wait for a free session.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often each connection is asked for its session.
const ROUNDS: usize = 3;

const REFUSAL: &str = "a pooler in transaction or statement mode is between Levee and the database: its locks and settings would \
                       stay with sessions that services use later; give Levee a URL that leads to the database itself, or to a \
                       pool in session mode (PgBouncer: pool_mode=session for Levee's user or database)";

/// Refuses `connection` if a second one shares its session, or if its session changes. Sets nothing.
///
/// With a pool of one session both connections get that one; a larger pool gives the one that was used last; and if others
/// use it meanwhile, sessions change.
///
/// # Errors
/// There is such a pooler, or `connection` failed.
pub async fn refuse(
    connection: &mut PgConnection,
    options: &PgConnectOptions,
) -> Result<(), Error> {
    let own = session(connection)
        .await
        .map_err(|error| Error::from(&error))?;
    // A second connection that is refused, or gets no session, says nothing.
    let shared = tokio::time::timeout(PATIENCE, is_shared(connection, own, options));
    match shared.await {
        Ok(Ok(true)) => Err(Error::Permanent(REFUSAL.to_owned())),
        Ok(Ok(false) | Err(_)) | Err(_) => Ok(()),
    }
}

async fn is_shared(
    connection: &mut PgConnection,
    own: i32,
    options: &PgConnectOptions,
) -> sqlx::Result<bool> {
    let mut second = PgConnection::connect_with(options).await?;
    let other = session(&mut second).await?;
    let mut is_shared = other == own;
    for _ in 1..ROUNDS {
        is_shared |= session(connection).await? != own;
        is_shared |= session(&mut second).await? != other;
    }
    second.close().await?;
    Ok(is_shared)
}

/// The process of the server that answers. As a simple query, which a pooler takes for one transaction.
async fn session(connection: &mut PgConnection) -> sqlx::Result<i32> {
    let row = sqlx::raw_sql("SELECT pg_catalog.pg_backend_pid()")
        .fetch_one(connection)
        .await?;
    row.try_get(0)
}
