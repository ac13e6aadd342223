//! What the admin interface reads. No part depends on it.

use crate::clock::Clock;
use crate::config::Secret;
use crate::envoy::scrape::Envoy;
use crate::parts::database::DatabasePart;
use crate::redis::listener::Proxy;
use prometheus::Registry;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartState {
    Ready,
    Stopping,
}

impl PartState {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Stopping => "not ready",
        }
    }
}

/// The parts that have started, and whether they are still ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, PartState>>>);

impl Readiness {
    pub fn ready(&self, part: &str) {
        self.lock().insert(part.to_owned(), PartState::Ready);
    }

    /// Marks all parts as stopping.
    pub fn stopping(&self) {
        for state in self.lock().values_mut() {
            *state = PartState::Stopping;
        }
    }

    pub(super) fn parts(&self) -> BTreeMap<String, PartState> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, PartState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Redis proxy and the address that it listens on.
#[derive(Debug)]
pub struct RedisListener {
    pub address: SocketAddr,
    pub proxy: Arc<Proxy>,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub registry: Registry,
    pub readiness: Readiness,
    pub redis: Arc<Vec<RedisListener>>,
    /// `None` without `envoy` in the configuration.
    pub envoy: Option<Arc<Envoy>>,
    /// `None` without `database` in the configuration.
    pub database: Option<Arc<DatabasePart>>,
    /// The bearer token that changes require. Without one, nothing can be changed.
    pub token: Option<Arc<Secret>>,
    pub clock: Clock,
}
