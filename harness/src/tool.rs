//! Programs of the machine that check files.

use std::env;
use std::process::{Command, Stdio};

/// promtool, which checks what is made for Prometheus: `PROMTOOL_PATH`, or what is on the PATH.
pub fn promtool() -> Command {
    program(
        "PROMTOOL_PATH",
        "promtool",
        "Debian: apt-get install prometheus",
    )
}

/// Prometheus itself: `PROMETHEUS_PATH`, or what is on the PATH.
pub fn prometheus() -> Command {
    program(
        "PROMETHEUS_PATH",
        "prometheus",
        "Debian: apt-get install prometheus",
    )
}

/// docker-compose, which reads a `docker-compose.yml`: `DOCKER_COMPOSE_PATH`, or what is on the PATH.
pub fn docker_compose() -> Command {
    program(
        "DOCKER_COMPOSE_PATH",
        "docker-compose",
        "Debian: apt-get install docker-compose",
    )
}

fn program(variable: &str, name: &str, hint: &str) -> Command {
    if let Some(own) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return Command::new(own);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    let Some(found) = found else {
        panic!("{name} is missing: install it ({hint}), or name it by {variable}")
    };
    Command::new(found)
}

/// Runs a command to its end: what it said to its standard output, or, if it failed, all that it said.
pub fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complained = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}\n{said}{complained}", output.status))
}
