//! Sees what sessions do, and carries out what the [`watchdog`](super::watchdog) decides. When, and whether at all, is
//! decided in [`duty`](super::duty).

use super::claim::{Former, Holder};
use super::connect::{Database, within};
use super::dialect::Signal;
use super::error::Error;
use super::fingerprint::fingerprint;
use super::metrics::WatchdogMetrics;
use super::watchdog::{Act, Session, State, Transaction, Verdict, Watchdog, WatchdogSettings};
use crate::clock::Clock;
use levee_policy::time::Instant;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, FromRow, Row};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which instance acts, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// It has not polled yet, or can't.
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

/// The watchdog's connection.
#[derive(Debug)]
pub struct Line {
    pub(super) connection: PgConnection,
    /// How long a statement may take before the connection is given up.
    pub(super) patience: Duration,
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
            statement: row.try_get("statement")?,
            transaction: transaction(row)?,
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
    /// None: the session had ended or moved on by itself.
    TooLate,
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
        })
    }

    /// Polls once, and acts. Returns the time until the next statement reaches its limit.
    pub(super) async fn look(
        &self,
        line: &mut Line,
        watchdog: &mut Watchdog,
    ) -> Result<Option<Duration>, Error> {
        let sessions = self.sessions(line).await?;
        let verdicts = watchdog.judge(&self.settings, &sessions);
        {
            let mut status = self.lock();
            status.watched = sessions.len();
            status.looked = Some(self.clock.now());
        }
        for verdict in verdicts {
            let Verdict { session, act } = verdict;
            match self.carry_out(line, session, act).await {
                Ok(Effect::Done) => {
                    watchdog.done(verdict);
                    self.lock().acts += 1;
                    self.report(session, act);
                }
                Ok(Effect::TooLate) => {}
                // The connection is lost.
                Err(error @ Error::Transient(_)) => return Err(error),
                Err(error) => {
                    self.metrics.failed.inc();
                    log::error!(part = "watchdog"; "process {} of role {}: {error}", session.process, session.role);
                    if matches!(error, Error::Permanent(_)) {
                        // Otherwise it would be tried and refused at every poll.
                        watchdog.done(verdict);
                    }
                }
            }
        }
        Ok(watchdog.next_due(&self.settings, &sessions))
    }

    /// Counts the act and writes the audit line.
    fn report(&self, session: &Session, act: Act) {
        if !self.dry_run {
            self.metrics.acted(act);
        }
        let what = match (act, self.dry_run) {
            (Act::Cancel(_), false) => "cancelled",
            (Act::Cancel(_), true) => "would cancel",
            (Act::Terminate(_) | Act::EndIdle | Act::EndTransaction, false) => "ended",
            (Act::Terminate(_) | Act::EndIdle | Act::EndTransaction, true) => "would end",
        };
        let since = match (act, &session.transaction) {
            (Act::EndTransaction, Some(transaction)) => transaction.since,
            _ => session.since,
        };
        log::warn!(
            audit = true, class = act.class(), role = session.role.as_str(), application = session.application.as_str(),
            client = session.client.as_str(), process = session.process.as_str(),
            seconds = since.as_secs_f64();
            "{what}: {}", fingerprint(&session.statement)
        );
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
                let seen = match (act, &session.transaction) {
                    (Act::EndTransaction, Some(transaction)) => &transaction.id,
                    _ => &session.id,
                };
                let sent = sqlx::query_scalar::<_, bool>(text)
                    .bind(&session.process)
                    .bind(seen)
                    .persistent(false)
                    .fetch_optional(&mut line.connection);
                Ok(match within(line.patience, sent).await? {
                    Some(true) => Effect::Done,
                    Some(false) | None => Effect::TooLate,
                })
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WatchdogStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
