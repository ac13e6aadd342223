//! `levee`: the sidecar.

use clap::{Parser, Subcommand};
use levee::by_hand::{self, Wish};
use levee::check;
use levee::config::Config;
use levee::config::database::Database;
use levee::fetch::Origin;
use levee::run::ListenError;
use levee::{logging, run, status};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Reliability for services that nobody has time to change.
#[derive(Parser)]
#[command(
    name = "levee",
    version,
    after_help = "Exit codes: 0 ended as asked; 1 something failed; 2 the command line or the configuration is wrong;\n3 another instance is running the job; 5 an address is in use."
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
    /// Read the configuration, and Envoy's if it is named, and say all that is wrong, each with its line
    #[command(
        after_help = "Exit codes: 0 valid, also with warnings; 1 a file can't be read, or warnings with --strict; 2 errors.\nEach line is FILE:LINE: path: message; errors come first, and warnings say that they are warnings."
    )]
    Check {
        /// The configuration [default: levee.yaml, unless only --envoy is given]
        #[arg(long)]
        config: Option<PathBuf>,
        /// Envoy's configuration, static, in YAML or JSON: is Levee's filter set up well in it?
        #[arg(long)]
        envoy: Option<PathBuf>,
        /// Fail on warnings too
        #[arg(long)]
        strict: bool,
    },
    /// Show the state of services, Redis, jobs and the watchdog, as the sidecar sees them, until Ctrl-C
    #[command(
        after_help = "Exit codes: 0 all could be read; 1 with --once or --json, something could not be (the sidecar, or Envoy from there);\n2 the command line or the configuration is wrong.\nWhere the output is no terminal, it is printed once."
    )]
    Status {
        /// The sidecar's admin interface, `http://host:port` [default: `admin.listen` of the configuration, or 127.0.0.1:9464]
        #[arg(long, value_name = "URL", value_parser = Origin::parse, conflicts_with = "config")]
        admin: Option<Origin>,
        /// The configuration [default: levee.yaml, if it is there]
        #[arg(long)]
        config: Option<PathBuf>,
        /// Print it once
        #[arg(long)]
        once: bool,
        /// Print it once, as JSON
        #[arg(long)]
        json: bool,
        /// How often to refresh, 100ms or more
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = refresh)]
        every: Duration,
    },
    /// Cleanup jobs
    #[command(subcommand)]
    Job(Job),
    /// The database itself
    #[command(subcommand)]
    Db(Db),
}

#[derive(Subcommand)]
enum Job {
    /// Print the jobs of the configuration
    List {
        /// The configuration
        #[arg(long, default_value = "levee.yaml")]
        config: PathBuf,
    },
    /// Run a job once, from here
    Run {
        /// Its name
        name: String,
        /// Only count the rows that it would handle
        #[arg(long)]
        dry_run: bool,
        /// The configuration
        #[arg(long, default_value = "levee.yaml")]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
enum Db {
    /// Print the settings that hold each watched role to its class, and how they differ from what is in force
    Limits {
        /// Apply those that differ
        #[arg(long, conflicts_with = "rollback")]
        apply: bool,
        /// Undo what was applied, where nobody has changed it since
        #[arg(long)]
        rollback: bool,
        /// Where `--apply` writes down what it changed, and `--rollback` reads it
        #[arg(long, default_value = "levee-limits-undo.json")]
        undo_file: PathBuf,
        /// The configuration
        #[arg(long, default_value = "levee.yaml")]
        config: PathBuf,
    },
}

const USAGE: u8 = 2;
const IN_USE: u8 = 5;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check {
            config,
            envoy,
            strict,
        } => ExitCode::from(check::run(&check::Wish {
            config,
            envoy,
            strict,
        })),
        Command::Run { config } => match read(&config) {
            Ok(config) => start(config),
            Err(code) => code,
        },
        Command::Status {
            admin,
            config,
            once,
            json,
            every,
        } => {
            let admin = admin.map_or_else(|| status::read::admin_of(config.as_deref()), Ok);
            match admin {
                Ok(admin) => show(&status::Wish {
                    admin,
                    once,
                    json,
                    every,
                }),
                Err(wrong) => {
                    eprintln!("error: {wrong}");
                    ExitCode::from(USAGE)
                }
            }
        }
        Command::Job(Job::List { config }) => with_database(&config, async |database| {
            by_hand::list(database);
            Ok(0)
        }),
        Command::Job(Job::Run {
            name,
            dry_run,
            config,
        }) => with_database(&config, async |database| {
            if !database.jobs.iter().any(|job| job.name == name) {
                let names: Vec<&str> = database.jobs.iter().map(|job| job.name.as_str()).collect();
                eprintln!(
                    "error: there is no job {name:?}; there are: {}",
                    names.join(", ")
                );
                return Ok(USAGE);
            }
            let report = by_hand::run(database, &name, dry_run).await?;
            Ok(by_hand::exit_code(report.outcome))
        }),
        Command::Db(Db::Limits {
            apply,
            rollback,
            undo_file,
            config,
        }) => with_database(&config, async |database| {
            let wish = match (apply, rollback) {
                (true, _) => Wish::Apply,
                (_, true) => Wish::Rollback,
                _ => Wish::Print,
            };
            by_hand::limits(database, wish, &undo_file).await?;
            Ok(0)
        }),
    }
}

fn refresh(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|every| (Duration::from_millis(100)..=Duration::from_hours(24)).contains(every))
        .ok_or_else(|| "must be a duration from 100ms to 1day, such as 2s".to_owned())
}

fn show(wish: &status::Wish) -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let shown = runtime.block_on(status::run(wish));
            runtime.shutdown_background();
            shown
        });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does something by hand at the database of the configuration.
fn with_database(path: &Path, act: impl AsyncFnOnce(&Database) -> anyhow::Result<u8>) -> ExitCode {
    let config = match read(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let Some(database) = config.database else {
        eprintln!("error: {}: has no section database", path.display());
        return ExitCode::from(USAGE);
    };
    logging::start(config.log.format, config.log.level);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(act(&database)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
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
