//! Metrics of the watchdog.

use super::watchdog::{Act, BLOCKER, Class, IDLE_IN_TRANSACTION, TRANSACTION, WatchdogSettings};
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_gauge_vec_with_registry,
};
use std::collections::BTreeSet;

pub const QUERY_TIMEOUT: &str = "db_query_timeout_total";
pub const TERMINATED: &str = "db_sessions_terminated_total";
pub const FAILED: &str = "db_watchdog_failed_total";
pub const ACTING: &str = "db_watchdog_acting";

/// The metrics of the watchdog at one database.
#[derive(Clone, Debug)]
pub struct WatchdogMetrics {
    timeouts: IntCounterVec,
    terminated: IntCounter,
    /// `None` in a dry run: it never acts.
    acting: Option<IntGauge>,
    database: String,
    /// Polls that failed, missing rights, and acts that the database refused.
    pub failed: IntCounter,
}

impl WatchdogMetrics {
    /// # Errors
    /// `registry` already has one of the names.
    pub fn register(
        registry: &Registry,
        database: &str,
        settings: &WatchdogSettings,
        dry_run: bool,
    ) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register_int_counter_vec_with_registry!(name, help, labels, registry)
        };
        let timeouts = counter(
            QUERY_TIMEOUT,
            "Statements that were cancelled, and sessions that were ended.",
            &["database", "class"],
        )?;
        // An increase is only visible from a series that began at 0.
        for class in [
            Class::Query.name(),
            Class::LongQuery.name(),
            IDLE_IN_TRANSACTION,
            TRANSACTION,
            BLOCKER,
        ] {
            timeouts.with_label_values(&[database, class]);
        }
        let terminated = counter(
            TERMINATED,
            "Sessions that were ended since their statement did not heed its cancellation.",
            &["database"],
        )?;
        let failed = counter(
            FAILED,
            "Times that the watchdog could not look, or not do what was to be done.",
            &["database"],
        )?;
        let acting = (!dry_run).then(|| {
            let help = "Whether this instance's watchdog sees sessions and acts on them.";
            let labels = &["database", "watched"];
            register_int_gauge_vec_with_registry!(ACTING, help, labels, registry)
        });
        Ok(Self {
            acting: acting
                .transpose()?
                .map(|gauge| gauge.with_label_values(&[database, &watched(settings)])),
            timeouts,
            terminated: terminated.with_label_values(&[database]),
            failed: failed.with_label_values(&[database]),
            database: database.to_owned(),
        })
    }

    pub fn set_acting(&self, acts: bool) {
        if let Some(acting) = &self.acting {
            acting.set(i64::from(acts));
        }
    }

    /// Counts an act. A statement counts once as a timeout, even if its session had to be ended too.
    pub fn acted(&self, act: Act) {
        if matches!(act, Act::Terminate(_)) {
            self.terminated.inc();
            return;
        }
        self.timeouts
            .with_label_values(&[self.database.as_str(), act.class()])
            .inc();
    }
}

/// The roles, then the applications, in whatever order and however often they are written: instances that stand by for each
/// other have the same.
fn watched(settings: &WatchdogSettings) -> String {
    let sorted = [&settings.roles, &settings.applications].map(BTreeSet::from_iter);
    let names: Vec<&str> = sorted.into_iter().flatten().map(String::as_str).collect();
    names.join(", ")
}
