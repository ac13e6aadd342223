//! The mounted configurations of Levee and Envoy.

use std::process::Command;

use crate::file::{read, root, services};
use levee_harness::built;
use levee_harness::process::output_of;
use serde_json::Value;

#[test]
fn levee_yaml_is_valid() {
    let mut levee = Command::new(built::levee().unwrap());
    levee
        .current_dir(root())
        .args(["check", "--config", "compose/levee.yaml"]);
    levee
        .env("LEVEE_TOKEN", "secret")
        .env("DATABASE_URL", "postgres://levee:secret@postgres:5432/app");
    output_of(&mut levee).unwrap_or_else(|said| panic!("levee check: {said}"));
    let environment = &services()["sidecar"]["environment"];
    for name in ["LEVEE_TOKEN", "DATABASE_URL"] {
        assert!(
            environment[name].is_string() && read("compose/levee.yaml").contains(name),
            "{name}"
        );
    }
}

/// Every value by its path, except addresses, hosts, the filter's file, the access log and the listener for stats.
fn settings(path: &str) -> Value {
    let mut config: Value = serde_norway::from_str(&read(path)).expect("YAML");
    let resources = &mut config["static_resources"];
    for listener in resources["listeners"].as_array_mut().expect("listeners") {
        listener["address"] = Value::Null;
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        let format = manager["access_log"][0]["typed_config"]["log_format"].clone();
        manager["access_log"] = format;
        manager["http_filters"][0]["typed_config"]["config"]["vm_config"]["code"] = Value::Null;
    }
    resources["listeners"]
        .as_array_mut()
        .expect("listeners")
        .retain(|listener| listener["name"] == "gateway");
    let clusters = resources["clusters"].as_array_mut().expect("clusters");
    clusters.retain(|cluster| cluster["name"] != "admin");
    for cluster in clusters {
        cluster["load_assignment"]["endpoints"] = Value::Null;
    }
    config
}

#[test]
fn envoy_yaml_has_the_settings_of_the_gateway_for_production() {
    assert_eq!(
        settings("compose/envoy.yaml"),
        settings("envoy/gateway.yaml")
    );
}
