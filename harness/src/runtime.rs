//! The runtime of backends and of blocking requests.
//!
//! It is separate from the tests' own runtimes, so that neither can delay the other.

use std::sync::OnceLock;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;

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

/// Serves each connection of a backend in a task of its own. Dropping the result ends all of them, and the listener.
pub(crate) fn accept_each<F, Fut>(listener: TcpListener, each: F) -> Result<JoinSet<()>>
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut serving = JoinSet::new();
    serving.spawn_on(
        async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                while connections.try_join_next().is_some() {}
                connections.spawn(each(stream));
            }
        },
        runtime()?.handle(),
    );
    Ok(serving)
}
