//! The parts that run. Another configuration takes force in two steps: all that may fail is prepared first, then
//! everything changes at once.

use super::inherited::{Inherited, Part};
use super::listening::{Bound, InUse, listen};
use super::plan::{ListenerPlan, PartPlan, Plan, plan};
use super::tasks::{Drained, Tasks};
use super::upstreams::{RunningUpstream, Shared, end_accepting};
use crate::accept::Acceptor;
use crate::admin::{self, Admin, Live, page};
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
use crate::redis::metrics::RedisFamilies;
use anyhow::{Context, Result};
use prometheus::Registry;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub(super) struct Running {
    /// What is in force.
    pub config: Config,
    pub registry: Registry,
    buffers: Arc<Buffers>,
    shared: Shared,
    redis: Vec<RunningUpstream>,
    database: Option<RunningDatabase>,
    envoy: Option<RunningEnvoy>,
    tasks: Tasks,
}

struct RunningDatabase {
    part: Arc<DatabasePart>,
    /// Of its metrics, which end with it.
    registry: Registry,
    stop: watch::Sender<bool>,
    tasks: Vec<AbortHandle>,
    /// Its names in the readiness.
    names: Vec<String>,
}

struct RunningEnvoy {
    envoy: Arc<Envoy>,
    registry: Registry,
    watch: AbortHandle,
}

/// All that a plan needs, before anything has changed.
pub(super) struct Prepared {
    plan: Plan,
    /// By upstream, of those that get another.
    listeners: HashMap<String, Bound>,
    /// By name.
    new_upstreams: HashMap<String, RedisUpstream>,
    database: Option<BuiltDatabase>,
    envoy: Option<BuiltEnvoy>,
}

struct BuiltDatabase {
    part: DatabasePart,
    registry: Registry,
    stop: watch::Sender<bool>,
}

struct BuiltEnvoy {
    envoy: Arc<Envoy>,
    registry: Registry,
}

impl Running {
    /// Starts all parts but the admin interface, whose listener it returns.
    ///
    /// # Errors
    /// A part can't be started.
    pub async fn start(
        mut config: Config,
        sockets: Inherited,
        in_use: InUse,
    ) -> Result<(Self, Bound)> {
        descriptors::fit(&mut config)?;
        let redis = config.redis.iter();
        let mut parts: Vec<Part> = redis
            .map(|redis| Part::redis(&redis.name, redis.listen))
            .collect();
        parts.push(Part::admin(config.admin));
        let mut running = Self::without_parts(&config)?;
        let plan = plan(&running.config, config);
        let mut bound = sockets.listen(&parts, in_use)?;
        let admin = bound.pop().context("the admin interface has no listener")?;
        let names = plan.config.redis.iter().map(|redis| redis.name.clone());
        let listeners = names.zip(bound).collect();
        let prepared = running.prepare(plan, listeners).await?;
        running.commit(prepared).await;
        Ok((running, admin))
    }

    fn without_parts(config: &Config) -> Result<Self> {
        let registry = Registry::new();
        page::register_build_info(&registry)?;
        logging::register_metrics(&registry)?;
        Ok(Self {
            config: Config {
                redis: Vec::new(),
                database: None,
                envoy: None,
                ..config.clone()
            },
            buffers: Buffers::new(config.memory, &registry)?,
            shared: Shared {
                clock: Clock::start(),
                readiness: Readiness::register(&registry)?,
                families: RedisFamilies::register(&registry)?,
                store: config.state.as_ref().map(redis::store).transpose()?,
            },
            redis: Vec::new(),
            database: None,
            envoy: None,
            tasks: Tasks::default(),
            registry,
        })
    }

    /// Puts a plan into force.
    ///
    /// # Errors
    /// A part can't be built or can't listen. Nothing has changed then.
    pub async fn apply(&mut self, plan: Plan) -> Result<()> {
        let listeners = self.listeners(&plan)?;
        let prepared = self.prepare(plan, listeners).await?;
        self.commit(prepared).await;
        Ok(())
    }

