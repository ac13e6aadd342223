//! The runtime of backends and of blocking requests.
//!
//! It is separate from the tests' own runtimes, so that neither can delay the other.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;

use crate::error::{Context, Error, Result};
use crate::wait::GENEROUS;

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

/// The tasks of a backend. Dropping it ends them, and waits until they are gone: no connection answers any more, and the
/// port is closed.
#[derive(Debug)]
pub(crate) struct Serving {
    tasks: JoinSet<()>,
    /// Disconnected when all tasks are gone.
    gone: Receiver<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.abort_all();
        if self.gone.recv_timeout(GENEROUS) == Err(RecvTimeoutError::Timeout) {
            eprintln!("a backend's tasks have not ended within {GENEROUS:?}");
        }
    }
}

/// Serves each connection of a backend in a task of its own.
pub(crate) fn accept_each<F, Fut>(listener: TcpListener, each: F) -> Result<Serving>
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (is_there, gone) = channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn_on(
        async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                while connections.try_join_next().is_some() {}
                let (connection, is_there) = (each(stream), is_there.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(is_there);
                });
            }
        },
        runtime()?.handle(),
    );
    Ok(Serving { tasks, gone })
}
