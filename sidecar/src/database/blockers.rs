//! Who keeps a statement waiting for a lock, and what may be done about that.

use super::connect::within;
use super::error::Error;
use super::fingerprint::fingerprint;
use super::watchdog::{Act, Session, State, WatchdogSettings};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use std::collections::HashMap;
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

/// Since when sessions have kept statements waiting. Where many short transactions take turns at a row, the one that holds its
/// lock at a poll has kept nobody waiting for long, and must not pay for the queue.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// How long a statement had run when a transaction was first seen to keep it waiting.
    first: HashMap<(String, String), Duration>,
}

impl Sightings {
    /// Takes the waits of one poll, and forgets those that are over.
    pub fn note(&mut self, waits: &[Wait]) {
        let now: HashMap<(String, String), Duration> = waits
            .iter()
            .flat_map(|wait| {
                let waiting = &wait.session;
                let pairs = wait.blockers.iter().filter_map(|it| pair(waiting, it));
                pairs.map(|pair| (pair, waiting.since))
            })
            .collect();
        self.first.retain(|pair, _| now.contains_key(pair));
        for (pair, since) in now {
            self.first.entry(pair).or_insert(since);
        }
    }

    /// Whether the transaction of `blocker` has kept `waiting` from its lock for a quarter of its time limit.
    pub fn is_to_blame(
        &self,
        settings: &WatchdogSettings,
        waiting: &Session,
        blocker: &Blocker,
    ) -> bool {
        let first = pair(waiting, blocker).and_then(|pair| self.first.get(&pair));
        first.is_some_and(|first| {
            waiting.since.saturating_sub(*first) >= settings.limit_of(waiting) / 4
        })
    }
}

/// A statement and the transaction that it waits for.
fn pair(waiting: &Session, blocker: &Blocker) -> Option<(String, String)> {
    let transaction = blocker.session.transaction.as_ref()?;
    Some((waiting.id.clone(), transaction.id.clone()))
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
    use crate::database::watchdog::{BlockerPolicy, Class, Transaction};

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
    fn only_a_transaction_that_keeps_a_statement_waiting_for_long_is_to_blame() {
        let settings = WatchdogSettings {
            query: Duration::from_secs(4),
            ..settings()
        };
        let mut sightings = Sightings::default();
        let mut is_to_blame = |after: u64, transaction: Option<&str>| {
            let mut blocker = blocker("app", State::IdleInTransaction, "select 1");
            blocker.session.transaction = transaction.map(|id| Transaction {
                id: id.to_owned(),
                since: Duration::from_mins(1),
            });
            let mut waiting = blocker.session.clone();
            waiting.id = "waiting".to_owned();
            waiting.since = Duration::from_millis(after);
            let wait = Wait {
                session: waiting.clone(),
                blockers: vec![blocker.clone()],
            };
            sightings.note(&[wait]);
            sightings.is_to_blame(&settings, &waiting, &blocker)
        };
        for (after, transaction, expected) in [
            (2000, Some("a"), false),
            (2999, Some("a"), false),
            (3000, Some("a"), true),
            (4000, Some("b"), false),
            // It is another time that it has the lock.
            (4000, Some("a"), false),
            (5000, Some("a"), true),
            (9000, None, false),
        ] {
            assert_eq!(
                is_to_blame(after, transaction),
                expected,
                "{after} {transaction:?}"
            );
        }
        sightings.note(&[]);
        assert!(sightings.first.is_empty());
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
