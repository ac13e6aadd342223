//! Which statements have run too long, and what to do about them. Decides only; see [`activity`](super::activity) for
//! the rest.

use std::collections::HashMap;
use std::time::Duration;

/// The application name of Levee's own connections, which the watchdog leaves alone.
pub const APPLICATION_NAME: &str = "levee";

/// Classes of statements; each has a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Query,
    /// Reports and the like.
    LongQuery,
}

impl Class {
    /// The name in metrics, in the configuration and in comments of statements.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::LongQuery => "long_query",
        }
    }
}

/// The metrics' class of sessions that were idle in a transaction.
pub const IDLE_IN_TRANSACTION: &str = "idle_in_transaction";

/// Gives a class to statements of a role, an application, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `None`: any.
    pub role: Option<String>,
    /// `None`: any.
    pub application: Option<String>,
    pub class: Class,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogSettings {
    /// Sessions of these roles are watched,
    pub roles: Vec<String>,
    /// and sessions of these applications.
    pub applications: Vec<String>,
    /// The limit of [`Class::Query`].
    pub query: Duration,
    /// The limit of [`Class::LongQuery`].
    pub long_query: Duration,
    /// The first that matches counts. A comment in the statement has precedence.
    pub rules: Vec<Rule>,
    /// How long a session may be idle in a transaction before it is ended.
    pub idle_in_transaction: Duration,
    /// How long after its statement was cancelled a session is ended. `None`: never.
    pub terminate_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Executes a statement.
    Active,
    /// Waits for its client, in a transaction.
    IdleInTransaction,
}

/// A session of the database at one poll.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Identifies the statement: process, start of the session and start of the statement.
    pub id: String,
    /// The process, or the identifier that the database has instead.
    pub process: String,
    pub role: String,
    pub application: String,
    /// The client's address.
    pub client: String,
    pub state: State,
    /// Time spent in `state`, by the database's clock.
    pub since: Duration,
    /// The current statement, or the last one.
    pub statement: String,
}

/// What to do to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Cancel its statement.
    Cancel(Class),
    /// End it, since cancelling did not help.
    Terminate(Class),
    /// End it, since it is idle in a transaction.
    EndIdle,
}

/// An act and the session that it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict<'a> {
    pub session: &'a Session,
    pub act: Act,
}

impl Act {
    /// The label `class` in metrics.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Cancel(class) | Self::Terminate(class) => class.name(),
            Self::EndIdle => IDLE_IN_TRANSACTION,
        }
    }
}

/// Remembers what was done, so that each statement is acted on and counted once.
#[derive(Clone, Debug, Default)]
pub struct Watchdog {
    /// By [`Session::id`].
    handled: HashMap<String, Handled>,
}

/// What was done about a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handled {
    Cancelled {
        /// How long it had run.
        after: Duration,
    },
    SessionEnded,
}

impl Watchdog {
    /// What to do about the sessions of one poll.
    pub fn judge<'a>(
        &mut self,
        settings: &WatchdogSettings,
        sessions: &'a [Session],
    ) -> Vec<Verdict<'a>> {
        // What is missing has ended.
        self.handled
            .retain(|id, _| sessions.iter().any(|session| session.id == *id));
        sessions
            .iter()
            .filter_map(|session| {
                let act = self.judge_one(settings, session)?;
                Some(Verdict { session, act })
            })
            .collect()
    }

    fn judge_one(&self, settings: &WatchdogSettings, session: &Session) -> Option<Act> {
        if !settings.watches(session) {
            return None;
        }
        let before = self.handled.get(&session.id).copied();
        if session.state == State::IdleInTransaction {
            let is_due = session.since >= settings.idle_in_transaction && before.is_none();
            return is_due.then_some(Act::EndIdle);
        }
        if is_maintenance(&session.statement) {
            return None;
        }
        let class = settings.class(session);
        match before {
            None => (session.since >= settings.limit(class)).then_some(Act::Cancel(class)),
            Some(Handled::SessionEnded) => None,
            Some(Handled::Cancelled { after }) => {
                let since_cancelled = session.since.saturating_sub(after);
                let is_due = since_cancelled >= settings.terminate_after?;
                is_due.then_some(Act::Terminate(class))
            }
        }
    }

    /// The time until the first of the `sessions` that were not acted on reaches its limit.
    pub fn next_due(&self, settings: &WatchdogSettings, sessions: &[Session]) -> Option<Duration> {
        sessions
            .iter()
            .filter(|session| settings.watches(session) && !self.handled.contains_key(&session.id))
            .filter_map(|session| {
                let limit = match session.state {
                    State::Active => settings.limit(settings.class(session)),
                    State::IdleInTransaction => settings.idle_in_transaction,
                };
                limit.checked_sub(session.since)
            })
            .filter(|left| !left.is_zero())
            .min()
    }

    /// Notes that a verdict was carried out.
    pub fn done(&mut self, Verdict { session, act }: Verdict<'_>) {
        let handled = match act {
            Act::Cancel(_) => Handled::Cancelled {
                after: session.since,
            },
            Act::Terminate(_) | Act::EndIdle => Handled::SessionEnded,
        };
        self.handled.insert(session.id.clone(), handled);
    }
}

