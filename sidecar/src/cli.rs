//! The command line. Its doc comments are the help texts.

use crate::fetch::Origin;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::time::Duration;

/// Reliability for services that nobody has time to change.
#[derive(Debug, Parser)]
#[command(
    name = "levee",
    version,
    after_help = "Exit codes: 0 ended as requested; 1 failed; 2 the command line or the configuration is wrong;\n3 another instance is running the job; 5 an address is in use."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until SIGTERM or Ctrl-C
    Run(Run),
    /// Report all mistakes in the configuration, and in Envoy's if given, each with its line
    #[command(
        after_help = "Exit codes: 0 valid, also with warnings; 1 a file or the database can't be read, or warnings with --strict; 2 errors.\nEach line is FILE:LINE: path: message; errors come first, and warnings say that they are warnings."
    )]
    Check(Check),
    /// Show the state of services, Redis, jobs and the watchdog, as the sidecar sees them, until Ctrl-C
    #[command(
        after_help = "Exit codes: 0 everything could be read; 1 with --once or --json, the sidecar or its Envoy could not;\n2 the command line or the configuration is wrong.\nIf the output is no terminal, it is printed once."
    )]
    Status(Status),
    /// Let the running sidecar read its configuration again
    #[command(
        after_help = "Exit codes: 0 the configuration is in force; 1 the sidecar can't be reached or could not apply it;\n2 the configuration is wrong, and the old one stays in force."
    )]
    Reload(ConfigFile),
    /// List cleanup jobs, or run one
    #[command(subcommand)]
    Job(Job),
    /// Manage the database's limits
    #[command(subcommand)]
    Db(Db),
    /// Print a script that completes this command line in a shell
    Completions(Completions),
    /// Print the manual page, or write one for each command
    Man(Man),
}

// The structures have no doc comments: clap would show them in place of the commands' texts.

#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration
    #[arg(long, default_value = "levee.yaml")]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Listen beside a running instance of the same user, which is to be stopped (SIGTERM) once this one is ready
    #[arg(long)]
    pub take_over: bool,
    #[command(flatten)]
    pub file: ConfigFile,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The configuration [default: levee.yaml, unless only --envoy is given]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Envoy's static configuration, in YAML or JSON: checks how Levee's filter is set up in it
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// The Envoy that validates its configuration [default: the one on PATH, or in .tools/]
    #[arg(long, value_name = "PATH", requires = "envoy")]
    pub envoy_binary: Option<PathBuf>,
    /// Also ask the database, whether each job can run there as it is configured; changes nothing
    #[arg(long)]
    pub database: bool,
    /// Fail on warnings too
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Args)]
pub struct Status {
    /// The sidecar's admin interface, `http://host:port` [default: `admin.listen` of the configuration, or 127.0.0.1:9464]
    #[arg(long, value_name = "URL", value_parser = Origin::parse, conflicts_with = "config")]
    pub admin: Option<Origin>,
    /// The configuration [default: levee.yaml, if it exists]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Print it once
    #[arg(long)]
    pub once: bool,
    /// Print it once, as JSON
    #[arg(long)]
    pub json: bool,
    /// How often to refresh, 100ms or more
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = refresh_interval)]
    pub every: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Job {
    /// Print the jobs of the configuration
    List(ConfigFile),
    /// Run a job once, in this process
    Run(JobRun),
}

#[derive(Debug, Args)]
pub struct JobRun {
    /// The job's name
    pub name: String,
    /// Only count the rows it would change
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub file: ConfigFile,
}

#[derive(Debug, Subcommand)]
pub enum Db {
    /// Print the settings that limit each watched role to its class, and how they differ from those in force
    Limits(Limits),
}

#[derive(Debug, Args)]
pub struct Limits {
    /// Apply the settings that differ
    #[arg(long, conflicts_with = "rollback")]
    pub apply: bool,
    /// Let a limit replace a value that is stricter, or that can't be seen
    #[arg(long, conflicts_with = "rollback")]
    pub loosen: bool,
    /// Undo applied settings that nobody has changed since
    #[arg(long)]
    pub rollback: bool,
    /// File in which `--apply` records its changes for `--rollback`
    #[arg(long, default_value = "levee-limits-undo.json")]
    pub undo_file: PathBuf,
    #[command(flatten)]
    pub file: ConfigFile,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Write the pages of all commands into this directory, which is created if it is missing
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

fn refresh_interval(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|every| (Duration::from_millis(100)..=Duration::from_hours(24)).contains(every))
        .ok_or_else(|| "must be a duration from 100ms to 1day, such as 2s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
