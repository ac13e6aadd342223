//! Reads Envoy's stats: bounded in time and size, one reading at a time, shared by all who ask in the meantime.

use super::history::History;
use super::metrics::EnvoyMetrics;
use super::translate::{FILTER, Gateway};
use crate::clock::Clock;
use crate::config;
use crate::fetch::{self, Failure};
use levee_policy::time::Instant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a reading may take.
pub const WITHIN: Duration = Duration::from_secs(2);

/// The longest page that is read, in bytes. A service takes about 4.4 kB, so this is enough for 3,800.
pub const LONGEST: usize = 16 * 1024 * 1024;

/// The longest wait for a reading.
pub const PATIENCE: Duration = WITHIN;

/// How long a reading is reused.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// How long nobody waits for an Envoy that did not answer in time. It is read in the meantime.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// The interval of readings that nobody asked for: they show when a breaker opened.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub type Reading = Result<Arc<Gateway>, Failure>;

#[derive(Debug)]
pub struct Envoy {
    pub config: config::Envoy,
    clock: Clock,
    metrics: EnvoyMetrics,
    /// Held by the reading in progress.
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Option<(Instant, Reading)>>,
    history: Mutex<History>,
}

impl Envoy {
    pub fn new(config: config::Envoy, metrics: EnvoyMetrics, clock: Clock) -> Self {
        Self {
            config,
            clock,
            metrics,
            turn: tokio::sync::Mutex::default(),
            last: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// What Envoy reports now, or reported within the last second. If it lately did not answer in time, that is the answer
    /// at once: only [`watch`](Self::watch) waits for it again. After `patience` it fails for this caller; the reading goes
    /// on for the others.
    pub async fn read(self: &Arc<Self>, patience: Duration) -> Reading {
        let reading = match self.known() {
            Some(reading) => reading,
            None => self.read_within(patience).await,
        };
        self.metrics.up.set(i64::from(reading.is_ok()));
        reading
    }

    async fn read_within(self: &Arc<Self>, patience: Duration) -> Reading {
        // A task of its own, so a caller that leaves does not cancel what others wait for.
        let this = self.clone();
        let reading = tokio::spawn(async move {
            let _turn = this.turn.lock().await;
            match this.known() {
                Some(reading) => reading,
                None => this.read_now().await,
            }
        });
        match tokio::time::timeout(patience, reading).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(error)) => Err(Failure::Broken(error.to_string())),
            Err(_) => Err(Failure::Slow(patience)),
        }
    }

    /// The last reading, if it is recent enough.
    fn known(&self) -> Option<Reading> {
        let (at, reading) = self.lock().clone()?;
        let reused_for = match &reading {
            Err(Failure::Slow(_)) => SLOW_FOR,
            _ => SHARED_FOR,
        };
        (self.clock.now().since(at) < reused_for).then_some(reading)
    }

    async fn read_now(&self) -> Reading {
        let began = self.clock.now();
        let reading = self.fetch().await;
        let now = self.clock.now();
        self.metrics.duration.set(now.since(began).as_secs_f64());
        let before = self.lock().replace((now, reading.clone()));
        match (&reading, before) {
            (Ok(gateway), before) => {
                self.with_history(|history| history.look(gateway, now));
                if matches!(before, Some((_, Err(_)))) {
                    log::info!(part = "envoy"; "Envoy at {} can be read again", self.config.admin);
                }
            }
            (Err(failure), before) => {
                self.metrics.failed.inc();
                if !matches!(before, Some((_, Err(_)))) {
                    log::warn!(part = "envoy"; "Envoy at {} {failure}", self.config.admin);
                }
            }
        }
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
            let turn = self.turn.lock().await;
            let reading = self.read_now().await;
            drop(turn);
            self.metrics.up.set(i64::from(reading.is_ok()));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Reading)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