impl WatchdogSettings {
    fn watches(&self, session: &Session) -> bool {
        session.application != APPLICATION_NAME
            && (self.roles.contains(&session.role)
                || self.applications.contains(&session.application))
    }

    /// The time limit of `class`.
    pub const fn limit(&self, class: Class) -> Duration {
        match class {
            Class::Query => self.query,
            Class::LongQuery => self.long_query,
        }
    }

    fn class(&self, session: &Session) -> Class {
        let fits =
            |wanted: &Option<String>, seen: &str| wanted.as_deref().is_none_or(|it| it == seen);
        tag(&session.statement).unwrap_or_else(|| {
            self.rules
                .iter()
                .find(|rule| {
                    fits(&rule.role, &session.role) && fits(&rule.application, &session.application)
                })
                .map_or(Class::Query, |rule| rule.class)
        })
    }

    /// The class of a role's statements, whatever the application.
    pub fn class_of_role(&self, role: &str) -> Class {
        self.rules
            .iter()
            .find(|rule| rule.application.is_none() && rule.role.as_deref() == Some(role))
            .map_or(Class::Query, |rule| rule.class)
    }
}

/// The class that a comment at the start or the end of the statement names: `/* levee: long_query */`.
fn tag(statement: &str) -> Option<Class> {
    let statement = statement.trim().trim_end_matches(';').trim_end();
    let front = statement
        .strip_prefix("/*")
        .and_then(|rest| rest.split_once("*/"))
        .map(|(comment, _)| comment);
    let end = statement
        .strip_suffix("*/")
        .and_then(|rest| rest.rsplit_once("/*"))
        .map(|(_, comment)| comment);
    [front, end].into_iter().flatten().find_map(|comment| {
        match comment.trim().strip_prefix("levee:")?.trim() {
            "query" => Some(Class::Query),
            "long_query" => Some(Class::LongQuery),
            _ => None,
        }
    })
}

