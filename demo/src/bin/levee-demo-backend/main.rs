//! `levee-demo-backend`: one service of the demonstration, as a program. What it does is in
//! `demo/src/demo_backend/`.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use levee_demo::demo_backend::Service;
use tokio::net::TcpListener;

/// A small service that holds sessions in Redis, and tokens and calls in `PostgreSQL`.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where it listens. Port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Where sessions are, such as <redis://127.0.0.1:6379>. Without it, what needs them answers 501.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,

    /// Where tokens and calls are, such as <postgres://app@127.0.0.1:5432/app>. Without it, what needs them answers 501.
    #[arg(long, value_name = "URL")]
    database: Option<String>,

    /// Its name, for its answers.
    #[arg(long, value_name = "NAME", default_value = "auth")]
    name: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), String> {
    let service = Service::new(&args.name, args.redis.as_deref(), args.database.as_deref())?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| format!("listen on {}: {error}", args.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("{} listens on {address}", args.name);
    service
        .serve(listener)
        .await
        .map_err(|error| error.to_string())
}
