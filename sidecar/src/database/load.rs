//! What others do at the database.

use super::connect::{Database, transactions_so_far};
use crate::jobs::others::{Look, Sessions};
use sqlx::postgres::PgConnection;

/// One look. `None`: the dialect has none, or it failed; then so will the next batch, which says why.
pub async fn look(database: &Database, connection: &mut PgConnection) -> Option<Look> {
    let look = database.dialect.others()?;
    let look = sqlx::query_as::<_, (Option<String>, i64, i64)>(look)
        .persistent(false)
        .fetch_one(connection);
    let (sessions, transactions, levee) = database.bounded(look).await.ok()?;
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    Some(Look {
        sessions: match sessions.as_deref() {
            Some("active") => Sessions::Active,
            Some("still") => Sessions::Still,
            Some(_) => Sessions::Untracked,
            None => Sessions::Hidden,
        },
        transactions: count(transactions),
        own: transactions_so_far(),
        levee: count(levee),
    })
}
