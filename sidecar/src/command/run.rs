//! `levee run`

use super::{Exit, failed, start_log_by};
use crate::cli;
use crate::config::Config;
use crate::logging;
use crate::run::{self, ListenError, Start};
use std::io::ErrorKind;
use std::path::Path;
use tokio::runtime::Builder;

pub fn run(arguments: &cli::Run) -> Exit {
    if let Err(error) = logging::write_in_background() {
        return failed(&error);
    }
    let exit = run_until_stopped(arguments);
    logging::flush();
    exit
}

fn run_until_stopped(arguments: &cli::Run) -> Exit {
    let config = match start_log_by(&arguments.file.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let beside = if arguments.take_over {
        Start::TakeOver
    } else {
        Start::Alone
    };
    match start(config, &arguments.file.config, beside) {
        Ok(()) => Exit::Done,
        Err(error) if is_address_in_use(&error) => {
            failed(&error);
            Exit::AddressInUse
        }
        Err(error) => failed(&error),
    }
}

fn start(config: Config, file: &Path, start: Start) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run::run(config, file, start));
    runtime.shutdown_background();
    result
}

fn is_address_in_use(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ListenError>()
        .is_some_and(|failed| failed.source.kind() == ErrorKind::AddrInUse)
}
