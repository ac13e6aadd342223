//! What the admin interface reads. No part depends on it.

use crate::clock::Clock;
use crate::config::Secret;
use crate::envoy::scrape::Envoy;
use crate::parts::database::DatabasePart;
use crate::readiness::Readiness;
use crate::redis::listener::Proxy;
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;

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
