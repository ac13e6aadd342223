//! A real redis-server, and a client that sends any bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs};

use levee_redis_session::resp::{ReplyScanner, encode};
use tempfile::TempDir;

use crate::address::free_address;
use crate::envoy::last_lines;
use crate::error::{Context, Error, Result};
use crate::process::{Process, Signal};
use crate::wait::GENEROUS;

/// A Redis of a test's own, on a free port of loopback. Nothing it holds outlives it.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
    options: Vec<String>,
    files: TempDir,
    process: Option<Process>,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with further options of its command line.
    pub fn start_with(options: &[&str]) -> Result<Self> {
        let mut redis = Self {
            address: free_address(),
            options: options.iter().map(ToString::to_string).collect(),
            files: tempfile::tempdir().context("make a directory for Redis")?,
            process: None,
        };
        redis.start_again()?;
        Ok(redis)
    }

    /// Starts it again at the same address, after [`stop`](Self::stop), and waits until it listens.
    pub fn start_again(&mut self) -> Result<()> {
        let address = self.address;
        self.spawn()?
            .wait_until_it_listens(address, GENEROUS)
            .map_err(|error| Error::new(format!("Redis: {error}\n{}", self.log())))
    }

    /// Starts it again at the same address, without waiting until it listens.
    pub fn spawn(&mut self) -> Result<&mut Process> {
        let program = find_program().ok_or_else(|| Error::new(MISSING))?;
        let log = fs::File::create(self.files.path().join("log")).context("make a log of Redis")?;
        let mut command = Command::new(&program);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.address.port().to_string(), "--dir"])
            .arg(self.files.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log of Redis")?)
            .stderr(log)
            // Ctrl-C reaches the whole group of a terminal. Redis has to outlive those who use it.
            .process_group(0);
        let process = Process::spawn(command, Signal::Kill)
            .context(format!("{} can't be started", program.display()))?;
        Ok(self.process.insert(process))
    }

    /// Its process, unless it was stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Whether it has ended, or was never started.
    pub fn has_ended(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|process| process.exit_status().is_some())
    }

    /// The end of what it has logged since its last start.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.files.path().join("log")).unwrap_or_default();
        last_lines(&log, 20)
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::Kill);
            process.wait(GENEROUS);
        }
    }

    /// Lets it stand still, or go on.
    pub fn signal(&mut self, signal: Signal) {
        self.process.as_mut().expect("it is running").signal(signal);
    }

    /// A client that is connected to it directly.
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

const MISSING: &str = "no redis-server and no valkey-server: install one (Debian: redis-server), or name it by REDIS_SERVER_PATH";

/// `REDIS_SERVER_PATH`, or a server of Redis or Valkey on the PATH.
pub fn find_program() -> Option<PathBuf> {
    if let Some(own) = env::var_os("REDIS_SERVER_PATH").filter(|path| !path.is_empty()) {
        return Some(own.into());
    }
    let path = env::var_os("PATH")?;
    ["redis-server", "valkey-server"]
        .into_iter()
        .flat_map(|name| env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// A client of Redis that knows where replies end, and nothing else.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let stream =
            TcpStream::connect(address).expect("connect to Redis, or to what stands before it");
        stream.set_nodelay(true).expect("set an option of a socket");
        stream
            .set_read_timeout(Some(GENEROUS))
            .expect("set an option of a socket");
        Self {
            stream,
            bytes: Vec::new(),
        }
    }

    /// Sends bytes as they are. False: the connection was closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next reply, or `None` when the connection was closed.
    pub fn reply(&mut self) -> Option<String> {
        let (mut scanner, mut at) = (ReplyScanner::default(), 0);
        loop {
            let progress = scanner
                .advance(&self.bytes[at..])
                .expect("a reply in the protocol of Redis");
            at += progress.consumed;
            if progress.complete {
                let rest = self.bytes.split_off(at);
                let reply = std::mem::replace(&mut self.bytes, rest);
                return Some(String::from_utf8_lossy(&reply).into_owned());
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply within {GENEROUS:?}: {error}"),
            }
        }
    }

    /// Sends a command, its words parted by spaces.
    pub fn command(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        self.send(&encode(&words))
    }

    /// Sends a command and reads its reply. A closed connection is an empty one.
    pub fn ask(&mut self, line: &str) -> String {
        if !self.command(line) {
            return String::new();
        }
        self.reply().unwrap_or_default()
    }

    /// Whether nothing more comes: the connection is closed.
    pub fn is_closed(&mut self) -> bool {
        self.reply().is_none()
    }

    /// Reads into `bytes` until the connection is closed, or until they begin with `start`.
    pub fn read_to_end(&mut self, bytes: &mut Vec<u8>, start: &[u8]) {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = self.stream.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..read]);
            if bytes.starts_with(start) {
                break;
            }
        }
    }
}
