//! Where the value of a setting comes from: a role in a database, a role, a database, all roles, or the server. The first
//! that has one wins (<https://www.postgresql.org/docs/current/sql-alterrole.html>).

use super::connect::Database;
use super::error::Error;
use super::server_values::{self, HiddenBy, ServerValue, ServerValues};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{FromRow, Row};
use std::fmt;

/// The settings that limit a role. The last two are not of each server: from `PostgreSQL` 17 and 14 on.
pub const SETTINGS: [&str; 5] = [
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "transaction_timeout",
    "idle_session_timeout",
];

/// How long a value lets something take, in microseconds; none is longer than all. `None`: it has another form.
pub fn allowance(value: &str) -> Option<u64> {
    micros(value).map(|micros| if micros == 0 { u64::MAX } else { micros })
}

/// A setting's value in microseconds. A bare number is in milliseconds, the unit of all [`SETTINGS`]
/// (<https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES>). `None`: it has another form.
fn micros(value: &str) -> Option<u64> {
    let value = value.trim();
    let end = value
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(value.len());
    let unit: u64 = match value[end..].trim() {
        "us" => 1,
        "" | "ms" => 1000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    let (whole, fraction) = value[..end].split_once('.').unwrap_or((&value[..end], ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    // More digits than a u64 has are no value that somebody sets.
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = match fraction {
        "" => 0,
        digits => digits.parse::<u64>().ok()?.checked_mul(unit)? / scale,
    };
    whole.checked_add(fraction)
}

/// A value that somebody has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `None`: for all roles.
    pub role: Option<String>,
    /// `None`: for all databases.
    pub database: Option<String>,
    pub setting: String,
    pub value: String,
}

impl FromRow<'_, PgRow> for Entry {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            role: row.try_get("role")?,
            database: row.try_get("database")?,
            setting: row.try_get("setting")?,
            value: row.try_get("value")?,
        })
    }
}

/// A value, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    pub value: String,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    RoleInDatabase(String),
    Role,
    Database(String),
    AllRoles,
    Server,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleInDatabase(name) => write!(f, "of the role in database {name}"),
            Self::Role => f.write_str("of the role"),
            Self::Database(name) => write!(f, "of database {name}"),
            Self::AllRoles => f.write_str("of all roles"),
            Self::Server => f.write_str("of the server"),
        }
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.value, self.origin)
    }
}

/// The values of the settings that limit roles, at all levels.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// The one that Levee is connected to.
    pub database: String,
    pub entries: Vec<Entry>,
    pub server: ServerValues,
}

/// What a setting of a role would replace, in any database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The strictest value that is known.
    pub strictest: Option<InForce>,
    /// Why the server's value, which it would replace too, is not known.
    pub hidden: Option<HiddenBy>,
}

impl Levels {
    /// Whether the server has the setting.
    pub fn has(&self, setting: &str) -> bool {
        self.server.contains_key(setting)
    }

    fn get(&self, role: Option<&str>, database: Option<&str>, setting: &str) -> Option<String> {
        let is_it = |entry: &&Entry| {
            entry.role.as_deref() == role
                && entry.database.as_deref() == database
                && entry.setting == setting
        };
        self.entries
            .iter()
            .find(is_it)
            .map(|entry| entry.value.clone())
    }

    /// The value that the role has for all databases.
    pub fn of_role(&self, role: &str, setting: &str) -> Option<String> {
        self.get(Some(role), None, setting)
    }

    /// The value for the role in this database.
    pub fn of_role_in_database(&self, role: &str, setting: &str) -> Option<InForce> {
        let value = self.get(Some(role), Some(&self.database), setting)?;
        let origin = Origin::RoleInDatabase(self.database.clone());
        Some(InForce { value, origin })
    }

    /// The value that is in force in this database for roles that have none there.
    pub fn in_force(&self, role: &str, setting: &str) -> Option<InForce> {
        let of = |origin: Origin| move |value| InForce { value, origin };
        let own = self.of_role(role, setting).map(of(Origin::Role));
        own.or_else(|| {
            let value = self.get(None, Some(&self.database), setting)?;
            Some(of(Origin::Database(self.database.clone()))(value))
        })
        .or_else(|| self.of_server(setting))
    }

