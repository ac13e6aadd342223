//! The server's own values of settings. A session sees one only if no level before the server has the setting, so where this
//! session does not see one, other sessions are tried.

use super::connect::Database;
use super::error::Error;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};
use std::collections::BTreeMap;
use std::fmt;

/// How many other databases are tried.
const MOST_DATABASES: i64 = 5;

/// The settings that the server has, by their names.
pub type ServerValues = BTreeMap<String, ServerValue>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerValue {
    Known(String),
    Hidden(HiddenBy),
}

/// What gives Levee's sessions another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenBy {
    Connection,
    Role,
    Database,
    AllRoles,
    /// The server does not say.
    Unknown,
}

impl fmt::Display for HiddenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => {
                "the connection has a value for it, from `options` of the URL or PGOPTIONS"
            }
            Self::Role => {
                "the role that Levee logs in as has one of its own; log in as a role that has none"
            }
            Self::Database => "the database has one of its own, and no other could be asked",
            Self::AllRoles => "all roles have one",
            Self::Unknown => "the server does not say where its value comes from",
        })
    }
}

/// A setting as a session has it from the start.
struct Seen {
    name: String,
    value: String,
    source: Option<String>,
}

impl Seen {
    /// Sources are those of
    /// <https://github.com/postgres/postgres/blob/REL_18_0/src/backend/utils/misc/guc_tables.c> (`GucSource_Names`).
    fn server_value(&self) -> ServerValue {
        ServerValue::Hidden(match self.source.as_deref() {
            Some("default" | "environment variable" | "configuration file" | "command line") => {
                return ServerValue::Known(in_words(&self.value));
            }
            Some("global") => HiddenBy::AllRoles,
            Some("database" | "database user") => HiddenBy::Database,
            Some("user") => HiddenBy::Role,
            Some("client") => HiddenBy::Connection,
            _ => HiddenBy::Unknown,
        })
    }
}

/// A value of `pg_settings` is in milliseconds.
fn in_words(value: &str) -> String {
    match value {
        "0" => "0".to_owned(),
        value if value.bytes().all(|byte| byte.is_ascii_digit()) => format!("{value}ms"),
        value => value.to_owned(),
    }
}

/// Reads the values of `settings`. `plain` logs in as Levee does, without settings of the connection.
///
/// # Errors
/// The values that the connection sees could not be read.
pub async fn read(
    database: &Database,
    connection: &mut PgConnection,
    plain: &PgConnectOptions,
    settings: &[&str],
) -> Result<ServerValues, Error> {
    let mut values = seen(database, connection, settings).await?;
    if is_hidden(&values, &[HiddenBy::Connection]) {
        fill(&mut values, &database.with(plain.clone()), settings).await;
    }
    for other in other_databases(database, connection).await? {
        if !is_hidden(&values, &[HiddenBy::Connection, HiddenBy::Database]) {
            break;
        }
        let other = database.with(plain.clone().database(&other));
        fill(&mut values, &other, settings).await;
    }
    Ok(values)
}

fn is_hidden(values: &ServerValues, by: &[HiddenBy]) -> bool {
    let is_it = |value: &ServerValue| matches!(value, ServerValue::Hidden(it) if by.contains(it));
    values.values().any(is_it)
}

/// Adds what a session of `database` sees to what is hidden.
async fn fill(values: &mut ServerValues, database: &Database, settings: &[&str]) {
    let look = async {
        let mut connection = database.connect().await?;
        seen(database, &mut connection, settings).await
    };
    match look.await {
        Ok(found) => {
            for (name, found) in found {
                if let Some(value @ ServerValue::Hidden(_)) = values.get_mut(&name) {
                    *value = found;
                }
            }
        }
        Err(error) => log::debug!("values of the server are looked for elsewhere: {error}"),
    }
}

/// Other databases that Levee may connect to, those without settings first.
async fn other_databases(
    database: &Database,
    connection: &mut PgConnection,
) -> Result<Vec<String>, Error> {
    let names = sqlx::query_scalar::<_, String>(
        "SELECT CAST(d.datname AS text) FROM pg_catalog.pg_database d WHERE d.datallowconn \
         AND d.datname <> current_database() AND has_database_privilege(d.oid, 'CONNECT') \
         ORDER BY (SELECT count(*) FROM pg_catalog.pg_db_role_setting s WHERE s.setdatabase = d.oid), 1 LIMIT $1",
    )
    .bind(MOST_DATABASES)
    .persistent(false)
    .fetch_all(connection);
    database.bounded(names).await
}

async fn seen(
    database: &Database,
    connection: &mut PgConnection,
    settings: &[&str],
) -> Result<ServerValues, Error> {
    let query = database.dialect.setting_values();
    let read = async {
        let mut transaction = connection.begin().await?;
        // Levee's own timeouts hide where the values come from that a session has at its start.
        for Seen { name, .. } in all(&mut transaction, query, settings).await? {
            sqlx::query(AssertSqlSafe(format!("RESET {name}")))
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
        }
        let seen = all(&mut transaction, query, settings).await?;
        transaction.rollback().await?;
        Ok(seen)
    };
    let seen = database.bounded(read).await?;
    let by_name = |seen: Seen| {
        let value = seen.server_value();
        (seen.name, value)
    };
    Ok(seen.into_iter().map(by_name).collect())
}

async fn all(
    connection: &mut PgConnection,
    query: &'static str,
    settings: &[&str],
) -> sqlx::Result<Vec<Seen>> {
    let rows = sqlx::query_as::<_, (String, String, Option<String>)>(query)
        .bind(settings)
        .persistent(false)
        .fetch_all(connection)
        .await?;
    let seen = rows.into_iter().map(|(name, value, source)| Seen {
        name,
        value,
        source,
    });
    Ok(seen.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_value_of_the_server_is_taken_for_one() {
        let value = |source: &str| {
            Seen {
                name: "statement_timeout".to_owned(),
                value: "1500".to_owned(),
                source: Some(source.to_owned()),
            }
            .server_value()
        };
        for source in ["default", "configuration file", "command line"] {
            assert_eq!(value(source), ServerValue::Known("1500ms".to_owned()));
        }
        for (source, by) in [
            ("global", HiddenBy::AllRoles),
            ("database", HiddenBy::Database),
            ("user", HiddenBy::Role),
            ("database user", HiddenBy::Database),
            ("client", HiddenBy::Connection),
            ("session", HiddenBy::Unknown),
            ("interactive", HiddenBy::Unknown),
        ] {
            assert_eq!(value(source), ServerValue::Hidden(by), "{source}");
        }
    }
}
