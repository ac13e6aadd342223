//! Which statements have run for too long, and what is to be done about them. Decides only; see
//! [`activity`](super::activity) for the rest.

use std::collections::HashMap;
use std::time::Duration;

/// The application name of Levee's own connections, which the watchdog leaves alone.
pub const APPLICATION_NAME: &str = "levee";

/// How long a statement may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Ordinary ones.
    Query,
    /// Reports and their like.
    LongQuery,
}

impl Class {
    /// Its name in metrics, in the configuration and in comments of statements.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::LongQuery => "long_query",
        }
    }
}

/// The label of sessions that were idle in a transaction.
pub const IDLE_IN_TRANSACTION: &str = "idle_in_transaction";

/// Gives a class to statements of a role or an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The role, if it matters.
    pub role: Option<String>,
    /// The application's name, if it matters.
    pub application: Option<String>,
    /// The class.
    pub class: Class,
}

/// What is watched, and what is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogSettings {
    /// Whose statements are watched: those of these roles,
    pub roles: Vec<String>,
    /// and those of these applications.
    pub applications: Vec<String>,
    /// How long a statement of [`Class::Query`] may take.
    pub query: Duration,
    /// How long a statement of [`Class::LongQuery`] may take.
    pub long_query: Duration,
    /// Classes other than [`Class::Query`]; the first that fits holds. A comment in the statement comes before.
    pub rules: Vec<Rule>,
    /// How long a session may be idle in a transaction before it is ended.
    pub idle_in_transaction: Duration,
    /// How long after it was cancelled a statement's session is ended. `None`: never.
    pub terminate_after: Option<Duration>,
}

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It executes a statement.
    Active,
    /// It waits for its client, in a transaction.
    IdleInTransaction,
}

/// A session of the database, as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// What tells this statement from all others: process and start of session and statement.
    pub id: String,
    /// Its process, or what else the database calls it.
    pub process: String,
    /// Who.
    pub role: String,
    /// What calls itself so.
    pub application: String,
    /// From where.
    pub client: String,
    /// What it does.
    pub state: State,
    /// For how long, by the clock of the database.
    pub since: Duration,
    /// The statement, or the last one.
    pub statement: String,
}

/// What is to be done to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its statement is cancelled.
    Cancel(Class),
    /// It is ended, since cancelling has not helped.
    Terminate(Class),
    /// It is ended, since it is idle in a transaction.
    EndIdle,
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
    /// How long each statement had run when it was acted on.
    acted: HashMap<String, (Duration, bool)>,
}

impl Watchdog {
    /// What is to be done, by what is seen now.
    pub fn judge(
        &mut self,
        settings: &WatchdogSettings,
        sessions: &[Session],
    ) -> Vec<(usize, Act)> {
        // What is not seen any more has ended.
        self.acted
            .retain(|id, _| sessions.iter().any(|session| session.id == *id));
        let mut acts = Vec::new();
        for (place, session) in sessions.iter().enumerate() {
            if let Some(act) = self.judge_one(settings, session) {
                acts.push((place, act));
            }
        }
        acts
    }

    fn judge_one(&self, settings: &WatchdogSettings, session: &Session) -> Option<Act> {
        if !settings.watches(session) {
            return None;
        }
        let before = self.acted.get(&session.id).copied();
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
            Some((_, true)) => None,
            Some((cancelled, false)) => {
                let after = settings.terminate_after?;
                (session.since.saturating_sub(cancelled) >= after).then_some(Act::Terminate(class))
            }
        }
    }

    /// How long it is until the first of `sessions` is over its limit, of those that nothing was done to.
    pub fn next_due(&self, settings: &WatchdogSettings, sessions: &[Session]) -> Option<Duration> {
        sessions
            .iter()
            .filter(|session| settings.watches(session) && !self.acted.contains_key(&session.id))
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

    /// It was done, and the session was still at what it was seen at.
    pub fn done(&mut self, session: &Session, act: Act) {
        let is_ended = !matches!(act, Act::Cancel(_));
        self.acted
            .insert(session.id.clone(), (session.since, is_ended));
    }
}

impl WatchdogSettings {
    fn watches(&self, session: &Session) -> bool {
        session.application != APPLICATION_NAME
            && (self.roles.contains(&session.role)
                || self.applications.contains(&session.application))
    }

    /// How long statements of `class` may take.
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

    /// The class of a role, whatever it calls itself.
    pub fn class_of_role(&self, role: &str) -> Class {
        self.rules
            .iter()
            .find(|rule| rule.application.is_none() && rule.role.as_deref() == Some(role))
            .map_or(Class::Query, |rule| rule.class)
    }
}

/// The class that a comment at the front or the end of the statement names: `/* levee: long_query */`.
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

/// Whether the statement keeps the database in order, or is how `CockroachDB` replicates and copies it: those take as
/// long as they take.
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
        assert_eq!(
            watchdog.judge(&settings, std::slice::from_ref(&seen)),
            [(0, cancel)]
        );
        // Not done, since it had ended meanwhile: it is judged again.
        assert_eq!(
            watchdog.judge(&settings, std::slice::from_ref(&seen)),
            [(0, cancel)]
        );
        watchdog.done(&seen, cancel);
        for (since, act) in [
            (6, None),
            (14, None),
            (15, Some(Act::Terminate(Class::Query))),
        ] {
            seen.since = since * S;
            let acts = watchdog.judge(&settings, std::slice::from_ref(&seen));
            assert_eq!(acts.first().map(|(_, act)| *act), act);
        }
        watchdog.done(&seen, Act::Terminate(Class::Query));
        assert!(
            watchdog
                .judge(&settings, std::slice::from_ref(&seen))
                .is_empty()
        );
        // The next statement of the same connection is another one.
        watchdog.judge(&settings, &[]);
        assert!(watchdog.acted.is_empty());
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
