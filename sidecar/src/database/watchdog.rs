//! Which statements have run too long, and what to do about them. Decides only; see [`activity`](super::activity) for
//! the rest.

use super::class::Statement;
use std::collections::HashMap;
use std::time::Duration;

pub use super::class::Class;

/// The application name of Levee's own connections.
pub const APPLICATION_NAME: &str = "levee";

/// The metrics' class of sessions that were idle in a transaction.
pub const IDLE_IN_TRANSACTION: &str = "idle_in_transaction";

/// The metrics' class of transactions that lasted for too long.
pub const TRANSACTION: &str = "transaction";

/// The metrics' class of sessions that kept others waiting.
pub const BLOCKER: &str = "blocker";

/// Gives a class to statements of a role, an application, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `None`: any.
    pub role: Option<String>,
    /// `None`: any.
    pub application: Option<String>,
    pub class: Class,
}

/// What the watchdog does about a session that keeps a watched statement waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockerPolicy {
    /// Names it.
    #[default]
    Report,
    /// Cancels its statement, or ends it if it is idle in a transaction.
    Cancel,
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
    /// How long a transaction may last before its session is ended, however busy it is. `None`: without limit.
    pub transaction: Option<Duration>,
    /// What is done about sessions that keep watched statements waiting.
    pub blockers: BlockerPolicy,
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
    pub statement: Statement,
    /// `None`: it is in none, or the database doesn't say.
    pub transaction: Option<Transaction>,
    pub waits_for_lock: bool,
    /// It has the role of this connection, and Levee's application name.
    pub is_levee: bool,
}

/// A transaction at one poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Identifies it: process, start of the session and start of the transaction.
    pub id: String,
    /// For how long it has lasted, by the database's clock.
    pub since: Duration,
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
    /// End it, since its transaction lasts for too long.
    EndTransaction,
    /// Cancel its statement, since it keeps others waiting.
    CancelBlocker,
    /// End it, since it is idle in a transaction and keeps others waiting.
    EndBlocker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Cancel its statement.
    Cancel,
    /// End it.
    End,
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
            Self::EndTransaction => TRANSACTION,
            Self::CancelBlocker | Self::EndBlocker => BLOCKER,
        }
    }

    /// What it does to the session.
    pub const fn measure(self) -> Measure {
        match self {
            Self::Cancel(_) | Self::CancelBlocker => Measure::Cancel,
            Self::Terminate(_) | Self::EndIdle | Self::EndTransaction | Self::EndBlocker => {
                Measure::End
            }
        }
    }

    /// The identifier of the statement or the transaction that it is for.
    pub fn target(self, session: &Session) -> &str {
        match (self, &session.transaction) {
            (Self::EndTransaction, Some(transaction)) => &transaction.id,
            _ => &session.id,
        }
    }
}

/// Remembers what was done, so that each statement is acted on and counted once.
#[derive(Clone, Debug, Default)]
pub struct Watchdog {
    /// By [`Session::id`], and [`Transaction::id`].
    handled: HashMap<String, Handled>,
    /// Those that have ended, and those of which nothing was done.
    forgotten: Vec<String>,
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
        let ended = self.handled.extract_if(|id, _| {
            let is_it = |session: &Session| {
                let transaction = session.transaction.as_ref();
                session.id == *id || transaction.is_some_and(|it| it.id == *id)
            };
            !sessions.iter().any(is_it)
        });
        self.forgotten.extend(ended.map(|(id, _)| id));
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
            if session.since >= settings.idle_in_transaction && before.is_none() {
                return Some(Act::EndIdle);
            }
            let is_over = self.transaction_left(settings, session) == Some(Duration::ZERO);
            return (is_over && before.is_none()).then_some(Act::EndTransaction);
        }
        if session.statement.is_maintenance() {
            return None;
        }
        if self.transaction_left(settings, session) == Some(Duration::ZERO) {
            return Some(Act::EndTransaction);
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

    /// How long its transaction may still last. `None`: there is no limit, or it was ended.
    fn transaction_left(&self, settings: &WatchdogSettings, session: &Session) -> Option<Duration> {
        let transaction = session.transaction.as_ref()?;
        let limit = settings.transaction?;
        let is_handled = self.handled.contains_key(&transaction.id);
        (!is_handled).then(|| limit.saturating_sub(transaction.since))
    }

    /// The time until the first of the `sessions` that were not acted on reaches its limit, or half of it, from which on
    /// blockers are looked up.
    pub fn next_due(&self, settings: &WatchdogSettings, sessions: &[Session]) -> Option<Duration> {
        sessions
            .iter()
            .filter(|session| settings.watches(session) && !self.handled.contains_key(&session.id))
            .filter_map(|session| {
                let is_halfway_next =
                    settings.blockers == BlockerPolicy::Cancel && !settings.has_used_half(session);
                let limit = match session.state {
                    State::Active if is_halfway_next => settings.limit_of(session) / 2,
                    State::Active => settings.limit_of(session),
                    State::IdleInTransaction => settings.idle_in_transaction,
                };
                let left = limit.checked_sub(session.since);
                left.into_iter()
                    .chain(self.transaction_left(settings, session))
                    .filter(|left| !left.is_zero())
                    .min()
            })
            .min()
    }

    /// Whether something was done about the session's statement, or its transaction.
    pub fn has_handled(&self, session: &Session) -> bool {
        self.handled.contains_key(&session.id)
    }

    /// Notes that a verdict was carried out.
    pub fn done(&mut self, Verdict { session, act }: Verdict<'_>) {
        let handled = match act.measure() {
            Measure::Cancel => Handled::Cancelled {
                after: session.since,
            },
            Measure::End => Handled::SessionEnded,
        };
        self.handled.insert(act.target(session).to_owned(), handled);
        self.handled.insert(session.id.clone(), handled);
    }

    /// Notes that a verdict was not carried out.
    pub fn not_done(&mut self, Verdict { session, act }: Verdict<'_>) {
        self.forgotten.push(act.target(session).to_owned());
    }

    /// The statements and transactions of which no act is remembered any more, each once.
    pub fn take_forgotten(&mut self) -> Vec<String> {
        std::mem::take(&mut self.forgotten)
    }
}

