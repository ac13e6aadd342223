//! Sees what sessions do, and carries out what the [`watchdog`](super::watchdog) decides. When, and whether at all, is
//! decided in [`duty`](super::duty).

use super::blockers::{self, Blocker, Sightings, Wait};
use super::claim::{Former, Holder};
use super::class::Statement;
use super::connect::{Database, within};
use super::dialect::Signal;
use super::error::Error;
use super::fingerprint::fingerprint;
use super::metrics::WatchdogMetrics;
use super::watchdog::{
    Act, BlockerPolicy, Measure, Session, State, Transaction, Verdict, Watchdog, WatchdogSettings,
};
use crate::clock::Clock;
use levee_policy::time::Instant;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, FromRow, Row};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// When to poll again after blockers were ended, for those that waited for them.
const AFTER_BLOCKERS: Duration = Duration::from_millis(100);

/// Which instance acts, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// It has not polled yet, or can't, or has no right to act.
    #[default]
    Unknown,
    /// This one.
    Acts(Holder),
    /// This one, as any other: it needs no claim.
    ActsToo,
    /// Another one. `None`: which one can't be seen.
    StandsBy(Option<Holder>),
}

#[derive(Clone, Debug, Default)]
pub struct WatchdogStatus {
    /// Why it can't work.
    pub problem: Option<String>,
    /// Watched sessions at the last poll.
    pub watched: usize,
    /// When the last poll was.
    pub looked: Option<Instant>,
    pub duty: Duty,
    /// Watched statements that wait for locks, at the last poll.
    pub waits: Vec<Wait>,
    /// Statements that it cancelled and sessions that it ended (or would have, in a dry run).
    pub acts: u64,
}

/// The watchdog at its database.
#[derive(Debug)]
pub struct Guard {
    pub database: Database,
    pub settings: WatchdogSettings,
    /// The interval between polls.
    pub every: Duration,
    /// Only logs what it would do.
    pub dry_run: bool,
    pub metrics: WatchdogMetrics,
    pub clock: Clock,
    pub(super) former: Former,
    status: Mutex<WatchdogStatus>,
}

/// What is kept from poll to poll.
#[derive(Debug, Default)]
pub(super) struct Memory {
    watchdog: Watchdog,
    sightings: Sightings,
}

/// The watchdog's connection.
#[derive(Debug)]
pub struct Line {
    pub(super) connection: PgConnection,
    /// How long a statement may take before the connection is given up.
    pub(super) patience: Duration,
    /// The database has refused an act, since the last check of the role's rights.
    pub(super) was_refused: bool,
}

impl FromRow<'_, PgRow> for Session {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            process: row.try_get("process")?,
            role: row.try_get("role")?,
            application: row.try_get("application")?,
            client: row.try_get("client")?,
            state: if row.try_get("is_active")? {
                State::Active
            } else {
                State::IdleInTransaction
            },
            since: Duration::try_from_secs_f64(row.try_get("seconds")?).unwrap_or_default(),
            statement: Statement {
                text: row.try_get("statement")?,
                may_be_cut: row.try_get("may_be_cut")?,
            },
            transaction: transaction(row)?,
            waits_for_lock: row.try_get("waits_for_lock")?,
            is_levee: row.try_get("is_levee")?,
        })
    }
}

fn transaction(row: &PgRow) -> sqlx::Result<Option<Transaction>> {
    let id: Option<String> = row.try_get("transaction")?;
    let seconds: Option<f64> = row.try_get("transaction_seconds")?;
    Ok(id.zip(seconds).map(|(id, seconds)| Transaction {
        id,
        since: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
    }))
}

/// The effect of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Done,
    /// Another instance, which watches other roles besides, has had this effect.
    DoneElsewhere,
    /// None: the session had ended or moved on by itself.
    TooLate,
}

/// What other instances know an act by.
fn name_of_act(measure: Measure, target: &str) -> String {
    match measure {
        Measure::Cancel => format!("cancel {target}"),
        Measure::End => format!("end {target}"),
    }
}

impl Guard {
    pub fn new(
        database: Database,
        settings: WatchdogSettings,
        every: Duration,
        dry_run: bool,
        metrics: WatchdogMetrics,
        clock: Clock,
    ) -> Self {
        Self {
            database,
            settings,
            every,
            dry_run,
            metrics,
            clock,
            former: Former::default(),
            status: Mutex::default(),
        }
    }

    pub fn status(&self) -> WatchdogStatus {
        self.lock().clone()
    }

