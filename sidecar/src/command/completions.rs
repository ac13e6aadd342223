//! `levee completions`

use super::Exit;
use crate::cli::{Cli, Completions};
use clap::CommandFactory;
use std::io::{self, Write};

pub fn completions(arguments: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "levee", &mut script);
    // A reader such as `head` may close the pipe early, which is no failure.
    let _ = io::stdout().write_all(&script);
    Exit::Done
}
