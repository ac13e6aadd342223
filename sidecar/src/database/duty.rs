//! Polls again and again, and decides which instance acts: of those that watch the same roles and applications and have the
//! right to act, the one whose connection holds a [claim](super::claim). A connection that does not answer is given up within
//! seconds.

use super::activity::{Duty, Guard, Line, Memory};
use super::claim::{self, Claimed, Holder, RENEW_EVERY};
use super::error::Error;
use super::rights;
use crate::readiness::Part;
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::ratio::Ratio;
use levee_policy::time::Instant;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often the role's rights are checked.
const RIGHTS_EVERY: Duration = Duration::from_mins(1);

/// The shortest wait between two polls.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// The waits after failures in a row. The first is short, since most connections that are lost can be replaced at once.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(100),
    max: Duration::from_secs(5),
    factor: 3,
    jitter: Jitter::shorter(Ratio::percent(10)),
};

/// How long a statement may take before its connection is given up. It doubles while the database is slower than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is kept between polls.
struct Watch {
    memory: Memory,
    /// `None`: it was lost, or is not there yet.
    line: Option<Line>,
    patience: Duration,
    rights_checked: Option<Instant>,
    is_powerless: bool,
    /// When to poll next. `None`: at once.
    due: Option<Instant>,
    /// In a row.
    failures: u32,
}

impl Guard {
    /// Polls forever. `part` shows whether that works.
    pub async fn watch(self: Arc<Self>, part: Part) {
        let mut watch = Watch {
            memory: Memory::default(),
            line: None,
            patience: PATIENCE,
            rights_checked: None,
            is_powerless: false,
            due: None,
            failures: 0,
        };
        loop {
            let began = self.clock.now();
            let wait = match self.turn(&mut watch).await {
                Ok(wait) => {
                    watch.failures = 0;
                    if self.clock.now().since(began) < PATIENCE / 2 {
                        watch.patience = PATIENCE;
                    }
                    wait
                }
                Err(error) => self.failed(&mut watch, &error),
            };
            let problem = self.lock().problem.clone();
            part.is(problem.into());
            tokio::time::sleep(wait).await;
        }
    }

    /// Renews the claim, and polls if that is due and this instance acts. Returns how long to wait.
    async fn turn(&self, watch: &mut Watch) -> Result<Duration, Error> {
        let line = match &mut watch.line {
            Some(line) => line,
            none => none.insert(self.connect(watch.patience).await?),
        };
        line.patience = watch.patience;
        let now = self.clock.now();
        let checked = watch.rights_checked;
        if watch.failures > 0
            || line.was_refused
            || checked.is_none_or(|last| now.since(last) >= RIGHTS_EVERY)
        {
            watch.is_powerless = self.check_rights(line).await?;
            watch.rights_checked = Some(now);
            line.was_refused = false;
        }
        if watch.is_powerless && !self.dry_run {
            self.stand_back(watch);
            return Ok(RENEW_EVERY.min(self.every));
        }
        let acts = self.decide(line).await?;
        self.metrics.set_acting(acts);
        if !acts {
            watch.due = None;
            return Ok(RENEW_EVERY.min(self.every));
        }
        if watch.due.is_none_or(|due| now >= due) {
            let next = self.look(line, &mut watch.memory).await?;
            // A statement that is about to reach its limit is polled just then.
            let wait = next.unwrap_or(self.every).clamp(SHORTEST_WAIT, self.every);
            watch.due = Some(self.clock.now().after(wait));
        }
        let left = watch
            .due
            .map_or(Duration::ZERO, |due| due.since(self.clock.now()));
        Ok(left.min(RENEW_EVERY))
    }

    /// Gives up the connection. Returns how long to wait.
    fn failed(&self, watch: &mut Watch, error: &Error) -> Duration {
        watch.line = None;
        watch.due = None;
        watch.patience = (watch.patience * 2).min(self.database.longest());
        self.metrics.failed.inc();
        self.metrics.set_acting(false);
        if watch.failures == 0 {
            log::warn!(part = "watchdog"; "can't look: {error}");
        }
        {
            let mut status = self.lock();
            status.problem = Some(error.to_string());
            status.duty = Duty::Unknown;
        }
        watch.failures += 1;
        BACKOFF.wait(watch.failures - 1, self.clock.now().as_nanos())
    }

    /// Checks the role's rights, and reports what is missing. Returns whether it can't act at all.
    async fn check_rights(&self, line: &mut Line) -> Result<bool, Error> {
        let findings = match self.database.dialect.watchdog_checks() {
            None => rights::Findings::default(),
            Some(checks) => {
                let settings = &self.settings;
                rights::check(&mut line.connection, checks, settings, line.patience).await?
            }
        };
        let problem = findings.problem;
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
        Ok(findings.is_powerless)
    }

    /// Leaves the claim to instances that may act. What was refused is tried again once there is a right to it.
    fn stand_back(&self, watch: &mut Watch) {
        self.metrics.set_acting(false);
        watch.memory = Memory::default();
        watch.due = None;
        let duty = std::mem::take(&mut self.lock().duty);
        if matches!(duty, Duty::Acts(_)) {
            // That releases all locks of its session.
            watch.line = None;
        }
    }

    /// The key of the claim: what is watched, in whatever order and however often it is written.
    fn claimed(&self) -> String {
        let [roles, applications] =
            [&self.settings.roles, &self.settings.applications].map(BTreeSet::from_iter);
        let [roles, applications] = [roles, applications].map(Vec::from_iter);
        format!("{roles:?} {applications:?}")
    }

    /// Whether this instance acts. A dry run does without the claim, so it keeps no other instance from acting.
    async fn decide(&self, line: &mut Line) -> Result<bool, Error> {
        let statements = self.database.dialect.claim_watchdog();
        let Some(statements) = statements.filter(|_| !self.dry_run) else {
            self.lock().duty = Duty::ActsToo;
            return Ok(true);
        };
        let (connection, patience) = (&mut line.connection, line.patience);
        let (key, former) = (self.claimed(), &self.former);
        let claimed = claim::take(connection, statements, &key, former, patience).await?;
        let (duty, from) = match claimed {
            Claimed::Here { holder, from } => (Duty::Acts(holder), from),
            Claimed::Elsewhere(holder) => (Duty::StandsBy(holder), None),
        };
        if let Some(Holder {
            process, client, ..
        }) = from
        {
            log::warn!(part = "watchdog", process = process, client = client; "took over from a session that is silent");
        }
        let acts = matches!(duty, Duty::Acts(_));
        let mut status = self.lock();
        if status.duty != duty {
            log::info!(part = "watchdog"; "{}", describe(&duty));
        }
        status.duty = duty;
        Ok(acts)
    }
}

fn describe(duty: &Duty) -> String {
    match duty {
        Duty::Unknown => "it is not known who acts".to_owned(),
        Duty::Acts(_) | Duty::ActsToo => "acts".to_owned(),
        Duty::StandsBy(None) => "stands by: another session acts".to_owned(),
        Duty::StandsBy(Some(holder)) => format!(
            "stands by: process {} of {:?} acts",
            holder.process, holder.client
        ),
    }
}
