//! An Envoy under test, started by func-e; and one that is expected not to start.
//!
//! Envoy and func-e are found by the environment variables `ENVOY_PATH` and `FUNC_E_PATH`, the filter by
//! `LEVEE_FILTER_WASM`. `cargo xtask test` sets them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, thread};

use serde_json::Value;
use tempfile::TempDir;

use crate::access_log::AccessLog;
use crate::client::{Answer, Request};
use crate::clock::Stopwatch;
use crate::envoy_config::EnvoyConfig;
use crate::metrics::Metrics;
use crate::process::{Process, Signal};
use crate::wait;

/// How long Envoy may take from its start until it serves. Compiling the filter is most of it.
const START: Duration = Duration::from_mins(1);

/// Lines of Envoy's log that are shown when a test fails.
const SHOWN_LOG_LINES: usize = 60;

/// A running Envoy in a directory of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    listeners: Listeners,
    files: Files,
}

/// How it is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// Worker threads: each has its own VM of the filter.
    pub concurrency: u32,
    /// `info` shows the filter's transitions; `debug` is for looking into a failure.
    pub log_level: &'static str,
    /// Another module in the filter's place.
    pub filter: Option<PathBuf>,
    /// Where the admin interface listens; a free port, if it is not said.
    pub admin: Option<SocketAddr>,
    /// Through func-e, as the tests do; otherwise it is started directly, and func-e need not be there.
    pub by_func_e: bool,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            concurrency: 1,
            log_level: "info",
            filter: None,
            admin: None,
            by_func_e: true,
        }
    }
}

#[derive(Debug)]
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            directory: tempfile::Builder::new()
                .prefix("levee-envoy-")
                .tempdir()
                .expect("make a directory"),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        let read = |name| fs::read(self.at(name)).unwrap_or_default();
        String::from_utf8_lossy(&[read("stdout.log"), read("stderr.log")].concat()).into_owned()
    }

    /// Writes the configuration and gives back Envoy's arguments.
    fn arguments(&self, config: &EnvoyConfig, start: &Start) -> Vec<String> {
        let file = self.at("envoy.yaml");
        fs::write(&file, config.to_yaml()).expect("write Envoy's configuration");
        let text = |path: PathBuf| {
            path.to_str()
                .expect("temporary paths are UTF-8")
                .to_string()
        };
        [
            "-c",
            &text(file),
            // Several Envoys at once would meet at the same shared memory.
            "--disable-hot-restart",
            "--admin-address-path",
            &text(self.at("admin-address")),
            "--concurrency",
            &start.concurrency.to_string(),
            "--log-level",
            start.log_level,
            // The default of 10 s is long for one who waits for a line.
            "--file-flush-interval-msec",
            "20",
        ]
        .map(String::from)
        .to_vec()
    }

    fn outputs_of(&self, command: &mut Command) {
        let file = |name| File::create(self.at(name)).expect("make a log file");
        command
            .stdin(Stdio::null())
            .stdout(file("stdout.log"))
            .stderr(file("stderr.log"));
    }
}

impl Envoy {
    /// Starts `config` with the filter on free ports, with one worker.
    pub async fn start(config: EnvoyConfig) -> Self {
        Self::start_with(config, &Start::default()).await
    }

    /// Starts `config` on free ports, with the filter where it has one.
    pub async fn start_with(config: EnvoyConfig, start: &Start) -> Self {
        let files = Files::new();
        let mut config = prepared(config, &files);
        if let Some(filter) = &start.filter {
            config = config.wasm_file(filter);
        }
        if let Some(admin) = start.admin {
            config = config.admin(admin);
        }
        let arguments = files.arguments(&config, start);
        let command = if start.by_func_e {
            func_e(&files)
        } else {
            Command::new(path_from("ENVOY_PATH"))
        };
        Self::run(files, command, &arguments).await
    }

