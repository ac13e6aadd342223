//! Runs the gateway of `envoy/gateway.yaml`, with Levee's filter, in front of small demonstration services or of the
//! user's own, and the sidecar in front of a Redis, until Ctrl-C. `cargo xtask up` builds both and starts this.

mod args;
mod demo;
mod failure;
mod gateway;
mod guide;
mod redis;
mod sidecar;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use args::Args;
use demo::Demo;
use failure::Failure;
use gateway::Gateway;
use sidecar::{Plan, Sidecar};

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
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
    let demo = if args.upstreams.is_empty() {
        Some(Demo::start().await?)
    } else {
        None
    };
    let services = demo
        .as_ref()
        .map_or_else(|| args.upstreams.clone(), Demo::upstreams);
    // Before Envoy's start, which takes longer than to see that a port is in use.
    let plan = Plan::make(args)?;
    let mut gateway = Gateway::start(args, &services).await?;
    let mut sidecar = match plan {
        Ok(plan) => Ok(Sidecar::start(args, plan).await?),
        Err(why) => Err(why),
    };
    print!("{}", guide::text(&gateway, &services, demo.is_some()));
    print!("{}", guide::redis(sidecar.as_ref().map_err(|why| *why)));
    match &mut sidecar {
        Ok(sidecar) => tokio::select! {
            ended = gateway.until_it_ends() => ended,
            ended = sidecar.until_it_ends() => ended,
        },
        Err(_) => gateway.until_it_ends().await,
    }
}
