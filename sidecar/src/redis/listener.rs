//! Accepting clients.

use super::connection::serve;
use super::upstream::Upstream;
use crate::clock::Clock;
use levee_redis_session::gate::Gate;
use levee_redis_session::session::{Session, SessionSettings, TOO_MANY_CLIENTS};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How long accepting pauses when the process has no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener with what its connections share.
#[derive(Debug)]
pub struct Proxy {
    /// How sessions behave.
    pub settings: Arc<SessionSettings>,
    /// Breaker and budget.
    pub gate: Arc<Gate>,
    /// Where Redis is.
    pub upstream: Arc<Upstream>,
    /// How many clients there may be.
    pub connections: usize,
    /// The clock.
    pub clock: Clock,
}

impl Proxy {
    /// Accepts clients until `stop`, then waits until all have their replies. The caller bounds that.
    pub async fn run(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.connections));
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = clients.join_next(), if !clients.is_empty() => continue,
            };
            let client = match accepted {
                Ok((client, _)) => client,
                Err(error) => {
                    log::warn!("a client could not be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                self.gate.counts.refused_limit.inc();
                clients.spawn(refuse(client));
                continue;
            };
            let proxy = self.clone();
            let stop = stop.clone();
            clients.spawn(async move {
                proxy.serve(client, stop).await;
                drop(place);
            });
        }
        drop(listener);
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
    let drain = async {
        while matches!(tokio::io::AsyncReadExt::read(&mut client, &mut rest).await, Ok(read) if read > 0)
        {
        }
    };
    let _ = tokio::time::timeout(PAUSE, drain).await;
}
