//! `levee run`

use super::{Exit, failed, start_log_by};
use crate::cli;
use crate::config::Config;
use crate::logging;
use crate::run::inherited::{Inherited, InheritedError};
use crate::run::{self, InUse, ListenError};
use std::io::ErrorKind;
use std::path::Path;
use tokio::runtime::Builder;

pub fn run(arguments: &cli::Run) -> Exit {
    // Before anything else opens a descriptor.
    let sockets = Inherited::from_environment();
    if let Err(error) = logging::write_in_background() {
        return failed(&error);
    }
    let exit = run_until_stopped(arguments, sockets);
    logging::flush();
    exit
}

fn run_until_stopped(arguments: &cli::Run, sockets: Result<Inherited, InheritedError>) -> Exit {
    let config = match start_log_by(&arguments.file.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let in_use = if arguments.take_over {
        InUse::Share
    } else {
        InUse::Refuse
    };
    let started = sockets
        .map_err(anyhow::Error::new)
        .and_then(|sockets| start(config, &arguments.file.config, sockets, in_use));
    match started {
        Ok(()) => Exit::Done,
        Err(error) if is_address_in_use(&error) => {
            failed(&error);
            Exit::AddressInUse
        }
        Err(error) => failed(&error),
    }
}

fn start(config: Config, file: &Path, sockets: Inherited, in_use: InUse) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run::run(config, file, sockets, in_use));
    runtime.shutdown_background();
    result
}

fn is_address_in_use(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ListenError>()
        .is_some_and(|failed| failed.source.kind() == ErrorKind::AddrInUse)
}
