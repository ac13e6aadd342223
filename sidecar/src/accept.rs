//! Accepting connections, whatever the process runs out of.

use crate::clock::Clock;
use levee_policy::time::Instant;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// The pause after an error that the next attempt would meet again, such as too few file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A warning is repeated after this time.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// A listener whose errors are logged and waited out.
#[derive(Debug)]
pub struct Acceptor {
    listener: Arc<TcpListener>,
    /// Whose clients these are, in warnings.
    part: String,
    clock: Clock,
    warned: Option<Instant>,
}

impl Acceptor {
    pub fn new(
        listener: impl Into<Arc<TcpListener>>,
        part: impl Into<String>,
        clock: Clock,
    ) -> Self {
        Self {
            listener: listener.into(),
            part: part.into(),
            clock,
            warned: None,
        }
    }

    /// The next client. Dropping the future loses none.
    pub async fn accept(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((client, _)) => return client,
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    self.warn(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn warn(&mut self, error: &io::Error) {
        let now = self.clock.now();
        let is_due = |warned: Instant| now.since(warned) >= WARN_EVERY;
        if self.warned.is_none_or(is_due) {
            self.warned = Some(now);
            log::warn!(part = self.part.as_str(); "clients can't be accepted: {error}");
        }
    }
}

/// The client left before it was accepted (`accept(2)`).
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
