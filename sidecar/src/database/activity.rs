//! Sees what sessions do, and does to them what the [`watchdog`](super::watchdog) says.

use super::connect::Database;
use super::fingerprint::fingerprint;
use super::metrics::WatchdogMetrics;
use super::sql::Dialect;
use super::watchdog::{Act, Session, Settings, State, Watchdog};
use crate::clock::Clock;
use crate::jobs::{Error, Kind};
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use sqlx::AssertSqlSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the role's rights are looked at again while they don't suffice.
const RIGHTS_EVERY: Duration = Duration::from_mins(1);

/// The longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The first half of the key of the advisory lock of the instance that acts: "leve". The second is of what it watches.
const LOCK: i32 = 0x6c65_7665;

/// The shortest wait between two looks.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// What can be seen of the watchdog.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Why it can't do its work.
    pub problem: Option<String>,
    /// Sessions that it saw the last time, of all that it watches.
    pub watched: usize,
    /// When it last looked.
    pub looked: Option<Instant>,
    /// Another instance acts.
    pub stands_by: bool,
    /// Statements that it cancelled, and sessions that it ended (or would have, in a dry run).
    pub acts: u64,
}

/// The watchdog at its database.
#[derive(Debug)]
pub struct Guard {
    /// Where.
    pub database: Database,
    /// What is watched.
    pub settings: Settings,
    /// How often.
    pub every: Duration,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// What is counted.
    pub metrics: WatchdogMetrics,
    /// The clock.
    pub clock: Clock,
    status: Mutex<Status>,
}

/// Whether the role may see others' statements, and cancel them, and whether the server tells of them.
type Rights = (bool, bool, bool);

