//! What the watchdog's role may do, and which of the configured roles can be watched.

use super::connect::within;
use super::dialect::WatchdogChecks;
use super::error::Error;
use super::watchdog::WatchdogSettings;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use std::fmt;
use std::time::Duration;

/// The result of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What keeps the watchdog from its work, or from a part of it.
    pub problem: Option<String>,
    /// It can't see or can't cancel the statements of all that it watches.
    pub is_powerless: bool,
}

/// What the watchdog's role may do with all sessions that are watched, and what the server shows.
#[derive(Clone, Copy, Debug)]
struct Rights {
    sees_statements: bool,
    cancels_statements: bool,
    tracks_activities: bool,
}

impl FromRow<'_, PgRow> for Rights {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            sees_statements: row.try_get("sees_statements")?,
            cancels_statements: row.try_get("cancels_statements")?,
            tracks_activities: row.try_get("tracks_activities")?,
        })
    }
}

/// A configured role that can't be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnwatchableRole {
    role: String,
    obstacle: Obstacle,
}

/// Why a role can't be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    Missing,
    Superuser,
    /// Its members are sessions of their own roles.
    NoLogin,
}

impl FromRow<'_, PgRow> for UnwatchableRole {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            role: row.try_get("role")?,
            obstacle: match row.try_get("is_superuser")? {
                None => Obstacle::Missing,
                Some(true) => Obstacle::Superuser,
                Some(false) => Obstacle::NoLogin,
            },
        })
    }
}

impl fmt::Display for UnwatchableRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = &self.role;
        match self.obstacle {
            Obstacle::Missing => write!(f, "there is no role {role:?} to watch"),
            Obstacle::Superuser => write!(
                f,
                "role {role:?} is a superuser, whose statements are left alone"
            ),
            Obstacle::NoLogin => write!(
                f,
                "nobody logs in as role {role:?}; name the roles that do, its members are not watched for it"
            ),
        }
    }
}

/// Checks the role's rights, and the watched roles. Each statement may take `patience`.
///
/// # Errors
/// A statement failed or took too long.
pub async fn check(
    connection: &mut PgConnection,
    checks: WatchdogChecks,
    settings: &WatchdogSettings,
    patience: Duration,
) -> Result<Findings, Error> {
    let rights = sqlx::query_as::<_, Rights>(checks.rights)
        .bind(&settings.roles)
        .bind(!settings.applications.is_empty())
        .persistent(false)
        .fetch_one(&mut *connection);
    let rights = within(patience, rights).await?;
    let roles = sqlx::query_as::<_, UnwatchableRole>(checks.roles)
        .bind(&settings.roles)
        .persistent(false)
        .fetch_all(connection);
    let roles = within(patience, roles).await?;
    let missing = missing(rights);
    let untracked = (!rights.tracks_activities).then(|| {
        "track_activities is off, so the server does not say what sessions do; turn it on"
            .to_owned()
    });
    let is_powerless = missing.is_some() || untracked.is_some();
    let all: Vec<String> = missing
        .into_iter()
        .chain(untracked)
        .chain(roles.iter().map(ToString::to_string))
        .collect();
    Ok(Findings {
        problem: (!all.is_empty()).then(|| all.join("; ")),
        is_powerless,
    })
}

/// What the role lacks, and how to grant it.
fn missing(rights: Rights) -> Option<String> {
    let roles: Vec<&str> = [
        (!rights.sees_statements).then_some("pg_read_all_stats"),
        (!rights.cancels_statements).then_some("pg_signal_backend"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!roles.is_empty()).then(|| {
        let roles = roles.join(", ");
        format!(
            "the role that Levee logs in as lacks {roles}, so it sees and cancels only its own statements, and does not \
             act; as a superuser: GRANT {roles} TO ...;"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_role_lacks_is_named() {
        let rights = |cancels_statements| Rights {
            sees_statements: true,
            cancels_statements,
            tracks_activities: true,
        };
        assert_eq!(missing(rights(true)), None);
        let message = missing(rights(false)).unwrap();
        assert!(message.contains("GRANT pg_signal_backend TO"), "{message}");
        assert!(!message.contains("pg_read_all_stats"), "{message}");
    }
}
