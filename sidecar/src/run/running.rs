//! The parts that run, with their tasks.

use super::listening::{Sockets, Start};
use crate::accept::Acceptor;
use crate::admin::{self, Admin, Live, RedisListener, page};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::database::health as database_health;
use crate::descriptors;
use crate::envoy::scrape::Envoy;
use crate::logging;
use crate::parts::database::DatabasePart;
use crate::parts::redis::RedisUpstream;
use crate::parts::{database, envoy, redis};
use crate::readiness::{PROBE_WITHIN, Readiness};
use crate::redis::buffers::Buffers;
use crate::redis::health;
use crate::redis::memory::Store;
use crate::redis::metrics::RedisFamilies;
use anyhow::Result;
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub(super) struct Running {
    /// What is in force.
    pub config: Config,
    pub clock: Clock,
    pub registry: Registry,
    pub readiness: Readiness,
    pub sockets: Sockets,
    pub families: RedisFamilies,
    pub buffers: Arc<Buffers>,
    pub redis: Vec<RunningRedis>,
    pub database: Option<RunningDatabase>,
    pub envoy: Option<RunningEnvoy>,
    store: Option<Store>,
    /// Finish the work in flight after a stop.
    draining: JoinSet<()>,
    /// Dropped at the end.
    background: JoinSet<()>,
}

pub(super) struct RunningRedis {
    pub config: config::Redis,
    pub upstream: RedisUpstream,
    address: SocketAddr,
    health: AbortHandle,
    keep: Option<AbortHandle>,
}

pub(super) struct RunningDatabase {
    part: Arc<DatabasePart>,
    /// Of its metrics, which end with it.
    registry: Registry,
    stop: watch::Sender<bool>,
    tasks: Vec<AbortHandle>,
    /// Its names in the readiness.
    names: Vec<String>,
}

pub(super) struct RunningEnvoy {
    envoy: Arc<Envoy>,
    registry: Registry,
    watch: AbortHandle,
}

impl Running {
    /// Starts all parts but the admin interface, whose listener it returns.
    ///
    /// # Errors
    /// A part can't be started.
    pub async fn start(mut config: Config, start: Start) -> Result<(Self, TcpListener)> {
        descriptors::fit(&mut config)?;
        let registry = Registry::new();
        page::register_build_info(&registry)?;
        logging::register_metrics(&registry)?;
        let mut running = Self {
            clock: Clock::start(),
            readiness: Readiness::register(&registry)?,
            sockets: Sockets::new(start),
            families: RedisFamilies::register(&registry)?,
            buffers: Buffers::new(config.memory, &registry)?,
            redis: Vec::new(),
            database: None,
            envoy: None,
            store: config.state.as_ref().map(redis::store).transpose()?,
            draining: JoinSet::new(),
            background: JoinSet::new(),
            registry,
            config: config.clone(),
        };
        let mut upstreams = Vec::new();
        for config in &config.redis {
            upstreams.push(redis::build(
                config,
                &running.families,
                running.buffers.clone(),
                running.clock,
            )?);
        }
        let admin = running.sockets.listen("admin", config.admin)?;
        for (config, upstream) in config.redis.iter().zip(upstreams) {
            let listener = running.sockets.listen(&config.name, config.listen)?;
            running.serve_redis(config, upstream, listener).await?;
        }
        running.start_database(config.database.as_ref())?;
        running.start_envoy(config.envoy.as_ref())?;
        running.sockets.close_unused();
        Ok((running, admin))
    }

    pub async fn serve_redis(
        &mut self,
        config: &config::Redis,
        upstream: RedisUpstream,
        listener: TcpListener,
    ) -> Result<()> {
        let name = config.name.clone();
        let address = listener.local_addr()?;
        let gate = upstream.proxy.gate.clone();
        let keep = match self.store.clone() {
            None => None,
            Some(store) => {
                store.recall(&name, &gate, self.clock).await;
                let keep = store.keep(name.clone(), gate, self.clock);
                Some(self.background.spawn(keep))
            }
        };
        self.draining.spawn(upstream.proxy.clone().run(listener));
        log::info!(part = "redis", upstream = name.as_str(), address = address.to_string().as_str(); "listening");
        let health = self.probe_redis(config, &upstream);
        self.redis.push(RunningRedis {
            health,
            config: config.clone(),
            upstream,
            address,
            keep,
        });
        Ok(())
    }

    fn probe_redis(&mut self, config: &config::Redis, upstream: &RedisUpstream) -> AbortHandle {
        let part = self.readiness.probed(&format!("redis/{}", config.name));
        let (gate, client) = (upstream.proxy.gate.clone(), upstream.client.clone());
        let every = config.health_every;
        self.background
            .spawn(health::watch(gate, client, part, every, self.clock))
    }