    /// A new connection for the watchdog.
    ///
    /// # Errors
    /// There is none.
    pub async fn connect(&self, patience: Duration) -> Result<Line, Error> {
        Ok(Line {
            connection: self.database.connect().await?,
            patience,
            was_refused: false,
        })
    }

    /// Polls once, and acts. Returns the time until the next statement reaches its limit.
    pub(super) async fn look(
        &self,
        line: &mut Line,
        memory: &mut Memory,
    ) -> Result<Option<Duration>, Error> {
        let sessions = self.sessions(line).await?;
        let waits = self.waits(line, &sessions).await?;
        memory.sightings.note(&waits);
        let verdicts = memory.watchdog.judge(&self.settings, &sessions);
        {
            let mut status = self.lock();
            status.watched = sessions.len();
            status.looked = Some(self.clock.now());
            status.waits.clone_from(&waits);
        }
        let mut ended = HashSet::new();
        for verdict in verdicts {
            let wait = waits
                .iter()
                .find(|wait| wait.session.id == verdict.session.id);
            let blockers = wait.map_or(&[][..], |wait| &wait.blockers);
            if self.settings.blockers == BlockerPolicy::Cancel
                && matches!(verdict.act, Act::Cancel(_))
                && self
                    .end_blockers(line, memory, verdict.session, blockers, &mut ended)
                    .await?
            {
                continue;
            }
            if self.act(line, &mut memory.watchdog, verdict).await? == Effect::Done {
                self.report(verdict.session, verdict.act, blockers);
            }
        }
        self.release_acts(line, memory.watchdog.take_forgotten())
            .await?;
        let due = memory.watchdog.next_due(&self.settings, &sessions);
        // What still runs then is cancelled.
        Ok(if ended.is_empty() {
            due
        } else {
            Some(AFTER_BLOCKERS)
        })
    }

    /// Releases the locks of acts on these statements and transactions.
    async fn release_acts(&self, line: &mut Line, forgotten: Vec<String>) -> Result<(), Error> {
        let release = self.database.dialect.release_acts();
        let Some(release) = release.filter(|_| !forgotten.is_empty()) else {
            return Ok(());
        };
        let measures = [Measure::Cancel, Measure::End];
        let acts: Vec<String> = forgotten
            .iter()
            .flat_map(|target| measures.map(|measure| name_of_act(measure, target)))
            .collect();
        let released = sqlx::query(release)
            .bind(acts)
            .persistent(false)
            .execute(&mut line.connection);
        within(line.patience, released).await?;
        Ok(())
    }

    /// Watched statements that wait for a lock, and what for.
    async fn waits(&self, line: &mut Line, sessions: &[Session]) -> Result<Vec<Wait>, Error> {
        let Some(query) = self.database.dialect.blockers() else {
            return Ok(Vec::new());
        };
        let (connection, patience) = (&mut line.connection, line.patience);
        blockers::find(connection, query, &self.settings, sessions, patience).await
    }

    /// Acts on those that have kept `waiting` from its lock for long, each once. Returns whether one was ended in this poll
    /// (by its `ended`), so that `waiting` may go on.
    async fn end_blockers(
        &self,
        line: &mut Line,
        memory: &mut Memory,
        waiting: &Session,
        blockers: &[Blocker],
        ended: &mut HashSet<String>,
    ) -> Result<bool, Error> {
        let mut is_ended = false;
        for blocker in blockers {
            let session = &blocker.session;
            is_ended |= ended.contains(&session.id);
            let Some(act) = blocker.act(&self.settings) else {
                continue;
            };
            let is_to_blame = memory
                .sightings
                .is_to_blame(&self.settings, waiting, blocker);
            if !is_to_blame || memory.watchdog.has_handled(session) {
                continue;
            }
            let verdict = Verdict { session, act };
            match self.act(line, &mut memory.watchdog, verdict).await? {
                Effect::TooLate => continue,
                Effect::Done => self.report_blocker(session, act, waiting),
                Effect::DoneElsewhere => {}
            }
            ended.insert(session.id.clone());
            is_ended = true;
        }
        Ok(is_ended)
    }

