//! Limits of roles: settings that the database itself enforces on each session of a role.

use super::connect::Database;
use super::error::Error;
use super::identifier::Identifier;
use super::levels::{InForce, Levels, SETTINGS, allowance};
use super::server_values::HiddenBy;
use super::watchdog::WatchdogSettings;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Connection, Transaction};
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
    /// Applying it might: the server's value, which it would replace, can't be seen.
    MayLoosen(HiddenBy),
    /// The server does not have the setting.
    NoSuchSetting,
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
    let replaced = levels.replaced(role, setting);
    let allows = |value: &InForce| allowance(&value.value);
    let need = if !levels.has(setting) {
        Need::NoSuchSetting
    } else if now.as_ref().and_then(allows) == allowance(&to) {
        Need::Nothing
    } else {
        match (replaced.strictest, replaced.hidden) {
            (Some(strictest), _) if allows(&strictest) < allowance(&to) => Need::Loosens(strictest),
            (_, Some(hidden)) => Need::MayLoosen(hidden),
            (_, None) => Need::Apply,
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

/// A transaction that changes settings. Dropping it undoes what it did.
#[derive(Debug)]
pub struct Changing<'c> {
    database: &'c Database,
    transaction: Transaction<'c, Postgres>,
}

impl<'c> Changing<'c> {
    /// # Errors
    /// The database refused, or did not answer in time.
    pub async fn begin(
        database: &'c Database,
        connection: &'c mut PgConnection,
    ) -> Result<Self, Error> {
        Ok(Self {
            transaction: database.bounded(connection.begin()).await?,
            database,
        })
    }

    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Makes all changes. Until the transaction ends, nobody else can change settings of these roles.
    ///
    /// # Errors
    /// The database refused one, or did not answer in time.
    pub async fn make(&mut self, changes: &[Change]) -> Result<(), Error> {
        for change in changes {
            let statement = sqlx::query(AssertSqlSafe(change.statement()))
                .persistent(false)
                .execute(&mut *self.transaction);
            let made = async { Ok(statement.await.map_err(|error| refused(&error))) };
            self.database.bounded(made).await??;
        }
        Ok(())
    }

    /// # Errors
    /// It is not known whether the changes were made.
    pub async fn commit(self) -> Result<(), Error> {
        self.database.bounded(self.transaction.commit()).await
    }
}

/// Why the database refused a change, and what would be right.
fn refused(error: &sqlx::Error) -> Error {
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let code = error.as_database_error().and_then(DatabaseError::code);
    match (Error::from(error), code.as_deref()) {
        (Error::Permanent(message), Some(INSUFFICIENT_PRIVILEGE)) => Error::Permanent(format!(
            "{message}; this needs a superuser, or a role with CREATEROLE and, from PostgreSQL 16 on, ADMIN OPTION on the roles; \
             let the URL log in as one for this command"
        )),
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::levels::Entry;
    use crate::database::server_values::ServerValue;
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
        let none = ServerValue::Known("0".to_owned());
        let server = SETTINGS.map(|setting| (setting.to_owned(), none.clone()));
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
    fn a_value_of_the_server_that_is_not_known_may_be_the_strictest() {
        const SETTING: &str = "statement_timeout";
        let need = |entries| {
            let mut levels = levels(entries);
            let hidden = ServerValue::Hidden(HiddenBy::Role);
            levels.server.insert(SETTING.to_owned(), hidden);
            let limits = limits(&settings(), &OWN, &levels);
            limits.into_iter().next().unwrap().need
        };
        let hidden = Need::MayLoosen(HiddenBy::Role);
        assert_eq!(need(Vec::new()), hidden);
        assert_eq!(need(vec![entry("", "db", SETTING, "10s")]), hidden);
        let of_database = need(vec![entry("", "db", SETTING, "1s")]);
        assert!(matches!(of_database, Need::Loosens(_)));
        // These take its place.
        for role in ["app", ""] {
            assert_eq!(need(vec![entry(role, "", SETTING, "10s")]), Need::Apply);
        }
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
        assert_eq!(needs[3..], [&Need::NoSuchSetting, &Need::Apply]);
    }
}
