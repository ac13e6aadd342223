//! The proxies that are measured, each in front of the same service.

use crate::backend::Backend;
use crate::client::Protocol;
use crate::envoy::{self, Config, Envoy, Start};
use crate::tools::Tools;
use anyhow::{Context, Result};
use levee_harness::address::free_address;
use levee_harness::process::{Output, Process, Signal};
use levee_harness::processor;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a proxy may take until it listens.
const START: Duration = Duration::from_secs(10);

/// The services of each proxy that distinguishes them: one for each state of a breaker.
pub const SERVICES: [&str; 4] = ["service", "failing", "switched", "tenth"];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Envoy without a filter.
    Bare,
    /// With Levee's filter.
    Levee,
    /// With another build of Levee's filter.
    Build(String, PathBuf),
    /// With Levee's filter and an empty configuration.
    LeveeDefaults,
    /// With a filter that makes the same host calls, but decides nothing.
    Floor,
    /// With a breaker in ten lines of Lua.
    Lua,
    /// With Envoy's own admission control.
    AdmissionControl,
    /// The configuration that the project recommends, without the filter.
    RecommendedWithout,
    /// The configuration that the project recommends.
    Recommended,
    /// Go's reverse proxy with a breaker library.
    Go,
    /// nginx with its passive health checks.
    Nginx,
}

impl Variant {
    /// The name in tables and plots.
    pub fn name(&self) -> &str {
        match self {
            Self::Bare => "envoy",
            Self::Levee => "levee",
            Self::Build(name, _) => name,
            Self::LeveeDefaults => "levee, empty configuration",
            Self::Floor => "floor",
            Self::Lua => "lua",
            Self::AdmissionControl => "admission_control",
            Self::RecommendedWithout => "gateway.yaml without levee",
            Self::Recommended => "gateway.yaml",
            Self::Go => "go + gobreaker",
            Self::Nginx => "nginx max_fails",
        }
    }

    /// The path that leads to the service and makes it give the answer named `answer`.
    pub fn path(&self, service: &str, answer: &str) -> String {
        match self {
            Self::Recommended | Self::RecommendedWithout => format!("/v1/auth/{answer}"),
            _ => format!("/{service}/{answer}"),
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    pub process: Process,
    http1: u16,
    http2: u16,
}

impl Running {
    /// An Envoy, which serves both protocols on one port.
    pub fn envoy(process: Process, port: u16) -> Self {
        Self {
            process,
            http1: port,
            http2: port,
        }
    }

    pub fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::Http2 => self.http2,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub tools: &'a Tools,
    pub backend: &'a Backend,
    /// The folder for its files.
    pub folder: &'a Path,
    /// Worker threads.
    pub workers: usize,
    /// The CPUs of the proxy.
    pub cpus: &'a [usize],
}

impl Place<'_> {
    pub fn start(&self, variant: &Variant) -> Result<Running> {
        match variant {
            Variant::Go => self.go(),
            Variant::Nginx => self.nginx(),
            _ => {
                let config = self.config(variant)?;
                let Envoy { process, port, .. } = Envoy::start(config, &self.envoy(variant))?;
                Ok(Running::envoy(process, port))
            }
        }
    }

    /// How Envoy is started.
    pub fn envoy(&self, variant: &Variant) -> Start<'_> {
        Start {
            program: &self.tools.envoy,
            folder: self.folder.join(format!(
                "{}-{}",
                variant.name().replace(' ', "-"),
                self.workers
            )),
            workers: self.workers,
            cpus: self.cpus,
            traces: false,
        }
    }

    /// Envoy's configuration for a variant of it.
    pub fn config(&self, variant: &Variant) -> Result<Config> {
        let port = self.backend.port;
        let tools = self.tools;
        let bare = || Config::bare(port, SERVICES);
        let levee =
            |wasm| bare()?.with_filter(envoy::levee(&tools.recommended, wasm, &settings())?);
        match variant {
            Variant::Levee => levee(&tools.levee),
            Variant::Build(_, wasm) => levee(wasm),
            Variant::LeveeDefaults => {
                let mut filter = envoy::levee(&tools.recommended, &tools.levee, &json!({}))?;
                filter["typed_config"]["config"]["configuration"]["value"] = json!({});
                bare()?.with_filter(filter)
            }
            Variant::Floor => levee(&tools.floor),
            Variant::Lua => bare()?.with_filter(json!({
                "name": "envoy.filters.http.lua",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": include_str!("../breaker.lua")},
                },
            })),
            Variant::AdmissionControl => bare()?.with_filter(json!({
                "name": "envoy.filters.http.admission_control",
                "typed_config": {
                    "@type":
                        "type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
                    "enabled": {"default_value": true, "runtime_key": "admission_control.enabled"},
                    "success_criteria": {"http_criteria": {"http_success_status": [{"start": 100, "end": 500}]}},
                },
            })),
            Variant::Recommended | Variant::RecommendedWithout => {
                let mut config = Config::recommended(&tools.recommended, port)?;
                *config.filter("levee")? = envoy::levee(&tools.recommended, &tools.levee, &json!({}))?;
                if *variant == Variant::RecommendedWithout { config.without_filter("levee") } else { Ok(config) }
            }
            Variant::Bare | Variant::Go | Variant::Nginx => bare(),
        }
    }

    fn go(&self) -> Result<Running> {
        let port = free_address()?.port();
        let program = self.tools.go.as_ref().context("it was not built")?;
        let mut command = Command::new(program);
        command
            .args([
                format!("127.0.0.1:{port}"),
                format!("http://127.0.0.1:{}", self.backend.port),
            ])
            .env("GOMAXPROCS", self.workers.to_string())
            .stdout(Stdio::null());
        let process = self.spawn(command, port)?;
        Ok(Running {
            process,
            http1: port,
            http2: port,
        })
    }

    /// Starts a proxy and waits until it listens. It prints its errors itself.
    fn spawn(&self, mut command: Command, port: u16) -> Result<Process> {
        let name = command.get_program().display().to_string();
        processor::pin_command(command.stdin(Stdio::null()), self.cpus);
        let mut process = Process::spawn(command, Signal::Terminate)?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        process.until_it_listens(&name, address, START, Output::NotKept)?;
        Ok(process)
    }

    fn nginx(&self) -> Result<Running> {
        let (http1, http2) = (free_address()?.port(), free_address()?.port());
        let folder = self.folder.join(format!("nginx-{}", self.workers));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("nginx.conf");
        let config = include_str!("../nginx.conf")
            .replace("{workers}", &self.workers.to_string())
            .replace("{http1}", &http1.to_string())
            .replace("{http2}", &http2.to_string())
            .replace("{backend}", &self.backend.port.to_string());
        std::fs::write(&file, config)?;
        let program = self.tools.nginx.as_ref().context("it is missing")?;
        let mut command = Command::new(program);
        command
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(&file)
            .args(["-e", "error.log"])
            .stdout(Stdio::null());
        let process = self.spawn(command, http1)?;
        Ok(Running {
            process,
            http1,
            http2,
        })
    }
}

/// Levee's settings for the measured states: one breaker stays open, one half-open.
fn settings() -> Value {
    json!({"services": {
        "failing": {"breaker": {"open_for": "5m", "witnesses": 1}},
        "switched": {"breaker": {"open_for": "1s", "half_open": {"successes_to_close": 1_000_000}}},
    }})
}