    /// The listeners of upstreams that get another one.
    fn listeners(&self, plan: &Plan) -> Result<HashMap<String, Bound>> {
        let mut listeners = HashMap::new();
        for (config, upstream) in plan.config.redis.iter().zip(&plan.upstreams) {
            let bound = match &upstream.listener {
                ListenerPlan::Keep => continue,
                ListenerPlan::TakeFrom(owner) => {
                    let mut redis = self.redis.iter();
                    let found = redis.find(|redis| redis.config.name == *owner);
                    found
                        .map(RunningUpstream::bound)
                        .with_context(|| format!("redis/{owner} has no listener to hand over"))?
                }
                ListenerPlan::Bind(in_use) => listen(&config.name, config.listen, *in_use)?,
            };
            listeners.insert(config.name.clone(), bound);
        }
        Ok(listeners)
    }

    async fn prepare(&self, plan: Plan, listeners: HashMap<String, Bound>) -> Result<Prepared> {
        let clock = self.shared.clock;
        let mut new_upstreams = HashMap::new();
        for config in &plan.config.redis {
            if self
                .redis
                .iter()
                .any(|redis| redis.config.name == config.name)
            {
                continue;
            }
            let upstream = redis::build(config, self.buffers.clone(), clock)?;
            new_upstreams.insert(config.name.clone(), upstream);
        }
        let config = &plan.config;
        let database = built(plan.database, config.database.as_ref(), |config| {
            let registry = Registry::new();
            let (stop, stopped) = watch::channel(false);
            let part = database::build(config, &registry, clock, &stopped)?;
            Ok(BuiltDatabase {
                part,
                registry,
                stop,
            })
        })?;
        let envoy = built(plan.envoy, config.envoy.as_ref(), |config| {
            let registry = Registry::new();
            let envoy = envoy::build(config, &registry, clock)?;
            Ok(BuiltEnvoy { envoy, registry })
        })?;
        self.recall(&new_upstreams).await;
        Ok(Prepared {
            plan,
            listeners,
            new_upstreams,
            database,
            envoy,
        })
    }

    /// New upstreams continue where those of the last process ended.
    async fn recall(&self, upstreams: &HashMap<String, RedisUpstream>) {
        let Some(store) = &self.shared.store else {
            return;
        };
        let mut all = JoinSet::new();
        for (name, upstream) in upstreams {
            let (store, name) = (store.clone(), name.clone());
            let (gate, clock) = (upstream.proxy.gate.clone(), self.shared.clock);
            all.spawn(async move { store.recall(&name, &gate, clock).await });
        }
        while all.join_next().await.is_some() {}
    }

    async fn commit(&mut self, prepared: Prepared) {
        let Prepared {
            plan,
            listeners,
            new_upstreams,
            database,
            envoy,
        } = prepared;
        self.commit_redis(&plan, listeners, new_upstreams).await;
        if plan.envoy == PartPlan::Change {
            self.end_envoy();
            self.start_envoy(envoy);
        }
        if plan.database == PartPlan::Change {
            self.end_database();
            if let Some((config, built)) = plan.config.database.as_ref().zip(database) {
                self.start_database(config, built);
            }
        }
        log::set_max_level(plan.config.log.level);
        self.config = plan.config;
    }

    /// Listeners accept without a break: those that stay in use have their new owners before the old ones leave.
    async fn commit_redis(
        &mut self,
        plan: &Plan,
        mut listeners: HashMap<String, Bound>,
        mut new_upstreams: HashMap<String, RedisUpstream>,
    ) {
        let mut old: HashMap<String, RunningUpstream> = std::mem::take(&mut self.redis)
            .into_iter()
            .map(|redis| (redis.config.name.clone(), redis))
            .collect();
        let mut former = Vec::new();
        for config in &plan.config.redis {
            let bound = listeners.remove(&config.name);
            if let Some(mut running) = old.remove(&config.name) {
                former.extend(bound.map(|bound| running.relocate(bound, &mut self.tasks)));
                if running.config != *config {
                    running.reconfigure(config.clone(), &self.shared, &mut self.tasks);
                }
                self.redis.push(running);
            } else if let Some((upstream, bound)) = new_upstreams.remove(&config.name).zip(bound) {
                self.redis.push(RunningUpstream::start(
                    config.clone(),
                    upstream,
                    bound,
                    &self.shared,
                    &mut self.tasks,
                ));
            }
        }
        former.extend(old.into_values().map(|ended| ended.end(&self.shared)));
        end_accepting(former, &self.redis).await;
    }

