//! `levee completions`

use super::{Exit, print_all};
use crate::cli::{Cli, Completions};
use clap::CommandFactory;

pub fn completions(arguments: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "levee", &mut script);
    print_all(&script);
    Exit::Done
}