    /// Starts `config` with its listeners in a file that [`Self::replace_listeners`] replaces.
    pub async fn start_with_listeners_in_a_file(config: EnvoyConfig) -> Self {
        let files = Files::new();
        let dynamic = files.at("dynamic");
        fs::create_dir(&dynamic).expect("make a directory");
        let (config, listeners) =
            prepared(config, &files).listeners_from_file(&dynamic, "listeners.json");
        fs::write(dynamic.join("listeners.json"), listeners).expect("write the listeners");
        let arguments = files.arguments(&config, &Start::default());
        let command = func_e(&files);
        Self::run(files, command, &arguments).await
    }

    async fn run(files: Files, mut command: Command, arguments: &[String]) -> Self {
        command.args(arguments).current_dir(project_root());
        files.outputs_of(&mut command);
        let process = Process::spawn(command, Signal::Terminate).expect("start Envoy");
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Self {
            process,
            admin: unknown,
            listeners: Listeners::new(),
            files,
        };
        envoy.wait_until_ready().await;
        envoy
    }

    async fn wait_until_ready(&mut self) {
        let waited = Stopwatch::start();
        loop {
            let seen = self.readiness().await;
            let Err(seen) = seen else { return };
            if let Some(exit) = self.process.exit_status() {
                panic!("Envoy ended at its start ({exit}):\n{}", self.log());
            }
            assert!(
                waited.elapsed() < START,
                "Envoy wasn't ready in {START:?}; last: {seen}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn readiness(&mut self) -> Result<(), String> {
        (self.admin, self.listeners) = ready(&self.files.at("admin-address")).await?;
        Ok(())
    }

    /// The address of the listener `gateway`.
    pub fn address(&self) -> SocketAddr {
        self.listener("gateway")
    }

    /// The address of a listener.
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self
            .listeners
            .get(name)
            .unwrap_or_else(|| panic!("no listener `{name}` in {:?}", self.listeners))
    }

    /// The admin interface's address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Asks the gateway, on a connection of its own. No answer at all ends the test.
    pub async fn get(&self, path: &str) -> Answer {
        Request::get(path)
            .send(self.address())
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// Asks the admin interface.
    pub async fn ask_admin(&self, path: &str) -> Answer {
        Request::get(path)
            .send(self.admin)
            .await
            .unwrap_or_else(|error| panic!("admin {path}: {error}\n{}", self.log()))
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Metrics {
        let page = self.ask_admin("/stats/prometheus").await;
        Metrics::parse(&page.text()).unwrap_or_else(|error| panic!("/stats/prometheus, {error}"))
    }

    /// Waits until a metric has this value. Levee's are sent from time to time, not at each request.
    pub async fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        let what = format!("{name}{labels:?} to be {wanted}");
        wait::until(&what, wait::GENEROUS, || async {
            let metrics = self.metrics().await;
            match metrics.get(name, labels) {
                Some(value) if (value - wanted).abs() < 1e-9 => Ok(()),
                other => Err(format!("{other:?}\n{}", metrics.show(name))),
            }
        })
        .await;
    }

    /// Waits until Envoy's log holds `text`.
    pub async fn wait_for_log(&self, text: &str) {
        wait::until_now(&format!("`{text}` in Envoy's log"), wait::GENEROUS, || {
            let log = self.log();
            if log.contains(text) {
                Ok(())
            } else {
                Err(last_lines(&log, SHOWN_LOG_LINES))
            }
        })
        .await;
    }

    /// Replaces the listeners of [`Self::start_with_listeners_in_a_file`], as one would while it runs: by moving a
    /// new file over the old one. `config` is changed as at the start, but keeps its ports.
    pub fn replace_listeners(&self, config: EnvoyConfig) {
        let dynamic = self.files.at("dynamic");
        let listeners = prepared(config, &self.files)
            .listen(self.address())
            .listeners_file();
        let new = dynamic.join("listeners.json.new");
        fs::write(&new, listeners).expect("write the new listeners");
        fs::rename(new, dynamic.join("listeners.json")).expect("move the new listeners into place");
    }

    /// The access log.
    pub fn access_log(&self) -> AccessLog {
        AccessLog::at(self.files.at("access.log"))
    }

    /// All that Envoy and func-e have said so far.
    pub fn log(&self) -> String {
        self.files.log()
    }

    /// A directory that lasts as long as this Envoy.
    pub fn directory(&self) -> &Path {
        self.files.directory.path()
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

/// func-e, about to run Envoy.
fn func_e(files: &Files) -> Command {
    let mut command = Command::new(path_from("FUNC_E_PATH"));
    command
        .arg("run")
        .env("ENVOY_PATH", path_from("ENVOY_PATH"));
    // func-e's own folders, so that it neither finds nor leaves anything elsewhere.
    for folder in ["CONFIG_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR"] {
        command.env(
            format!("FUNC_E_{folder}"),
            files.at("func-e").join(folder.to_lowercase()),
        );
    }
    command
        .env_remove("FUNC_E_HOME")
        .env("FUNC_E_RUN_ID", "test");
    command
}

/// Where Envoy listens.
pub type Listeners = BTreeMap<String, SocketAddr>;

/// Asks an Envoy whether it is ready. `admin_address` is the file that it was told to write its admin address to.
///
/// The answer is the admin interface's address and the listeners' by name; the error says what is still missing.
pub async fn ready(admin_address: &Path) -> Result<(SocketAddr, Listeners), String> {
    let text = fs::read_to_string(admin_address).map_err(|_| "no admin address yet")?;
    let admin: SocketAddr = text
        .trim()
        .parse()
        .map_err(|_| format!("not an address: {text}"))?;
    let ready = Request::get("/ready")
        .send(admin)
        .await
        .map_err(|error| error.to_string())?;
    if ready.status != 200 {
        return Err(format!("/ready says {}", ready.text().trim()));
    }
    let page = Request::get("/listeners?format=json")
        .send(admin)
        .await
        .map_err(|e| e.to_string())?;
    let page: Value = serde_json::from_slice(&page.body).map_err(|error| error.to_string())?;
    let mut listeners = Listeners::new();
    for status in page["listener_statuses"].as_array().into_iter().flatten() {
        let at = &status["local_address"]["socket_address"];
        let host: IpAddr = at["address"]
            .as_str()
            .unwrap_or_default()
            .parse()
            .map_err(|_| format!("{at}"))?;
        let port = at["port_value"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .ok_or(format!("{at}"))?;
        listeners.insert(
            status["name"].as_str().unwrap_or_default().to_string(),
            (host, port).into(),
        );
    }
    if listeners.is_empty() {
        return Err("no listener yet".into());
    }
    Ok((admin, listeners))
}

/// What became of an Envoy that was expected not to start.
#[derive(Debug)]
pub struct RefusedStart {
    /// How it ended.
    pub exit: ExitStatus,
    /// What it said.
    pub log: String,
}

/// Starts Envoy directly and waits for its end. A start that works ends the test.
pub async fn start_that_fails(config: EnvoyConfig) -> RefusedStart {
    let files = Files::new();
    let config = prepared(config, &files);
    let mut command = Command::new(path_from("ENVOY_PATH"));
    command
        .args(files.arguments(&config, &Start::default()))
        .current_dir(project_root());
    files.outputs_of(&mut command);
    let mut process = Process::spawn(command, Signal::Kill).expect("start Envoy");
    let exit = wait::until_now("Envoy to end", START, || {
        process
            .exit_status()
            .ok_or_else(|| last_lines(&files.log(), SHOWN_LOG_LINES))
    })
    .await;
    let log = files.log();
    assert!(!exit.success(), "Envoy ended without an error:\n{log}");
    RefusedStart { exit, log }
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Free ports, the log in the directory, and the filter that was built.
fn prepared(config: EnvoyConfig, files: &Files) -> EnvoyConfig {
    let config = config.free_ports().access_log(&files.at("access.log"));
    if config.has_filter() {
        config.wasm_file(&path_from("LEVEE_FILTER_WASM"))
    } else {
        config
    }
}

fn path_from(variable: &str) -> PathBuf {
    let Some(path) = env::var_os(variable).map(PathBuf::from) else {
        panic!(
            "{variable} is not set: run the end-to-end tests by `cargo xtask test`, which sets it"
        )
    };
    assert!(
        path.is_file(),
        "{variable} names {}, which is not a file",
        path.display()
    );
    path.canonicalize().unwrap_or(path)
}

/// The project's root, where Envoy is started.
fn project_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the project's folder")
}
