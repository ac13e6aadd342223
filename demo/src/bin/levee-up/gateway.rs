//! The gateway: Envoy with its configuration.

use std::path::PathBuf;
use std::time::Duration;

use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use serde_json::json;

use crate::args::{Args, Upstream};
use crate::failure::Failure;

/// Starts Envoy in front of these services and waits until it serves. The logs go to `log_folder`.
pub async fn start(
    args: &Args,
    services: &[Upstream],
    log_folder: Option<PathBuf>,
) -> Result<Envoy, Failure> {
    let config = configuration(args, services)?;
    let start = Start {
        concurrency: args.concurrency,
        // The filter logs transitions of breakers at this level; single requests are in the access log.
        log_level: "warning",
        component_log_level: Some("wasm:info"),
        listen: Some(args.listen),
        admin: Some(args.admin),
        log_folder,
        // Envoy's default of 10 s is long for somebody who watches the access log.
        log_flush: Duration::from_millis(100),
        by_func_e: false,
        ..Start::default()
    };
    Envoy::start_with(config, &start)
        .await
        .map_err(Failure::other)
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
        config = config.plugin(
            &json!({"services": {&chosen.service: {"timeouts": {"class": chosen.class.name()}}}}),
        );
    }
    Ok(config)
}
