//! `levee man`

use super::{Exit, failed, print_all};
use crate::cli::{self, Cli};
use anyhow::Context;
use clap::CommandFactory;
use std::fs;
use std::path::Path;

/// Prints the page of `levee`, or writes the pages of all commands.
pub fn man(arguments: &cli::Man) -> Exit {
    let result = match &arguments.out {
        Some(directory) => write_all(directory),
        None => print(),
    };
    match result {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error),
    }
}

fn print() -> anyhow::Result<()> {
    // `help` has no page of its own.
    let levee = Cli::command().disable_help_subcommand(true);
    let mut page = Vec::new();
    clap_mangen::Man::new(levee).render(&mut page)?;
    print_all(&page)
}

/// `levee.1`, `levee-job-run.1` and so on.
fn write_all(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("can't write the manual pages to {}", directory.display()))
}