    /// Puts other settings of an upstream into force.
    pub fn reconfigure_redis(&mut self, place: usize, config: &config::Redis) {
        let now = self.clock.now();
        let Some(running) = self.redis.get(place) else {
            return;
        };
        let upstream = running.upstream.clone();
        let proxy = &upstream.proxy;
        proxy.reconfigure(redis::settings(config), config.connections);
        proxy.gate.reconfigure(config.breaker, config.budget, now);
        let probes_otherwise = running.config.health_every != config.health_every;
        if probes_otherwise {
            running.health.abort();
        }
        let health = probes_otherwise.then(|| self.probe_redis(config, &upstream));
        if let Some(running) = self.redis.get_mut(place) {
            running.config = config.clone();
            if let Some(health) = health {
                running.health = health;
            }
        }
    }

    /// Ends an upstream: its clients get what they are owed.
    pub fn end_redis(&mut self, place: usize) {
        let ended = self.redis.remove(place);
        ended.upstream.proxy.stop();
        ended.health.abort();
        if let Some(keep) = ended.keep {
            keep.abort();
        }
        self.readiness
            .remove(&format!("redis/{}", ended.config.name));
        self.families.remove(&ended.config.name);
    }

    /// Starts what runs at the database, if there is one.
    pub fn start_database(&mut self, config: Option<&config::database::Database>) -> Result<()> {
        let Some(config) = config else {
            return Ok(());
        };
        let registry = Registry::new();
        let (stop, stopped) = watch::channel(false);
        let part = database::build(config, &registry, self.clock, &stopped)?;
        let (mut tasks, mut names) = (Vec::new(), vec!["database".to_owned()]);
        for job in &part.jobs {
            self.draining.spawn(job.clone().run_on_schedule());
            let name = format!("job/{}", job.name);
            let reporter = job.clone();
            let report = move || reporter.status().problem.into();
            self.readiness.reported(&name, report);
            names.push(name);
            log::info!(job = job.name.as_str(); "scheduled");
        }
        if let Some(guard) = &part.guard {
            let probed = self.readiness.probed("watchdog");
            tasks.push(self.background.spawn(guard.clone().watch(probed)));
            names.push("watchdog".to_owned());
        }
        let probed = self.readiness.probed("database");
        let health = database_health::watch(config.options(), probed);
        tasks.push(self.background.spawn(health));
        self.database = Some(RunningDatabase {
            part: Arc::new(part),
            registry,
            stop,
            tasks,
            names,
        });
        Ok(())
    }

    /// A job's run in progress ends after its batch.
    pub fn end_database(&mut self) {
        let Some(ended) = self.database.take() else {
            return;
        };
        let _ = ended.stop.send(true);
        for task in &ended.tasks {
            task.abort();
        }
        for name in &ended.names {
            self.readiness.remove(name);
        }
    }

    pub fn start_envoy(&mut self, config: Option<&config::Envoy>) -> Result<()> {
        if let Some(config) = config {
            let registry = Registry::new();
            let envoy = envoy::build(config, &registry, self.clock)?;
            let watch = self.background.spawn(envoy.clone().watch());
            self.envoy = Some(RunningEnvoy {
                envoy,
                registry,
                watch,
            });
        }
        Ok(())
    }

    pub fn end_envoy(&mut self) {
        if let Some(ended) = self.envoy.take() {
            ended.watch.abort();
        }
    }

    /// What the admin interface shows.
    pub fn admin(&self) -> Admin {
        let (database, envoy) = (self.database.as_ref(), self.envoy.as_ref());
        let registries = [
            Some(&self.registry),
            database.map(|database| &database.registry),
            envoy.map(|envoy| &envoy.registry),
        ];
        let redis = self.redis.iter().map(|redis| RedisListener {
            address: redis.address,
            proxy: redis.upstream.proxy.clone(),
        });
        Admin {
            registries: registries.into_iter().flatten().cloned().collect(),
            readiness: self.readiness.clone(),
            redis: Arc::new(redis.collect()),
            envoy: envoy.map(|envoy| envoy.envoy.clone()),
            database: database.map(|database| database.part.clone()),
            token: self.config.token.clone().map(Arc::new),
            clock: self.clock,
        }
    }

    pub fn serve_admin(&mut self, listener: TcpListener, live: Live) -> Result<()> {
        let address = listener.local_addr()?.to_string();
        log::info!(part = "admin", address = address.as_str(); "listening");
        let acceptor = Acceptor::new(listener, "admin", self.clock);
        self.spawn(admin::serve(acceptor, live.router()));
        Ok(())
    }

    /// Runs `task` until the end of the process.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.spawn(task);
    }

    /// Waits for the first probes, so that `/readyz` says from the start what is so.
    pub async fn is_known(&self) {
        let _ = tokio::time::timeout(PROBE_WITHIN, self.readiness.known()).await;
    }

    pub async fn stop(mut self) {
        let within: Duration = self.config.stop_within;
        log::info!(
            "stopping: waiting for work in flight, for up to {}",
            humantime::format_duration(within)
        );
        self.readiness.stopping();
        for redis in &self.redis {
            redis.upstream.proxy.stop();
        }
        if let Some(database) = &self.database {
            let _ = database.stop.send(true);
        }
        let drained = async { while self.draining.join_next().await.is_some() {} };
        if tokio::time::timeout(within, drained).await.is_err() {
            log::warn!("not all connections and jobs ended in time");
        }
        log::info!("stopped");
    }
}
