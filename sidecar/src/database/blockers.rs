//! Who keeps a statement waiting for a lock, and what may be done about that.

use super::connect::within;
use super::error::Error;
use super::fingerprint::fingerprint;
use super::watchdog::{Act, Session, State, WatchdogSettings};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use std::time::Duration;

/// The most waiting sessions of one poll whose blockers are looked up.
const MAX_WAITS: usize = 20;

/// A session that holds a lock which others wait for, and waits for none itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    pub session: Session,
    /// As the database calls it, such as `idle in transaction`.
    pub state: String,
    /// A session of a client that is no superuser.
    is_ordinary: bool,
}

impl FromRow<'_, PgRow> for Blocker {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            session: Session::from_row(row)?,
            state: row.try_get("state")?,
            is_ordinary: row.try_get("is_ordinary")?,
        })
    }
}

impl Blocker {
    /// For logs.
    pub fn describe(&self) -> String {
        let Session {
            process,
            role,
            application,
            since,
            statement,
            ..
        } = &self.session;
        let since = humantime::format_duration(Duration::from_millis(whole_millis(*since)));
        format!(
            "process {process} of role {role:?}, application {application:?}, {} for {since}: {}",
            self.state,
            fingerprint(&statement.text)
        )
    }

    /// What may be done about it. `None`: it is not watched, or maintains the database.
    pub fn act(&self, settings: &WatchdogSettings) -> Option<Act> {
        let session = &self.session;
        if !self.is_ordinary || !settings.watches(session) || session.statement.is_maintenance() {
            return None;
        }
        match session.state {
            State::Active => Some(Act::CancelBlocker),
            State::IdleInTransaction => Some(Act::EndBlocker),
        }
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A watched statement that waits for a lock.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    pub session: Session,
    pub blockers: Vec<Blocker>,
}

/// The waits of a poll whose statements have used half of their time, the longest first.
///
/// # Errors
/// A query failed or took longer than `patience`.
pub async fn find(
    connection: &mut PgConnection,
    query: &'static str,
    settings: &WatchdogSettings,
    sessions: &[Session],
    patience: Duration,
) -> Result<Vec<Wait>, Error> {
    let mut waiting: Vec<&Session> = sessions
        .iter()
        .filter(|session| session.waits_for_lock && settings.has_used_half(session))
        .collect();
    waiting.sort_by_key(|session| std::cmp::Reverse(session.since));
    let mut waits = Vec::new();
    for session in waiting.into_iter().take(MAX_WAITS) {
        let blockers = sqlx::query_as::<_, Blocker>(query)
            .bind(&session.process)
            .persistent(false)
            .fetch_all(&mut *connection);
        waits.push(Wait {
            session: session.clone(),
            blockers: within(patience, blockers).await?,
        });
    }
    Ok(waits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::class::Statement;
    use crate::database::watchdog::{BlockerPolicy, Class};

    fn settings() -> WatchdogSettings {
        let second = Duration::from_secs(1);
        WatchdogSettings {
            roles: vec!["app".to_owned()],
            applications: Vec::new(),
            query: second,
            long_query: second,
            rules: Vec::new(),
            idle_in_transaction: second,
            transaction: None,
            blockers: BlockerPolicy::Cancel,
            terminate_after: None,
        }
    }

    fn blocker(role: &str, state: State, statement: &str) -> Blocker {
        Blocker {
            session: Session {
                id: "1".to_owned(),
                process: "1".to_owned(),
                role: role.to_owned(),
                application: "shop".to_owned(),
                client: String::new(),
                state,
                since: Duration::from_millis(1500),
                statement: Statement {
                    text: statement.to_owned(),
                    may_be_cut: false,
                },
                transaction: None,
                waits_for_lock: false,
                is_levee: false,
            },
            state: "idle in transaction".to_owned(),
            is_ordinary: true,
        }
    }

    #[test]
    fn only_ordinary_sessions_of_watched_roles_are_acted_on_and_no_maintenance() {
        let act = |blocker: &Blocker| blocker.act(&settings());
        let idle = blocker("app", State::IdleInTransaction, "select 1");
        assert_eq!(act(&idle), Some(Act::EndBlocker));
        let active = blocker("app", State::Active, "select 1");
        assert_eq!(act(&active), Some(Act::CancelBlocker));
        assert_eq!(act(&blocker("other", State::Active, "select 1")), None);
        assert_eq!(act(&blocker("app", State::Active, "VACUUM FULL t")), None);
        let superuser = Blocker {
            is_ordinary: false,
            ..active
        };
        assert_eq!(act(&superuser), None);
        assert_ne!(Act::EndBlocker.class(), Act::Cancel(Class::Query).class());
    }

    #[test]
    fn a_blocker_is_described_without_values() {
        let text = blocker("app", State::IdleInTransaction, "update t set a = 'x'").describe();
        assert_eq!(
            text,
            "process 1 of role \"app\", application \"shop\", idle in transaction for 1s 500ms: update t set a = ?"
        );
    }
}
