//! All parts together: Envoy before four services, the sidecar before Redis and at the database. The same without
//! Levee, to see what it changes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::client::{Answer, NoAnswer, Request};
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::error::{Context, Error, Result};
use levee_harness::metrics::Metrics;
use levee_harness::postgres::Postgres;
use levee_harness::process::{Output, Process, Signal};
use levee_harness::redis::Redis;
use levee_harness::sidecar::{self, Config, Sidecar};
use levee_harness::wait::{GENEROUS, until_blocking};

/// What became of a request.
pub type Outcome = std::result::Result<Answer, NoAnswer>;

/// The services, as `envoy/gateway.yaml` has them.
pub const SERVICES: [&str; 4] = ["auth", "chat", "video", "storage"];

/// How long a service may take for the headers of its answer, in the shortened times of the filter.
pub const HEADER_LIMIT: Duration = Duration::from_secs(2);

/// How long a statement may take, in the shortened times of the watchdog.
pub const QUERY_LIMIT: Duration = Duration::from_millis(500);

/// How long a command may take, in the shortened times of the Redis proxy.
pub const COMMAND_LIMIT: Duration = Duration::from_millis(1200);

/// The pause between a client's requests.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// The age from which on a call is stale. This one is not shortened: the rows are made old.
pub const STALE: &str = "24h";

/// Which parts of Levee are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The filter in Envoy.
    pub filter: bool,
    /// The sidecar before Redis.
    pub redis_proxy: bool,
    /// The sidecar at the database.
    pub database: bool,
}

impl Parts {
    /// All of Levee.
    pub const ALL: Self = Self {
        filter: true,
        redis_proxy: true,
        database: true,
    };
    /// None of it: plain Envoy, services directly at Redis, no jobs or watchdog at the database.
    pub const NONE: Self = Self {
        filter: false,
        redis_proxy: false,
        database: false,
    };
}

/// The whole of it. Dropping it ends all processes. Not to be used from asynchronous code: it has its own runtime.
#[derive(Debug)]
pub struct Stack {
    /// The services' Redis.
    pub redis: Redis,
    /// The services' database.
    pub postgres: Postgres,
    /// The sidecar, if any part of it is used.
    pub sidecar: Option<Sidecar>,
    parts: Parts,
    services: BTreeMap<&'static str, Service>,
    gateway: Envoy,
    runtime: Runtime,
}

impl Stack {
    /// Starts all of it, with these parts of Levee.
    pub fn start(parts: Parts) -> Result<Self> {
        Self::start_with(parts, &Start::default())
    }

    /// As [`Self::start`], with what Envoy's start allows.
    pub fn start_with(parts: Parts, start: &Start) -> Result<Self> {
        let runtime = Runtime::new().context("start the threads of requests")?;
        // What was written is there again after a restart.
        let redis = Redis::start_with(&["--appendonly", "yes"])?;
        let postgres = Postgres::with_tables()?;
        // The sidecar reads Envoy, and Envoy's services reach Redis by the sidecar: one address must be known before.
        let admin = match start.admin {
            Some(admin) => admin,
            None => free_address()?,
        };
        let sidecar = sidecar_config(parts, &redis, &postgres, admin)
            .map(|config| Sidecar::start_with(&config, &sidecar::Start::default()))
            .transpose()?;
        let redis_address = match &sidecar {
            Some(sidecar) if parts.redis_proxy => sidecar.address()?,
            _ => redis.address,
        };
        let mut services = BTreeMap::new();
        for name in SERVICES {
            let service = Service::start(name, redis_address, &postgres.url_of("app"))?;
            services.insert(name, service);
        }
        let config = services.values().fold(gateway(parts), |config, service| {
            config.upstream(service.name, service.address)
        });
        let start = Start {
            admin: Some(admin),
            ..start.clone()
        };
        let gateway = runtime.block_on(Envoy::start_with(config, &start))?;
        Ok(Self {
            redis,
            postgres,
            sidecar,
            parts,
            services,
            gateway,
            runtime,
        })
    }

