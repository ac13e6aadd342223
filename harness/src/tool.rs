//! Where programs are that the machine has, or that set-up has installed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::error::{Error, Result};

/// promtool, which checks rules and metrics pages: `PROMTOOL_PATH`, or the one on the PATH.
pub fn promtool() -> Result<Command> {
    program(
        "PROMTOOL_PATH",
        "promtool",
        "Debian: apt-get install prometheus",
    )
}

/// Prometheus itself: `PROMETHEUS_PATH`, or the one on the PATH.
pub fn prometheus() -> Result<Command> {
    program(
        "PROMETHEUS_PATH",
        "prometheus",
        "Debian: apt-get install prometheus",
    )
}

/// docker-compose: `DOCKER_COMPOSE_PATH`, or the one on the PATH.
pub fn docker_compose() -> Result<Command> {
    program(
        "DOCKER_COMPOSE_PATH",
        "docker-compose",
        "Debian: apt-get install docker-compose",
    )
}

/// `PgBouncer`: `PGBOUNCER_PATH`, or the one on the PATH, or where Debian has it.
pub fn pgbouncer() -> Result<Command> {
    let debian = PathBuf::from("/usr/sbin/pgbouncer");
    match find("PGBOUNCER_PATH", &["pgbouncer"]).or_else(|| debian.is_file().then_some(debian)) {
        Some(found) => Ok(Command::new(found)),
        None => Err(Error::new(
            "pgbouncer is missing: install it (Debian: apt-get install pgbouncer), or name it by PGBOUNCER_PATH",
        )),
    }
}

/// A program of `tests/clients/go`, or gRPC's interoperability `client` or `server`, in the folder that `LEVEE_GO_CLIENTS`
/// names.
pub fn go_client(name: &str) -> Result<Command> {
    let folder = env::var_os("LEVEE_GO_CLIENTS").unwrap_or_default();
    let program = PathBuf::from(folder).join(name);
    if is_executable(&program) {
        return Ok(Command::new(program));
    }
    Err(Error::new(format!(
        "LEVEE_GO_CLIENTS names no folder with the program `{name}`: start this by `cargo xtask test`, which builds \
         tests/clients/go and sets it"
    )))
}

fn program(variable: &str, name: &str, hint: &str) -> Result<Command> {
    let found = find(variable, &[name]).ok_or_else(|| {
        Error::new(format!(
            "{name} is missing: install it ({hint}), or name it by {variable}"
        ))
    })?;
    Ok(Command::new(found))
}

/// What the environment variable names; otherwise the first of these names on the PATH.
pub fn find(variable: &str, names: &[&str]) -> Option<PathBuf> {
    if let Some(own) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return Some(own.into());
    }
    names.iter().find_map(|name| on_the_path(name))
}

/// A program on the PATH.
pub fn on_the_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

/// The file that an environment variable names. `cargo xtask` sets these variables.
pub fn file_from(variable: &str) -> Result<PathBuf> {
    let path = env::var_os(variable).map(PathBuf::from).ok_or_else(|| {
        Error::new(format!(
            "{variable} is not set: start this by `cargo xtask up`, `demo` or `test`, which set it"
        ))
    })?;
    path.canonicalize()
        .ok()
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(format!(
                "{variable} names {}, which is not a file",
                path.display()
            ))
        })
}
