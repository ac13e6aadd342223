//! `docker-compose.yml`, its images and mounted files. The tests have no container engine, so each configuration is read
//! by its program, and each command line runs outside of containers.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, thread};

use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::client::Request;
use levee_harness::clock::Stopwatch;
use levee_harness::postgres::{self, Postgres};
use levee_harness::process::{Process, Signal};
use levee_harness::process::{last_lines, output_of};
use levee_harness::redis::Redis;
use levee_harness::sidecar::Sidecar;
use levee_harness::tool::{docker_compose, promtool};
use levee_harness::wait::{self, GENEROUS};
use serde_json::Value;
use tempfile::TempDir;

/// Variables without a default.
const SECRETS: [&str; 4] = [
    "APP_PASSWORD",
    "LEVEE_PASSWORD",
    "LEVEE_TOKEN",
    "POSTGRES_PASSWORD",
];

/// The Dockerfile of each service whose image is built here.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "compose/demo-backend.Dockerfile"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project's root")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// docker-compose, which finds these secrets in its environment and nothing in a file.
fn compose(secrets: &[&str]) -> Command {
    let nothing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nothing.env");
    fs::write(&nothing, "").expect("write an empty file");
    let mut compose = docker_compose().unwrap();
    compose
        .current_dir(root())
        .arg("--env-file")
        .arg(nothing)
        .arg("config");
    for secret in SECRETS {
        compose.env_remove(secret);
    }
    compose.envs(secrets.iter().map(|secret| (*secret, "secret")));
    compose
}

/// The services, as parsed by docker-compose.
fn services() -> BTreeMap<String, Value> {
    let said = output_of(&mut compose(&SECRETS))
        .unwrap_or_else(|said| panic!("docker-compose config: {said}"));
    let all: Value = serde_norway::from_str(&said).expect("YAML");
    serde_json::from_value(all["services"].clone()).expect("services by name")
}

fn words(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_else(|_| panic!("not a list of words: {value}"))
}

/// The arguments of a service: its command without the image's entry point.
fn command(service: &str) -> Vec<String> {
    words(&services()[service]["command"])
}

/// The health check of a service, without `CMD`.
fn health_check(service: &Value) -> Vec<String> {
    let test = words(&service["healthcheck"]["test"]);
    assert_eq!(test[0], "CMD", "a program, not a shell's line: {test:?}");
    test[1..].to_vec()
}

/// The health check of an image that is built here.
fn health_check_of(dockerfile: &str) -> Vec<String> {
    let text = read(dockerfile);
    let (_, after) = text.split_once("HEALTHCHECK").expect("a health check");
    let (_, after) = after.split_once("CMD ").expect("its command");
    serde_json::from_str(after.lines().next().expect("a line")).expect("a list of words")
}

/// Runs a health check whose service listens at `now` instead of at the port `port`.
fn healthy(check: &[String], port: u16, now: SocketAddr) -> bool {
    let there = |word: &String| word.contains(&port.to_string());
    assert!(
        check.iter().any(there),
        "{check:?} does not ask port {port}"
    );
    let check: Vec<String> = check
        .iter()
        .map(|word| word.replace(&port.to_string(), &now.port().to_string()))
        .collect();
    let path = [
        postgres::programs().unwrap().as_os_str(),
        &env::var_os("PATH").unwrap_or_default(),
    ]
    .map(PathBuf::from);
    let result = output_of(Command::new("timeout").arg("10").args(&check).env(
        "PATH",
        env::join_paths(path.iter().flat_map(env::split_paths)).expect("a path"),
    ));
    result.is_ok()
}

