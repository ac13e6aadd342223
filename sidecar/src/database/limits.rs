//! Limits of roles: settings that the database itself enforces on each session of a role.

use super::connect::Database;
use super::error::Error;
use super::identifier::Identifier;
use super::levels::{InForce, Levels, SETTINGS, allowance};
use super::watchdog::WatchdogSettings;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use std::time::Duration;

/// Limits that are of roles only, not of the watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleLimits {
    pub lock_timeout: Duration,
    /// `None`: as for the watchdog.
    pub transaction_timeout: Option<Duration>,
    /// `None`: it is left alone, since pools keep idle sessions.
    pub idle_session_timeout: Option<Duration>,
}

/// A setting of a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleSetting {
    pub role: Identifier,
    /// The setting's name.
    pub setting: String,
}

/// A change of a setting. `None`: it is not set for the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub of: RoleSetting,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// A limit of a role as it should be, and as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub change: Change,
    /// The value that sessions of the role get in this database, unless it has one of its own for the role.
    pub now: Option<InForce>,
    pub need: Need,
}

/// What is to be done about a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is in force.
    Nothing,
    Apply,
    /// Applying it would replace a stricter value, here or in another database.
    Loosens(InForce),
    /// The server does not have the setting.
    Unknown,
}

impl Change {
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

/// Each limit of each watched role.
pub fn limits(settings: &WatchdogSettings, own: &RoleLimits, levels: &Levels) -> Vec<Limit> {
    let mut limits = Vec::new();
    for role in &settings.roles {
        let Ok(identifier) = Identifier::new(role) else {
            continue;
        };
        let wanted = [
            Some(settings.limit(settings.class_of_role(role))),
            Some(settings.idle_in_transaction),
            Some(own.lock_timeout),
            own.transaction_timeout.or(settings.transaction),
            own.idle_session_timeout,
        ];
        for (setting, wanted) in SETTINGS.into_iter().zip(wanted) {
            let Some(wanted) = wanted else {
                continue;
            };
            let of = RoleSetting {
                role: identifier.clone(),
                setting: setting.to_owned(),
            };
            limits.push(limit(of, wanted, levels));
        }
    }
    limits
}

fn limit(of: RoleSetting, wanted: Duration, levels: &Levels) -> Limit {
    let (role, setting) = (of.role.as_str(), of.setting.as_str());
    let to = format!("{}ms", wanted.as_millis());
    let now = levels.in_force(role, setting);
    let strictest = levels.strictest_replaced(role, setting);
    let allows = |value: &InForce| allowance(&value.value);
    let need = if !levels.has(setting) {
        Need::Unknown
    } else if now.as_ref().and_then(allows) == allowance(&to) {
        Need::Nothing
    } else {
        match strictest {
            Some(strictest) if allows(&strictest) < allowance(&to) => Need::Loosens(strictest),
            _ => Need::Apply,
        }
    };
    Limit {
        now,
        need,
        change: Change {
            from: levels.of_role(role, setting),
            to: Some(to),
            of,
        },
    }
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
    use crate::database::levels::Entry;
    use crate::database::watchdog::{BlockerPolicy, Class, Rule};

    fn settings() -> WatchdogSettings {
        WatchdogSettings {
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
            transaction: None,
            blockers: BlockerPolicy::Report,
            terminate_after: None,
        }
    }

    const OWN: RoleLimits = RoleLimits {
        lock_timeout: Duration::from_secs(2),
        transaction_timeout: None,
        idle_session_timeout: None,
    };

    fn entry(role: &str, database: &str, setting: &str, value: &str) -> Entry {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Entry {
            role: name(role),
            database: name(database),
            setting: setting.to_owned(),
            value: value.to_owned(),
        }
    }

    fn levels(entries: Vec<Entry>) -> Levels {
        let server = SETTINGS.map(|setting| (setting.to_owned(), Some("0".to_owned())));
        Levels {
            database: "db".to_owned(),
            entries,
            server: server.into(),
        }
    }

    /// What is to be done about `statement_timeout` of `app`, whose wanted value is 5 s.
    fn need(entries: Vec<Entry>) -> Need {
        let limits = limits(&settings(), &OWN, &levels(entries));
        limits.into_iter().next().unwrap().need
    }

    #[test]
    fn a_role_gets_the_limit_of_its_class() {
        let levels = levels(vec![
            entry("app", "", "statement_timeout", "10s"),
            entry("app", "", "lock_timeout", "2s"),
        ]);
        let limits: Vec<Limit> = limits(&settings(), &OWN, &levels)
            .into_iter()
            .filter(|limit| limit.need == Need::Apply)
            .collect();
        let texts: Vec<String> = limits
            .iter()
            .map(|limit| limit.change.statement())
            .collect();
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

    #[test]
    fn what_is_stricter_at_any_level_is_not_loosened() {
        const SETTING: &str = "statement_timeout";
        for (role, database, value, loosens) in [
            ("app", "", "2s", true),
            ("app", "", "10s", false),
            ("app", "", "0", false),
            ("", "db", "1500ms", true),
            ("", "", "4999", true),
            // A setting of the role would replace it there.
            ("", "other", "1min", false),
            ("", "other", "1s", true),
            // It stays in force there, whatever the role has.
            ("app", "db", "1s", false),
            ("other", "", "1s", false),
        ] {
            let found = need(vec![entry(role, database, SETTING, value)]);
            let case = format!("{role:?} {database:?} {value}");
            assert_eq!(matches!(found, Need::Loosens(_)), loosens, "{case}");
        }
        // Its own value is the one that would be replaced, and it is not stricter.
        let own = entry("app", "", SETTING, "10s");
        let of_database = entry("", "db", SETTING, "1s");
        assert_eq!(need(vec![own, of_database]), Need::Apply);
        let same = entry("", "db", SETTING, "5s");
        assert_eq!(need(vec![same]), Need::Nothing);
    }

    #[test]
    fn a_setting_that_the_server_does_not_have_is_not_applied() {
        let mut levels = levels(Vec::new());
        levels.server.remove("transaction_timeout");
        let own = RoleLimits {
            transaction_timeout: Some(Duration::from_mins(5)),
            idle_session_timeout: Some(Duration::from_hours(1)),
            ..OWN
        };
        let limits = limits(&settings(), &own, &levels);
        let needs: Vec<&Need> = limits.iter().take(5).map(|limit| &limit.need).collect();
        assert_eq!(needs[3..], [&Need::Unknown, &Need::Apply]);
    }
}
