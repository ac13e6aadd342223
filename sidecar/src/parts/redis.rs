//! Builds the Redis proxies.

use super::tls;
use crate::clock::Clock;
use crate::config::{self, Address};
use crate::redis::buffers::Buffers;
use crate::redis::listener::Proxy;
use crate::redis::memory::Store;
use crate::redis::orders::Orders;
use crate::redis::own_client::OwnClient;
use crate::redis::upstream::Upstream;
use crate::resolve::Resolver;
use anyhow::{Context, Result};
use levee_redis_session::gate::Gate;
use levee_redis_session::idempotency::Idempotency;
use levee_redis_session::session::SessionSettings;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct RedisUpstream {
    pub proxy: Arc<Proxy>,
    /// For probes.
    pub client: OwnClient,
}

/// The Redis in which proxies keep their retry state for the next process.
///
/// # Errors
/// Certificates or keys can't be used.
pub fn store(state: &config::State) -> Result<Store> {
    Ok(Store {
        client: client(&state.upstream, resolver(&state.upstream)).context("state")?,
        prefix: state.prefix.clone(),
        ttl: state.ttl,
    })
}

/// # Errors
/// Certificates or keys can't be used.
pub fn build(config: &config::Redis, buffers: Arc<Buffers>, clock: Clock) -> Result<RedisUpstream> {
    let of = || format!("redis, upstream {}", config.name);
    let (upstream, client) = upstream(config)
        .and_then(|upstream| {
            let client = client(&config.upstream, upstream.resolver().clone())?;
            Ok((upstream, client))
        })
        .with_context(of)?;
    let now = clock.now();
    let gate = Gate::new(
        &config.name,
        config.breaker,
        config.budget,
        Arc::default(),
        now.as_nanos() ^ u64::from(std::process::id()),
        now,
    );
    let proxy = Proxy::new(orders(config), gate, upstream, buffers, clock);
    Ok(RedisUpstream {
        proxy: Arc::new(proxy),
        client,
    })
}

fn upstream(config: &config::Redis) -> Result<Upstream> {
    let address = &config.upstream;
    let tls = address.tls.then(|| tls::client(address)).transpose()?;
    Ok(Upstream::new(resolver(address), tls))
}

fn resolver(address: &Address) -> Resolver {
    Resolver::new(&address.host, address.port)
}

/// How listeners and sessions of this upstream behave.
pub fn orders(config: &config::Redis) -> Orders {
    Orders {
        stop: false,
        settings: Arc::new(settings(config)),
        connections: config.connections,
        spares: config.spare_connections,
        keepalive: config.keepalive,
    }
}

fn settings(config: &config::Redis) -> SessionSettings {
    SessionSettings {
        name: config.name.clone(),
        deadline: config.deadline,
        script_deadline: config.script_deadline,
        attempts: config.attempts,
        attempt_timeout: config.attempt_timeout,
        backoff: config.backoff,
        idempotency: Idempotency::new(&config.also, &config.never),
        command_bytes: config.command_bytes,
        buffered_bytes: config.buffered_bytes,
        idle: config.idle,
        raw: config.raw,
        connect_timeout: config.connect_timeout,
    }
}

fn client(address: &Address, resolver: Resolver) -> Result<OwnClient> {
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
    let client = if address.tls {
        redis::Client::build_with_tls(info, tls::certificates_of(address)?)?
    } else {
        redis::Client::open(info)?
    };
    Ok(OwnClient::new(client, resolver))
}