    /// Whether all of Levee is there.
    pub fn has_levee(&self) -> bool {
        self.parts == Parts::ALL
    }

    /// Where the gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// One of [`SERVICES`].
    pub fn service(&mut self, name: &str) -> Result<&mut Service> {
        let service = self.services.get_mut(name);
        service.ok_or_else(|| Error::new(format!("there is no service `{name}`")))
    }

    /// Sends a request through the gateway.
    pub fn send(&self, request: &Request) -> Outcome {
        self.send_to(self.address(), request)
    }

    /// Sends a request to any address.
    pub fn send_to(&self, to: SocketAddr, request: &Request) -> Outcome {
        self.runtime.block_on(request.send(to))
    }

    /// Sends the same request from this many clients at once, through the gateway.
    pub fn crowd(&self, request: &Request, clients: usize) -> Vec<Outcome> {
        self.send_to_all(vec![self.address(); clients], request)
    }

    /// Sends the same request directly to each of the services at once.
    pub fn each_service(&self, request: &Request) -> Vec<Outcome> {
        let addresses = self.services.values().map(|service| service.address);
        self.send_to_all(addresses.collect(), request)
    }

    fn send_to_all(&self, addresses: Vec<SocketAddr>, request: &Request) -> Vec<Outcome> {
        self.runtime.block_on(async {
            let mut under_way = JoinSet::new();
            for to in addresses {
                let request = request.clone();
                under_way.spawn(async move { request.send(to).await });
            }
            under_way.join_all().await
        })
    }

    /// Starts this many clients that repeat the same request until [`Asking::answers`].
    pub fn keep_asking(&self, request: &Request, clients: usize) -> Asking {
        let (ended, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (to, request) = (self.address(), request.clone());
            let (ended, answered) = (Arc::clone(&ended), Arc::clone(&answered));
            let asking = async move {
                let mut answers = Vec::new();
                while !ended.load(Ordering::Relaxed) {
                    answers.push(request.send(to).await);
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(ASK_EVERY).await;
                }
                answers
            };
            tasks.spawn_on(asking, self.runtime.handle());
        }
        Asking {
            ended,
            answered,
            tasks,
        }
    }

    /// Runs something asynchronous, such as a client of another kind.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Sends JSON through the gateway: status and JSON of the answer. 0 without an answer.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request =
            Request::post(path, body.to_string()).header("content-type", "application/json");
        answer_of(self.send(&request))
    }

    /// Asks through the gateway: status and JSON of the answer. 0 without an answer.
    pub fn get(&self, path: &str) -> (u16, Value) {
        answer_of(self.send(&Request::get(path)))
    }

    /// All metrics of Levee's: at the sidecar, which shows the gateway's too; at the gateway, where there is no sidecar.
    pub fn metrics(&self) -> Result<Metrics> {
        let page = match &self.sidecar {
            Some(sidecar) => sidecar.get("/metrics")?.1,
            None => self.ask_envoy("/stats/prometheus")?,
        };
        Metrics::parse(&page).context("the metrics")
    }

    /// What Envoy's admin interface answers.
    pub fn ask_envoy(&self, path: &str) -> Result<String> {
        Ok(self.block_on(self.gateway.ask_admin(path))?.text())
    }
}

/// Clients that repeat a request.
#[derive(Debug)]
pub struct Asking {
    ended: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<Outcome>>,
}

impl Asking {
    /// Waits until this many more requests have ended.
    pub fn wait_for(&self, more: usize) -> Result<()> {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        until_blocking(&format!("{more} more answers"), GENEROUS, || {
            let answered = self.answered.load(Ordering::Relaxed);
            if answered < enough {
                Err(format!("{answered} of {enough}"))
            } else {
                Ok(())
            }
        })
    }

    /// Lets each end its last request: all that they saw.
    pub fn answers(self, stack: &Stack) -> Vec<Outcome> {
        self.ended.store(true, Ordering::Relaxed);
        stack.block_on(self.tasks.join_all()).concat()
    }
}

