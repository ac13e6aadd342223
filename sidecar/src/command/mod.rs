//! What each command does, from its arguments to its exit code.
//!
//! | module | command |
//! |---|---|
//! | [`run`] | `levee run` |
//! | [`check`] | `levee check` |
//! | [`status`] | `levee status` |
//! | [`database`] | `levee job` and `levee db` |
//! | [`completions`] | `levee completions` |
//! | [`man`] | `levee man` |

pub mod check;
pub mod completions;
pub mod database;
mod exit;
pub mod man;
pub mod run;
pub mod status;

pub use exit::Exit;

use crate::config::Config;
use std::path::Path;

/// Reads a configuration, or prints all its mistakes.
fn read_config(path: &Path) -> Result<Config, Exit> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        eprintln!("error: {} can't be read: {error}", path.display());
        Exit::Invalid
    })?;
    Config::parse(&text).map_err(|errors| {
        for error in &errors {
            eprintln!("error: {}: {error}", path.display());
        }
        Exit::Invalid
    })
}

fn failed(error: &anyhow::Error) -> Exit {
    eprintln!("error: {error:#}");
    Exit::Failed
}
