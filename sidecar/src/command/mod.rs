//! The commands, from arguments to exit code.
//!
//! | module | command |
//! |---|---|
//! | [`run`] | `levee run` |
//! | [`check`] | `levee check` |
//! | [`reload`] | `levee reload` |
//! | [`status`] | `levee status` |
//! | [`database`] | `levee job` and `levee db`: dispatch |
//! | [`job`] | `levee job list` and `levee job run` |
//! | [`limits`] | `levee db limits` |
//! | [`completions`] | `levee completions` |
//! | [`man`] | `levee man` |

pub mod check;
pub mod completions;
pub mod database;
mod exit;
pub mod job;
pub mod limits;
pub mod man;
pub mod reload;
pub mod run;
pub mod status;

pub use exit::Exit;

use crate::check::levee::Valid;
use crate::check::{Finding, Severity};
use crate::config::Config;
use crate::yaml::NoText;
use crate::{check as checks, logging, yaml};
use anyhow::Context;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use tokio::runtime::Builder;

/// Reads a configuration and starts the log it describes, or prints all findings as `levee check` does.
fn start_log_by(path: &Path) -> Result<Config, Exit> {
    let text = yaml::read_file(path).map_err(|error| {
        logging::print(match error {
            NoText::Wrong(mistake) => Finding::of_text(mistake, Severity::Error).show(path),
            unreadable @ NoText::Unreadable(_) => {
                format!("error: {} {unreadable}", path.display())
            }
        });
        Exit::Invalid
    })?;
    match checks::levee::read(&text) {
        Ok(Valid {
            config, warnings, ..
        }) => {
            logging::start(config.log.format, config.log.level);
            for warning in warnings {
                log::warn!(file = path.display().to_string(), line = warning.line; "{}", warning.message);
            }
            Ok(config)
        }
        Err(mut findings) => {
            findings.sort_by_key(|finding| finding.severity);
            for finding in findings {
                logging::print(finding.show(path));
            }
            Err(Exit::Invalid)
        }
    }
}

/// Prints a result. A reader such as `head` may close the pipe early, which is no failure.
fn print_all(text: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("can't write to the standard output"),
    }
}

/// Waits for `task` on this thread.
fn block_on<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(task))
}

fn failed(error: &anyhow::Error) -> Exit {
    logging::print(format!("error: {error:#}"));
    Exit::Failed
}
