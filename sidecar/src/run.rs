//! Starting all parts, and stopping them in order.

use crate::admin::{Admin, Readiness, page};
use crate::clock::Clock;
use crate::config::{Address, Config, Redis};
use crate::database;
use crate::envoy::metrics::EnvoyMetrics;
use crate::envoy::scrape::Envoy;
use crate::redis::gate::Gate;
use crate::redis::health;
use crate::redis::listener::Proxy;
use crate::redis::memory::Store;
use crate::redis::metrics::{RedisFamilies, RedisMetrics};
use crate::redis::session::Settings;
use crate::redis::upstream::Upstream;
use crate::tls;
use anyhow::{Context, Result};
use levee_redis_session::commands::Repeatable;
use prometheus::Registry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{part} can't listen on {address}")]
pub struct ListenError {
    /// Whose address.
    pub part: String,
    /// Which.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// A part could not be started.
pub async fn run(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let clock = Clock::start();
    let registry = Registry::new();
    page::register_build_info(&registry)?;
    let families = RedisFamilies::register(&registry)?;
    let readiness = Readiness::default();
    let (stop, stopped) = watch::channel(false);
    let mut background = JoinSet::new();
    let mut parts = JoinSet::new();

    let admin_listener = listen("admin", config.admin).await?;
    let store = config
        .state
        .as_ref()
        .map(|state| -> Result<Store> {
            let client = client(&state.upstream).context("state")?;
            Ok(Store {
                client,
                prefix: state.prefix.clone(),
                ttl: state.ttl,
            })
        })
        .transpose()?;

    let mut redis = Vec::new();
    for upstream in &config.redis {
        let part = format!("redis/{}", upstream.name);
        let context = || format!("redis, upstream {}", upstream.name);
        let listener = listen(&part, upstream.listen).await?;
        let address = listener.local_addr()?;
        let proxy = Arc::new(
            proxy(upstream, families.upstream(&upstream.name), clock).with_context(context)?,
        );
        if let Some(store) = &store {
            store.recall(&upstream.name, &proxy.gate, clock).await;
            background.spawn(
                store
                    .clone()
                    .keep(upstream.name.clone(), proxy.gate.clone(), clock),
            );
        }
        let own = client(&upstream.upstream).with_context(context)?;
        background.spawn(health::watch(
            proxy.gate.clone(),
            own,
            upstream.health_every,
            clock,
        ));
        parts.spawn(proxy.clone().run(listener, stopped.clone()));
        readiness.set(&part, true);
        log::info!(part = "redis", upstream = upstream.name.as_str(), address = address.to_string().as_str(); "listening");
        redis.push((address, proxy));
    }

    let database = config
        .database
        .as_ref()
        .map(|config| database::Part::new(config, &registry, clock, &stopped))
        .transpose()?;
    if let Some(part) = &database {
        for job in &part.jobs {
            parts.spawn(job.clone().run_on_schedule());
            readiness.set(&format!("job/{}", job.name), true);
            log::info!(job = job.name.as_str(); "scheduled");
        }
        if let Some(guard) = &part.guard {
            background.spawn(guard.clone().watch());
            readiness.set("watchdog", true);
        }
    }

    let admin = Admin {
        envoy: envoy(&config, &registry, clock, &mut background)?,
        database: database.map(Arc::new),
        token: config.token.clone().map(Arc::new),
        registry,
        readiness: readiness.clone(),
        redis: Arc::new(redis),
        clock,
    };
    let address = admin_listener.local_addr()?.to_string();
    log::info!(part = "admin", address = address.as_str(); "listening");
    background.spawn(async move {
        if let Err(error) = axum::serve(admin_listener, admin.router()).await {
            log::error!("the admin interface has ended: {error}");
        }
    });
    log::info!("ready");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::info!(
        "stopping: what is in flight is finished, within {}",
        humantime::format_duration(config.stop_within)
    );
    readiness.stopping();
    let _ = stop.send(true);
    let all = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(config.stop_within, all).await.is_err() {
        log::warn!("not all connections and jobs had ended in time");
    }
    log::info!("stopped");
    Ok(())
}

/// Reads Envoy in the background, if it is to be read.
fn envoy(
    config: &Config,
    registry: &Registry,
    clock: Clock,
    background: &mut JoinSet<()>,
) -> Result<Option<Arc<Envoy>>> {
    let Some(config) = config.envoy.clone() else {
        return Ok(None);
    };
    let metrics = EnvoyMetrics::register(registry)?;
    let envoy = Arc::new(Envoy::new(config, metrics, clock));
    background.spawn(envoy.clone().watch());
    Ok(Some(envoy))
}

async fn listen(part: &str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError {
            part: part.to_owned(),
            address,
            source,
        })
}

fn proxy(config: &Redis, metrics: RedisMetrics, clock: Clock) -> Result<Proxy> {
    let now = clock.now();
    let gate = Gate::new(
        &config.name,
        config.breaker,
        config.budget,
        metrics,
        now.as_nanos() ^ u64::from(std::process::id()),
        now,
    );
    let address = &config.upstream;
    let upstream = Upstream {
        host: address.host.clone(),
        port: address.port,
        tls: address.tls.then(|| tls::client(address)).transpose()?,
    };
    let settings = Settings {
        name: config.name.clone(),
        deadline: config.deadline,
        attempts: config.attempts,
        backoff: config.backoff,
        repeatable: Repeatable::new(&config.also, &config.never),
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
        clock,
    })
}

/// A client for Levee's own use.
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
    let read = |file: &Option<std::path::PathBuf>| file.as_ref().map(std::fs::read).transpose();
    let client_tls =
        read(&address.cert_file)?
            .zip(read(&address.key_file)?)
            .map(|(client_cert, client_key)| redis::ClientTlsConfig {
                client_cert,
                client_key,
            });
    let certificates = redis::TlsCertificates {
        client_tls,
        root_cert: read(&address.ca_file)?,
    };
    Ok(redis::Client::build_with_tls(info, certificates)?)
}
