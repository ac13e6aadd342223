//! A claim: an advisory lock on a connection, for what one instance at a time may do. A connection that was lost in silence
//! keeps its lock for as long as the server takes it for alive, so a claim is taken over from a session that is silent.

use super::connect::within;
use super::dialect::ClaimStatements;
use super::error::Error;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a holder shows that it is alive.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);

/// How long a holder's session may be idle. Then it has missed two renewals.
const SILENCE: Duration = Duration::from_secs(3);

/// How often, and after which pauses, to try again once the holder's session was ended.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// A session that holds a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process and start of the session.
    session: String,
    pub process: String,
    pub role: String,
    /// The client's address.
    pub client: String,
}

/// The session that held the claim last for this instance. If the connection to it is lost, only this instance knows that
/// nobody uses it any more.
#[derive(Debug, Default)]
pub struct Former(Mutex<Option<String>>);

impl Former {
    fn get(&self) -> Option<String> {
        let session = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        session.clone()
    }

    fn set(&self, session: &str) {
        let mut former = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if former.as_deref() != Some(session) {
            *former = Some(session.to_owned());
        }
    }
}

/// The result of an attempt to take a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    Here {
        holder: Holder,
        /// The holder whose silent session was ended.
        from: Option<Holder>,
    },
    /// `None`: it can't be seen who has it.
    Elsewhere(Option<Holder>),
}

/// An attempt, or the answer to who holds it.
struct Attempt {
    holder: Holder,
    is_held: bool,
}

impl FromRow<'_, PgRow> for Holder {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            session: row.try_get("session")?,
            process: row.try_get("process")?,
            role: row.try_get("role")?,
            client: row.try_get("client")?,
        })
    }
}

impl FromRow<'_, PgRow> for Attempt {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            holder: Holder::from_row(row)?,
            is_held: row.try_get("is_held")?,
        })
    }
}

/// Another session that holds the claim.
struct Other {
    holder: Holder,
    /// Levee's own kind, and idle for too long.
    is_silent: bool,
    /// `session`, and when it became idle.
    state: String,
}

impl FromRow<'_, PgRow> for Other {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            holder: Holder::from_row(row)?,
            is_silent: row.try_get("is_silent")?,
            state: row.try_get("state")?,
        })
    }
}

/// Takes the claim named `key` for the connection, or keeps it. Ends the session that holds it if it is this instance's
/// former one, or silent. Each statement may take `patience`.
///
/// # Errors
/// A statement failed or took too long.
pub async fn take(
    connection: &mut PgConnection,
    statements: ClaimStatements,
    key: &str,
    former: &Former,
    patience: Duration,
) -> Result<Claimed, Error> {
    let mut from = None;
    let mut other = None;
    for _ in 0..TRIES {
        let attempt = sqlx::query_as::<_, Attempt>(statements.take)
            .bind(key)
            .persistent(false)
            .fetch_one(&mut *connection);
        let Attempt { holder, is_held } = within(patience, attempt).await?;
        if is_held {
            former.set(&holder.session);
            return Ok(Claimed::Here { holder, from });
        }
        if from.is_none() {
            let found = find_other(connection, statements, key, patience).await?;
            let is_ended = match &found {
                Some(other) => end(connection, statements, other, former, patience).await?,
                // It has just been released.
                None => false,
            };
            let found = found.map(|other| other.holder);
            if is_ended {
                from = found;
            } else {
                return Ok(Claimed::Elsewhere(found));
            }
        } else {
            other.clone_from(&from);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Claimed::Elsewhere(other))
}

async fn find_other(
    connection: &mut PgConnection,
    statements: ClaimStatements,
    key: &str,
    patience: Duration,
) -> Result<Option<Other>, Error> {
    let other = sqlx::query_as::<_, Other>(statements.other)
        .bind(key)
        .bind(SILENCE.as_secs_f64())
        .persistent(false)
        .fetch_optional(connection);
    within(patience, other).await
}

/// Ends the session of `other` if it may be ended, and still is as it was seen. Returns whether it was.
async fn end(
    connection: &mut PgConnection,
    statements: ClaimStatements,
    other: &Other,
    former: &Former,
    patience: Duration,
) -> Result<bool, Error> {
    let is_former = former.get().as_ref() == Some(&other.holder.session);
    let (statement, seen) = match (is_former, other.is_silent) {
        (true, _) => (statements.end_session, &other.holder.session),
        (false, true) => (statements.end_silent, &other.state),
        (false, false) => return Ok(false),
    };
    let ended = sqlx::query_scalar::<_, bool>(statement)
        .bind(&other.holder.process)
        .bind(seen)
        .persistent(false)
        .fetch_optional(connection);
    Ok(within(patience, ended).await? == Some(true))
}
