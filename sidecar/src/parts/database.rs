//! Builds what runs at the database.

use crate::clock::Clock;
use crate::config::database as config;
use crate::database::activity::Guard;
use crate::database::cleanup::Cleanup;
use crate::database::connect::Database;
use crate::database::metrics::WatchdogMetrics;
use crate::jobs::metrics::JobFamilies;
use crate::jobs::runner::Runner;
use anyhow::Result;
use prometheus::Registry;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub struct DatabasePart {
    pub jobs: Vec<Arc<Runner<Cleanup>>>,
    pub guard: Option<Arc<Guard>>,
}

/// # Errors
/// `registry` already has metrics of these names.
pub fn build(
    config: &config::Database,
    registry: &Registry,
    clock: Clock,
    stop: &watch::Receiver<bool>,
) -> Result<DatabasePart> {
    let guard = config.watchdog.as_ref();
    Ok(DatabasePart {
        jobs: jobs(config, registry, clock, stop)?,
        guard: guard
            .map(|watchdog| build_guard(config, watchdog, registry, clock))
            .transpose()?,
    })
}

/// Builds one job, to run it once.
///
/// # Errors
/// `registry` already has metrics of these names.
pub fn build_job(
    config: &config::Database,
    job: &config::Job,
    clock: Clock,
    stop: &watch::Receiver<bool>,
) -> Result<Runner<Cleanup>> {
    let families = JobFamilies::register(&Registry::new())?;
    runner(
        job,
        connect(config, config.connections),
        &families,
        clock,
        0,
        stop,
    )
}

/// Connections to the database, at most `connections` of them, made when needed.
pub fn connect(config: &config::Database, connections: u32) -> Database {
    Database::new(
        config.options(),
        config.dialect,
        connections,
        config.statement_timeout,
    )
}

fn jobs(
    config: &config::Database,
    registry: &Registry,
    clock: Clock,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<Arc<Runner<Cleanup>>>> {
    let database = connect(config, config.connections);
    let families = JobFamilies::register(registry)?;
    config
        .jobs
        .iter()
        .enumerate()
        .map(|(place, job)| {
            let database = database.clone();
            runner(job, database, &families, clock, place as u64, stop).map(Arc::new)
        })
        .collect()
}

/// What the job does, without its schedule.
pub fn cleanup(job: &config::Job, database: Database) -> Cleanup {
    Cleanup {
        name: job.name.clone(),
        preset: job.preset,
        spec: job.spec.clone(),
        database,
        former: Arc::default(),
    }
}

/// `place` of the job in the configuration: jobs that start together draw different waits.
fn runner(
    job: &config::Job,
    database: Database,
    families: &JobFamilies,
    clock: Clock,
    place: u64,
    stop: &watch::Receiver<bool>,
) -> Result<Runner<Cleanup>> {
    let cleanup = cleanup(job, database);
    let own = job.preset.map(|preset| &preset.metrics);
    let metrics = families.job(&job.name, own)?;
    let seed = clock.now().as_nanos() ^ u64::from(std::process::id()) << 8 ^ place;
    Ok(Runner::new(
        &job.name,
        job.settings,
        cleanup,
        clock,
        metrics,
        seed,
        stop.clone(),
    ))
}

fn build_guard(
    config: &config::Database,
    watchdog: &config::Watchdog,
    registry: &Registry,
    clock: Clock,
) -> Result<Arc<Guard>> {
    // A connection of its own: the watchdog must see sessions even if the jobs hold all other connections.
    let database = connect(config, 1);
    let settings = &watchdog.settings;
    let metrics = WatchdogMetrics::register(registry, &config.name, settings, watchdog.dry_run)?;
    Ok(Arc::new(Guard::new(
        database,
        watchdog.settings.clone(),
        watchdog.every,
        watchdog.dry_run,
        metrics,
        clock,
    )))
}
