//! A real redis-server, and a client that sends any bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{fs, io};

use levee_redis_session::resp::{ReplyScanner, encode};
use tempfile::TempDir;

use crate::address::free_address;
use crate::error::{Context, Error, Result};
use crate::frames;
use crate::process::{Output, Process, Signal};
use crate::tool;
use crate::wait::GENEROUS;

/// A Redis on a free port of loopback. Dropping it ends it and removes its data.
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
            address: free_address()?,
            options: options.iter().map(ToString::to_string).collect(),
            files: tempfile::tempdir().context("make a directory for Redis")?,
            process: None,
        };
        redis.start_again()?;
        Ok(redis)
    }

    /// Starts it again at the same address, after [`stop`](Self::stop), and waits until it listens.
    pub fn start_again(&mut self) -> Result<()> {
        self.spawn()?;
        let (address, log) = (self.address, self.log());
        self.running()?
            .until_it_listens("Redis", address, GENEROUS, Output::File(&log))
    }

    fn log(&self) -> PathBuf {
        self.files.path().join("log")
    }

    fn running(&mut self) -> Result<&mut Process> {
        let process = self.process.as_mut();
        process.ok_or_else(|| Error::new("Redis is stopped"))
    }

    /// Starts it again at the same address, without waiting until it listens.
    pub fn spawn(&mut self) -> Result<()> {
        let program = find_program().ok_or_else(|| Error::new(MISSING))?;
        let log = fs::File::create(self.log()).context("make a log of Redis")?;
        let mut command = Command::new(&program);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.address.port().to_string(), "--dir"])
            .arg(self.files.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log of Redis")?)
            .stderr(log);
        self.process = Some(Process::spawn(command, Signal::Kill)?);
        Ok(())
    }

    /// Its process, unless it is stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Whether it has ended, or was never started.
    pub fn has_ended(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|process| process.exit_status().is_some())
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::Kill);
            process.wait(GENEROUS);
        }
    }

    /// Sends it a signal, such as [`Signal::Stop`] to pause it.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal);
        Ok(())
    }

    /// A client that is connected to it directly.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address)
    }
}

const MISSING: &str = "no redis-server and no valkey-server: install one (Debian: redis-server), or name it by REDIS_SERVER_PATH";

/// `REDIS_SERVER_PATH`, or a server of Redis or Valkey on the PATH.
pub fn find_program() -> Option<PathBuf> {
    tool::find("REDIS_SERVER_PATH", &["redis-server", "valkey-server"])
}

/// A client of Redis that knows only where replies end.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    /// Connects to Redis, or to a proxy before it.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let connect = || {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(GENEROUS))?;
            io::Result::Ok(stream)
        };
        Ok(Self {
            stream: connect().context(format!("connect to Redis at {address}"))?,
            bytes: Vec::new(),
        })
    }

    /// Sends bytes as they are. Returns whether the connection was still open.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next reply, or `None` when the connection was closed.
    pub fn reply(&mut self) -> Result<Option<String>> {
        let (mut scanner, mut at) = (ReplyScanner::default(), 0);
        loop {
            let progress = scanner
                .advance(self.bytes.get(at..).unwrap_or_default())
                .context("not a reply of Redis")?;
            if let Some(reply) = frames::take(&mut self.bytes, &mut at, progress) {
                return Ok(Some(String::from_utf8_lossy(&reply).into_owned()));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(read) => self.bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => {
                    return Err(Error::new(format!("no reply within {GENEROUS:?}: {error}")));
                }
            }
        }
    }

    /// Sends a command, whose words are separated by spaces. Returns whether the connection was still open.
    pub fn command(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        self.send(&encode(&words))
    }

    /// Sends a command and reads its reply; empty if the connection is closed.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        if !self.command(line) {
            return Ok(String::new());
        }
        Ok(self.reply()?.unwrap_or_default())
    }

    /// Whether the connection is closed, with no reply left.
    pub fn is_closed(&mut self) -> Result<bool> {
        Ok(self.reply()?.is_none())
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
