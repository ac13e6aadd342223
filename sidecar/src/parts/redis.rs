//! Builds the Redis proxies.

use super::tls;
use crate::clock::Clock;
use crate::config::{self, Address};
use crate::redis::buffers::Buffers;
use crate::redis::listener::Proxy;
use crate::redis::memory::Store;
use crate::redis::metrics::RedisFamilies;
use crate::redis::upstream::Upstream;
use crate::resolve::Resolver;
use anyhow::{Context, Result};
use levee_redis_session::counts::Counts;
use levee_redis_session::gate::Gate;
use levee_redis_session::idempotency::Idempotency;
use levee_redis_session::session::SessionSettings;
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The proxies, and the Redis in which they keep their retry state for the next process.
#[derive(Debug)]
pub struct RedisPart {
    pub upstreams: Vec<RedisUpstream>,
    pub store: Option<Store>,
}

#[derive(Debug)]
pub struct RedisUpstream {
    pub name: String,
    pub listen: SocketAddr,
    pub proxy: Arc<Proxy>,
    /// Levee's own client, for health checks.
    pub client: redis::Client,
    pub health_every: Duration,
}

/// # Errors
/// Certificates or keys can't be used, or `registry` already has metrics of these names.
pub fn build(
    upstreams: &[config::Redis],
    state: Option<&config::State>,
    memory: usize,
    registry: &Registry,
    clock: Clock,
) -> Result<RedisPart> {
    let families = RedisFamilies::register(registry)?;
    let buffers = Buffers::new(memory, registry)?;
    let store = state
        .map(|state| store(state).context("state"))
        .transpose()?;
    let upstreams = upstreams
        .iter()
        .map(|upstream| {
            let counts = families.upstream(&upstream.name);
            build_upstream(upstream, counts, buffers.clone(), clock)
                .with_context(|| format!("redis, upstream {}", upstream.name))
        })
        .collect::<Result<_>>()?;
    Ok(RedisPart { upstreams, store })
}

fn store(state: &config::State) -> Result<Store> {
    Ok(Store {
        client: client(&state.upstream)?,
        prefix: state.prefix.clone(),
        ttl: state.ttl,
    })
}

fn build_upstream(
    config: &config::Redis,
    counts: Arc<Counts>,
    buffers: Arc<Buffers>,
    clock: Clock,
) -> Result<RedisUpstream> {
    Ok(RedisUpstream {
        name: config.name.clone(),
        listen: config.listen,
        proxy: Arc::new(proxy(config, counts, buffers, clock)?),
        client: client(&config.upstream)?,
        health_every: config.health_every,
    })
}

fn proxy(
    config: &config::Redis,
    counts: Arc<Counts>,
    buffers: Arc<Buffers>,
    clock: Clock,
) -> Result<Proxy> {
    let now = clock.now();
    let gate = Gate::new(
        &config.name,
        config.breaker,
        config.budget,
        counts,
        now.as_nanos() ^ u64::from(std::process::id()),
        now,
    );
    let address = &config.upstream;
    let upstream = Upstream {
        resolver: Resolver::new(&address.host, address.port),
        tls: address.tls.then(|| tls::client(address)).transpose()?,
    };
    let settings = SessionSettings {
        name: config.name.clone(),
        deadline: config.deadline,
        attempts: config.attempts,
        backoff: config.backoff,
        idempotency: Idempotency::new(&config.also, &config.never),
        command_bytes: config.command_bytes,
        buffered_bytes: config.buffered_bytes,
        idle: config.idle,
        connect_timeout: config.connect_timeout,
    };
    Ok(Proxy {
        settings: Arc::new(settings),
        gate: Arc::new(gate),
        upstream: Arc::new(upstream),
        connections: config.connections,
        buffers,
        clock,
    })
}

/// A client for Levee's own commands.
fn client(address: &Address) -> Result<redis::Client> {
    let (host, port) = (address.host.clone(), address.port);
    let location = if address.tls {
        redis::ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        }
    } else {
        redis::ConnectionAddr::Tcp(host, port)
    };
    let mut settings = redis::RedisConnectionInfo::default().set_db(address.database);
    if let Some(username) = &address.username {
        settings = settings.set_username(username.as_str());
    }
    if let Some(password) = &address.password {
        settings = settings.set_password(password.reveal());
    }
    let info =
        redis::IntoConnectionInfo::into_connection_info(location)?.set_redis_settings(settings);
    if !address.tls {
        return Ok(redis::Client::open(info)?);
    }
    Ok(redis::Client::build_with_tls(
        info,
        tls::certificates_of(address)?,
    )?)
}
