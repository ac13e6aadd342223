//! A temporary Redis. It comes back by itself, so that its absence can be tried.

use std::env;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use levee_harness::address::free_address;
use levee_harness::clock::Stopwatch;
use levee_harness::process::{Process, Signal};

use crate::failure::Failure;

/// How long it stays away after it was ended.
const AWAY: Duration = Duration::from_millis(500);

/// From its start until it listens.
const START: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running Redis. Dropping it ends it.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
    server: PathBuf,
    folder: PathBuf,
    process: Process,
}

impl Redis {
    /// Starts it on a free port. Its files are in `folder`.
    pub async fn start(server: PathBuf, folder: &Path) -> Result<Self, Failure> {
        let address = free_address();
        let mut redis = Self {
            address,
            process: spawn(&server, address, folder)?,
            server,
            folder: folder.to_path_buf(),
        };
        let waited = Stopwatch::start();
        while TcpStream::connect(address).is_err() {
            if redis.process.exit_status().is_some() || waited.elapsed() > START {
                return Err(Failure::Other(format!(
                    "{} didn't start",
                    redis.server.display()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(redis)
    }

    /// If it has ended, starts it again after a while.
    pub async fn bring_back(&mut self) -> Result<(), Failure> {
        if self.process.exit_status().is_some() {
            tokio::time::sleep(AWAY).await;
            self.process = spawn(&self.server, self.address, &self.folder)?;
        }
        Ok(())
    }
}

/// `REDIS_SERVER_PATH`, or a server of Redis or Valkey on the PATH.
pub fn server() -> Option<PathBuf> {
    if let Some(own) = env::var_os("REDIS_SERVER_PATH") {
        return Some(own.into());
    }
    let path = env::var_os("PATH")?;
    ["redis-server", "valkey-server"]
        .into_iter()
        .flat_map(|name| env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

fn spawn(server: &Path, address: SocketAddr, folder: &Path) -> Result<Process, Failure> {
    let mut command = Command::new(server);
    command
        // The log of changes brings the data back with it.
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--port", &address.port().to_string(), "--dir"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C reaches the whole group of the terminal; it is ended by us, after the sidecar.
        .process_group(0);
    Process::spawn(command, Signal::Kill)
        .map_err(|error| Failure::Other(format!("can't start {}: {error}", server.display())))
}
