//! The runtime of backends and of blocking requests.
//!
//! It is separate from the tests' own runtimes, so that neither can delay the other.

use std::sync::OnceLock;

use tokio::runtime::{self, Runtime};

use crate::error::{Context, Error, Result};

pub(crate) fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime>> = OnceLock::new();
    let start = || {
        runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("backends")
            .enable_all()
            .build()
            .context("start the backends' runtime")
    };
    RUNTIME.get_or_init(start).as_ref().map_err(Error::clone)
}
