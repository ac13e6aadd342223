//! Reads Envoy's stats: bounded in time and size, one reading at a time, shared by all who ask in the meantime.

use super::history::History;
use super::metrics::EnvoyMetrics;
use super::translate::{FILTER, Gateway};
use crate::clock::Clock;
use crate::config;
use crate::fetch::{self, Failure};
use levee_policy::time::Instant;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a reading may take.
pub const WITHIN: Duration = Duration::from_secs(2);

/// The longest page that is read, in bytes. A service takes about 4.4 kB, so this is enough for 3,800.
pub const LONGEST: usize = 16 * 1024 * 1024;

/// The longest wait for a reading: the one in progress, and one more.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// How long a reading is reused.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// The interval of readings that nobody asked for: they show when a breaker opened.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub type Reading = Result<Arc<Gateway>, Failure>;

#[derive(Debug)]
pub struct Envoy {
    pub config: config::Envoy,
    clock: Clock,
    metrics: EnvoyMetrics,
    last: tokio::sync::Mutex<Option<(Instant, Reading)>>,
    history: Mutex<History>,
}

impl Envoy {
    pub fn new(config: config::Envoy, metrics: EnvoyMetrics, clock: Clock) -> Self {
        Self {
            config,
            clock,
            metrics,
            last: tokio::sync::Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// What Envoy reports now, or reported within the last second. After `patience` it fails for this caller; the reading
    /// goes on for the others.
    pub async fn read(self: &Arc<Self>, patience: Duration) -> Reading {
        // A task of its own, so a caller that leaves does not cancel what others wait for.
        let reading = tokio::spawn(self.clone().read_once());
        let reading = match tokio::time::timeout(patience, reading).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(error)) => Err(Failure::Broken(error.to_string())),
            Err(_) => Err(Failure::Slow(patience)),
        };
        self.metrics.up.set(i64::from(reading.is_ok()));
        reading
    }

    async fn read_once(self: Arc<Self>) -> Reading {
        let mut last = self.last.lock().await;
        let began = self.clock.now();
        if let Some((at, reading)) = &*last
            && began.since(*at) < SHARED_FOR
        {
            return reading.clone();
        }
        let reading = self.fetch().await;
        let now = self.clock.now();
        self.metrics.duration.set(now.since(began).as_secs_f64());
        match &reading {
            Ok(gateway) => self.with_history(|history| history.look(gateway, now)),
            Err(failure) => {
                self.metrics.failed.inc();
                if matches!(&*last, None | Some((_, Ok(_)))) {
                    log::warn!(part = "envoy"; "Envoy at {} {failure}", self.config.admin);
                }
            }
        }
        if reading.is_ok() && matches!(&*last, Some((_, Err(_)))) {
            log::info!(part = "envoy"; "Envoy at {} can be read again", self.config.admin);
        }
        *last = Some((now, reading.clone()));
        reading
    }

    async fn fetch(&self) -> Reading {
        let filter: String = url::form_urlencoded::byte_serialize(FILTER.as_bytes()).collect();
        let path = format!("/stats/prometheus?histogram_buckets=cumulative&filter={filter}");
        let page = fetch::get(&self.config.admin, &path, WITHIN, LONGEST).await?;
        let aliases = self.config.aliases.clone();
        // With very many clusters, parsing would block the thread for too long.
        let gateway = tokio::task::spawn_blocking(move || {
            Gateway::read(&String::from_utf8_lossy(&page), &aliases)
        });
        let broken = |error: tokio::task::JoinError| Failure::Broken(error.to_string());
        gateway.await.map(Arc::new).map_err(broken)
    }

    /// Gives access to what was seen so far.
    pub fn with_history<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads Envoy at intervals, forever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let _ = self.read(PATIENCE).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
