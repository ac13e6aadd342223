//! Notices a pooler that gives each transaction another session of the server, such as `PgBouncer` with
//! `pool_mode = transaction`. There, Levee's locks and settings would stay with sessions that services use later.

use super::error::{Error, POOLER};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The parameter that a session of the server has only if it was made for this connection. It means nothing to the server.
const MARK: &str = "levee.connection";

/// How long the second connection may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it may take to find out whether a connection keeps its session.
const LONGEST: Duration = Duration::from_secs(2);

/// How often each connection is asked for its session, in each round. Sessions that are given in turn have periods, and this
/// has none that a small pool has.
const ROUNDS: [(usize, usize); 6] = [(1, 1), (2, 1), (1, 2), (3, 2), (2, 3), (1, 1)];

/// How often, and after which pauses, the first connection is asked while the second one waits for a session.
const ASKS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);

/// What leads to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nothing that changes what is sent. The connection has its own session.
    Direct,
    Pooled,
}

/// A new connection, and what it leads through. Sets nothing in a session that is not its own.
///
/// # Errors
/// There is none.
pub async fn open(options: &PgConnectOptions) -> sqlx::Result<(PgConnection, Route)> {
    let mark = format!("{:x}", RandomState::new().build_hasher().finish());
    let marked = options.clone().options([(MARK, &mark)]);
    let mut connection = match PgConnection::connect_with(&marked).await {
        Ok(connection) => connection,
        // PgBouncer knows no such parameter.
        Err(error) if may_be_for_the_mark(&error) => {
            let connection = PgConnection::connect_with(options).await?;
            return Ok((connection, Route::Pooled));
        }
        Err(error) => return Err(error),
    };
    let is_direct = has(&mut connection, &mark).await? && {
        // A pooler that sets its client's parameters in each session can't choose what RESET leads to.
        let reset = format!("RESET {MARK}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(reset))
            .execute(&mut connection)
            .await?;
        has(&mut connection, &mark).await?
    };
    let route = if is_direct {
        Route::Direct
    } else {
        Route::Pooled
    };
    Ok((connection, route))
}

/// Whether a connection may succeed without the mark. The server itself refuses logins (28), databases (3D), and connections
/// for now (53, 57).
fn may_be_for_the_mark(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            !["28", "3D", "53", "57"].contains(&code.get(..2).unwrap_or_default())
        }
        sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

async fn has(connection: &mut PgConnection, mark: &str) -> sqlx::Result<bool> {
    let show = format!("SELECT pg_catalog.current_setting('{MARK}', true)");
    let row = sqlx::raw_sql(sqlx::AssertSqlSafe(show))
        .fetch_one(connection)
        .await?;
    let seen: Option<String> = row.try_get(0)?;
    Ok(seen.as_deref() == Some(mark))
}

/// Whether connections through a pooler keep their sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sessions {
    Kept,
    Shared,
    /// With the reason why it can't be told.
    Unknown(String),
}

/// Refuses the `first` connection, which leads through a pooler, unless it keeps its session. Sets nothing.
///
/// # Errors
/// It doesn't, or it is not known yet.
pub async fn refuse(first: &mut PgConnection, options: &PgConnectOptions) -> Result<(), Error> {
    let second = tokio::time::timeout(PATIENCE, PgConnection::connect_with(options)).await;
    let found = match second {
        Ok(Ok(mut second)) => {
            let found = tokio::time::timeout(LONGEST, compare(first, &mut second)).await;
            match found {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => Sessions::Unknown(Error::from(&error).to_string()),
                Err(_) => Sessions::Unknown("it has no session free".to_owned()),
            }
        }
        Ok(Err(error)) => Sessions::Unknown(format!(
            "it refused a second connection, which would show that: {}",
            Error::from(&error)
        )),
        Err(_) => Sessions::Unknown(format!(
            "it gave no second connection, which would show that, within {}",
            humantime::format_duration(PATIENCE)
        )),
    };
    match found {
        Sessions::Kept => Ok(()),
        Sessions::Shared => Err(Error::Permanent(POOLER.to_owned())),
        Sessions::Unknown(why) => Err(Error::Transient(format!(
            "a pooler is between Levee and the database, and it is not known yet whether it keeps a session for each \
             connection: {why}"
        ))),
    }
}

/// Asks both connections for their sessions, again and again. With a pool of one session both get that one; a larger pool
/// gives the one that was used last, or all in turn; and if others use it meanwhile, sessions change.
async fn compare(first: &mut PgConnection, second: &mut PgConnection) -> sqlx::Result<Sessions> {
    let own = session(first).await?;
    let other = {
        let mut asked = std::pin::pin!(session(second));
        let mut asks = 0;
        loop {
            tokio::select! {
                biased;
                other = &mut asked => break other?,
                () = tokio::time::sleep(PAUSE) => {
                    if session(first).await? != own {
                        return Ok(Sessions::Shared);
                    }
                    asks += 1;
                }
            }
            if asks == ASKS {
                // All others' sessions are in use, and yet the first one is served before the second, which has waited for
                // longer. So it has a session of its own.
                return Ok(Sessions::Kept);
            }
        }
    };
    let mut is_shared = other == own;
    for (of_first, of_second) in ROUNDS {
        for _ in 0..of_first {
            is_shared |= session(first).await? != own;
        }
        for _ in 0..of_second {
            is_shared |= session(second).await? != other;
        }
        if is_shared {
            return Ok(Sessions::Shared);
        }
    }
    Ok(Sessions::Kept)
}

/// The process of the server that answers. As a simple query, which a pooler takes for one transaction.
async fn session(connection: &mut PgConnection) -> sqlx::Result<i32> {
    let row = sqlx::raw_sql("SELECT pg_catalog.pg_backend_pid()")
        .fetch_one(connection)
        .await?;
    row.try_get(0)
}