/// Whether the statement maintains the database, or is how `CockroachDB` replicates and copies it: those have no limit.
fn is_maintenance(statement: &str) -> bool {
    const NAMES: [&str; 13] = [
        "VACUUM",
        "ANALYZE",
        "REINDEX",
        "CLUSTER",
        "CREATE INDEX",
        "CREATE UNIQUE INDEX",
        "REFRESH",
        "CREATE CHANGEFEED",
        "EXPERIMENTAL CHANGEFEED",
        "CREATE STATISTICS",
        "BACKUP",
        "RESTORE",
        "IMPORT",
    ];
    let shown = super::fingerprint::fingerprint(statement).to_ascii_uppercase();
    let is_one = !shown.trim_end_matches([';', ' ']).contains(';');
    is_one
        && NAMES.iter().any(|name| {
            shown
                .strip_prefix(name)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn settings() -> WatchdogSettings {
        WatchdogSettings {
            roles: vec!["app".to_owned(), "reports".to_owned()],
            applications: vec!["worker".to_owned()],
            query: 5 * S,
            long_query: 30 * S,
            rules: vec![Rule {
                role: Some("reports".to_owned()),
                application: None,
                class: Class::LongQuery,
            }],
            idle_in_transaction: 60 * S,
            terminate_after: Some(10 * S),
        }
    }

    fn session(role: &str, statement: &str, since: u32) -> Session {
        Session {
            id: format!("{role}/{statement}"),
            process: "1".to_owned(),
            role: role.to_owned(),
            application: "psql".to_owned(),
            client: String::new(),
            state: State::Active,
            since: since * S,
            statement: statement.to_owned(),
        }
    }

    const fn verdict(session: &Session, act: Act) -> Verdict<'_> {
        Verdict { session, act }
    }

    fn judged(session: &Session) -> Option<Act> {
        Watchdog::default().judge_one(&settings(), session)
    }

    #[test]
    fn a_statement_is_cancelled_when_its_class_is_over() {
        let (query, long) = (
            Some(Act::Cancel(Class::Query)),
            Some(Act::Cancel(Class::LongQuery)),
        );
        for (role, statement, since, act) in [
            ("app", "select 1", 4, None),
            ("app", "select 1", 5, query),
            ("reports", "select 1", 29, None),
            ("reports", "select 1", 30, long),
            ("app", "/* levee: long_query */ select 1", 29, None),
            ("app", "select 1 /* levee:long_query */;", 30, long),
            ("reports", "select 1 /* levee: query */", 5, query),
            ("app", "select '/* levee: long_query */' + 1", 5, query),
            ("app", "/* levee: other */ select 1", 5, query),
            ("somebody", "select 1", 500, None),
            ("app", "VACUUM t", 500, None),
            ("app", "/* x */ vacuum (full) t", 500, None),
            ("app", "create index concurrently i on t (a)", 500, None),
            (
                "app",
                "CREATE CHANGEFEED FOR t WITH cursor = '1'",
                500,
                None,
            ),
            ("app", "EXPERIMENTAL CHANGEFEED FOR t", 500, None),
            ("app", "vacuumed()", 500, query),
            ("app", "analyze t; select pg_sleep(1)", 500, query),
            ("app", "analyze t ; ", 500, None),
        ] {
            assert_eq!(judged(&session(role, statement, since)), act, "{statement}");
        }
    }

    #[test]
    fn an_application_is_watched_whatever_its_role_but_levee_never() {
        let mut seen = session("somebody", "select 1", 500);
        seen.application = "worker".to_owned();
        assert_eq!(judged(&seen), Some(Act::Cancel(Class::Query)));
        seen.role = "app".to_owned();
        seen.application = "levee".to_owned();
        assert_eq!(judged(&seen), None);
    }

    #[test]
    fn each_statement_is_cancelled_once_then_its_session_is_ended_where_that_is_wanted() {
        let mut watchdog = Watchdog::default();
        let settings = settings();
        let mut seen = session("app", "select 1", 5);
        let cancel = Act::Cancel(Class::Query);
        // Twice: as long as it was not carried out, it is judged again.
        for _ in 0..2 {
            assert_eq!(
                watchdog.judge(&settings, std::slice::from_ref(&seen)),
                [verdict(&seen, cancel)]
            );
        }
        watchdog.done(verdict(&seen, cancel));
        for (since, act) in [
            (6, None),
            (14, None),
            (15, Some(Act::Terminate(Class::Query))),
        ] {
            seen.since = since * S;
            let acts = watchdog.judge(&settings, std::slice::from_ref(&seen));
            assert_eq!(acts.first().map(|verdict| verdict.act), act);
        }
        watchdog.done(verdict(&seen, Act::Terminate(Class::Query)));
        assert!(
            watchdog
                .judge(&settings, std::slice::from_ref(&seen))
                .is_empty()
        );
        // The next statement of the same connection is another one.
        watchdog.judge(&settings, &[]);
        assert!(watchdog.handled.is_empty());
    }

    #[test]
    fn the_next_look_is_when_the_first_statement_is_over() {
        let sessions = [
            session("app", "a", 1),
            session("app", "b", 3),
            session("app", "over", 9),
            session("somebody", "c", 4),
        ];
        let watchdog = Watchdog::default();
        assert_eq!(watchdog.next_due(&settings(), &sessions), Some(2 * S));
        assert_eq!(watchdog.next_due(&settings(), &sessions[2..]), None);
    }

    #[test]
    fn sessions_idle_in_a_transaction_are_ended() {
        let mut seen = session("app", "VACUUM", 59);
        seen.state = State::IdleInTransaction;
        assert_eq!(judged(&seen), None);
        seen.since = 60 * S;
        assert_eq!(judged(&seen), Some(Act::EndIdle));
    }
}
