//! What a job would do less of, or more, than its configuration lets one expect.

use super::connect::Database;
use super::error::Error;
use super::load;
use super::spec::{Action, Spec};
use super::table::{Reach, Table};
use crate::jobs::others::Sessions;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};

/// A table whose rows refer to those of the job's table.
struct Referrer {
    table: String,
    /// It is the job's table itself, or one of its partitions.
    is_own: bool,
    /// Its rows are deleted too; else a column of theirs is set.
    is_deleted: bool,
}

impl FromRow<'_, PgRow> for Referrer {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            table: row.try_get("referrer")?,
            is_own: row.try_get("is_own")?,
            is_deleted: row.try_get("is_deleted")?,
        })
    }
}

/// Warnings about the job at its table.
///
/// # Errors
/// The job would take rows of its table that are alive.
pub async fn warnings(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
    table: &Table,
) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    if table.reach == Reach::WithHeirs {
        warnings.extend(heirs(database, connection, table).await?);
    }
    warnings.extend(hidden_rows(database, connection, table).await?);
    warnings.extend(read_only(database, connection).await?);
    warnings.extend(untracked(database, connection).await);
    if spec.action == Action::Delete {
        warnings.extend(referrers(database, connection, table).await?);
    }
    Ok(warnings)
}

/// Tables that inherit from it.
async fn heirs(
    database: &Database,
    connection: &mut PgConnection,
    table: &Table,
) -> Result<Option<String>, Error> {
    let heirs = sqlx::query_scalar::<_, String>(
        "SELECT CAST(CAST(inhrelid AS regclass) AS text) FROM pg_catalog.pg_inherits \
         WHERE inhparent = CAST(CAST($1 AS text) AS oid) ORDER BY 1",
    )
    .bind(&table.oid)
    .persistent(false)
    .fetch_all(connection);
    let heirs = database.bounded(heirs).await?;
    Ok((!heirs.is_empty()).then(|| {
        format!(
            "rows of {}, which inherit from {}, are left alone; give each a job of its own",
            heirs.join(", "),
            table.name
        )
    }))
}

/// Whether policies decide which rows Levee sees.
async fn hidden_rows(
    database: &Database,
    connection: &mut PgConnection,
    table: &Table,
) -> Result<Option<String>, Error> {
    let Some(query) = database.dialect.has_row_security() else {
        return Ok(None);
    };
    let is_active = sqlx::query_scalar::<_, bool>(query)
        .bind(&table.oid)
        .persistent(false)
        .fetch_one(connection);
    let is_active = database.bounded(is_active).await?;
    Ok(is_active.then(|| {
        format!(
            "row level security of {} decides which rows Levee sees; rows that it hides stay, unless its role has BYPASSRLS",
            table.name
        )
    }))
}

async fn read_only(
    database: &Database,
    connection: &mut PgConnection,
) -> Result<Option<String>, Error> {
    let is_read_only =
        sqlx::query_scalar::<_, bool>("SELECT current_setting('transaction_read_only') = 'on'")
            .persistent(false)
            .fetch_one(connection);
    let is_read_only = database.bounded(is_read_only).await?;
    Ok(is_read_only.then(|| {
        "Levee's sessions are read-only here, so a run will fail: the server is a replica, or \
         default_transaction_read_only is on"
            .to_owned()
    }))
}

/// Whether sessions hide what they do.
async fn untracked(database: &Database, connection: &mut PgConnection) -> Option<String> {
    let look = load::look(database, connection).await?;
    (look.sessions == Sessions::Untracked).then(|| {
        "sessions here don't show what they do, since track_activities is off for the server or for their roles; so batches are as \
         small as beside a busy service, unless the job has pause: 0s; set track_activities = on"
            .to_owned()
    })
}

/// What else a deleted row takes or changes, by foreign keys, over any number of tables.
async fn referrers(
    database: &Database,
    connection: &mut PgConnection,
    table: &Table,
) -> Result<Vec<String>, Error> {
    let referrers = sqlx::query_as::<_, Referrer>(
        "WITH RECURSIVE reached (rel, how) AS (\
         SELECT conrelid, CAST(confdeltype AS text) FROM pg_catalog.pg_constraint \
         WHERE confrelid = CAST(CAST($1 AS text) AS oid) AND contype = 'f' AND confdeltype IN ('c', 'n', 'd') \
         UNION SELECT c.conrelid, CAST(c.confdeltype AS text) FROM pg_catalog.pg_constraint c JOIN reached r \
         ON c.confrelid = r.rel AND r.how = 'c' WHERE c.contype = 'f' AND c.confdeltype IN ('c', 'n', 'd')) \
         SELECT CAST(CAST(rel AS regclass) AS text) AS referrer, how = 'c' AS is_deleted, \
         rel = CAST(CAST($1 AS text) AS oid) OR EXISTS (SELECT 1 FROM pg_catalog.pg_inherits \
         WHERE inhrelid = rel AND inhparent = CAST(CAST($1 AS text) AS oid)) AS is_own \
         FROM reached ORDER BY 1",
    )
    .bind(&table.oid)
    .persistent(false)
    .fetch_all(connection);
    let referrers = database.bounded(referrers).await?;
    let name = &table.name;
    if referrers.iter().any(|it| it.is_own && it.is_deleted) {
        return Err(Error::Permanent(format!(
            "rows of {name} refer to rows of the same table with ON DELETE CASCADE, so a row that is over would take rows that \
             are not; change that foreign key to NO ACTION, or delete these rows by a statement of your own"
        )));
    }
    let named = |is_deleted: bool| {
        let those = referrers.iter().filter(|it| it.is_deleted == is_deleted);
        let names: Vec<&str> = those.map(|it| it.table.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let deleted = named(true).map(|names| {
        format!("with rows of {name} go those of {names} that refer to them (ON DELETE CASCADE)")
    });
    let changed = named(false).map(|names| {
        format!(
            "rows of {names} that refer to deleted rows of {name} are changed (ON DELETE SET NULL or SET DEFAULT)"
        )
    });
    Ok([deleted, changed].into_iter().flatten().collect())
}
