//! The gateway: its configuration, and Envoy with it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use serde_json::json;

use crate::args::{Args, Upstream};
use crate::failure::Failure;

/// The pause between two looks whether Envoy is alive.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running gateway. Dropping it ends Envoy and removes its files.
#[derive(Debug)]
pub struct Gateway(Envoy);

impl Gateway {
    /// Starts Envoy in front of these services and waits until it serves.
    pub async fn start(args: &Args, services: &[Upstream]) -> Result<Self, Failure> {
        let config = configuration(args, services)?;
        let start = Start {
            concurrency: args.concurrency,
            // The filter logs transitions of breakers at this level; single requests are in the access log.
            log_level: "warning",
            component_log_level: Some("wasm:info"),
            listen: Some(args.listen),
            admin: Some(args.admin),
            log_folder: log_folder(args)?,
            by_func_e: false,
            ..Start::default()
        };
        let envoy = Envoy::start_with(config, &start).await;
        envoy.map(Self).map_err(Failure::other)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Where Envoy's admin interface listens.
    pub fn admin(&self) -> SocketAddr {
        self.0.admin()
    }

    /// Envoy's log.
    pub fn log(&self) -> PathBuf {
        self.0.log_file()
    }

    /// The access log.
    pub fn access_log(&self) -> PathBuf {
        self.0.access_log().path().to_path_buf()
    }

    /// Waits until Envoy ends, which it shouldn't.
    pub async fn until_it_ends(&mut self) -> Result<(), Failure> {
        loop {
            self.0.check_alive().map_err(Failure::other)?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The folder of `--log-dir`, made if it is missing.
pub fn log_folder(args: &Args) -> Result<Option<PathBuf>, Failure> {
    let Some(folder) = &args.log_dir else {
        return Ok(None);
    };
    let failed = |error| Failure::Other(format!("--log-dir {}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    folder.canonicalize().map(Some).map_err(failed)
}

/// `envoy/gateway.yaml` with what the command line changes.
fn configuration(args: &Args, services: &[Upstream]) -> Result<EnvoyConfig, Failure> {
    let mut config =
        EnvoyConfig::gateway().only_services(services.iter().map(|service| service.name.as_str()));
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