    fn start_database(&mut self, config: &config::database::Database, built: BuiltDatabase) {
        let BuiltDatabase {
            part,
            registry,
            stop,
        } = built;
        let (mut tasks, mut names) = (Vec::new(), vec!["database".to_owned()]);
        for job in &part.jobs {
            self.tasks.drain(job.clone().run_on_schedule());
            let name = format!("job/{}", job.name);
            let reporter = job.clone();
            let report = move || reporter.status().problem.into();
            self.shared.readiness.reported(&name, report);
            names.push(name);
            log::info!(job = job.name.as_str(); "scheduled");
        }
        if let Some(guard) = &part.guard {
            let probed = self.shared.readiness.probed("watchdog");
            tasks.push(self.tasks.run(guard.clone().watch(probed)));
            names.push("watchdog".to_owned());
        }
        let probed = self.shared.readiness.probed("database");
        let health = database_health::watch(config.options(), probed);
        tasks.push(self.tasks.run(health));
        self.database = Some(RunningDatabase {
            part: Arc::new(part),
            registry,
            stop,
            tasks,
            names,
        });
    }

    /// A job's run in progress ends after its batch.
    fn end_database(&mut self) {
        let Some(ended) = self.database.take() else {
            return;
        };
        let _ = ended.stop.send(true);
        for task in &ended.tasks {
            task.abort();
        }
        for name in &ended.names {
            self.shared.readiness.remove(name);
        }
    }

    fn start_envoy(&mut self, built: Option<BuiltEnvoy>) {
        self.envoy = built.map(|BuiltEnvoy { envoy, registry }| RunningEnvoy {
            watch: self.tasks.run(envoy.clone().watch()),
            envoy,
            registry,
        });
    }

    fn end_envoy(&mut self) {
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
        Admin {
            registries: registries.into_iter().flatten().cloned().collect(),
            readiness: self.shared.readiness.clone(),
            redis: Arc::new(self.redis.iter().map(RunningUpstream::admin).collect()),
            envoy: envoy.map(|envoy| envoy.envoy.clone()),
            database: database.map(|database| database.part.clone()),
            token: self.config.token.clone().map(Arc::new),
            clock: self.shared.clock,
        }
    }

    pub fn serve_admin(&mut self, listener: Bound, live: Live) {
        let address = listener.address.to_string();
        log::info!(part = "admin", address = address.as_str(); "listening");
        let acceptor = Acceptor::new(listener.socket, "admin", self.shared.clock);
        self.spawn(admin::serve(acceptor, live.router()));
    }

    /// Runs `task` until the end of the process.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.run(task);
    }

    /// Waits for the first probes, so that `/readyz` is right from the start.
    pub async fn is_known(&self) {
        let _ = tokio::time::timeout(PROBE_WITHIN, self.shared.readiness.known()).await;
    }

    /// Waits for work in flight. Dropping the future ends it.
    pub async fn stop(mut self) {
        let within = self.config.stop_within;
        log::info!(
            "stopping: waiting for work in flight, for up to {}",
            humantime::format_duration(within)
        );
        self.shared.readiness.stopping();
        if let Some(database) = &self.database {
            let _ = database.stop.send(true);
        }
        let former = self.redis.drain(..).map(RunningUpstream::stop).collect();
        end_accepting(former, &[]).await;
        if self.tasks.drained(within).await == Drained::Partly {
            log::warn!("not all connections and jobs ended in time");
        }
        log::info!("stopped");
    }
}

/// Builds a part that changes, if there is one.
fn built<C, T>(
    plan: PartPlan,
    config: Option<&C>,
    build: impl FnOnce(&C) -> Result<T>,
) -> Result<Option<T>> {
    let config = config.filter(|_| plan == PartPlan::Change);
    config.map(build).transpose()
}
