//! `levee completions`

use super::{Exit, failed, print_all};
use crate::cli::{Cli, Completions};
use clap::CommandFactory;

pub fn completions(arguments: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "levee", &mut script);
    match print_all(&script) {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error),
    }
}
