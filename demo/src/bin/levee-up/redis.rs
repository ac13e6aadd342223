//! A temporary Redis. It comes back by itself, so that its absence can be tried.

use std::net::SocketAddr;
use std::time::Duration;

use levee_harness::redis::Redis as Server;

use crate::failure::Failure;

/// How long it stays away after it was ended.
const AWAY: Duration = Duration::from_millis(500);

/// A running Redis. Dropping it ends it.
#[derive(Debug)]
pub struct Redis(Server);

impl Redis {
    /// Starts it on a free port.
    pub async fn start() -> Result<Self, Failure> {
        // The log of changes brings the data back after a restart.
        let start = || Server::start_with(&["--appendonly", "yes"]);
        let server = tokio::task::spawn_blocking(start).await;
        server
            .map_err(Failure::other)?
            .map(Self)
            .map_err(Failure::other)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// If it has ended, starts it again after a while.
    pub async fn bring_back(&mut self) -> Result<(), Failure> {
        if self.0.has_ended() {
            tokio::time::sleep(AWAY).await;
            self.0.spawn().map_err(Failure::other)?;
        }
        Ok(())
    }
}
