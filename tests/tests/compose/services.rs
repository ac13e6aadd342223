//! Each service: hardened, pinned, without default secrets.

use std::path::Path;

use crate::file::{SECRETS, assert_pinned, compose, health_check, read, services, words};
use levee_harness::process::output_of;
use serde_json::Value;

#[test]
fn docker_compose_reads_the_file_and_no_secret_has_a_default() {
    assert_eq!(services().len(), 9);
    for secret in SECRETS {
        let others: Vec<&str> = SECRETS
            .into_iter()
            .filter(|other| *other != secret)
            .collect();
        let said = output_of(&mut compose(&others))
            .expect_err(secret)
            .to_string();
        assert!(
            said.contains("set it in the environment") && said.contains(secret),
            "{secret}: {said}"
        );
    }
}

#[test]
fn each_service_is_hardened_pinned_and_reached_from_this_machine_alone() {
    for (name, service) in services() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(
            words(&service["security_opt"]),
            ["no-new-privileges:true"],
            "{name}"
        );
        assert!(
            service["privileged"].is_null() && service["network_mode"].is_null(),
            "{name}"
        );
        let user = service["user"].as_str().unwrap_or_default();
        let (uid, gid) = user
            .split_once(':')
            .unwrap_or_else(|| panic!("{name}: no user"));
        assert!(
            uid.parse::<u32>().is_ok_and(|id| id > 0) && gid.parse::<u32>().is_ok_and(|id| id > 0),
            "{name}"
        );
        let image = service["image"]
            .as_str()
            .unwrap_or_else(|| panic!("{name}: no image"));
        assert_pinned(image);
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().unwrap_or_else(|| panic!("{name}: {port}"));
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
        }
        let built = service["build"]["dockerfile"].as_str();
        assert!(
            built.is_some() || !health_check(&service).is_empty(),
            "{name}: no health check"
        );
        for volume in words(&Value::Array(
            service["volumes"].as_array().cloned().unwrap_or_default(),
        )) {
            let source = volume.split(':').next().unwrap_or_default();
            if source.starts_with('/') {
                assert!(volume.ends_with(":ro"), "{name}: {volume} can be written");
                let is_made = source.ends_with("target/wasm32-wasip1/release/levee_filter.wasm");
                assert!(
                    is_made || Path::new(source).is_file(),
                    "{name}: {source} is not there"
                );
            }
        }
    }
    let all = services();
    for (name, networks) in [("redis", "redis"), ("postgres", "database")] {
        let own: Vec<&String> = all[name]["networks"]
            .as_object()
            .expect("networks")
            .keys()
            .collect();
        assert_eq!(own, [networks], "{name}");
        assert!(all[name]["ports"].is_null(), "{name} is not published");
    }
}

#[test]
fn envoy_is_the_one_that_the_tests_run() {
    let tools = read("xtask/tools.toml");
    let version = tools
        .split("version = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("a version");
    assert_eq!(
        services()["envoy"]["image"],
        format!("envoyproxy/envoy:v{version}")
    );
}
