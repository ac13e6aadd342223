//! The programs of the services, run outside of containers.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use levee_harness::clock::Stopwatch;
use levee_harness::postgres;
use levee_harness::process::{Process, Signal, last_lines, output_of};
use levee_harness::wait::GENEROUS;
use tempfile::TempDir;

/// Runs a health check whose service listens at `now` instead of at the port `port`.
pub fn healthy(check: &[String], port: u16, now: SocketAddr) -> bool {
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

/// Waits until `is_so`, while the process runs.
pub fn runs_until(what: &str, log: &Path, process: &mut Process, mut is_so: impl FnMut() -> bool) {
    let waited = Stopwatch::start();
    let said = || last_lines(&fs::read_to_string(log).unwrap_or_default(), 40);
    while !is_so() {
        assert!(
            process.exit_status().is_none(),
            "{what}: it has ended: {}",
            said()
        );
        assert!(waited.elapsed() < 2 * GENEROUS, "{what}: {}", said());
        thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a program, with its output in the returned file.
pub fn start(
    program: impl AsRef<OsStr>,
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

/// Blocks on a future: these tests are synchronous.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(future)
}
