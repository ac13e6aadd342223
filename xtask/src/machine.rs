//! What the machine has.

use crate::failure::Failure;
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where `program` is, if it is on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// What `command` prints, if it runs and succeeds.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// A Python 3 with pip, which fetches `what`.
pub fn python(what: &str) -> Result<PathBuf, Failure> {
    let python = find("python3").ok_or_else(|| {
        Failure::Missing(format!(
            "python3 is missing: its pip fetches {what}. Install Python 3 with pip (Debian: \
             python3-pip), or see `cargo xtask --help` for how to bring your own"
        ))
    })?;
    match output_of(Command::new(&python).args(["-m", "pip", "--version"])) {
        Some(_) => Ok(python),
        None => Err(Failure::Missing(format!(
            "{} has no pip, which fetches {what}. Install it (Debian: python3-pip), or see \
             `cargo xtask --help` for how to bring your own",
            python.display()
        ))),
    }
}

/// The folder of `initdb` and `postgres` to test with: `POSTGRES_BIN_PATH`, or the machine's.
pub fn postgres() -> Result<PathBuf, Failure> {
    let is_it = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_receivewal"]
            .iter()
            .all(|name| folder.join(name).is_file())
    };
    if let Some(own) = env::var_os("POSTGRES_BIN_PATH").filter(|path| !path.is_empty()) {
        let own = PathBuf::from(own);
        return if is_it(&own) {
            Ok(own)
        } else {
            Err(Failure::Missing(format!(
                "POSTGRES_BIN_PATH={} has no initdb, postgres and pg_receivewal",
                own.display()
            )))
        };
    }
    // Debian keeps each version in a folder of its own, and none of them on the PATH.
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .collect();
    debian.sort();
    let mut folders: Vec<PathBuf> = debian.into_iter().rev().map(|(_, path)| path).collect();
    let path = env::var_os("PATH").unwrap_or_default();
    folders.extend(env::split_paths(&path));
    folders.into_iter().find(is_it).ok_or_else(|| {
        Failure::Missing(
            "PostgreSQL is missing. Install it (Debian: postgresql; Fedora: postgresql-server; macOS: brew install \
             postgresql), or set POSTGRES_BIN_PATH to the folder of initdb and postgres"
                .to_owned(),
        )
    })
}

/// The redis-server to test with: `REDIS_SERVER_PATH`, or the machine's.
pub fn redis_server() -> Result<PathBuf, Failure> {
    if let Some(own) = env::var_os("REDIS_SERVER_PATH").filter(|path| !path.is_empty()) {
        return Ok(own.into());
    }
    find("redis-server").ok_or_else(|| {
        Failure::Missing(
            "redis-server is missing: the Redis proxy is tested with it. Install it (Debian: \
             redis-server), or set REDIS_SERVER_PATH"
                .to_owned(),
        )
    })
}

/// Whether this is a continuous integration run, where nothing may be skipped for lack of a tool.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}