impl Guard {
    /// A watchdog that has not looked yet.
    pub fn new(
        database: Database,
        settings: Settings,
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

    /// What can be seen of it.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Looks for ever.
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
                // On time, not at the next look: what is about to be over is looked at just then.
                Ok(due) => {
                    failures = 0;
                    due.unwrap_or(self.every).clamp(SHORTEST_WAIT, self.every)
                }
                Err(error) => {
                    self.metrics.failed.inc();
                    if failures == 0 {
                        log::warn!(part = "watchdog"; "can't look: {error}");
                    }
                    self.lock().problem = Some(error.message);
                    failures += 1;
                    backoff.wait(failures, self.clock.now().as_nanos())
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Looks at the role's rights, and says what is missing.
    async fn check_rights(&self) -> Result<(), Error> {
        let problem = match self.database.dialect {
            Dialect::Cockroach => None,
            Dialect::Postgres => {
                let rights = sqlx::query_as::<_, Rights>(
                    "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), \
                     pg_has_role(current_user, 'pg_signal_backend', 'USAGE'), \
                     current_setting('track_activities') = 'on'",
                )
                .persistent(false)
                .fetch_one(&self.database.pool);
                let (sees, signals, is_told) = self.database.bounded(rights).await?;
                let untold = (!is_told).then(|| {
                    "track_activities is off, so the server does not say what sessions do; turn it on".to_owned()
                });
                let unwatched = self.unwatched().await?;
                let all: Vec<String> = missing(sees, signals)
                    .into_iter()
                    .chain(untold)
                    .chain(unwatched)
                    .collect();
                (!all.is_empty()).then(|| all.join("; "))
            }
        };
        if problem.is_some() {
            // Each time that it is looked at, so that an alert on the count lasts as long as what is wrong.
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

    /// Roles that are to be watched, and can't be.
    async fn unwatched(&self) -> Result<Vec<String>, Error> {
        let roles = sqlx::query_as::<_, (String, Option<bool>)>(
            "SELECT w.role, r.rolsuper FROM unnest($1) AS w(role) LEFT JOIN pg_catalog.pg_roles r \
             ON r.rolname = w.role WHERE r.oid IS NULL OR r.rolsuper OR NOT r.rolcanlogin ORDER BY 1",
        )
        .bind(&self.settings.roles)
        .persistent(false)
        .fetch_all(&self.database.pool);
        let describe = |(role, is_superuser): (String, Option<bool>)| match is_superuser {
            None => format!("there is no role {role:?} to watch"),
            Some(true) => {
                format!("role {role:?} is a superuser, whose statements are left alone")
            }
            Some(false) => format!(
                "nobody logs in as role {role:?}; name the roles that do, its members are not watched for it"
            ),
        };
        let roles = self.database.bounded(roles).await?;
        Ok(roles.into_iter().map(describe).collect())
    }

    /// Looks once. Returns when the next statement that is seen now will be over its limit.
    async fn look(&self, watchdog: &mut Watchdog) -> Result<Option<Duration>, Error> {
        if !self.is_in_charge().await? {
            return Ok(None);
        }
        let sessions = self.sessions().await?;
        let acts = watchdog.judge(&self.settings, &sessions);
        {
            let mut status = self.lock();
            status.watched = sessions.len();
            status.looked = Some(self.clock.now());
        }
        for (place, act) in acts {
            let session = &sessions[place];
            match self.carry_out(session, act).await {
                Ok(true) => {
                    watchdog.done(session, act);
                    self.lock().acts += 1;
                    self.tell(session, act);
                }
                // It had ended by itself.
                Ok(false) => {}
                Err(error) => {
                    self.metrics.failed.inc();
                    log::error!(part = "watchdog"; "process {} of role {}: {error}", session.process, session.role);
                    if error.kind == Kind::Permanent {
                        // It would be refused each second: once is enough.
                        watchdog.done(session, act);
                    }
                }
            }
        }
        Ok(watchdog.next_due(&self.settings, &sessions))
    }

    /// Whether this instance is the one that acts, of those that watch the same roles and applications: it holds an
    /// advisory lock with the one connection that it has. A dry run needs none, and takes it from nobody. `CockroachDB`
    /// has no such lock; its identifiers make acting twice harmless.
    async fn is_in_charge(&self) -> Result<bool, Error> {
        if self.dry_run || self.database.dialect == Dialect::Cockroach {
            return Ok(true);
        }
        let watched = format!("{:?} {:?}", self.settings.roles, self.settings.applications);
        let held = sqlx::query_scalar::<_, bool>(
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted \
             AND l.pid = pg_backend_pid() AND l.classid = $1::int::oid AND l.objid = hashtext($2)::oid AND l.objsubid = 2) \
             THEN true ELSE pg_try_advisory_lock($1, hashtext($2)) END",
        )
        .bind(LOCK)
        .bind(watched)
        .persistent(false)
        .fetch_one(&self.database.pool);
        let held = self.database.bounded(held).await?;
        self.lock().stands_by = !held;
        Ok(held)
    }

    /// The audit line.
    fn tell(&self, session: &Session, act: Act) {
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
    /// The database could not be asked.
    pub async fn sessions(&self) -> Result<Vec<Session>, Error> {
        type Row = (String, String, String, String, String, bool, f64, String);
        let text = match self.database.dialect {
            // Client backends only: not replication, not autovacuum, no workers. Superusers maintain the database.
            Dialect::Postgres => {
                "SELECT concat_ws('/', a.pid, extract(epoch FROM a.backend_start), \
                   extract(epoch FROM CASE WHEN a.state = 'active' THEN a.query_start ELSE a.state_change END)), \
                   a.pid::text, a.usename::text, coalesce(a.application_name, ''), coalesce(host(a.client_addr), ''), \
                   a.state = 'active', CAST(extract(epoch FROM clock_timestamp() - \
                   CASE WHEN a.state = 'active' THEN a.query_start ELSE a.state_change END) AS float8), \
                   coalesce(a.query, '') \
                 FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid \
                 WHERE a.backend_type = 'client backend' AND NOT r.rolsuper AND a.pid <> pg_backend_pid() \
                   AND a.state IN ('active', 'idle in transaction', 'idle in transaction (aborted)') \
                   AND a.query_start IS NOT NULL AND a.datname = current_database() \
                   AND (a.usename = ANY($1) OR a.application_name = ANY($2)) \
                   AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = a.pid)"
            }
            Dialect::Cockroach => {
                "SELECT query_id, query_id, user_name, coalesce(application_name, ''), \
                   coalesce(client_address, ''), true, \
                   CAST(extract(epoch FROM now() - start::timestamptz) AS float8), coalesce(query, '') \
                 FROM [SHOW CLUSTER STATEMENTS] \
                 WHERE user_name <> 'root' AND (user_name = ANY($1) OR application_name = ANY($2))"
            }
        };
        let rows = sqlx::query_as::<_, Row>(text)
            .bind(&self.settings.roles)
            .bind(&self.settings.applications)
            .persistent(false)
            .fetch_all(&self.database.pool);
        let rows = self.database.bounded(rows).await?;
        let session = |row: Row| Session {
            id: row.0,
            process: row.1,
            role: row.2,
            application: row.3,
            client: row.4,
            state: if row.5 {
                State::Active
            } else {
                State::IdleInTransaction
            },
            since: Duration::try_from_secs_f64(row.6).unwrap_or_default(),
            statement: row.7,
        };
        Ok(rows.into_iter().map(session).collect())
    }

    /// Does it, if the session still is at the same. False: it is not.
    ///
    /// # Errors
    /// The database said no.
    pub async fn carry_out(&self, session: &Session, act: Act) -> Result<bool, Error> {
        if self.dry_run {
            return Ok(true);
        }
        if self.database.dialect == Dialect::Cockroach {
            let Some(cancel) = cancel_query(&session.process) else {
                return Ok(false);
            };
            let done = sqlx::query(AssertSqlSafe(cancel))
                .persistent(false)
                .execute(&self.database.pool);
            self.database.bounded(done).await?;
            return Ok(true);
        }
        // Of this one session, not by the view of all: the less lies between the look and the signal the better.
        let text = match act {
            Act::Cancel(_) => {
                "SELECT pg_cancel_backend(a.pid) FROM pg_catalog.pg_stat_get_activity($1::int) a \
                 WHERE a.state = 'active' AND concat_ws('/', a.pid, extract(epoch FROM a.backend_start), \
                 extract(epoch FROM a.query_start)) = $2"
            }
            Act::Terminate(_) => {
                "SELECT pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_get_activity($1::int) a \
                 WHERE a.state = 'active' AND concat_ws('/', a.pid, extract(epoch FROM a.backend_start), \
                 extract(epoch FROM a.query_start)) = $2"
            }
            Act::EndIdle => {
                "SELECT pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_get_activity($1::int) a \
                 WHERE a.state LIKE 'idle in transaction%' AND concat_ws('/', a.pid, \
                 extract(epoch FROM a.backend_start), extract(epoch FROM a.state_change)) = $2"
            }
        };
        let done = sqlx::query_scalar::<_, bool>(text)
            .bind(&session.process)
            .bind(&session.id)
            .persistent(false)
            .fetch_optional(&self.database.pool);
        Ok(self.database.bounded(done).await?.unwrap_or(false))
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cancels a statement of `CockroachDB` by its identifier, which no other statement ever has
/// (<https://www.cockroachlabs.com/docs/stable/cancel-query>). `None`: it is no identifier.
fn cancel_query(id: &str) -> Option<String> {
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| format!("CANCEL QUERY IF EXISTS '{id}'"))
}

/// What the role may not, and how it could.
fn missing(sees: bool, signals: bool) -> Option<String> {
    let roles: Vec<&str> = [
        (!sees).then_some("pg_read_all_stats"),
        (!signals).then_some("pg_signal_backend"),
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
    fn a_statement_of_cockroachdb_is_cancelled_by_its_identifier_alone() {
        assert_eq!(
            cancel_query("14dacc1f9a781e3d0000000000000001").as_deref(),
            Some("CANCEL QUERY IF EXISTS '14dacc1f9a781e3d0000000000000001'")
        );
        for odd in ["", "'; DROP TABLE t; --", "1 2"] {
            assert_eq!(cancel_query(odd), None);
        }
    }

    #[test]
    fn what_the_role_lacks_is_named() {
        assert_eq!(missing(true, true), None);
        let message = missing(true, false).unwrap();
        assert!(message.contains("GRANT pg_signal_backend TO"), "{message}");
        assert!(!message.contains("pg_read_all_stats"), "{message}");
    }
}