    fn of_server(&self, setting: &str) -> Option<InForce> {
        if let Some(value) = self.get(None, None, setting) {
            let origin = Origin::AllRoles;
            return Some(InForce { value, origin });
        }
        match self.server.get(setting)? {
            ServerValue::Hidden(_) => None,
            ServerValue::Known(value) => Some(InForce {
                value: value.clone(),
                origin: Origin::Server,
            }),
        }
    }

    pub fn replaced(&self, role: &str, setting: &str) -> Replaced {
        if let Some(value) = self.of_role(role, setting) {
            let origin = Origin::Role;
            return Replaced {
                strictest: Some(InForce { value, origin }),
                hidden: None,
            };
        }
        let of_databases = self.entries.iter().filter_map(|entry| {
            let is_it = entry.role.is_none() && entry.setting == setting;
            let database = entry.database.clone().filter(|_| is_it)?;
            Some(InForce {
                value: entry.value.clone(),
                origin: Origin::Database(database),
            })
        });
        let of_server = self.of_server(setting);
        let hidden = match self.server.get(setting) {
            Some(ServerValue::Hidden(by)) if of_server.is_none() => Some(*by),
            _ => None,
        };
        let all = of_databases.chain(of_server);
        // A value that can't be read comes first: it may be the strictest.
        let strictest = all.min_by_key(|found| allowance(&found.value));
        Replaced { strictest, hidden }
    }

    /// Values of the roles for single databases, in words.
    pub fn overrides(&self, roles: &[String]) -> Vec<String> {
        let mut found: Vec<String> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let role = entry.role.as_ref().filter(|role| roles.contains(role))?;
                let database = entry.database.as_ref()?;
                let (setting, value) = (&entry.setting, &entry.value);
                Some(format!(
                    "in database {database} role {role} has {setting}={value}"
                ))
            })
            .collect();
        found.sort();
        found
    }
}

/// Reads them. `plain` logs in as Levee does, without settings of the connection.
///
/// # Errors
/// A query failed.
pub async fn read(
    database: &Database,
    connection: &mut PgConnection,
    plain: &PgConnectOptions,
) -> Result<Levels, Error> {
    let entries = sqlx::query_as::<_, Entry>(
        "SELECT CAST(r.rolname AS text) AS role, CAST(d.datname AS text) AS database, \
         split_part(c.entry, '=', 1) AS setting, substr(c.entry, strpos(c.entry, '=') + 1) AS value \
         FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
         LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase CROSS JOIN LATERAL unnest(s.setconfig) AS c(entry) \
         WHERE split_part(c.entry, '=', 1) = ANY($1) AND (s.setrole = 0 OR r.oid IS NOT NULL)",
    )
    .bind(SETTINGS)
    .persistent(false)
    .fetch_all(&mut *connection);
    let entries = database.bounded(entries).await?;
    let name = sqlx::query_scalar::<_, String>("SELECT CAST(current_database() AS text)")
        .persistent(false)
        .fetch_one(&mut *connection);
    let name = database.bounded(name).await?;
    Ok(Levels {
        database: name,
        entries,
        server: server_values::read(database, connection, plain, &SETTINGS).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_with_its_unit_and_its_fraction() {
        for (value, micros) in [
            ("1500", Some(1_500_000)),
            ("1.5s", Some(1_500_000)),
            ("0.25 min", Some(15_000_000)),
            ("2h", Some(7_200_000_000)),
            ("0", Some(u64::MAX)),
            ("1e3", None),
            ("0x3E8", None),
            ("1.5.1s", None),
        ] {
            assert_eq!(allowance(value), micros, "{value}");
        }
    }

    #[test]
    fn a_value_that_can_not_be_read_may_be_the_strictest() {
        let of_database = |database: &str, value: &str| Entry {
            role: None,
            database: Some(database.to_owned()),
            setting: "statement_timeout".to_owned(),
            value: value.to_owned(),
        };
        let levels = Levels {
            database: "app".to_owned(),
            entries: vec![of_database("app", "1s"), of_database("other", "1e3")],
            server: ServerValues::new(),
        };
        let replaced = levels.replaced("app", "statement_timeout");
        let strictest = replaced.strictest.map(|it| it.value);
        assert_eq!(strictest.as_deref(), Some("1e3"));
    }
}
