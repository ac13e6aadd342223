//! Polls what sessions do, and carries out what the [`watchdog`](super::watchdog) decides.

use super::connect::Database;
use super::dialect::{Signal, WatchdogChecks};
use super::error::Error;
use super::fingerprint::fingerprint;
use super::metrics::WatchdogMetrics;
use super::watchdog::{Act, Session, State, Verdict, Watchdog, WatchdogSettings};
use crate::clock::Clock;
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow, Row};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the role's rights are checked.
const RIGHTS_EVERY: Duration = Duration::from_mins(1);

/// The longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The first half of the key of the advisory lock of the acting instance: "leve". The second is a hash of what it
/// watches.
const LOCK: i32 = 0x6c65_7665;

/// The shortest wait between two polls.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, Default)]
pub struct WatchdogStatus {
    /// Why it can't work.
    pub problem: Option<String>,
    /// Watched sessions at the last poll.
    pub watched: usize,
    /// When the last poll was.
    pub looked: Option<Instant>,
    /// Another instance acts.
    pub stands_by: bool,
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
    status: Mutex<WatchdogStatus>,
}

/// What the watchdog's role may do, and what the server shows.
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
            status: Mutex::default(),
        }
    }

    pub fn status(&self) -> WatchdogStatus {
        self.lock().clone()
    }

    /// Polls forever.
    pub async fn watch(self: Arc<Self>) {
        let backoff = Backoff {
            base: self.every,
            max: LONGEST_WAIT.max(self.every),
            factor: 2,
            jitter: Jitter::shorter(Ratio::percent(10)),
        };
        let mut watchdog = Watchdog::default();
        let mut rights_looked: Option<Instant> = None;
        let mut failures = 0;
        loop {
            let now = self.clock.now();
            let is_due = rights_looked.is_none_or(|looked| now.since(looked) >= RIGHTS_EVERY);
            let has_problem = self.lock().problem.is_some();
            let result = if is_due || (has_problem && failures > 0) {
                rights_looked = Some(now);
                self.check_rights().await
            } else {
                Ok(())
            };
            let result = match result {
                Ok(()) => self.look(&mut watchdog).await,
                Err(error) => Err(error),
            };
            let wait = match result {
                // A statement that is about to reach its limit is polled just then.
                Ok(due) => {
                    failures = 0;
                    due.unwrap_or(self.every).clamp(SHORTEST_WAIT, self.every)
                }
                Err(error) => {
                    self.metrics.failed.inc();
                    if failures == 0 {
                        log::warn!(part = "watchdog"; "can't look: {error}");
                    }
                    self.lock().problem = Some(error.to_string());
                    failures += 1;
                    backoff.wait(failures, self.clock.now().as_nanos())
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Checks the role's rights, and reports what is missing.
    async fn check_rights(&self) -> Result<(), Error> {
        let problem = match self.database.dialect.watchdog_checks() {
            None => None,
            Some(checks) => self.problem(checks).await?,
        };
        if problem.is_some() {
            // Incremented on every check, so a rate alert keeps firing while the problem lasts.
            self.metrics.failed.inc();
        }
        let mut status = self.lock();
        if let Some(problem) = &problem
            && status.problem.as_ref() != Some(problem)
        {
            log::error!(part = "watchdog"; "{problem}");
        } else if problem.is_none() && status.problem.is_some() {
            log::info!(part = "watchdog"; "can look again");
        }
        status.problem = problem;
        Ok(())
    }

    async fn problem(&self, checks: WatchdogChecks) -> Result<Option<String>, Error> {
        let rights = sqlx::query_as::<_, Rights>(checks.rights)
            .persistent(false)
            .fetch_one(&self.database.pool);
        let rights = self.database.bounded(rights).await?;
        let untracked = (!rights.tracks_activities).then(|| {
            "track_activities is off, so the server does not say what sessions do; turn it on"
                .to_owned()
        });
        let all: Vec<String> = missing(rights)
            .into_iter()
            .chain(untracked)
            .chain(self.unwatchable(checks.roles).await?)
            .collect();
        Ok((!all.is_empty()).then(|| all.join("; ")))
    }

    /// Configured roles that can't be watched, and why.
    async fn unwatchable(&self, query: &'static str) -> Result<Vec<String>, Error> {
        let roles = sqlx::query_as::<_, UnwatchableRole>(query)
            .bind(&self.settings.roles)
            .persistent(false)
            .fetch_all(&self.database.pool);
        let roles = self.database.bounded(roles).await?;
        Ok(roles.iter().map(ToString::to_string).collect())
    }

    /// Polls once. Returns the time until the next statement reaches its limit.
    async fn look(&self, watchdog: &mut Watchdog) -> Result<Option<Duration>, Error> {
        if !self.is_in_charge().await? {
            return Ok(None);
        }
        let sessions = self.sessions().await?;
        let verdicts = watchdog.judge(&self.settings, &sessions);
        {
            let mut status = self.lock();
            status.watched = sessions.len();
            status.looked = Some(self.clock.now());
        }
        for verdict in verdicts {
            let Verdict { session, act } = verdict;
            match self.carry_out(session, act).await {
                Ok(Effect::Done) => {
                    watchdog.done(verdict);
                    self.lock().acts += 1;
                    self.report(session, act);
                }
                Ok(Effect::TooLate) => {}
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

    /// Whether this instance is the one that acts, of those that watch the same roles and applications: its only
    /// connection holds an advisory lock. A dry run does without the lock, so it keeps no other instance from acting.
    /// `CockroachDB` has no such lock; its identifiers make acting twice harmless.
    async fn is_in_charge(&self) -> Result<bool, Error> {
        if self.dry_run {
            return Ok(true);
        }
        let Some(claim) = self.database.dialect.claim_watchdog() else {
            return Ok(true);
        };
        let watched = format!("{:?} {:?}", self.settings.roles, self.settings.applications);
        let held = sqlx::query_scalar::<_, bool>(claim)
            .bind(LOCK)
            .bind(watched)
            .persistent(false)
            .fetch_one(&self.database.pool);
        let held = self.database.bounded(held).await?;
        self.lock().stands_by = !held;
        Ok(held)
    }

    /// Counts the act and writes the audit line.
    fn report(&self, session: &Session, act: Act) {
        if !self.dry_run {
            self.metrics.acted(act);
        }
        let what = match (act, self.dry_run) {
            (Act::Cancel(_), false) => "cancelled",
            (Act::Cancel(_), true) => "would cancel",
            (Act::Terminate(_) | Act::EndIdle, false) => "ended",
            (Act::Terminate(_) | Act::EndIdle, true) => "would end",
        };
        log::warn!(
            audit = true, class = act.class(), role = session.role.as_str(), application = session.application.as_str(),
            client = session.client.as_str(), process = session.process.as_str(),
            seconds = session.since.as_secs_f64();
            "{what}: {}", fingerprint(&session.statement)
        );
    }

    /// All sessions that might be watched.
    ///
    /// # Errors
    /// The query failed.
    pub async fn sessions(&self) -> Result<Vec<Session>, Error> {
        let rows = sqlx::query_as::<_, Session>(self.database.dialect.sessions())
            .bind(&self.settings.roles)
            .bind(&self.settings.applications)
            .persistent(false)
            .fetch_all(&self.database.pool);
        self.database.bounded(rows).await
    }

    /// Acts on the session if its state and statement are still the same.
    ///
    /// # Errors
    /// The database refused.
    pub async fn carry_out(&self, session: &Session, act: Act) -> Result<Effect, Error> {
        if self.dry_run {
            return Ok(Effect::Done);
        }
        match self.database.dialect.signal(act, &session.process) {
            Signal::Nothing => Ok(Effect::TooLate),
            Signal::ById(text) => {
                let done = sqlx::query(AssertSqlSafe(text))
                    .persistent(false)
                    .execute(&self.database.pool);
                self.database.bounded(done).await?;
                Ok(Effect::Done)
            }
            Signal::Checked(text) => {
                let sent = sqlx::query_scalar::<_, bool>(text)
                    .bind(&session.process)
                    .bind(&session.id)
                    .persistent(false)
                    .fetch_optional(&self.database.pool);
                Ok(match self.database.bounded(sent).await? {
                    Some(true) => Effect::Done,
                    Some(false) | None => Effect::TooLate,
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, WatchdogStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            "the role that Levee logs in as lacks {roles}, so it sees and cancels only its own statements; as a \
             superuser: GRANT {roles} TO ...;"
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
