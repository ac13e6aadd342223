//! Starts the sidecar and talks to its admin interface.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tempfile::TempDir;

use crate::built;
use crate::client::Request;
use crate::error::{Context, Error, Result};
use crate::postgres::Postgres;
use crate::process::{Output, Process, Signal};
use crate::redis::Client;
use crate::wait::{GENEROUS, until_blocking};

/// A running `levee run`. Dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Sidecar {
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    listeners: Vec<SocketAddr>,
    log: PathBuf,
    process: Process,
    files: TempDir,
}

/// How it is started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The program; otherwise [`built::levee`].
    pub program: Option<PathBuf>,
    /// The folder of `levee.log`; otherwise a temporary one.
    pub log_folder: Option<PathBuf>,
    /// Further arguments, such as `--take-over`.
    pub arguments: Vec<String>,
}

/// From its start until it is ready.
const START: Duration = Duration::from_secs(30);

/// Its name in errors.
const WHAT: &str = "the sidecar";

/// The token of the admin interface in tests.
pub const TOKEN: &str = "let me in";

/// `levee.yaml`, and the environment variables that it names.
#[derive(Debug, Clone)]
pub struct Config {
    yaml: String,
    variables: Vec<(&'static str, String)>,
}

impl Config {
    /// This text. `LEVEE_TOKEN` is [`TOKEN`].
    pub fn new(yaml: impl Into<String>) -> Self {
        let config = Self {
            yaml: yaml.into(),
            variables: Vec::new(),
        };
        config.variable("LEVEE_TOKEN", TOKEN)
    }

    /// With an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// With the section `database` for the database at `url`, with further keys (YAML, one per line).
    #[must_use]
    pub fn database(mut self, url: &str, keys: &str) -> Self {
        let keys = keys.replace('\n', "\n  ");
        // An empty line does no harm if the text ends with a line break.
        let section = ["\ndatabase:\n  url_env: DATABASE_URL\n  ", &keys, "\n"];
        self.yaml.extend(section);
        self.variable("DATABASE_URL", url)
    }

    /// Writes it into `folder`. Without the sections `log` and `admin` it gets those of tests: a log of level debug, and an
    /// admin interface with [`TOKEN`] on a free port.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let mut yaml = String::new();
        for (section, setting) in [
            ("log:", "log: {format: json, level: debug}\n"),
            (
                "admin:",
                "admin: {listen: '127.0.0.1:0', token_env: LEVEE_TOKEN}\n",
            ),
        ] {
            if !self.yaml.lines().any(|line| line.starts_with(section)) {
                yaml += setting;
            }
        }
        yaml += &self.yaml;
        let file = folder.join("levee.yaml");
        fs::write(&file, yaml).context("write the sidecar's configuration")?;
        Ok(file)
    }

    /// Adds its environment variables to a command that reads it.
    pub fn add_variables<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)))
    }
}

impl Sidecar {
    /// Starts it with one upstream of Redis, and further keys of that upstream (YAML, one per line).
    pub fn before(upstream: SocketAddr, keys: &str) -> Result<Self> {
        let keys = keys.replace('\n', "\n    ");
        Self::start(&format!(
            "redis:\n  - name: x\n    listen: 127.0.0.1:0\n    upstream: redis://{upstream}\n    {keys}\n"
        ))
    }

    /// Starts it with a database, where it logs in as `user`, and further keys of the database (YAML, one per line).
    pub fn at(postgres: &Postgres, user: &str, keys: &str) -> Result<Self> {
        Self::start_with(
            &Config::new("").database(&postgres.url_of(user), keys),
            &Start::default(),
        )
    }

    /// Starts it with this configuration and waits until it is ready.
    pub fn start(yaml: &str) -> Result<Self> {
        Self::start_with(&Config::new(yaml), &Start::default())
    }

    /// As [`Self::start`], with another program or folder of logs. Its log must be JSON.
    pub fn start_with(config: &Config, start: &Start) -> Result<Self> {
        let mut starting = Starting::new(config, start)?;
        let log = &starting.log;
        let listens = starting
            .process
            .until_ready(WHAT, START, Output::File(log), || ready(&read(log)))?;
        Ok(starting.done(listens))
    }

    /// As [`Self::start_with`], without blocking the thread. Dropping the future ends the sidecar.
    pub async fn start_in_task(config: &Config, start: &Start) -> Result<Self> {
        let mut starting = Starting::new(config, start)?;
        let log = &starting.log;
        let listens = starting
            .process
            .becomes_ready(WHAT, START, Output::File(log), async || ready(&read(log)))
            .await?;
        Ok(starting.done(listens))
    }

