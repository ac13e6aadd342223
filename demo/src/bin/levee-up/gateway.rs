//! The gateway: configuration, process, readiness.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::{last_lines, ready};
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::process::{Process, Signal};
use serde_json::json;
use tempfile::TempDir;

use crate::args::{Args, Upstream};
use crate::failure::Failure;

/// From Envoy's start until it serves. Host names that don't resolve take a few seconds of it.
const START: Duration = Duration::from_mins(1);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running gateway. Dropping it ends Envoy and removes its files.
#[derive(Debug)]
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where the metrics are.
    pub admin: SocketAddr,
    /// Envoy's log.
    pub log: PathBuf,
    /// The access log.
    pub access_log: PathBuf,
    // Fields are dropped in this order: first the process, then its files.
    envoy: Process,
    _files: TempDir,
}

impl Gateway {
    /// Starts Envoy in front of these services and waits until it serves.
    pub async fn start(args: &Args, services: &[Upstream]) -> Result<Self, Failure> {
        let envoy = file_from("ENVOY_PATH")?;
        let filter = file_from("LEVEE_FILTER_WASM")?;

        let files = tempfile::Builder::new()
            .prefix("levee-up-")
            .tempdir()
            .map_err(Failure::other)?;
        let logs = match &args.log_dir {
            Some(folder) => {
                fs::create_dir_all(folder).map_err(|error| {
                    Failure::Other(format!("--log-dir {}: {error}", folder.display()))
                })?;
                folder.canonicalize().map_err(Failure::other)?
            }
            None => files.path().to_path_buf(),
        };
        let (log, access_log) = (logs.join("envoy.log"), logs.join("access.log"));
        let admin_address = files.path().join("admin-address");

        let config = configuration(args, services)?
            .wasm_file(&filter)
            .access_log(&access_log);
        let config_file = files.path().join("envoy.yaml");
        fs::write(&config_file, config.to_yaml()).map_err(Failure::other)?;

        let output = File::create(&log).map_err(Failure::other)?;
        let mut command = Command::new(envoy);
        command
            .args([
                "--disable-hot-restart",
                "--concurrency",
                &args.concurrency.to_string(),
            ])
            // Logs transitions of breakers; single requests are in the access log.
            .args([
                "--log-level",
                "warning",
                "--component-log-level",
                "wasm:info",
            ])
            .args(["--file-flush-interval-msec", "100"])
            .arg("--admin-address-path")
            .arg(&admin_address)
            .arg("-c")
            .arg(&config_file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(Failure::other)?)
            .stderr(output)
            // Ctrl-C reaches the whole group of the terminal; Envoy is ended by us, in order.
            .process_group(0);
        let envoy = Process::spawn(command, Signal::Kill).map_err(|error| {
            Failure::Other(format!("can't start Envoy ({}): {error}", "ENVOY_PATH"))
        })?;
        let (address, admin) = (args.listen, args.admin);
        let mut gateway = Self {
            address,
            admin,
            log,
            access_log,
            envoy,
            _files: files,
        };
        gateway.wait_until_ready(&admin_address).await?;
        Ok(gateway)
    }

    async fn wait_until_ready(&mut self, admin_address: &Path) -> Result<(), Failure> {
        let waited = Stopwatch::start();
        loop {
            let missing = match ready(admin_address).await {
                Ok((admin, listeners)) => {
                    self.admin = admin;
                    self.address = *listeners
                        .get("gateway")
                        .ok_or_else(|| Failure::other("no listener `gateway`"))?;
                    return Ok(());
                }
                Err(missing) => missing,
            };
            self.check_alive("Envoy didn't start")?;
            if waited.elapsed() > START {
                return Err(Failure::Other(format!(
                    "Envoy wasn't ready within {START:?} ({missing}). Its log ends with:\n{}",
                    self.end_of_log()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until Envoy ends, which it shouldn't.
    pub async fn until_it_ends(&mut self) -> Result<(), Failure> {
        loop {
            self.check_alive("Envoy ended by itself")?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn check_alive(&mut self, what: &str) -> Result<(), Failure> {
        let Some(exit) = self.envoy.exit_status() else {
            return Ok(());
        };
        Err(Failure::Other(format!(
            "{what} ({exit}). Its log ends with:\n{}",
            self.end_of_log()
        )))
    }

    /// What matters of the log's end: errors where there are any.
    fn end_of_log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let bad = |line: &&str| line.contains("[error]") || line.contains("[critical]");
        let errors: Vec<&str> = log.lines().filter(bad).collect();
        let telling = if errors.is_empty() {
            log.into_owned()
        } else {
            errors.join("\n")
        };
        let lines = last_lines(&telling, 20);
        format!("  {}", lines.replace('\n', "\n  "))
    }
}

/// Whether the gateway's ports are free.
pub fn check_ports(args: &Args) -> Result<(), Failure> {
    check_free(args.listen, "the gateway", "--listen")?;
    check_free(args.admin, "Envoy's admin interface", "--admin")
}

/// `envoy/gateway.yaml` with what the command line changes.
fn configuration(args: &Args, services: &[Upstream]) -> Result<EnvoyConfig, Failure> {
    let mut config = EnvoyConfig::gateway()
        .listen(args.listen)
        .admin(args.admin)
        .only_services(services.iter().map(|service| service.name.as_str()));
    for (at, service) in services.iter().enumerate() {
        if services[..at]
            .iter()
            .any(|earlier| earlier.name == service.name)
        {
            return Err(Failure::Usage(format!(
                "--upstream names `{}` twice",
                service.name
            )));
        }
        config = config.upstream(&service.name, service.at.clone());
        if service.grpc {
            config = config.upstream_http2(&service.name);
        }
    }
    if let Some(open_for) = args.open_for {
        config = config.plugin(
            &json!({"breaker": {"open_for": humantime::format_duration(open_for).to_string()}}),
        );
    }
    if let Some(failures) = args.consecutive_failures {
        config = config.plugin(&json!({"breaker": {"consecutive_failures": failures}}));
    }
    if let Some(bound) = args.response_header {
        config = config.plugin(&json!({"timeouts": {"response_header": humantime::format_duration(bound).to_string()}}));
    }
    for chosen in &args.timeout_classes {
        if !services
            .iter()
            .any(|service| service.name == chosen.service)
        {
            let names: Vec<&str> = services
                .iter()
                .map(|service| service.name.as_str())
                .collect();
            return Err(Failure::Usage(format!(
                "--timeout-class names `{}`, but the services are: {}",
                chosen.service,
                names.join(", ")
            )));
        }
        let class = chosen
            .class
            .to_possible_value()
            .expect("no class is hidden");
        config = config.plugin(
            &json!({"services": {&chosen.service: {"timeouts": {"class": class.get_name()}}}}),
        );
    }
    Ok(config)
}

/// Envoy shares ports with others that allow it, so a second gateway would go unnoticed; binding without sharing tells.
pub fn check_free(
    address: SocketAddr,
    what: &'static str,
    option: &'static str,
) -> Result<(), Failure> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure::PortInUse {
            address,
            what,
            option,
        }),
        Err(error) => Err(Failure::Other(format!(
            "{what} can't listen on {address} ({option}): {error}"
        ))),
    }
}

fn file_from(variable: &str) -> Result<PathBuf, Failure> {
    let path = env::var_os(variable).map(PathBuf::from).ok_or_else(|| {
        Failure::Other(format!(
            "{variable} is not set; start this by `cargo xtask up`, which sets it"
        ))
    })?;
    path.canonicalize()
        .ok()
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            Failure::Other(format!(
                "{variable} names {}, which is not a file",
                path.display()
            ))
        })
}
