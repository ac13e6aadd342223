//! `levee`: the sidecar.

use clap::{Parser, Subcommand};
use levee::config::Config;
use levee::run::ListenError;
use levee::{logging, run};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Reliability for services that nobody has time to change.
#[derive(Parser)]
#[command(
    name = "levee",
    version,
    after_help = "Exit codes: 0 ended as asked; 1 something failed; 2 the command line or the configuration is wrong;\n5 an address is in use."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or Ctrl-C
    Run {
        /// The configuration
        #[arg(long, default_value = "levee.yaml")]
        config: PathBuf,
    },
    /// Read the configuration, and say all that is wrong with it
    Check {
        /// The configuration
        #[arg(long, default_value = "levee.yaml")]
        config: PathBuf,
    },
}

const USAGE: u8 = 2;
const IN_USE: u8 = 5;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check { config } => match read(&config) {
            Ok(_) => {
                println!("{}: valid", config.display());
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
        Command::Run { config } => match read(&config) {
            Ok(config) => start(config),
            Err(code) => code,
        },
    }
}

/// Reads a configuration, or prints all its mistakes.
fn read(path: &Path) -> Result<Config, ExitCode> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        eprintln!("error: {} can't be read: {error}", path.display());
        ExitCode::from(USAGE)
    })?;
    Config::parse(&text).map_err(|errors| {
        for error in &errors {
            eprintln!("error: {}: {error}", path.display());
        }
        ExitCode::from(USAGE)
    })
}

fn start(config: Config) -> ExitCode {
    logging::start(config.log.format, config.log.level);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run::run(config));
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<ListenError>() {
                Some(failed) if failed.source.kind() == std::io::ErrorKind::AddrInUse => {
                    ExitCode::from(IN_USE)
                }
                _ => ExitCode::FAILURE,
            }
        }
    }
}
