//! The sidecar, with a Redis behind it (the user's own, or a temporary one), and at the services' database.

use std::env;
use std::fmt::Write;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::envoy::last_lines;
use levee_harness::envoy_config::HostPort;
use levee_harness::postgres::{self, Postgres};
use levee_harness::process::{Process, Signal};
use levee_harness::redis;
use serde_json::Value;
use tempfile::TempDir;

use crate::args::Args;
use crate::failure::Failure;
use crate::gateway::check_free;
use crate::redis::Redis;

/// From its start until it listens.
const START: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running sidecar. Dropping it ends it, and the Redis that was started for it.
#[derive(Debug)]
pub struct Sidecar {
    /// Where services connect to Redis, where there is one.
    pub listen: Option<SocketAddr>,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// Where Redis is, where there is one.
    pub upstream: Option<HostPort>,
    /// What it says.
    pub log: PathBuf,
    // Fields are dropped in this order: first the processes, then their files.
    process: Process,
    redis: Option<Redis>,
    _files: TempDir,
}

/// What to start, and why a part is left out.
#[derive(Debug)]
pub struct Plan {
    /// The program.
    pub levee: Option<PathBuf>,
    /// The Redis behind the sidecar.
    pub redis: Result<Upstream, &'static str>,
    /// A temporary database for the demonstration services.
    pub database: Result<(), &'static str>,
}

/// The Redis behind the sidecar.
#[derive(Debug)]
pub enum Upstream {
    /// The user's.
    Own(HostPort),
    /// One that ends with the sidecar.
    Temporary,
}

impl Plan {
    /// What this machine and the command line allow.
    pub fn make(args: &Args, with_demo: bool) -> Result<Self, Failure> {
        let levee = env::var_os("LEVEE_BIN").map(PathBuf::from);
        let no_levee = "LEVEE_BIN is not set; start this by `cargo xtask up`, which sets it";
        let redis = match (&levee, &args.redis, redis::find_program()) {
            (None, ..) => Err(no_levee),
            (_, Some(own), _) => Ok(Upstream::Own(own.clone())),
            (_, None, Some(_)) => Ok(Upstream::Temporary),
            (_, None, None) => Err(
                "redis-server is not installed (Debian: redis-server); install it, or name your own by --redis HOST:PORT",
            ),
        };
        let database = match &levee {
            None => Err(no_levee),
            Some(_) if !with_demo => Err("there are no demonstration services, for which it is"),
            Some(_) if postgres::find_programs().is_none() => Err(
                "it is not installed (Debian: postgresql); install it, or name the folder of initdb and postgres by POSTGRES_BIN_PATH",
            ),
            Some(_) => Ok(()),
        };
        if redis.is_ok() {
            check_free(args.redis_listen, "the Redis proxy", "--redis-listen")?;
        }
        if redis.is_ok() || database.is_ok() {
            check_free(
                args.sidecar_admin,
                "the sidecar's admin interface",
                "--sidecar-admin",
            )?;
        }
        Ok(Self {
            levee,
            redis,
            database,
        })
    }
}

impl Sidecar {
    /// Starts it and waits until it listens. None where there is nothing for it to do.
    #[expect(clippy::too_many_lines, reason = "writes one file, line by line")]
    pub async fn start(
        args: &Args,
        plan: &Plan,
        database: Option<&Postgres>,
    ) -> Result<Option<Self>, Failure> {
        let Some(levee) = &plan.levee else {
            return Ok(None);
        };
        let files = tempfile::Builder::new()
            .prefix("levee-up-")
            .tempdir()
            .map_err(Failure::other)?;
        let (upstream, redis) = match &plan.redis {
            Ok(Upstream::Own(own)) => (Some(own.clone()), None),
            Ok(Upstream::Temporary) => {
                let redis = Redis::start().await?;
                (Some(redis.address().into()), Some(redis))
            }
            Err(_) => (None, None),
        };
        if upstream.is_none() && database.is_none() {
            return Ok(None);
        }
        let config = files.path().join("levee.yaml");
        let mut yaml = format!(
            "log: {{format: json}}\nadmin: {{listen: '{}'}}\n",
            args.sidecar_admin
        );
        // A port that Envoy is to choose is not known yet.
        if args.admin.port() != 0 {
            let _ = writeln!(yaml, "envoy: {{admin: 'http://{}'}}", args.admin);
        }
        if let Some(upstream) = &upstream {
            let _ = writeln!(
                yaml,
                "redis:\n  - name: demo\n    listen: '{}'\n    upstream: 'redis://{upstream}'",
                args.redis_listen
            );
        }
        if let Some(database) = database {
            let url = files.path().join("database-url");
            fs::write(&url, database.url_of("levee")).map_err(Failure::other)?;
            let _ = writeln!(
                yaml,
                "database:\n  url_file: '{}'\n  jobs:\n    auth_cleanup: {{preset: expired_tokens}}\n    \
                 video_cleanup: {{preset: stale_calls}}\n  watchdog: {{roles: [app]}}",
                url.display()
            );
        }
        fs::write(&config, yaml).map_err(Failure::other)?;
        let logs = args.log_dir.as_deref().unwrap_or(files.path());
        fs::create_dir_all(logs)
            .map_err(|error| Failure::Other(format!("--log-dir {}: {error}", logs.display())))?;
        let log = logs.join("levee.log");
        let mut command = Command::new(levee);
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
            listen: upstream.is_some().then_some(args.redis_listen),
            admin: args.sidecar_admin,
            upstream,
            log,
            process,
            redis,
            _files: files,
        };
        sidecar.wait_until_ready().await?;
        Ok(Some(sidecar))
    }

    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let waited = Stopwatch::start();
        loop {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let listen = listening(&text, "redis");
            if let Some(admin) = listening(&text, "admin")
                && listen.is_some() == self.listen.is_some()
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
        self.redis.as_ref().map(Redis::address)
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
