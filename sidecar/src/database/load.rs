//! What others do at the database.

use super::connect::Database;
use crate::jobs::others::{Look, Sessions};
use sqlx::postgres::PgConnection;

/// One look. `None`: the dialect has none, or it failed; then so will the next batch, which says why.
pub async fn look(database: &Database, connection: &mut PgConnection) -> Option<Look> {
    let look = database.dialect.others()?;
    let look = sqlx::query_as::<_, (Option<bool>, i64)>(look)
        .persistent(false)
        .fetch_one(connection);
    let (is_active, transactions) = database.bounded(look).await.ok()?;
    Some(Look {
        sessions: match is_active {
            Some(true) => Sessions::Active,
            Some(false) => Sessions::Still,
            None => Sessions::Hidden,
        },
        transactions: u64::try_from(transactions).unwrap_or(0),
    })
}
