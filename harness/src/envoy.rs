//! Starts Envoy, waits until it serves, and reads its logs and metrics.
//!
//! Envoy and func-e are named by the environment variables `ENVOY_PATH` and `FUNC_E_PATH`, the filter by
//! `LEVEE_FILTER_WASM`. `cargo xtask` sets them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::access_log::AccessLog;
use crate::client::{Answer, Request};
use crate::envoy_config::EnvoyConfig;
use crate::error::{Context, Error, Result};
use crate::metrics::Metrics;
use crate::process::{Output, Process, Signal, last_lines};
use crate::tool::file_from;
use crate::wait;

/// From Envoy's start until it serves. Most of it is compiling the filter; host names that don't resolve take some seconds.
const START: Duration = Duration::from_mins(1);

/// Lines of Envoy's log that are shown when a test fails.
const SHOWN_LOG_LINES: usize = 60;

/// A running Envoy. Dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    address: SocketAddr,
    files: Files,
}

/// How it is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// Worker threads: each has its own VM of the filter.
    pub concurrency: u32,
    /// `info` shows the filter's transitions; `debug` is for looking into a failure.
    pub log_level: &'static str,
    /// Levels of components that differ from `log_level`, such as `wasm:info`.
    pub component_log_level: Option<&'static str>,
    /// Another module in the filter's place.
    pub filter: Option<PathBuf>,
    /// Where the listener `gateway` listens; a free port by default.
    pub listen: Option<SocketAddr>,
    /// Where the admin interface listens; a free port by default.
    pub admin: Option<SocketAddr>,
    /// The folder of `envoy.log` and `access.log`; a temporary one by default.
    pub log_folder: Option<PathBuf>,
    /// How long a line of a log may wait until it is written.
    pub log_flush: Duration,
    /// Through func-e, as the tests do; otherwise directly, and func-e need not be installed.
    pub by_func_e: bool,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            concurrency: 1,
            log_level: "info",
            component_log_level: None,
            filter: None,
            listen: None,
            admin: None,
            log_folder: None,
            // Tests wait for lines.
            log_flush: Duration::from_millis(20),
            by_func_e: true,
        }
    }
}

/// The files of one Envoy.
#[derive(Debug)]
struct Files {
    directory: TempDir,
    logs: PathBuf,
}

impl Files {
    fn new(start: &Start) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("levee-envoy-")
            .tempdir()
            .context("make a directory for Envoy")?;
        let logs = start.log_folder.as_deref().unwrap_or(directory.path());
        Ok(Self {
            logs: logs.to_path_buf(),
            directory,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log_file(&self) -> PathBuf {
        self.logs.join("envoy.log")
    }

    fn log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn access_log(&self) -> PathBuf {
        self.logs.join("access.log")
    }

    /// Free ports unless others are chosen, the access log, and the filter that was built.
    fn prepared(&self, config: EnvoyConfig, start: &Start) -> Result<EnvoyConfig> {
        let mut config = config.free_ports().access_log(&self.access_log());
        if let Some(filter) = &start.filter {
            config = config.wasm_file(filter);
        } else if config.has_filter() {
            config = config.wasm_file(&file_from("LEVEE_FILTER_WASM")?);
        }
        if let Some(address) = start.listen {
            config = config.listen(address);
        }
        if let Some(address) = start.admin {
            config = config.admin(address);
        }
        Ok(config)
    }

    /// Writes the configuration and completes the command that runs it.
    fn complete(&self, command: &mut Command, config: &EnvoyConfig, start: &Start) -> Result<()> {
        let file = self.at("envoy.yaml");
        fs::write(&file, config.to_yaml()?).context("write Envoy's configuration")?;
        command
            .arg("-c")
            .arg(file)
            // Several Envoys would use the same shared memory.
            .arg("--disable-hot-restart")
            .arg("--admin-address-path")
            .arg(self.at("admin-address"))
            .args(["--concurrency", &start.concurrency.to_string()])
            .args(["--log-level", start.log_level])
            .arg("--file-flush-interval-msec")
            .arg(start.log_flush.as_millis().to_string());
        if let Some(levels) = start.component_log_level {
            command.args(["--component-log-level", levels]);
        }
        let log = self.log_file();
        let log = File::create(&log).context(format!("make {}", log.display()))?;
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share Envoy's log")?)
            .stderr(log);
        Ok(())
    }
}

impl Envoy {
    /// Starts `config` with the filter on free ports, with one worker.
    pub async fn start(config: EnvoyConfig) -> Result<Self> {
        Self::start_with(config, &Start::default()).await
    }

    /// Starts `config`, with the filter if it has one.
    pub async fn start_with(config: EnvoyConfig, start: &Start) -> Result<Self> {
        let files = Files::new(start)?;
        let config = files.prepared(config, start)?;
        Self::run(files, &config, start).await
    }

    /// Starts `config` with its listeners in a file that [`Self::replace_listeners`] replaces.
    pub async fn start_with_listeners_in_a_file(config: EnvoyConfig) -> Result<Self> {
        let start = Start::default();
        let files = Files::new(&start)?;
        let dynamic = files.at("dynamic");
        fs::create_dir(&dynamic).context("make a directory for Envoy's listeners")?;
        let (config, listeners) = files
            .prepared(config, &start)?
            .listeners_from_file(&dynamic, "listeners.json")?;
        fs::write(dynamic.join("listeners.json"), listeners).context("write Envoy's listeners")?;
        Self::run(files, &config, &start).await
    }

    async fn run(files: Files, config: &EnvoyConfig, start: &Start) -> Result<Self> {
        let (mut command, at_our_end) = if start.by_func_e {
            // func-e ends Envoy when it is asked to end.
            (func_e(&files)?, Signal::Terminate)
        } else {
            (Command::new(file_from("ENVOY_PATH")?), Signal::Kill)
        };
        files.complete(&mut command, config, start)?;
        let mut process = Process::spawn(command, at_our_end)?;
        let (log, admin) = (files.log_file(), files.at("admin-address"));
        let (admin, listeners) = process
            .becomes_ready("Envoy", START, Output::File(&log), async || {
                ready(&admin).await
            })
            .await?;
        let address = *listeners.get("gateway").ok_or_else(|| {
            Error::new(format!(
                "Envoy has no listener `gateway`, but {listeners:?}"
            ))
        })?;
        Ok(Self {
            process,
            admin,
            address,
            files,
        })
    }

    /// An error if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        let log = self.files.log_file();
        self.process
            .check_alive("Envoy ended by itself", Output::File(&log))
    }

    /// The address of the listener `gateway`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin interface's address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Sends a GET through the gateway, on a connection of its own.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        let answer = Request::get(path).send(self.address()).await;
        answer.context(format!("GET {path}"))
    }

