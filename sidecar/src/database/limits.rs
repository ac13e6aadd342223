//! Limits of roles: settings that the database itself enforces on each session of a role.

use super::connect::Database;
use super::error::Error;
use super::identifier::Identifier;
use super::watchdog::WatchdogSettings;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use std::collections::BTreeMap;
use std::time::Duration;

/// The settings that limit a role.
pub const SETTINGS: [&str; 3] = [
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
];

/// A setting of a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleSetting {
    pub role: Identifier,
    /// The setting's name.
    pub setting: String,
}

/// The values of the settings that roles have.
pub type Values = BTreeMap<RoleSetting, String>;

/// A change of a setting. `None`: it is not set for the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub of: RoleSetting,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl Change {
    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        let micros = |value: &Option<String>| value.as_deref().and_then(micros);
        self.from != self.to
            && (micros(&self.from) != micros(&self.to) || micros(&self.to).is_none())
    }

    /// The statement that makes the change. Both dialects have it
    /// (<https://www.postgresql.org/docs/current/sql-alterrole.html>,
    /// <https://www.cockroachlabs.com/docs/stable/alter-role>).
    pub fn statement(&self) -> String {
        let (role, setting) = (self.of.role.quoted(), &self.of.setting);
        match &self.to {
            Some(value) => format!(
                "ALTER ROLE {role} SET {setting} = '{}'",
                value.replace('\'', "''")
            ),
            None => format!("ALTER ROLE {role} RESET {setting}"),
        }
    }
}

/// A setting's value in microseconds. A bare number is in milliseconds, the unit of all [`SETTINGS`]
/// (<https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES>). `None`: it has another form.
fn micros(value: &str) -> Option<u64> {
    let value = value.trim();
    let end = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let unit = match value[end..].trim() {
        "us" => 1,
        "" | "ms" => 1000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    value[..end].parse::<u64>().ok()?.checked_mul(unit)
}

/// Each limit of each watched role, from its value in `current` to the configured one.
pub fn changes(
    settings: &WatchdogSettings,
    lock_timeout: Duration,
    current: &Values,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for role in &settings.roles {
        let Ok(identifier) = Identifier::new(role) else {
            continue;
        };
        let limit = settings.limit(settings.class_of_role(role));
        let values = [limit, settings.idle_in_transaction, lock_timeout];
        for (setting, value) in SETTINGS.into_iter().zip(values) {
            let of = RoleSetting {
                role: identifier.clone(),
                setting: setting.to_owned(),
            };
            changes.push(Change {
                from: current.get(&of).cloned(),
                to: Some(format!("{}ms", value.as_millis())),
                of,
            });
        }
    }
    changes
}

/// The settings that roles have for all databases.
///
/// # Errors
/// The query failed.
pub async fn current(database: &Database, connection: &mut PgConnection) -> Result<Values, Error> {
    let rows = sqlx::query_as::<_, (String, Vec<String>)>(
        "SELECT r.rolname::text, s.setconfig::text[] FROM pg_catalog.pg_db_role_setting s \
         JOIN pg_catalog.pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = 0",
    )
    .persistent(false)
    .fetch_all(&mut *connection);
    let rows = database.bounded(rows).await?;
    let mut values = Values::new();
    for (role, config) in rows {
        let Ok(role) = Identifier::new(&role) else {
            continue;
        };
        for entry in config {
            if let Some((setting, value)) = entry.split_once('=') {
                let of = RoleSetting {
                    role: role.clone(),
                    setting: setting.to_owned(),
                };
                values.insert(of, value.to_owned());
            }
        }
    }
    Ok(values)
}

/// Settings that roles have for single databases, in words. They take precedence over those for all databases
/// (<https://www.postgresql.org/docs/current/sql-alterrole.html>).
///
/// # Errors
/// The query failed.
pub async fn overrides(
    database: &Database,
    connection: &mut PgConnection,
    roles: &[String],
) -> Result<Vec<String>, Error> {
    let rows = sqlx::query_scalar::<_, String>(
        "SELECT 'in database ' || d.datname || ' role ' || r.rolname || ' has ' || c.entry \
         FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
         JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
         CROSS JOIN LATERAL unnest(s.setconfig) AS c(entry) \
         WHERE r.rolname = ANY($1) AND split_part(c.entry, '=', 1) = ANY($2) ORDER BY 1",
    )
    .bind(roles)
    .bind(SETTINGS)
    .persistent(false)
    .fetch_all(&mut *connection);
    database.bounded(rows).await
}

/// Those of the roles that don't exist.
///
/// # Errors
/// The query failed.
pub async fn unknown_roles(
    database: &Database,
    connection: &mut PgConnection,
    roles: &[String],
) -> Result<Vec<String>, Error> {
    let known = sqlx::query_scalar::<_, String>(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY($1)",
    )
    .bind(roles)
    .persistent(false)
    .fetch_all(&mut *connection);
    let known = database.bounded(known).await?;
    Ok(roles
        .iter()
        .filter(|role| !known.contains(role))
        .cloned()
        .collect())
}

/// Makes all changes or none.
///
/// # Errors
/// None was made.
pub async fn apply(
    database: &Database,
    connection: &mut PgConnection,
    changes: &[Change],
) -> Result<(), Error> {
    let all = async {
        let mut transaction = connection.begin().await?;
        for change in changes {
            sqlx::query(AssertSqlSafe(change.statement()))
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    };
    database.bounded(all).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::watchdog::{Class, Rule};

    #[test]
    fn a_role_gets_the_limit_of_its_class() {
        let settings = WatchdogSettings {
            roles: vec!["app".to_owned(), "re\"ports".to_owned()],
            applications: Vec::new(),
            query: Duration::from_secs(5),
            long_query: Duration::from_secs(30),
            rules: vec![Rule {
                role: Some("re\"ports".to_owned()),
                application: None,
                class: Class::LongQuery,
            }],
            idle_in_transaction: Duration::from_mins(1),
            terminate_after: None,
        };
        let key = |role: &str, setting: &str| RoleSetting {
            role: Identifier::new(role).unwrap(),
            setting: setting.to_owned(),
        };
        let current = Values::from([
            (key("app", "statement_timeout"), "10s".to_owned()),
            (key("app", "lock_timeout"), "2s".to_owned()),
        ]);
        let changes: Vec<Change> = changes(&settings, Duration::from_secs(2), &current)
            .into_iter()
            .filter(Change::is_needed)
            .collect();
        let texts: Vec<String> = changes.iter().map(Change::statement).collect();
        assert_eq!(
            texts,
            [
                "ALTER ROLE \"app\" SET statement_timeout = '5000ms'",
                "ALTER ROLE \"app\" SET idle_in_transaction_session_timeout = '60000ms'",
                "ALTER ROLE \"re\"\"ports\" SET statement_timeout = '30000ms'",
                "ALTER ROLE \"re\"\"ports\" SET idle_in_transaction_session_timeout = '60000ms'",
                "ALTER ROLE \"re\"\"ports\" SET lock_timeout = '2000ms'",
            ]
        );
    }
}