    /// Carries out a verdict, and notes that.
    async fn act(
        &self,
        line: &mut Line,
        watchdog: &mut Watchdog,
        verdict: Verdict<'_>,
    ) -> Result<Effect, Error> {
        let Verdict { session, act } = verdict;
        match self.carry_out(line, session, act).await {
            Ok(Effect::Done) => {
                watchdog.done(verdict);
                self.lock().acts += 1;
                if !self.dry_run {
                    self.metrics.acted(act);
                }
                Ok(Effect::Done)
            }
            Ok(Effect::DoneElsewhere) => {
                watchdog.done(verdict);
                Ok(Effect::DoneElsewhere)
            }
            Ok(Effect::TooLate) => {
                watchdog.not_done(verdict);
                Ok(Effect::TooLate)
            }
            // The connection is lost.
            Err(error @ Error::Transient(_)) => Err(error),
            Err(error) => {
                self.metrics.failed.inc();
                log::error!(part = "watchdog"; "process {} of role {}: {error}", session.process, session.role);
                if matches!(error, Error::Permanent(_)) {
                    // Otherwise it would be tried and refused at every poll.
                    watchdog.done(verdict);
                    line.was_refused = true;
                }
                watchdog.not_done(verdict);
                Ok(Effect::TooLate)
            }
        }
    }

    /// Writes the audit line.
    fn report(&self, session: &Session, act: Act, blockers: &[Blocker]) {
        let what = self.in_words(act);
        let since = match (act, &session.transaction) {
            (Act::EndTransaction, Some(transaction)) => transaction.since,
            _ => session.since,
        };
        let (class, seconds) = (act.class(), since.as_secs_f64());
        let Session {
            role,
            application,
            client,
            process,
            statement,
            ..
        } = session;
        let statement = fingerprint(&statement.text);
        if blockers.is_empty() {
            log::warn!(
                audit = true, class, role, application, client, process, seconds;
                "{what}: {statement}"
            );
        } else {
            let blockers: Vec<String> = blockers.iter().map(Blocker::describe).collect();
            let blockers = blockers.join("; ");
            log::warn!(
                audit = true, class, role, application, client, process, seconds, blockers;
                "{what}: {statement}"
            );
        }
    }

    /// Writes the audit line of a session that kept `waiting` from its lock.
    fn report_blocker(&self, session: &Session, act: Act, waiting: &Session) {
        let what = self.in_words(act);
        let Session {
            role,
            application,
            client,
            process,
            statement,
            since,
            ..
        } = session;
        let waiting = format!(
            "process {} of role {:?}: {}",
            waiting.process,
            waiting.role,
            fingerprint(&waiting.statement.text)
        );
        log::warn!(
            audit = true, class = act.class(), role, application, client, process,
            seconds = since.as_secs_f64(), waiting;
            "{what}: {}", fingerprint(&statement.text)
        );
    }

    const fn in_words(&self, act: Act) -> &'static str {
        match (act.measure(), self.dry_run) {
            (Measure::Cancel, false) => "cancelled",
            (Measure::Cancel, true) => "would cancel",
            (Measure::End, false) => "ended",
            (Measure::End, true) => "would end",
        }
    }

    /// All sessions that might be watched.
    ///
    /// # Errors
    /// The query failed.
    pub async fn sessions(&self, line: &mut Line) -> Result<Vec<Session>, Error> {
        let rows = sqlx::query_as::<_, Session>(self.database.dialect.sessions())
            .bind(&self.settings.roles)
            .bind(&self.settings.applications)
            .persistent(false)
            .fetch_all(&mut line.connection);
        within(line.patience, rows).await
    }

    /// Acts on the session if its state and statement are still the same.
    ///
    /// # Errors
    /// The database refused.
    pub async fn carry_out(
        &self,
        line: &mut Line,
        session: &Session,
        act: Act,
    ) -> Result<Effect, Error> {
        if self.dry_run {
            return Ok(Effect::Done);
        }
        match self.database.dialect.signal(act, &session.process) {
            Signal::Nothing => Ok(Effect::TooLate),
            Signal::ById(text) => {
                let done = sqlx::query(AssertSqlSafe(text))
                    .persistent(false)
                    .execute(&mut line.connection);
                within(line.patience, done).await?;
                Ok(Effect::Done)
            }
            Signal::Checked(text) => {
                let target = act.target(session);
                let sent = sqlx::query_scalar::<_, Option<bool>>(text)
                    .bind(&session.process)
                    .bind(target)
                    .bind(name_of_act(act.measure(), target))
                    .persistent(false)
                    .fetch_optional(&mut line.connection);
                Ok(match within(line.patience, sent).await? {
                    Some(Some(true)) => Effect::Done,
                    Some(None) => Effect::DoneElsewhere,
                    Some(Some(false)) | None => Effect::TooLate,
                })
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WatchdogStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
