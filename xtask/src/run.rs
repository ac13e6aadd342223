//! Building the filter, and running what has it in Envoy.

use crate::failure::Failure;
use crate::machine;
use crate::project::Project;
use crate::tools::{self, cargo};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// How often it is looked whether a program has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Builds the filter for Envoy.
pub fn build_filter(project: &Project) -> Result<(), Failure> {
    tools::wasm_targets(project)?;
    // Not to the standard output, where a command may print what programs read.
    eprintln!("==> building the filter");
    let mut build = cargo();
    build.current_dir(&project.root).args([
        "build",
        "--locked",
        "--release",
        "--package=levee-filter",
        "--target=wasm32-wasip1",
    ]);
    succeed(&mut build, "the filter could not be built")
}

/// Builds the sidecar, as the tests are built: so they share what both need.
pub fn build_sidecar(project: &Project) -> Result<(), Failure> {
    println!("==> building the sidecar");
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--package=levee"]);
    succeed(&mut build, "the sidecar could not be built")
}

/// Builds the programs of the demonstration, which end-to-end tests start.
pub fn build_demo(project: &Project) -> Result<(), Failure> {
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--package=levee-demo", "--bins"]);
    succeed(&mut build, "the demonstration could not be built")
}

/// Starts the gateway until Ctrl-C.
pub fn up(project: &Project, arguments: &[String]) -> Result<(), Failure> {
    become_program(project, "levee-up", &["levee-up"], arguments, &|_| Ok(()))
}

/// Plays the scenarios.
pub fn demo(project: &Project, arguments: &[String]) -> Result<(), Failure> {
    let needs = |demo: &mut Command| {
        demo.env("REDIS_SERVER_PATH", machine::redis_server()?)
            .env("POSTGRES_BIN_PATH", machine::postgres()?);
        Ok(())
    };
    let builds = ["levee-demo", "levee-demo-backend"];
    become_program(project, "levee-demo", &builds, arguments, &needs)
}

/// Builds the filter, the sidecar and these programs of the demonstration, and becomes the one that is named: Ctrl-C reaches it,
/// its exit code is this command's.
fn become_program(
    project: &Project,
    name: &str,
    builds: &[&str],
    arguments: &[String],
    needs: &dyn Fn(&mut Command) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let asks_only = arguments
        .iter()
        .any(|argument| matches!(argument.as_str(), "-h" | "--help" | "-V" | "--version"));
    let mut program = Command::new(project.target()?.join("debug").join(name));
    program.current_dir(&project.root).args(arguments);
    if !asks_only {
        needs(&mut program)?;
        program
            .env("ENVOY_PATH", tools::envoy(project)?)
            .env("LEVEE_FILTER_WASM", project.filter()?);
        build_filter(project)?;
        build_sidecar(project)?;
        program.env("LEVEE_BIN", project.sidecar()?);
    }
    println!("==> building the demonstration");
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--package=levee-demo"])
        .args(builds.iter().map(|program| format!("--bin={program}")));
    succeed(&mut build, &format!("{name} could not be built"))?;
    Err(Failure::Check(format!(
        "{name} could not be started: {}",
        program.exec()
    )))
}

/// What a program prints that is to end within `limit`. What it says besides is seen.
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
                thread::sleep(LOOK);
                left = left.saturating_sub(LOOK);
            }
            Ok(Some(status)) => {
                let said = reader.join().unwrap_or_default();
                return if status.success() {
                    Ok(said)
                } else {
                    Err(failed(&format!("has failed ({status}): {said}")))
                };
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(&format!("has not ended after {limit:?}")));
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
    fn a_program_that_does_not_end_is_ended() {
        let limit = Duration::from_millis(50);
        let failure = output_within(limit, Command::new("sleep").arg("600")).unwrap_err();
        assert!(
            failure.to_string().contains("has not ended after 50ms"),
            "{failure}"
        );
    }

    #[test]
    fn what_a_program_prints_is_told_unless_it_fails() {
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
