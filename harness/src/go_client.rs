//! Clients in Go, and gRPC's own interoperability programs: what grpc-go and quic-go do with a gateway.
//!
//! `cargo xtask` builds them from `tests/clients/go`.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::address::free_address;
use crate::certificate::Certificate;
use crate::error::{Context, Error, Result};
use crate::process::{Output, Process, Signal};
use crate::tool::go_client;
use crate::wait;

/// The cases of gRPC's interoperability test that need neither credentials nor a server with an identity
/// (<https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>).
pub const INTEROP_CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
    "orca_per_rpc",
    "orca_oob",
];

/// Lets the client read the load reports that the cases `orca_...` are about.
const LOAD_REPORTS: &str =
    r#"{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}"#;

/// gRPC's interoperability server. Dropping it ends it.
#[derive(Debug)]
pub struct InteropServer {
    address: SocketAddr,
    _process: Process,
}

impl InteropServer {
    /// Starts grpc-go's.
    pub fn start() -> Result<Self> {
        let address = free_address()?;
        let mut command = go_client("server")?;
        command
            .args(["--port", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Process::spawn(command, Signal::Kill)?;
        let what = "gRPC's interoperability server";
        process.until_it_listens(what, address, wait::GENEROUS, Output::NotKept)?;
        Ok(Self {
            address,
            _process: process,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Runs a case with grpc-go's client through the gateway at `to`. `forwarded_for` is the address that its calls claim to
/// come from. The error says what the client saw.
pub async fn interop(case: &str, to: SocketAddr, forwarded_for: &str) -> Result<()> {
    let mut command = go_client("client")?;
    command
        .args(["--server_host", &to.ip().to_string()])
        .args(["--server_port", &to.port().to_string()])
        .args(["--test_case", case])
        .args(["--service_config_json", LOAD_REPORTS])
        .arg("--additional_metadata")
        .arg(format!("x-forwarded-for:{forwarded_for}"));
    run(command, case).await.map(drop)
}

/// Sends `count` GETs over HTTP/3, one after the other on one connection. Each is cancelled after `deadline`. Returns a line for
/// each: the status and Levee's reason, or `error` and what went wrong.
pub async fn http3(
    to: SocketAddr,
    path: &str,
    certificate: &Certificate,
    count: usize,
    deadline: Duration,
) -> Result<Vec<String>> {
    let mut command = go_client("http3")?;
    command
        .arg("-certificate")
        .arg(&certificate.certificate)
        .args(["-count", &count.to_string()])
        .args(["-deadline", &format!("{}ms", deadline.as_millis())])
        .arg(format!("https://{to}{path}"));
    let printed = run(command, "the client of HTTP/3").await?;
    Ok(printed
        .lines()
        .map(|line| line.trim().to_string())
        .collect())
}

/// How long a client may take for all that it does.
const BOUND: Duration = Duration::from_mins(1);

/// Runs a client to its end. Returns what it printed; if it fails, that is in the error.
async fn run(mut command: Command, what: &str) -> Result<String> {
    let output = NamedTempFile::new().context("a file for a client's output")?;
    let both = || output.reopen().context("reopen a client's output");
    command.stdin(Stdio::null()).stdout(both()?).stderr(both()?);
    let mut process = Process::spawn(command, Signal::Kill)?;
    let ended = wait::until_now(&format!("{what} to end"), BOUND, || {
        process.exit_status().ok_or("it runs")
    })
    .await?;
    let printed = std::fs::read_to_string(output.path()).context("read a client's output")?;
    if ended.success() {
        return Ok(printed);
    }
    Err(Error::new(format!("{what} failed, {ended}:\n{printed}")))
}
