//! Builds the reader of Envoy's stats.

use crate::clock::Clock;
use crate::config;
use crate::envoy::metrics::EnvoyMetrics;
use crate::envoy::scrape::Envoy;
use anyhow::Result;
use prometheus::Registry;
use std::sync::Arc;

/// # Errors
/// `registry` already has metrics of these names.
pub fn build(config: &config::Envoy, registry: &Registry, clock: Clock) -> Result<Arc<Envoy>> {
    let metrics = EnvoyMetrics::register(registry)?;
    Ok(Arc::new(Envoy::new(config.clone(), metrics, clock)))
}
