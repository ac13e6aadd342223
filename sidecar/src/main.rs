//! `levee`: the sidecar.

use clap::Parser;
use levee::cli::{Cli, Command};
use levee::command::{check, completions, database, man, reload, run, status};
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Reload(file) => reload::reload(&file.config),
        Command::Job(job) => database::job(job),
        Command::Db(db) => database::db(db),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Man(arguments) => man::man(&arguments),
    }
    .into()
}