impl WatchdogSettings {
    pub(super) fn watches(&self, session: &Session) -> bool {
        !session.is_levee
            && (self.roles.contains(&session.role)
                || self.applications.contains(&session.application))
    }

    /// Whether the statement of a watched session has used half of its time.
    pub(super) fn has_used_half(&self, session: &Session) -> bool {
        self.watches(session) && session.since >= self.limit_of(session) / 2
    }

    /// The time limit of the session's statement.
    pub(super) fn limit_of(&self, session: &Session) -> Duration {
        self.limit(self.class(session))
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
        session.statement.tag().unwrap_or_else(|| {
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
            transaction: None,
            blockers: BlockerPolicy::Report,
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
            statement: Statement {
                text: statement.to_owned(),
                may_be_cut: false,
            },
            transaction: None,
            waits_for_lock: false,
            is_levee: false,
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
        assert_eq!(
            judged(&seen),
            Some(Act::Cancel(Class::Query)),
            "a name is not enough"
        );
        seen.is_levee = true;
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
        let settings = WatchdogSettings {
            blockers: BlockerPolicy::Cancel,
            ..settings()
        };
        let half = watchdog.next_due(&settings, &sessions[..1]);
        assert_eq!(half, Some(3 * S / 2));
        assert_eq!(watchdog.next_due(&settings, &sessions), half);
        assert_eq!(watchdog.next_due(&settings, &sessions[1..]), Some(2 * S));
    }

    #[test]
    fn a_transaction_that_is_busy_for_too_long_is_ended_once() {
        let settings = WatchdogSettings {
            transaction: Some(20 * S),
            ..settings()
        };
        let mut watchdog = Watchdog::default();
        let mut seen = session("app", "select 1", 1);
        let mut begun = |since: u32| {
            seen.transaction = Some(Transaction {
                id: "transaction".to_owned(),
                since: since * S,
            });
            seen.clone()
        };
        let before = begun(17);
        assert_eq!(watchdog.judge_one(&settings, &before), None);
        let next = watchdog.next_due(&settings, &[before]);
        assert_eq!(next, Some(3 * S));
        let over = begun(20);
        let act = watchdog.judge_one(&settings, &over);
        assert_eq!(act, Some(Act::EndTransaction));
        let idle = Session {
            state: State::IdleInTransaction,
            ..over.clone()
        };
        assert_eq!(watchdog.judge_one(&settings, &idle), act);
        watchdog.done(verdict(&over, Act::EndTransaction));
        // Its end takes a moment.
        let next = Session {
            id: "the next statement".to_owned(),
            ..over
        };
        assert_eq!(watchdog.judge_one(&settings, &next), None);
        let maintenance = session("app", "CREATE INDEX ON t (a)", 500);
        assert_eq!(watchdog.judge_one(&settings, &maintenance), None);
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