/// Status and JSON of an answer; 0 and the reason where there was none.
fn answer_of(answer: Outcome) -> (u16, Value) {
    match answer {
        Ok(answer) => (
            answer.status,
            serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
        ),
        Err(why) => (0, json!(why.to_string())),
    }
}

/// `envoy/gateway.yaml` with short times; or a gateway that nobody gave time limits, as the audited one was.
fn gateway(parts: Parts) -> EnvoyConfig {
    if parts.filter {
        let millis = |limit: Duration| format!("{}ms", limit.as_millis());
        return EnvoyConfig::gateway().plugin(&json!({
            "breaker": {"open_for": "1s"},
            "services": {
                // Only a health check brings it back in time.
                "storage": {"breaker": {"open_for": "30s", "health_check": {"path": "/healthz"}}},
                "auth": {
                    // Here all clients have one address.
                    "breaker": {"witnesses": 1},
                    "scopes": {"rules": [
                        {"name": "sessions", "path_prefix": "/v1/auth/login"},
                        {"name": "sessions", "path_prefix": "/v1/auth/session"},
                    ]},
                },
            },
            "timeouts": {
                "response_header": millis(HEADER_LIMIT),
                "classes": {"short": millis(HEADER_LIMIT), "default": millis(2 * HEADER_LIMIT)},
            },
        }));
    }
    SERVICES.iter().fold(
        EnvoyConfig::gateway().without_filter(),
        |config, service| config.route(service, &json!({"route": {"timeout": "0s"}})),
    )
}

/// The sidecar's configuration with short times, if any part of it is wanted.
fn sidecar_config(
    parts: Parts,
    redis: &Redis,
    postgres: &Postgres,
    envoy: SocketAddr,
) -> Option<Config> {
    if !parts.redis_proxy && !parts.database {
        return None;
    }
    let mut yaml = format!("envoy: {{admin: 'http://{envoy}'}}\n");
    if parts.redis_proxy {
        let _ = write!(
            yaml,
            "redis:\n  - name: sessions\n    listen: 127.0.0.1:0\n    upstream: redis://{}\n    deadline: {}ms\n    \
             breaker: {{open_for: 1s}}\n",
            redis.address,
            COMMAND_LIMIT.as_millis(),
        );
    }
    let config = Config::new(yaml);
    if !parts.database {
        return Some(config);
    }
    let keys = format!(
        "jobs:\n  auth_cleanup: {{preset: expired_tokens, every: 1s, share: 0.2}}\n  \
         video_cleanup: {{preset: stale_calls, every: 1s, share: 0.2, older_than: {STALE}}}\n\
         watchdog: {{roles: [app], classes: {{query: {}ms}}}}",
        QUERY_LIMIT.as_millis(),
    );
    Some(config.database(&postgres.url_of("levee"), &keys))
}

/// `levee-demo-backend` as a process, which can be stopped and started.
#[derive(Debug)]
pub struct Service {
    pub name: &'static str,
    pub address: SocketAddr,
    redis: SocketAddr,
    database: String,
    process: Option<Process>,
}

impl Service {
    /// Starts one on a free port.
    pub fn start(name: &'static str, redis: SocketAddr, database: &str) -> Result<Self> {
        let mut service = Self {
            name,
            address: free_address()?,
            redis,
            database: database.to_owned(),
            process: None,
        };
        service.start_again()?;
        Ok(service)
    }

    /// Starts it again at the same address, after [`stop`](Self::stop).
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(built::program("levee-demo-backend")?);
        command
            .args(["--listen", &self.address.to_string(), "--name", self.name])
            .args(["--redis", &format!("redis://{}", self.redis)])
            .args(["--database", &self.database])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = self.process.insert(Process::spawn(command, Signal::Kill)?);
        let name = format!("the service {}", self.name);
        process.until_it_listens(&name, self.address, GENEROUS, Output::NotKept)
    }

    /// Ends it at once, as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::Kill);
            process.wait(GENEROUS);
        }
    }

    /// Freezes it: the kernel accepts connections, and nobody answers.
    pub fn stand_still(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::Stop);
        }
    }
}