    /// Sends GETs until one is not refused by a breaker, and returns its answer. An error ends it at once.
    pub async fn first_let_through(&self, path: &str, within: Duration) -> Result<Answer> {
        wait::until("a request to be let through", within, || async {
            match self.get(path).await {
                Ok(answer) if answer.is_refusal() => Err("refused"),
                ended => Ok(ended),
            }
        })
        .await?
    }

    /// Sends GETs until one is refused by a breaker. An error ends it at once.
    pub async fn first_refusal(&self, path: &str, within: Duration) -> Result<Answer> {
        wait::until("a request to be refused", within, || async {
            match self.get(path).await {
                Ok(answer) if !answer.is_refusal() => Err(answer.status),
                ended => Ok(ended),
            }
        })
        .await?
    }

    /// Sends a GET to the admin interface.
    pub async fn ask_admin(&self, path: &str) -> Result<Answer> {
        let answer = Request::get(path).send(self.admin).await;
        answer.context(format!("Envoy's admin interface, GET {path}"))
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Result<Metrics> {
        let page = self.ask_admin("/stats/prometheus").await?;
        Metrics::parse(&page.text()).context("/stats/prometheus")
    }

    /// Waits until a metric has this value. Levee's metrics are sent at intervals, not with each request.
    pub async fn wait_for_metric(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        wanted: f64,
    ) -> Result<()> {
        let what = format!("{name}{labels:?} to be {wanted}");
        wait::until(&what, wait::GENEROUS, || async {
            let metrics = self.metrics().await.map_err(|error| error.to_string())?;
            match metrics.get(name, labels) {
                Some(value) if (value - wanted).abs() < 1e-9 => Ok(()),
                other => Err(format!("{other:?}\n{}", metrics.show(name))),
            }
        })
        .await
    }

    /// Waits until Envoy's log holds `text`.
    pub async fn wait_for_log(&self, text: &str) -> Result<()> {
        wait::until_now(&format!("`{text}` in Envoy's log"), wait::GENEROUS, || {
            let log = self.log();
            if log.contains(text) {
                Ok(())
            } else {
                Err(last_lines(&log, SHOWN_LOG_LINES))
            }
        })
        .await
    }

    /// Replaces the listeners of [`Self::start_with_listeners_in_a_file`] as users do: by moving a new file over the old
    /// one. `config` is changed as at the start, but keeps its ports.
    pub fn replace_listeners(&self, config: EnvoyConfig) -> Result<()> {
        let dynamic = self.files.at("dynamic");
        let start = Start {
            listen: Some(self.address),
            ..Start::default()
        };
        let listeners = self.files.prepared(config, &start)?.listeners_file()?;
        let new = dynamic.join("listeners.json.new");
        fs::write(&new, listeners).context("write Envoy's new listeners")?;
        fs::rename(new, dynamic.join("listeners.json")).context("replace Envoy's listeners")
    }

    /// The access log.
    pub fn access_log(&self) -> AccessLog {
        AccessLog::at(self.files.access_log())
    }

    /// The file of its log.
    pub fn log_file(&self) -> PathBuf {
        self.files.log_file()
    }

    /// What Envoy and func-e have logged so far.
    pub fn log(&self) -> String {
        self.files.log()
    }

    /// A directory that is removed with this Envoy.
    pub fn directory(&self) -> &Path {
        self.files.directory.path()
    }

    /// Sends a signal to Envoy, and to func-e.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal_with_children(signal);
    }

