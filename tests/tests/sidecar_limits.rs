//! What the sidecar itself runs out of: a reader of its log.

use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;

use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::client::Request;
use levee_harness::process::{Process, Signal};
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::Config;
use levee_harness::wait::{GENEROUS, until_blocking};
use tempfile::TempDir;

/// A sidecar whose standard error is a pipe.
struct Piped {
    admin: SocketAddr,
    redis: SocketAddr,
    process: Process,
    _files: TempDir,
}

impl Piped {
    fn start(upstream: &Redis, stderr: PipeWriter) -> Self {
        let (admin, redis) = (free_address().unwrap(), free_address().unwrap());
        let files = tempfile::tempdir().unwrap();
        let upstream = upstream.address;
        let config = Config::new(format!(
            "admin: {{listen: '{admin}'}}\nredis:\n  - {{name: x, listen: '{redis}', upstream: 'redis://{upstream}'}}\n"
        ));
        let mut command = Command::new(built::levee().unwrap());
        config
            .add_variables(&mut command)
            .args(["run", "--config"])
            .arg(config.write(files.path()).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        Self {
            admin,
            redis,
            process: Process::spawn(command, Signal::Kill).unwrap(),
            _files: files,
        }
    }

    fn check_healthy(&self) {
        until_blocking("/healthz", GENEROUS, || {
            match Request::get("/healthz").send_blocking(self.admin) {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.status.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .unwrap();
    }
}

/// A pipe that takes nothing more until somebody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    // `/dev/stdout` opens the pipe once more: only that is non-blocking.
    let fill = Command::new("dd")
        .args([
            "if=/dev/zero",
            "of=/dev/stdout",
            "oflag=nonblock",
            "bs=4096",
        ])
        .stdout(writer.try_clone().unwrap())
        .stderr(Stdio::null())
        .status();
    assert!(!fill.unwrap().success(), "it ends when the pipe is full");
    (reader, writer)
}

#[test]
fn a_log_that_nobody_reads_stops_neither_redis_nor_admin_nor_the_end() {
    let redis = Redis::start().unwrap();
    let (mut reader, writer) = full_pipe();
    let mut sidecar = Piped::start(&redis, writer);
    sidecar.check_healthy();
    let mut client = Client::connect(sidecar.redis).unwrap();
    assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");
    assert_eq!(client.ask("GET a").unwrap(), "$1\r\n1\r\n");
    sidecar.check_healthy();
    drop(client);
    sidecar.process.signal(Signal::Terminate);
    let exit = sidecar.process.wait(GENEROUS).expect("it has ended");
    assert!(exit.success(), "{exit}");
    // What was waiting was given up, not written later.
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 0));
}

#[test]
fn a_log_that_is_read_late_is_written_whole_before_the_end() {
    let redis = Redis::start().unwrap();
    let (mut reader, writer) = full_pipe();
    let mut sidecar = Piped::start(&redis, writer);
    sidecar.check_healthy();
    let read = thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    });
    sidecar.process.signal(Signal::Terminate);
    let exit = sidecar.process.wait(GENEROUS).expect("it has ended");
    assert!(exit.success(), "{exit}");
    let all = read.join().unwrap();
    for message in ["listening", "ready", "stopping", "stopped"] {
        assert!(all.contains(message), "no {message}");
    }
}
