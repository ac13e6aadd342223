//! Accepting clients.

use super::connection::serve;
use super::upstream::Upstream;
use crate::accept::Acceptor;
use crate::clock::Clock;
use levee_redis_session::gate::Gate;
use levee_redis_session::session::{Session, SessionSettings, TOO_MANY_CLIENTS};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How many clients may be getting a refusal at once. Further ones are closed without a word.
pub const MOST_REFUSED: usize = 16;

/// How long a refused client may take to close.
const LINGER: Duration = Duration::from_millis(100);

/// A listener with what its connections share.
#[derive(Debug)]
pub struct Proxy {
    pub settings: Arc<SessionSettings>,
    /// Breaker and budget.
    pub gate: Arc<Gate>,
    pub upstream: Arc<Upstream>,
    /// How many clients there may be.
    pub connections: usize,
    pub clock: Clock,
}

impl Proxy {
    /// Accepts clients until `stop`, then waits until all have their replies. The caller bounds that.
    pub async fn run(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let part = format!("redis/{}", self.settings.name);
        let mut acceptor = Acceptor::new(listener, part, self.clock);
        let places = Arc::new(Semaphore::new(self.connections));
        let refusals = Arc::new(Semaphore::new(MOST_REFUSED));
        let mut clients = JoinSet::new();
        loop {
            let client = tokio::select! {
                client = acceptor.accept() => client,
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = clients.join_next(), if !clients.is_empty() => continue,
            };
            let stop = stop.clone();
            if let Ok(place) = places.clone().try_acquire_owned() {
                let proxy = self.clone();
                clients.spawn(async move {
                    proxy.serve(client, stop).await;
                    drop(place);
                });
                continue;
            }
            self.gate.counts.refused_limit.inc();
            if let Ok(place) = refusals.clone().try_acquire_owned() {
                clients.spawn(async move {
                    refuse(client).await;
                    drop(place);
                });
            }
        }
        drop(acceptor);
        while clients.join_next().await.is_some() {}
    }

    async fn serve(&self, client: TcpStream, stop: watch::Receiver<bool>) {
        let _ = client.set_nodelay(true);
        let counts = &self.gate.counts;
        counts.connections_total.inc();
        counts.connections.inc();
        let session = Session::new(self.settings.clone(), self.gate.clone(), self.clock.now());
        serve(client, session, self.upstream.clone(), self.clock, stop).await;
        counts.connections.dec();
    }
}

/// Says to a client that there is no place for it, in the words of Redis.
async fn refuse(mut client: TcpStream) {
    let _ = client.write_all(TOO_MANY_CLIENTS).await;
    let _ = client.shutdown().await;
    let mut rest = [0; 1024];
    let drain = async { while matches!(client.read(&mut rest).await, Ok(read) if read > 0) {} };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
