//! Runs the gateway of `envoy/gateway.yaml`, with Levee's filter, in front of small demonstration services or of the
//! user's own, and the sidecar in front of a Redis and at a `PostgreSQL`, until Ctrl-C. `cargo xtask up` builds both and starts this.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod args;
mod demo;
mod failure;
mod gateway;
mod guide;
mod ports;
mod redis;
mod sidecar;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use args::Args;
use demo::Demo;
use failure::Failure;
use levee_harness::postgres::Postgres;
use ports::check_free;
use sidecar::{Plan, Sidecar};

/// How often to check that all that was started is alive.
const CHECK_EVERY: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody may read it.
            let _ = writeln!(io::stderr(), "error: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(args: &Args) -> Result<(), Failure> {
    // From the first moment on, so that an early Ctrl-C cleans up too.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::other)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::other)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(Failure::other)?;
    tokio::select! {
        result = serve(args) => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}

/// Returns only when something fails. Dropping it ends all that it started.
async fn serve(args: &Args) -> Result<(), Failure> {
    let with_demo = args.upstreams.is_empty();
    // Before Envoy's start, which takes longer than to see that a port is in use.
    let plan = Plan::make(args, with_demo)?;
    check_free(args.listen, "the gateway", "--listen")?;
    check_free(args.admin, "Envoy's admin interface", "--admin")?;
    let log_folder = args.log_folder()?;
    let mut database = match &plan.database {
        Ok(()) => Some(start_database().await?),
        Err(_) => None,
    };
    let mut sidecar = Sidecar::start(args, &plan, database.as_ref(), log_folder.clone()).await?;
    let demo = if with_demo {
        let url = database.as_ref().map(|database| database.url_of("app"));
        let redis = sidecar.as_ref().and_then(|sidecar| sidecar.listen);
        Some(Demo::start(redis, url.as_deref()).await?)
    } else {
        None
    };
    let services = demo
        .as_ref()
        .map_or_else(|| args.upstreams.clone(), Demo::upstreams);
    let mut gateway = gateway::start(args, &services, log_folder).await?;
    let mut text = guide::text(&gateway, &services, demo.is_some());
    text += &guide::redis(&plan, sidecar.as_ref());
    if with_demo {
        text += &guide::database(&plan, &gateway, sidecar.as_ref(), database.as_ref());
    }
    print(&text)?;
    loop {
        gateway.check_alive().map_err(Failure::other)?;
        if let Some(sidecar) = &mut sidecar {
            sidecar.check_alive().await?;
        }
        if let Some(database) = &mut database {
            database.check_alive().map_err(Failure::other)?;
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// A reader such as `head` may leave early; the gateway goes on.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Other(format!(
            "can't write to the standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// A temporary database with the tables of the services.
async fn start_database() -> Result<Postgres, Failure> {
    tokio::task::spawn_blocking(Postgres::with_tables)
        .await
        .map_err(Failure::other)?
        .map_err(Failure::other)
}
