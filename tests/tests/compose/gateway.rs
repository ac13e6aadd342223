//! The sidecar, the services and Envoy, started by their command lines.

use std::net::SocketAddr;
use std::process::Command;
use std::{env, fs};

use crate::file::{command, health_check, health_check_of, read, replaced, services, words};
use crate::process::{healthy, runs_until, start};
use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::postgres::Postgres;
use levee_harness::process::{Process, output_of};
use levee_harness::redis::Redis;
use levee_harness::sidecar::{Config, Sidecar, Start};
use tempfile::TempDir;

/// Starts the sidecar with its configuration, and these addresses.
pub fn sidecar_at(redis: &Redis, database: &Postgres, envoy: SocketAddr) -> Sidecar {
    // Files, since the sidecar gets no environment here; `levee_yaml_is_valid` verifies the variables' names.
    let levee = replaced(
        &[read("compose/levee.yaml")],
        &[
            ("0.0.0.0:9464", "127.0.0.1:0".into()),
            ("0.0.0.0:6380", "127.0.0.1:0".into()),
            ("redis:6379", redis.address.to_string()),
            ("envoy:9902", envoy.to_string()),
        ],
    );
    let config = Config::new(levee[0].as_str()).variable("DATABASE_URL", database.url_of("levee"));
    let sidecar = Sidecar::start_with(&config, &Start::default()).unwrap();
    assert_eq!(
        command("sidecar"),
        ["run", "--config", "/etc/levee/levee.yaml"]
    );
    assert!(healthy(&health_check_of("Dockerfile"), 9464, sidecar.admin));
    assert!(
        !healthy(
            &health_check_of("Dockerfile"),
            9464,
            free_address().unwrap()
        ),
        "nobody is there"
    );
    sidecar
        .wait_for("the watchdog's rights", |sidecar| {
            sidecar
                .get("/v1/watchdog")
                .unwrap()
                .1
                .contains("\"problem\":null")
        })
        .unwrap();
    for job in ["auth_cleanup", "video_cleanup"] {
        let (status, report) = sidecar.post(&format!("/v1/jobs/{job}/run")).unwrap();
        assert_eq!(
            (status, report["outcome"].as_str()),
            (200, Some("done")),
            "{report}"
        );
    }
    sidecar
}

/// A running service of the demonstration.
pub struct Service {
    pub name: &'static str,
    pub address: SocketAddr,
    _process: Process,
}

/// Starts the services by their command lines.
pub fn backends_at(sidecar: &Sidecar, database: &Postgres, files: &TempDir) -> Vec<Service> {
    let mut backends = Vec::new();
    for name in ["auth", "chat", "video", "storage"] {
        let address = free_address().unwrap();
        let arguments = replaced(
            &command(name),
            &[
                ("0.0.0.0:9000", address.to_string()),
                ("sidecar:6380", sidecar.address().unwrap().to_string()),
                ("postgres:5432", format!("127.0.0.1:{}", database.port())),
            ],
        );
        assert!(arguments.iter().any(|word| word == name), "{arguments:?}");
        let (mut process, log) = start(
            built::program("levee-demo-backend").unwrap(),
            &arguments,
            files,
            name,
        );
        let check = health_check_of("compose/demo-backend.Dockerfile");
        runs_until(name, &log, &mut process, || healthy(&check, 9000, address));
        backends.push(Service {
            name,
            address,
            _process: process,
        });
    }
    backends
}

/// Envoy by its command line, listening at these addresses: of the gateway, of the stats, of the admin interface.
pub fn envoy_before(
    backends: &[Service],
    [gateway, stats, admin]: [SocketAddr; 3],
    files: &TempDir,
) -> Process {
    let mut texts = vec![
        (
            "0.0.0.0, port_value: 8080",
            format!("127.0.0.1, port_value: {}", gateway.port()),
        ),
        (
            "0.0.0.0, port_value: 9902",
            format!("127.0.0.1, port_value: {}", stats.port()),
        ),
        ("port_value: 9901", format!("port_value: {}", admin.port())),
        (
            "/etc/envoy/levee_filter.wasm",
            env::var("LEVEE_FILTER_WASM").expect("LEVEE_FILTER_WASM, as by xtask"),
        ),
    ];
    let hosts: Vec<String> = backends
        .iter()
        .map(|Service { name, .. }| format!("address: {name}, port_value: 9000"))
        .collect();
    for (host, Service { address, .. }) in hosts.iter().zip(backends) {
        texts.push((
            host,
            format!("address: 127.0.0.1, port_value: {}", address.port()),
        ));
    }
    let config = files.path().join("envoy.yaml");
    fs::write(
        &config,
        replaced(&[read("compose/envoy.yaml")], &texts).remove(0),
    )
    .expect("write a configuration");
    let arguments = replaced(
        &command("envoy"),
        &[("/etc/envoy/envoy.yaml", config.display().to_string())],
    );
    assert_eq!(words(&services()["envoy"]["entrypoint"]), ["envoy"]);
    let program = env::var_os("ENVOY_PATH").expect("ENVOY_PATH, as by xtask");
    let validate = output_of(
        Command::new(&program)
            .args(&arguments)
            .args(["--mode", "validate"]),
    );
    validate.unwrap_or_else(|said| panic!("envoy --mode validate: {said}"));
    let (mut envoy, log) = start(program, &arguments, files, "envoy.log");
    let check = health_check(&services()["envoy"]);
    runs_until("Envoy", &log, &mut envoy, || healthy(&check, 9902, stats));
    envoy
}
