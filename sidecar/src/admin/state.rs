//! What the admin interface knows: it reads all parts, and no part knows it.

use crate::clock::Clock;
use crate::config::Secret;
use crate::envoy::scrape::Envoy;
use crate::parts::database::DatabasePart;
use crate::redis::listener::Proxy;
use prometheus::Registry;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Which parts are ready. A part that is stopping is not.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, bool>>>);

impl Readiness {
    /// `part` is ready, or not.
    pub fn set(&self, part: &str, ready: bool) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part.to_owned(), ready);
    }

    /// No part is ready any more.
    pub fn stopping(&self) {
        for ready in self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values_mut()
        {
            *ready = false;
        }
    }

    pub(super) fn parts(&self) -> BTreeMap<String, bool> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What the admin interface shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// All metrics of the sidecar.
    pub registry: Registry,
    /// Which parts are ready.
    pub readiness: Readiness,
    /// The Redis proxies, with where they listen.
    pub redis: Arc<Vec<(SocketAddr, Arc<Proxy>)>>,
    /// Envoy, where it is read.
    pub envoy: Option<Arc<Envoy>>,
    /// The database's jobs and watchdog.
    pub database: Option<Arc<DatabasePart>>,
    /// What a client must show before it may change something.
    pub token: Option<Arc<Secret>>,
    /// The clock.
    pub clock: Clock,
}
