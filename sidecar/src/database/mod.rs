//! The database: cleanup jobs, the watchdog, limits at the role.

pub mod activity;
pub mod cleanup;
pub mod connect;
pub mod fingerprint;
pub mod limits;
pub mod metrics;
pub mod preset;
pub mod sql;
pub mod watchdog;

use crate::clock::Clock;
use crate::config::database as config;
use crate::jobs::metrics::JobFamilies;
use crate::jobs::runner::Runner;
use activity::Guard;
use cleanup::Cleanup;
use connect::Database;
use metrics::WatchdogMetrics;
use prometheus::Registry;
use std::sync::Arc;
use tokio::sync::watch;

/// What is done at a database.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its jobs.
    pub jobs: Vec<Arc<Runner<Cleanup>>>,
    /// Its watchdog.
    pub guard: Option<Arc<Guard>>,
}

impl Part {
    /// Jobs that have not been run, and a watchdog that has not looked.
    ///
    /// # Errors
    /// `registry` already has metrics of these names.
    pub fn new(
        config: &config::Database,
        registry: &Registry,
        clock: Clock,
        stop: &watch::Receiver<bool>,
    ) -> prometheus::Result<Self> {
        let families = JobFamilies::register(registry)?;
        let database = Database::new(
            config.options(),
            config.dialect,
            config.connections,
            config.statement_timeout,
        );
        let job = |(place, job): (usize, &config::Job)| -> prometheus::Result<_> {
            let cleanup = Cleanup {
                name: job.name.clone(),
                preset: job.preset,
                spec: job.spec.clone(),
                database: database.clone(),
            };
            let seed = clock.now().as_nanos() ^ u64::from(std::process::id()) << 8 ^ place as u64;
            let own = job.preset.map(|preset| &preset.metrics);
            let metrics = families.job(&job.name, own)?;
            let stop = stop.clone();
            Ok(Arc::new(Runner::new(
                &job.name,
                job.settings,
                cleanup,
                clock,
                metrics,
                seed,
                stop,
            )))
        };
        let guard = |watchdog: &config::Watchdog| -> prometheus::Result<_> {
            // A connection of its own: it must look even while all others are busy.
            let database = Database::new(
                config.options(),
                config.dialect,
                1,
                config.statement_timeout,
            );
            let metrics = WatchdogMetrics::register(registry, &config.name)?;
            let settings = watchdog.settings.clone();
            let (every, dry_run) = (watchdog.every, watchdog.dry_run);
            Ok(Arc::new(Guard::new(
                database, settings, every, dry_run, metrics, clock,
            )))
        };
        let jobs = config.jobs.iter().enumerate().map(job);
        Ok(Self {
            jobs: jobs.collect::<prometheus::Result<_>>()?,
            guard: config.watchdog.as_ref().map(guard).transpose()?,
        })
    }
}
