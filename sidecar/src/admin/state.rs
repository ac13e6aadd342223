//! What the admin interface reads. No part depends on it.

use super::reloaded::ReloadRequest;
use crate::clock::Clock;
use crate::config::Secret;
use crate::envoy::scrape::Envoy;
use crate::parts::database::DatabasePart;
use crate::readiness::Readiness;
use crate::redis::listener::Proxy;
use axum::extract::FromRef;
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::mpsc;

/// A Redis proxy and the address that it listens on.
#[derive(Debug)]
pub struct RedisListener {
    pub address: SocketAddr,
    pub proxy: Arc<Proxy>,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub registries: Vec<Registry>,
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

/// The [`Admin`] that is in force: a reload replaces it.
#[derive(Clone, Debug)]
pub struct Live {
    current: Arc<RwLock<Admin>>,
    pub reloads: mpsc::Sender<ReloadRequest>,
}

impl Live {
    pub fn new(admin: Admin, reloads: mpsc::Sender<ReloadRequest>) -> Self {
        Self {
            current: Arc::new(RwLock::new(admin)),
            reloads,
        }
    }

    pub fn replace(&self, admin: Admin) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = admin;
    }
}

impl FromRef<Live> for Admin {
    fn from_ref(live: &Live) -> Self {
        let current = live.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
