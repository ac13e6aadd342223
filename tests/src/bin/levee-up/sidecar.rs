//! The sidecar, with a Redis behind it: the user's own, or a temporary one.

use std::env;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use levee_tests::clock::Stopwatch;
use levee_tests::process::{Process, Signal};
use levee_tests::redis::free_address;
use serde_json::Value;
use tempfile::TempDir;

use crate::args::Args;
use crate::failure::Failure;
use crate::gateway::check_free;

/// From a program's start until it listens.
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
    pub redis: String,
    /// The process id of the Redis that was started, if one was.
    pub redis_id: Option<u32>,
    // Fields are dropped in this order: first the processes, then their files.
    _process: Process,
    _redis: Option<Process>,
    _files: TempDir,
}

impl Sidecar {
    /// Starts it. In words, why it is left out, where a part that it needs is not there.
    pub async fn start(args: &Args) -> Result<Result<Self, &'static str>, Failure> {
        let Some(levee) = env::var_os("LEVEE_BIN") else {
            return Ok(Err(
                "LEVEE_BIN is not set; start this by `cargo xtask up`, which sets it",
            ));
        };
        let own = args.redis.clone();
        let server = redis_server();
        if own.is_none() && server.is_none() {
            return Ok(Err(
                "redis-server is not installed (Debian: redis-server); install it, or name your own by --redis HOST:PORT",
            ));
        }
        check_free(args.redis_listen, "the Redis proxy", "--redis-listen")?;
        check_free(
            args.sidecar_admin,
            "the sidecar's admin interface",
            "--sidecar-admin",
        )?;
        let files = tempfile::Builder::new()
            .prefix("levee-up-")
            .tempdir()
            .map_err(Failure::other)?;
        let (redis, process) = match (own, server) {
            (Some(own), _) => (own, None),
            (None, Some(server)) => {
                let (address, process) = start_redis(&server, files.path()).await?;
                (address.to_string(), Some(process))
            }
            (None, None) => unreachable!("one of the two is there"),
        };
        let config = files.path().join("levee.yaml");
        let yaml = format!(
            "log: {{format: json}}\nadmin: {{listen: '{}'}}\nredis:\n  - name: demo\n    listen: '{}'\n    \
             upstream: 'redis://{redis}'\n",
            args.sidecar_admin, args.redis_listen
        );
        fs::write(&config, yaml).map_err(Failure::other)?;
        let log = files.path().join("levee.log");
        let mut command = Command::new(levee);
        command
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(Failure::other)?)
            .process_group(0);
        let mut levee_process = Process::spawn(command, Signal::Kill).map_err(|error| {
            Failure::Other(format!("can't start the sidecar (LEVEE_BIN): {error}"))
        })?;
        let waited = Stopwatch::start();
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let (Some(listen), Some(admin)) =
                (listening(&text, "redis"), listening(&text, "admin"))
            {
                return Ok(Ok(Self {
                    listen,
                    admin,
                    redis,
                    redis_id: process.as_ref().map(Process::id),
                    _process: levee_process,
                    _redis: process,
                    _files: files,
                }));
            }
            if levee_process.exit_status().is_some() || waited.elapsed() > START {
                return Err(Failure::Other(format!("the sidecar didn't start:\n{text}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Where a part of the sidecar listens, by its log.
fn listening(log: &str, part: &str) -> Option<SocketAddr> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["message"] == "listening" && line["part"] == part)
        .and_then(|line| line["address"].as_str()?.parse().ok())
}

fn redis_server() -> Option<PathBuf> {
    env::var_os("REDIS_SERVER_PATH")
        .map(PathBuf::from)
        .or_else(|| {
            env::split_paths(&env::var_os("PATH")?)
                .map(|folder| folder.join("redis-server"))
                .find(|path| path.is_file())
        })
}

async fn start_redis(server: &Path, folder: &Path) -> Result<(SocketAddr, Process), Failure> {
    let address = free_address();
    let mut command = Command::new(server);
    command
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--port", &address.port().to_string(), "--dir"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let mut process = Process::spawn(command, Signal::Kill)
        .map_err(|error| Failure::Other(format!("can't start {}: {error}", server.display())))?;
    let waited = Stopwatch::start();
    while TcpStream::connect(address).is_err() {
        if process.exit_status().is_some() || waited.elapsed() > START {
            return Err(Failure::Other(format!("{} didn't start", server.display())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok((address, process))
}
