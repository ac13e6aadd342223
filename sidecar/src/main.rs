//! `levee`: the sidecar.

use clap::Parser;
use levee::cli::{Cli, Command};
use levee::command::{check, database, run, status};
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(file) => run::run(&file.config),
        Command::Check(arguments) => check::check(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Job(job) => database::job(job),
        Command::Db(db) => database::db(db),
    }
    .into()
}