    /// The process ids: func-e's and Envoy's.
    pub fn process_ids(&self) -> Vec<u32> {
        let mut ids = vec![self.process.id()];
        ids.extend(self.process.children());
        ids
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.process.end();
        if thread::panicking() {
            let access = fs::read_to_string(self.access_log().path()).unwrap_or_default();
            eprintln!(
                "--- Envoy's log ends with:\n{}",
                last_lines(&self.log(), SHOWN_LOG_LINES)
            );
            eprintln!("--- its access log ends with:\n{}", last_lines(&access, 10));
        }
    }
}

/// func-e, to run Envoy.
fn func_e(files: &Files) -> Result<Command> {
    let mut command = Command::new(file_from("FUNC_E_PATH")?);
    command
        .arg("run")
        .env("ENVOY_PATH", file_from("ENVOY_PATH")?);
    // Its own folders, so that it neither finds nor leaves anything elsewhere.
    for folder in ["CONFIG_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR"] {
        command.env(
            format!("FUNC_E_{folder}"),
            files.at("func-e").join(folder.to_lowercase()),
        );
    }
    command
        .env_remove("FUNC_E_HOME")
        .env("FUNC_E_RUN_ID", "test");
    Ok(command)
}

/// Listeners by name.
type Listeners = BTreeMap<String, SocketAddr>;

/// The address of the admin interface and those of the listeners, once Envoy is ready. `admin_address` is the file to which
/// Envoy writes its admin address.
async fn ready(admin_address: &Path) -> std::result::Result<(SocketAddr, Listeners), String> {
    let text = fs::read_to_string(admin_address).map_err(|_| "no admin address yet")?;
    let admin: SocketAddr = text
        .trim()
        .parse()
        .map_err(|_| format!("not an address: {text}"))?;
    let get = async |path: &str| {
        let answer = Request::get(path).send(admin).await;
        answer.map_err(|error| error.to_string())
    };
    let ready = get("/ready").await?;
    if ready.status != 200 {
        return Err(format!("/ready says {}", ready.text().trim()));
    }
    let page = get("/listeners?format=json").await?;
    let page: Value = serde_json::from_slice(&page.body).map_err(|error| error.to_string())?;
    let mut listeners = Listeners::new();
    for status in page["listener_statuses"].as_array().into_iter().flatten() {
        let name = status["name"].as_str().unwrap_or_default();
        let address = socket_address(&status["local_address"]["socket_address"])
            .ok_or_else(|| format!("the listener {status} has no address"))?;
        listeners.insert(name.to_string(), address);
    }
    if listeners.is_empty() {
        return Err("no listener yet".into());
    }
    Ok((admin, listeners))
}

fn socket_address(at: &Value) -> Option<SocketAddr> {
    let host: IpAddr = at["address"].as_str()?.parse().ok()?;
    let port = u16::try_from(at["port_value"].as_u64()?).ok()?;
    Some((host, port).into())
}

/// What became of an Envoy that was expected not to start.
#[derive(Debug)]
pub struct RefusedStart {
    /// How it ended.
    pub exit: ExitStatus,
    /// What it logged.
    pub log: String,
}

/// Starts Envoy directly and waits until it fails. It is an error if it doesn't.
pub async fn start_that_fails(config: EnvoyConfig) -> Result<RefusedStart> {
    let start = Start {
        by_func_e: false,
        ..Start::default()
    };
    let files = Files::new(&start)?;
    let config = files.prepared(config, &start)?;
    let mut command = Command::new(file_from("ENVOY_PATH")?);
    files.complete(&mut command, &config, &start)?;
    let mut process = Process::spawn(command, Signal::Kill)?;
    let exit = wait::until_now("Envoy to end", START, || {
        process
            .exit_status()
            .ok_or_else(|| last_lines(&files.log(), SHOWN_LOG_LINES))
    })
    .await?;
    let log = files.log();
    if exit.success() {
        return Err(Error::new(format!("Envoy ended without an error:\n{log}")));
    }
    Ok(RefusedStart { exit, log })
}
