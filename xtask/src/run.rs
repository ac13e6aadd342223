//! Building the filter and the sidecar, and running programs.

use crate::envoy;
use crate::failure::Failure;
use crate::machine::cargo;
use crate::postgres;
use crate::project::Project;
use crate::tools;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// How often a program is polled for its end.
const POLL: Duration = Duration::from_millis(10);

/// Builds the filter for Envoy.
pub fn build_filter(project: &Project) -> Result<(), Failure> {
    tools::wasm_targets(project)?;
    // Not on the standard output, which may be read by programs.
    eprintln!("==> building the filter");
    succeed(&mut filter_build(project), FILTER_FAILED)
}

const FILTER_FAILED: &str = "the filter could not be built";

fn filter_build(project: &Project) -> Command {
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--release"])
        .args(["--package=levee-filter", "--target=wasm32-wasip1"]);
    build
}

/// Builds the sidecar and the programs of the demonstration, which end-to-end tests start.
pub fn build_native(project: &Project) -> Result<(), Failure> {
    eprintln!("==> building the sidecar and the demonstration");
    succeed(&mut native_build(project, &DEMONSTRATION), NATIVE_FAILED)
}

/// The programs of `levee-demo`.
const DEMONSTRATION: [&str; 3] = ["levee-up", "levee-demo", "levee-demo-backend"];

/// Starts the gateway until Ctrl-C.
pub fn up(project: &Project, arguments: &[String]) -> Result<(), Failure> {
    become_program(project, "levee-up", &["levee-up"], arguments)
}

/// Plays the scenarios.
pub fn demo(project: &Project, arguments: &[String]) -> Result<(), Failure> {
    let builds = ["levee-demo", "levee-demo-backend"];
    become_program(project, "levee-demo", &builds, arguments)
}

/// Builds the filter, the sidecar and the programs `builds`, and becomes the program `name`: it gets Ctrl-C, and its exit
/// code is this command's.
fn become_program(
    project: &Project,
    name: &str,
    builds: &[&str],
    arguments: &[String],
) -> Result<(), Failure> {
    let asks_only = arguments
        .iter()
        .any(|argument| matches!(argument.as_str(), "-h" | "--help" | "-V" | "--version"));
    let mut program = Command::new(project.target()?.join("debug").join(name));
    // In the caller's directory, which relative paths in the arguments start from.
    program.args(arguments);
    if asks_only {
        eprintln!("==> building the demonstration");
        succeed(&mut native_build(project, builds), NATIVE_FAILED)?;
    } else {
        program
            .env("REDIS_SERVER_PATH", tools::redis_server(project)?)
            .env("POSTGRES_BIN_PATH", postgres::programs(project)?)
            .env("ENVOY_PATH", envoy::program(project)?)
            .env("LEVEE_FILTER_WASM", project.filter()?)
            .env("LEVEE_BIN", project.sidecar()?);
        build_all(project, builds)?;
    }
    Err(Failure::Check(format!(
        "{name} could not be started: {}",
        program.exec()
    )))
}

const NATIVE_FAILED: &str = "the sidecar and the demonstration could not be built";

/// One call for all native programs: dependencies get one set of features, and compilers run side by side.
fn native_build(project: &Project, programs: &[&str]) -> Command {
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked"])
        .args(["--package=levee", "--bin=levee", "--package=levee-demo"])
        .args(programs.iter().map(|program| format!("--bin={program}")));
    build
}

/// Builds the filter beside the native programs. The two are for different targets, so neither waits for the other's lock,
/// and the last step of each, which is a single thread's, overlaps with the other.
fn build_all(project: &Project, programs: &[&str]) -> Result<(), Failure> {
    tools::wasm_targets(project)?;
    eprintln!("==> building the filter, the sidecar and the demonstration");
    let mut filter = filter_build(project)
        // Two progress bars would overwrite each other.
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| Failure::Check(format!("{FILTER_FAILED}: cargo: {error}")))?;
    let native = succeed(&mut native_build(project, programs), NATIVE_FAILED);
    let filter = match filter.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Check(format!("{FILTER_FAILED} ({status})"))),
        Err(error) => Err(Failure::Check(format!("{FILTER_FAILED}: {error}"))),
    };
    native.and(filter)
}

/// The standard output of a program that must end within `limit`. Its error output is shown.
pub fn output_within(limit: Duration, command: &mut Command) -> Result<String, Failure> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let failed = |what: &str| Failure::Check(format!("{command:?} {what}"));
    let mut child = child.map_err(|error| failed(&format!("can't be started: {error}")))?;
    let mut stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(stdout) = &mut stdout {
            let _ = stdout.read_to_end(&mut said);
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let mut left = limit;
    loop {
        match child.try_wait() {
            Ok(None) if !left.is_zero() => {
                thread::sleep(POLL);
                left = left.saturating_sub(POLL);
            }
            Ok(Some(status)) => {
                let said = reader.join().unwrap_or_default();
                return if status.success() {
                    Ok(said)
                } else {
                    Err(failed(&format!("failed ({status}): {said}")))
                };
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(&format!("did not end within {limit:?}")));
            }
        }
    }
}

/// Runs a program to its end.
pub fn succeed(command: &mut Command, on_failure: &str) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Check(format!("{on_failure} ({status})"))),
        Err(error) => Err(Failure::Check(format!(
            "{on_failure}: {}: {error}",
            command.get_program().to_string_lossy()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let limit = Duration::from_millis(50);
        let failure = output_within(limit, Command::new("sleep").arg("600")).unwrap_err();
        assert!(
            failure.to_string().contains("did not end within 50ms"),
            "{failure}"
        );
    }

    #[test]
    fn the_output_of_a_program_is_returned_unless_it_fails() {
        let limit = Duration::from_mins(1);
        let run = |script| output_within(limit, Command::new("sh").args(["-c", script]));
        assert_eq!(run("echo 1").unwrap(), "1\n");
        assert!(
            run("exit 3")
                .unwrap_err()
                .to_string()
                .contains("exit status: 3")
        );
    }
}