fn runs_until(what: &str, log: &Path, process: &mut Process, mut is_so: impl FnMut() -> bool) {
    let waited = Stopwatch::start();
    let said = || last_lines(&fs::read_to_string(log).unwrap_or_default(), 40);
    while !is_so() {
        assert!(
            process.exit_status().is_none(),
            "{what}: it has ended: {}",
            said()
        );
        assert!(waited.elapsed() < 2 * GENEROUS, "{what}: {}", said());
        thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Starts a program, with its output in the returned file.
fn start(
    program: impl AsRef<std::ffi::OsStr>,
    arguments: &[String],
    files: &TempDir,
    name: &str,
) -> (Process, PathBuf) {
    let log = files.path().join(name);
    let output = fs::File::create(&log).expect("make a log");
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null());
    command
        .stdout(output.try_clone().expect("share a log"))
        .stderr(output);
    let process = Process::spawn(command, Signal::Kill)
        .unwrap_or_else(|error| panic!("{}: {error}", program.as_ref().display()));
    (process, log)
}

/// Replaces each of these texts, which must be present.
fn replaced(words: &[String], texts: &[(&str, String)]) -> Vec<String> {
    for (old, _) in texts {
        assert!(
            words.iter().any(|word| word.contains(old)),
            "{old} is not in {words:?}"
        );
    }
    let replace = |word: &String| {
        texts
            .iter()
            .fold(word.clone(), |word, (old, new)| word.replace(old, new))
    };
    words.iter().map(replace).collect()
}

// --- the file, and the images --------------------------------------------------------------------------------------

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
        is_pinned(image);
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

fn is_pinned(image: &str) {
    let (_, tag) = image
        .rsplit_once(':')
        .unwrap_or_else(|| panic!("{image} has no version"));
    let numbers = tag
        .trim_start_matches('v')
        .split(['.', '-'])
        .take_while(|part| part.parse::<u32>().is_ok());
    assert!(numbers.count() >= 2, "{image} has no exact version");
}

#[expect(clippy::too_many_lines, reason = "a list of what the images must hold")]
#[test]
fn the_images_are_built_of_what_is_there_with_the_pinned_versions_and_run_as_nobody() {
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain
        .split("channel = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("a version");
    let manifest = format!(
        "{}\n{}",
        read("sidecar/Cargo.toml"),
        read("demo/Cargo.toml")
    );
    let ignored = read(".dockerignore");
    assert!(
        ignored.lines().any(|line| line == ".env") && ignored.lines().any(|line| line == ".git")
    );
    let mut built: Vec<String> = services()
        .values()
        .filter_map(|service| service["build"]["dockerfile"].as_str().map(str::to_owned))
        .collect();
    built.sort();
    built.dedup();
    assert_eq!(built, DOCKERFILES);
    for path in DOCKERFILES {
        let text = read(path);
        let instructions: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let of = |name: &'static str| instructions.iter().filter(move |words| words[0] == name);
        let bases: Vec<&str> = of("FROM").map(|words| words[1]).collect();
        assert_eq!(bases.len(), 2, "{path}: one to build in, one to run in");
        for base in &bases {
            is_pinned(base);
        }
        assert_eq!(bases[0], format!("rust:{version}-slim-bookworm"), "{path}");
        assert!(
            bases[1].starts_with("debian:12."),
            "{path}: bookworm too, or the C library is another"
        );
        for copy in of("COPY").filter(|words| !words[1].starts_with("--from=")) {
            assert!(
                copy[1..copy.len() - 1]
                    .iter()
                    .all(|source| root().join(source).exists()),
                "{path}: {copy:?}"
            );
        }
        let program = of("COPY").next_back().expect("the program")[2]
            .rsplit('/')
            .next()
            .expect("its name");
        assert!(
            text.contains(&format!("--bin {program}")),
            "{path}: {program} is not what was built"
        );
        assert!(
            text.contains(&format!("ENTRYPOINT [\"/usr/local/bin/{program}\"]")),
            "{path}"
        );
        let package = text
            .split("--package ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .expect("a package");
        assert!(
            manifest.contains(&format!("name = \"{package}\"")),
            "{path}: {package}"
        );
        let user = of("USER")
            .next()
            .unwrap_or_else(|| panic!("{path}: no user"))[1];
        for service in services()
            .values()
            .filter(|service| service["build"]["dockerfile"] == path)
        {
            assert_eq!(service["user"], user, "{path}");
        }
    }
    // What building the workspace requires.
    let workspace = read("Cargo.toml");
    let members = workspace
        .split("members = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .expect("members");
    for member in members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
    {
        assert!(
            !ignored.lines().any(|line| line == member),
            ".dockerignore leaves out {member}"
        );
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

// --- the configurations --------------------------------------------------------------------------------------------

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

/// Lays what is mounted into Prometheus into a folder, with these texts replaced.
fn prometheus_files(texts: &[(&str, String)]) -> TempDir {
    let files = tempfile::tempdir().expect("make a directory");
    let config = replaced(&[read("compose/prometheus.yml")], texts).remove(0);
    fs::write(files.path().join("prometheus.yml"), config).expect("write a configuration");
    fs::copy(
        root().join("alerts/levee.rules.yaml"),
        files.path().join("levee.rules.yaml"),
    )
    .expect("copy the rules");
    files
}

#[test]
fn prometheus_yml_is_valid_with_the_rules_where_they_are_mounted() {
    let mounts = services()["prometheus"]["volumes"].to_string();
    for (source, target) in [
        ("compose/prometheus.yml", "prometheus.yml"),
        ("alerts/levee.rules.yaml", "levee.rules.yaml"),
    ] {
        assert!(
            mounts.contains(&format!("{source}:/etc/prometheus/{target}:ro")),
            "{mounts}"
        );
    }
    let files = prometheus_files(&[]);
    let mut promtool = promtool().unwrap();
    let said = output_of(
        promtool
            .args(["check", "config"])
            .arg(files.path().join("prometheus.yml")),
    );
    let said = said.unwrap_or_else(|said| panic!("promtool check config: {said}"));
    assert!(said.contains("rules found"), "{said}");
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

// --- the command lines ---------------------------------------------------------------------------------------------

#[test]
fn redis_starts_by_its_command_line_and_is_healthy() {
    let command = command("redis");
    assert_eq!(command[0], "redis-server");
    assert!(
        command.windows(2).any(|pair| pair == ["--port", "6379"]),
        "{command:?}"
    );
    let own = ["--bind", "--port", "--dir"];
    let options: Vec<&str> = command[1..]
        .chunks(2)
        .filter(|pair| !own.contains(&pair[0].as_str()))
        .flatten()
        .map(String::as_str)
        .collect();
    let redis = Redis::start_with(&options).unwrap();
    let policy = redis
        .client()
        .unwrap()
        .ask("CONFIG GET maxmemory-policy")
        .unwrap();
    assert!(policy.contains("noeviction"), "{policy}");
    let check = health_check(&services()["redis"]);
    assert!(healthy(&check, 6379, redis.address));
    assert!(
        !healthy(&check, 6379, free_address().unwrap()),
        "nobody is there"
    );
}

#[test]
fn all_of_it_works_together_by_its_command_lines_outside_of_containers() {
    let files = tempfile::tempdir().expect("make a directory");
    let database = database();
    let redis = Redis::start().unwrap();
    let [gateway, stats, admin] = [
        free_address().unwrap(),
        free_address().unwrap(),
        free_address().unwrap(),
    ];
    let sidecar = sidecar_at(&redis, &database, stats);
    let backends = backends_at(&sidecar, &database, &files);
    let _envoy = envoy_before(&backends, [gateway, stats, admin], &files);
    for Service { name, .. } in &backends {
        let answer =
            wait_for(Request::get(&format!("/v1/{name}/x")).send(gateway)).expect("an answer");
        assert!(
            answer.status == 200 && answer.text().contains(name),
            "{name}: {}",
            answer.text()
        );
    }
    wait_for(requests_reach_redis_and_the_database(gateway));
    wait_for(only_what_reads_is_passed_on_to_the_admin_interface(
        stats, admin,
    ));
    prometheus_reads(&sidecar, stats, &files);
}

/// Starts the sidecar with its configuration, and these addresses.
fn sidecar_at(redis: &Redis, database: &Postgres, envoy: SocketAddr) -> Sidecar {
    // Files, since the sidecar gets no environment here; `levee check` above verifies the variables' names.
    let levee = replaced(
        &[read("compose/levee.yaml")],
        &[
            ("0.0.0.0:9464", "127.0.0.1:0".into()),
            ("0.0.0.0:6380", "127.0.0.1:0".into()),
            ("redis:6379", redis.address.to_string()),
            ("envoy:9902", envoy.to_string()),
            (
                "token_env: LEVEE_TOKEN",
                "token_file: '{files}/token'".into(),
            ),
            ("url_env: DATABASE_URL", "url_file: '{files}/url'".into()),
        ],
    );
    let sidecar = Sidecar::start(&format!(
        "{}\n#url {}\n",
        levee[0],
        database.url_of("levee")
    ))
    .unwrap();
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

/// Starts a demonstration service by its command line, and returns its address.
struct Service {
    name: &'static str,
    address: SocketAddr,
    _process: Process,
}

fn backends_at(sidecar: &Sidecar, database: &Postgres, files: &TempDir) -> Vec<Service> {
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
fn envoy_before(
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

/// Prometheus by its command line reads the sidecar and Envoy, and has the alerts.
fn prometheus_reads(sidecar: &Sidecar, stats: SocketAddr, files: &TempDir) {
    let web = free_address().unwrap();
    let prometheus = prometheus_files(&[
        ("sidecar:9464", sidecar.admin.to_string()),
        ("envoy:9902", stats.to_string()),
        ("scrape_interval: 15s", "scrape_interval: 1s".into()),
    ]);
    let mut arguments = replaced(
        &command("prometheus"),
        &[
            ("/etc/prometheus", prometheus.path().display().to_string()),
            (
                "=/prometheus",
                format!("={}", files.path().join("metrics").display()),
            ),
        ],
    );
    arguments.push(format!("--web.listen-address={web}"));
    let (mut process, log) = start("prometheus", &arguments, files, "prometheus.log");
    runs_until("Prometheus", &log, &mut process, || {
        std::net::TcpStream::connect(web).is_ok()
    });
    wait_for(it_reads_both_and_has_the_alerts(web));
    wait_for(each_of_the_filters_metrics_is_there_once(web));
}

/// Blocks on a future: this test is synchronous.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(future)
}

/// A database initialized by the mounted script, with the command line's settings.
fn database() -> Postgres {
    let command = command("postgres");
    assert_eq!(command[0], "postgres");
    let settings: Vec<&str> = command[1..]
        .chunks(2)
        .map(|pair| pair[1].as_str())
        .filter(|setting| !setting.starts_with("listen_addresses"))
        .collect();
    let database = Postgres::start_with(&settings).unwrap();
    let check = health_check(&services()["postgres"]);
    assert!(healthy(
        &check,
        5432,
        ([127, 0, 0, 1], database.port()).into()
    ));
    assert!(
        !healthy(&check, 5432, free_address().unwrap()),
        "nobody is there"
    );
    let path = [
        postgres::programs().unwrap().into(),
        PathBuf::from(env::var_os("PATH").unwrap_or_default()),
    ];
    let mut script = Command::new(root().join("compose/postgres-init.sh"));
    script
        .env(
            "PATH",
            env::join_paths(path.iter().flat_map(env::split_paths)).expect("a path"),
        )
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", database.port().to_string())
        .env("APP_PASSWORD", "it's")
        .env("LEVEE_PASSWORD", "secret");
    output_of(&mut script).unwrap_or_else(|said| panic!("postgres-init.sh: {said}"));
    assert_eq!(
        database.number("SELECT count(*) FROM pg_authid WHERE rolname IN ('app', 'levee') AND rolpassword LIKE 'SCRAM%'").unwrap(),
        2
    );
    database
}

async fn only_what_reads_is_passed_on_to_the_admin_interface(stats: SocketAddr, admin: SocketAddr) {
    let page = Request::get("/stats/prometheus")
        .send(stats)
        .await
        .expect("an answer");
    assert!(
        page.status == 200 && page.text().contains("circuit_breaker_state{"),
        "{}",
        page.status
    );
    for path in [
        "/quitquitquit",
        "/config_dump",
        "/stats/../quitquitquit",
        "/stats/recentlookups/enable",
    ] {
        for request in [Request::get(path), Request::post(path, "")] {
            assert_eq!(
                request.send(stats).await.expect("an answer").status,
                404,
                "{path}"
            );
        }
    }
    assert_eq!(
        Request::post("/stats", "")
            .send(stats)
            .await
            .expect("an answer")
            .status,
        404
    );
    assert_eq!(
        Request::get("/ready")
            .send(admin)
            .await
            .expect("it still runs")
            .status,
        200
    );
}

async fn requests_reach_redis_and_the_database(gateway: SocketAddr) {
    let login = Request::post(
        "/v1/auth/login",
        r#"{"user": "5f0c1a52-54a2-4d0b-9f0c-000000000001"}"#,
    )
    .header("content-type", "application/json")
    .send(gateway)
    .await
    .expect("an answer");
    assert!(
        login.status < 300,
        "by Redis and the database: {} {}",
        login.status,
        login.text()
    );
}

async fn it_reads_both_and_has_the_alerts(web: SocketAddr) {
    wait::until("both to be read", 2 * GENEROUS, || async {
        let answer = Request::get("/api/v1/query?query=up")
            .send(web)
            .await
            .map_err(|error| error.to_string())?;
        let text = answer.text();
        let page: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        let up = page["data"]["result"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["value"][1] == "1");
        if up.count() == 2 { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    let rules = Request::get("/api/v1/rules")
        .send(web)
        .await
        .expect("an answer")
        .text();
    assert!(
        rules.contains("LeveeBreakerOpen") && !rules.contains("\"health\":\"err\""),
        "{rules}"
    );
}

/// Of the sidecar's page, which has what Envoy says of the filter; not of Envoy's own as well.
async fn each_of_the_filters_metrics_is_there_once(web: SocketAddr) {
    // count by (job) (...), as a query in a URL.
    let query = "count%20by%20(job)%20(circuit_breaker_state%7Bservice%3D%22auth%22%7D)";
    wait::until("the breaker of auth", 2 * GENEROUS, || async {
        let path = format!("/api/v1/query?query={query}");
        let answer = Request::get(&path)
            .send(web)
            .await
            .map_err(|error| error.to_string())?;
        let text = answer.text();
        let page: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        match page["data"]["result"].as_array().map(Vec::as_slice) {
            Some([one]) if one["metric"]["job"] == "levee" && one["value"][1] == "1" => Ok(()),
            _ => Err(text),
        }
    })
    .await
    .unwrap();
}
