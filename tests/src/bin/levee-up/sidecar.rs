//! The sidecar, with a Redis behind it: the user's own, or a temporary one.

use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use levee_tests::clock::Stopwatch;
use levee_tests::envoy::last_lines;
use levee_tests::envoy_config::HostPort;
use levee_tests::process::{Process, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::args::Args;
use crate::failure::Failure;
use crate::gateway::check_free;
use crate::redis::{self, Redis};

/// From its start until it listens.
const START: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running sidecar. Dropping it ends it, and the Redis that was started for it.
#[derive(Debug)]
pub struct Sidecar {
    /// Where services connect to Redis.
    pub listen: SocketAddr,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// Where Redis is.
    pub upstream: HostPort,
    /// What it says.
    pub log: PathBuf,
    // Fields are dropped in this order: first the processes, then their files.
    process: Process,
    redis: Option<Redis>,
    _files: TempDir,
}

/// What is to be started.
#[derive(Debug)]
pub struct Plan {
    levee: PathBuf,
    redis: Upstream,
}

#[derive(Debug)]
enum Upstream {
    Own(HostPort),
    Temporary { server: PathBuf },
}

impl Plan {
    /// What this machine and the command line allow. In words, why there is no sidecar, where a part that it needs is
    /// not there.
    pub fn make(args: &Args) -> Result<Result<Self, &'static str>, Failure> {
        let Some(levee) = env::var_os("LEVEE_BIN") else {
            return Ok(Err(
                "LEVEE_BIN is not set; start this by `cargo xtask up`, which sets it",
            ));
        };
        let redis = match (&args.redis, redis::server()) {
            (Some(own), _) => Upstream::Own(own.clone()),
            (None, Some(server)) => Upstream::Temporary { server },
            (None, None) => {
                return Ok(Err(
                    "redis-server is not installed (Debian: redis-server); install it, or name your own by --redis HOST:PORT",
                ));
            }
        };
        check_free(args.redis_listen, "the Redis proxy", "--redis-listen")?;
        check_free(
            args.sidecar_admin,
            "the sidecar's admin interface",
            "--sidecar-admin",
        )?;
        Ok(Ok(Self {
            levee: levee.into(),
            redis,
        }))
    }
}

impl Sidecar {
    /// Starts it and waits until it listens.
    pub async fn start(args: &Args, plan: Plan) -> Result<Self, Failure> {
        let files = tempfile::Builder::new()
            .prefix("levee-up-")
            .tempdir()
            .map_err(Failure::other)?;
        let (upstream, redis) = match plan.redis {
            Upstream::Own(own) => (own, None),
            Upstream::Temporary { server } => {
                let redis = Redis::start(server, files.path()).await?;
                (redis.address.into(), Some(redis))
            }
        };
        let config = files.path().join("levee.yaml");
        let yaml = format!(
            "log: {{format: json}}\nadmin: {{listen: '{}'}}\nredis:\n  - name: demo\n    listen: '{}'\n    \
             upstream: 'redis://{upstream}'\n",
            args.sidecar_admin, args.redis_listen
        );
        fs::write(&config, yaml).map_err(Failure::other)?;
        let logs = args.log_dir.as_deref().unwrap_or(files.path());
        let log = logs.join("levee.log");
        let mut command = Command::new(&plan.levee);
        command
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(Failure::other)?)
            .process_group(0);
        let process = Process::spawn(command, Signal::Kill).map_err(|error| {
            Failure::Other(format!("can't start the sidecar (LEVEE_BIN): {error}"))
        })?;
        let mut sidecar = Self {
            listen: args.redis_listen,
            admin: args.sidecar_admin,
            upstream,
            log,
            process,
            redis,
            _files: files,
        };
        sidecar.wait_until_ready().await?;
        Ok(sidecar)
    }

    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let waited = Stopwatch::start();
        loop {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            if let (Some(listen), Some(admin)) =
                (listening(&text, "redis"), listening(&text, "admin"))
            {
                (self.listen, self.admin) = (listen, admin);
                return Ok(());
            }
            if let Some(exit) = self.process.exit_status() {
                return Err(self.ended("the sidecar didn't start", exit));
            }
            if waited.elapsed() > START {
                return Err(Failure::Other(format!(
                    "the sidecar wasn't ready within {START:?}:\n{text}"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Where the Redis is that was started for it.
    pub fn temporary_redis(&self) -> Option<SocketAddr> {
        self.redis.as_ref().map(|redis| redis.address)
    }

    /// Waits until it ends, which it shouldn't. The temporary Redis may; it comes back.
    pub async fn until_it_ends(&mut self) -> Result<(), Failure> {
        loop {
            if let Some(exit) = self.process.exit_status() {
                return Err(self.ended("the sidecar ended by itself", exit));
            }
            if let Some(redis) = &mut self.redis {
                redis.bring_back().await?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn ended(&self, what: &str, exit: ExitStatus) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Failure::Other(format!(
            "{what} ({exit}). Its log ends with:\n{}",
            last_lines(&log, 20)
        ))
    }
}

/// Where a part of the sidecar listens, by its log.
fn listening(log: &str, part: &str) -> Option<SocketAddr> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["message"] == "listening" && line["part"] == part)
        .and_then(|line| line["address"].as_str()?.parse().ok())
}