    /// An error if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        let output = Output::File(&self.log);
        self.process
            .check_alive("the sidecar ended by itself", output)
    }

    /// Waits until its log has this text: a thread writes it.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        self.wait_for(&format!("{text:?} in its log"), |this| {
            this.log().contains(text)
        })
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// The file of its log.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Where clients of the first Redis upstream connect.
    pub fn address(&self) -> Result<SocketAddr> {
        let first = self.listeners.first().copied();
        first.ok_or_else(|| Error::new("the sidecar has no Redis upstream"))
    }

    /// A client of the first Redis upstream.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address()?)
    }

    /// Status and body of a page of the admin interface.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.request(&Request::get(path))
    }

    /// Status and JSON body of the answer to a POST with the token.
    pub fn post(&self, path: &str) -> Result<(u16, Value)> {
        let request = Request::new(Method::POST, path);
        let (status, body) =
            self.request(&request.header("authorization", format!("Bearer {TOKEN}")))?;
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }

    /// Status and body of the answer to a request to the admin interface.
    pub fn request(&self, request: &Request) -> Result<(u16, String)> {
        let answer = request
            .send_blocking(self.admin)
            .context("the sidecar's admin interface")?;
        match &answer.broken {
            Some(broken) => Err(Error::new(format!(
                "the sidecar's answer broke off: {broken}"
            ))),
            None => Ok((answer.status, answer.text())),
        }
    }

    /// The state of the first Redis upstream, from `/v1/redis`.
    pub fn state(&self) -> Result<Value> {
        let (_, body) = self.get("/v1/redis")?;
        let page: Value =
            serde_json::from_str(&body).context(format!("/v1/redis is not JSON: {body}"))?;
        let first = page.pointer("/upstreams/0").cloned();
        Ok(first.unwrap_or(Value::Null))
    }

    /// A counter or gauge, by name and labels as they are in the text.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let (_, text) = self.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.trim().parse().ok());
        value.ok_or_else(|| Error::new(format!("no {name} in:\n{text}")))
    }

    /// Waits until a condition holds, such as one on a page or a state.
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        let look = || if holds(self) { Ok(()) } else { Err("not yet") };
        until_blocking(what, GENEROUS, look).map_err(|error| self.with_its_state(&error))
    }

    /// Waits until the value of a counter or gauge, named as for [`Self::metric`], holds. Fails at once if there is none.
    pub fn wait_for_metric(&self, name: &str, holds: impl Fn(u64) -> bool) -> Result<()> {
        until_blocking(name, GENEROUS, || match self.metric(name) {
            Ok(value) if holds(value) => Ok(Ok(())),
            Ok(value) => Err(value),
            Err(missing) => Ok(Err(missing)),
        })
        .map_err(|error| self.with_its_state(&error))?
    }

    fn with_its_state(&self, error: &Error) -> Error {
        let state = self.state().unwrap_or_default();
        let jobs = self.get("/v1/jobs").unwrap_or_default().1;
        Error::new(format!("{error}: {state} {jobs} {}", self.log()))
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.process.resident_kib().context("the sidecar's memory")
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> Result<usize> {
        self.process
            .descriptors()
            .context("the sidecar's descriptors")
    }

    /// Replaces its configuration and sends it `SIGHUP`, without waiting. Its environment stays as it was.
    pub fn reload(&mut self, config: &Config) -> Result<()> {
        config.write(self.files.path())?;
        self.process.signal(Signal::HangUp);
        Ok(())
    }

    /// Sends it `SIGTERM`, without waiting.
    pub fn terminate(&mut self) {
        self.process.signal(Signal::Terminate);
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it has ended, at most `bound`.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        self.process.wait(bound)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process.signal(Signal::Kill);
        self.process.wait(GENEROUS);
    }
}

/// A sidecar that is not ready yet.
struct Starting {
    log: PathBuf,
    process: Process,
    files: TempDir,
}

impl Starting {
    fn new(config: &Config, start: &Start) -> Result<Self> {
        let files = tempfile::Builder::new()
            .prefix("levee-sidecar-")
            .tempdir()
            .context("make a directory for the sidecar")?;
        let file = config.write(files.path())?;
        let log = start.log_folder.as_deref().unwrap_or(files.path());
        let log = log.join("levee.log");
        let program = match &start.program {
            Some(program) => program.clone(),
            None => built::levee()?,
        };
        let mut command = Command::new(program);
        config
            .add_variables(&mut command)
            .args(["run", "--config"])
            .arg(&file)
            .args(&start.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).context(format!("make {}", log.display()))?);
        Ok(Self {
            log,
            process: Process::spawn(command, Signal::Kill)?,
            files,
        })
    }

    fn done(self, listens: Listens) -> Sidecar {
        Sidecar {
            admin: listens.admin,
            listeners: listens.upstreams,
            log: self.log,
            process: self.process,
            files: self.files,
        }
    }
}

/// Where a sidecar listens.
struct Listens {
    admin: SocketAddr,
    /// For clients of each Redis upstream.
    upstreams: Vec<SocketAddr>,
}

fn read(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

/// Where it listens, once its log says that all is ready.
fn ready(log: &str) -> std::result::Result<Listens, String> {
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if !lines.iter().any(|line| line["message"] == "ready") {
        return Err("no line `ready` yet".into());
    }
    let (mut admin, mut upstreams) = (None, Vec::new());
    for line in lines.iter().filter(|line| line["message"] == "listening") {
        let address = line["address"].as_str().and_then(|text| text.parse().ok());
        let address = address.ok_or_else(|| format!("no address in {line}"))?;
        if line["part"] == "admin" {
            admin = Some(address);
        } else {
            upstreams.push(address);
        }
    }
    Ok(Listens {
        admin: admin.ok_or("no admin interface")?,
        upstreams,
    })
}
