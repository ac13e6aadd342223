//! Configurations of Envoy, and starting it.

use anyhow::{Context, Result, ensure};
use levee_harness::address::free_address;
use levee_harness::client::Request;
use levee_harness::clock::Stopwatch;
use levee_harness::process::{Output, Process, Signal};
use levee_harness::processor;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long Envoy may take to start, including the compilation of filters.
const START: Duration = Duration::from_mins(1);

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    pub process: Process,
    pub port: u16,
    /// The time from its start until it was ready.
    pub start: Duration,
}

#[derive(Clone, Debug)]
pub struct Config(Value);

const FILTERS: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";

impl Config {
    /// Envoy without a filter, in front of `services` at `backend`.
    pub fn bare<'a>(backend: u16, services: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut config: Value = serde_norway::from_str(include_str!("../envoy.yaml"))?;
        let clusters = list(&mut config, "/static_resources/clusters")?;
        let mut cluster = clusters.pop().context("envoy.yaml has no cluster")?;
        set_endpoint(&mut cluster, backend)?;
        for service in services {
            cluster["name"] = service.into();
            cluster["load_assignment"]["cluster_name"] = service.into();
            clusters.push(cluster.clone());
        }
        Ok(Self(config))
    }

    /// The configuration that the project recommends, with all four services at `backend`.
    pub fn recommended(text: &str, backend: u16) -> Result<Self> {
        let mut config: Value = serde_norway::from_str(text)?;
        for cluster in list(&mut config, "/static_resources/clusters")? {
            set_endpoint(cluster, backend)?;
        }
        Ok(Self(config))
    }

    /// Adds a filter in front of all others.
    pub fn with_filter(mut self, filter: Value) -> Result<Self> {
        list(&mut self.0, FILTERS)?.insert(0, filter);
        Ok(self)
    }

    /// The filter of this name.
    pub fn filter(&mut self, name: &str) -> Result<&mut Value> {
        let filters = list(&mut self.0, FILTERS)?;
        let found = filters.iter_mut().find(|filter| filter["name"] == name);
        found.with_context(|| format!("there is no filter {name}"))
    }

    /// Removes the filter of this name.
    pub fn without_filter(mut self, name: &str) -> Result<Self> {
        list(&mut self.0, FILTERS)?.retain(|filter| filter["name"] != name);
        Ok(self)
    }

    fn set_ports(&mut self, port: u16, admin: u16) -> Result<()> {
        for (path, port) in [
            (
                "/static_resources/listeners/0/address/socket_address/port_value",
                port,
            ),
            ("/admin/address/socket_address/port_value", admin),
        ] {
            *self
                .0
                .pointer_mut(path)
                .with_context(|| format!("there is no {path}"))? = port.into();
        }
        Ok(())
    }
}

fn list<'a>(value: &'a mut Value, path: &str) -> Result<&'a mut Vec<Value>> {
    value
        .pointer_mut(path)
        .and_then(Value::as_array_mut)
        .with_context(|| format!("there is no {path}"))
}

fn set_endpoint(cluster: &mut Value, port: u16) -> Result<()> {
    let path =
        "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
    *cluster
        .pointer_mut(path)
        .context("a cluster has no endpoint")? = port.into();
    Ok(())
}

/// Levee's filter from the configuration `recommended`, with the file `wasm` and these settings instead of its own.
pub fn levee(recommended: &str, wasm: &Path, settings: &Value) -> Result<Value> {
    let mut filter = Config::recommended(recommended, 0)?
        .filter("levee")?
        .clone();
    let path = "/typed_config/config/vm_config/code/local/filename";
    *filter
        .pointer_mut(path)
        .with_context(|| format!("the filter has no {path}"))? = json!(wasm);
    let path = "/typed_config/config/configuration/value";
    let configuration = filter
        .pointer_mut(path)
        .with_context(|| format!("the filter has no {path}"))?;
    for (key, value) in settings.as_object().into_iter().flatten() {
        configuration[key] = value.clone();
    }
    Ok(filter)
}

#[derive(Clone, Debug)]
pub struct Start<'a> {
    pub program: &'a Path,
    /// The folder for its output.
    pub folder: PathBuf,
    pub workers: usize,
    /// The CPUs that it may use.
    pub cpus: &'a [usize],
    /// Whether to trace the callbacks and calls of filters.
    pub traces: bool,
}

impl Envoy {
    /// Starts Envoy and waits until it is ready.
    pub fn start(mut config: Config, start: &Start) -> Result<Self> {
        let (port, admin) = (free_address()?.port(), free_address()?.port());
        config.set_ports(port, admin)?;
        fs::create_dir_all(&start.folder)?;
        let file = start.folder.join("envoy.json");
        fs::write(&file, serde_json::to_vec(&config.0)?)?;
        let log = start.folder.join("envoy.log");
        let mut command = Command::new(start.program);
        command
            .args([
                "--disable-hot-restart",
                "--concurrency",
                &start.workers.to_string(),
                "--log-level",
                "warning",
            ])
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            // The recommended configuration writes its access log there.
            .stdout(File::create(start.folder.join("access.log"))?)
            .stderr(File::create(&log)?);
        if start.traces {
            command.args(["--component-log-level", "wasm:trace"]);
        }
        processor::pin_command(&mut command, start.cpus);
        let started = Stopwatch::start();
        let mut process = Process::spawn(command, Signal::Terminate)?;
        process.until_ready("Envoy", START, Output::File(&log), || is_ready(admin))?;
        let start = started.elapsed();
        Ok(Self {
            process,
            port,
            start,
        })
    }
}

fn is_ready(admin: u16) -> Result<()> {
    let answer = Request::get("/ready").send_blocking((Ipv4Addr::LOCALHOST, admin).into())?;
    ensure!(answer.status == 200, "/ready says {}", answer.text());
    Ok(())
}
