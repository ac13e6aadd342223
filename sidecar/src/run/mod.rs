//! Runs the sidecar: builds its parts, listens, serves, and stops in order.
//!
//! | module | what is in it |
//! |---|---|
//! | [`listening`] | sockets that listen: inherited, bound, or beside those of an older instance |
//! | `signals` | signals to the process |
//! | `systemd` | what systemd is told |

pub mod listening;
mod signals;
mod systemd;

pub use listening::{ListenError, Start};

use crate::accept::Acceptor;
use crate::admin::{self, Admin, RedisListener, page};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::database::health as database_health;
use crate::descriptors;
use crate::logging;
use crate::parts::database::DatabasePart;
use crate::parts::redis::{RedisPart, RedisUpstream};
use crate::parts::{database, envoy, redis};
use crate::readiness::{PROBE_WITHIN, Readiness};
use crate::redis::health;
use crate::redis::memory::Store;
use anyhow::Result;
use listening::Sockets;
use prometheus::Registry;
use signals::Signals;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use systemd::Systemd;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// A part could not be started.
pub async fn run(mut config: Config, start: Start) -> Result<()> {
    descriptors::fit(&mut config)?;
    let mut signals = Signals::new()?;
    let clock = Clock::start();
    let registry = Registry::new();
    let systemd = Systemd::from_environment();
    let mut running = Running::new(clock, Readiness::register(&registry)?, Sockets::new(start));

    page::register_build_info(&registry)?;
    logging::register_metrics(&registry)?;
    let redis = redis::build(
        &config.redis,
        config.state.as_ref(),
        config.memory,
        &registry,
        clock,
    )?;
    let database = config.database.as_ref();
    let database = database
        .map(|config| database::build(config, &registry, clock, &running.stopped))
        .transpose()?;
    let envoy = config.envoy.as_ref();
    let envoy = envoy
        .map(|config| envoy::build(config, &registry, clock))
        .transpose()?;

    let admin_listener = running.sockets.listen("admin", config.admin)?;
    let redis = running.serve_redis(redis).await?;
    if let Some(part) = &database {
        running.start_database(part);
    }
    if let Some(config) = &config.database {
        running.probe_database(config);
    }
    if let Some(envoy) = &envoy {
        running.background.spawn(envoy.clone().watch());
    }
    let admin = Admin {
        envoy,
        database: database.map(Arc::new),
        token: config.token.map(Arc::new),
        registry,
        readiness: running.readiness.clone(),
        redis: Arc::new(redis),
        clock,
    };
    running.serve_admin(admin_listener, admin)?;
    // The first probes, so that `/readyz` says from the start what is so.
    let _ = tokio::time::timeout(PROBE_WITHIN, running.readiness.known()).await;
    running.sockets.close_unused();
    running.background.spawn(systemd.clone().watchdog());
    systemd.ready();
    log::info!("ready");

    signals.stop().await;
    systemd.stopping();
    running.stop(config.stop_within).await;
    Ok(())
}

/// The tasks of all parts.
struct Running {
    clock: Clock,
    readiness: Readiness,
    sockets: Sockets,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
    /// Finish the work in flight after a stop.
    draining: JoinSet<()>,
    /// Dropped at the end.
    background: JoinSet<()>,
}

impl Running {
    fn new(clock: Clock, readiness: Readiness, sockets: Sockets) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self {
            clock,
            readiness,
            sockets,
            stop,
            stopped,
            draining: JoinSet::new(),
            background: JoinSet::new(),
        }
    }

    async fn serve_redis(&mut self, part: RedisPart) -> Result<Vec<RedisListener>> {
        let mut listeners = Vec::new();
        for upstream in part.upstreams {
            let proxy = upstream.proxy.clone();
            let address = self.serve_upstream(upstream, part.store.as_ref()).await?;
            listeners.push(RedisListener { address, proxy });
        }
        Ok(listeners)
    }

    async fn serve_upstream(
        &mut self,
        upstream: RedisUpstream,
        store: Option<&Store>,
    ) -> Result<SocketAddr> {
        let RedisUpstream {
            name,
            listen: address,
            proxy,
            client,
            health_every,
        } = upstream;
        let part = format!("redis/{name}");
        let listener = self.sockets.listen(&name, address)?;
        let address = listener.local_addr()?;
        let (gate, clock) = (proxy.gate.clone(), self.clock);
        if let Some(store) = store {
            store.recall(&name, &gate, clock).await;
            let keep = store.clone().keep(name.clone(), gate.clone(), clock);
            self.background.spawn(keep);
        }
        let probed = self.readiness.probed(&part);
        let health = health::watch(gate, client, probed, health_every, clock);
        self.background.spawn(health);
        self.draining
            .spawn(proxy.run(listener, self.stopped.clone()));
        log::info!(part = "redis", upstream = name.as_str(), address = address.to_string().as_str(); "listening");
        Ok(address)
    }

    fn start_database(&mut self, part: &DatabasePart) {
        for job in &part.jobs {
            self.draining.spawn(job.clone().run_on_schedule());
            self.readiness.ready(&format!("job/{}", job.name));
            log::info!(job = job.name.as_str(); "scheduled");
        }
        if let Some(guard) = &part.guard {
            self.background.spawn(guard.clone().watch());
            self.readiness.ready("watchdog");
        }
    }

    fn probe_database(&mut self, config: &config::database::Database) {
        let part = self.readiness.probed("database");
        self.background
            .spawn(database_health::watch(config.options(), part));
    }

    fn serve_admin(&mut self, listener: TcpListener, admin: Admin) -> io::Result<()> {
        let address = listener.local_addr()?.to_string();
        log::info!(part = "admin", address = address.as_str(); "listening");
        let acceptor = Acceptor::new(listener, "admin", self.clock);
        self.background
            .spawn(admin::serve(acceptor, admin.router()));
        Ok(())
    }

    async fn stop(mut self, within: Duration) {
        log::info!(
            "stopping: waiting for work in flight, for up to {}",
            humantime::format_duration(within)
        );
        self.readiness.stopping();
        let _ = self.stop.send(true);
        let drained = async { while self.draining.join_next().await.is_some() {} };
        if tokio::time::timeout(within, drained).await.is_err() {
            log::warn!("not all connections and jobs ended in time");
        }
        log::info!("stopped");
    }
}
