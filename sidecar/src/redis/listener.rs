//! Accepting clients.

use super::buffers::{Buffers, Share};
use super::connection::serve;
use super::hand_over;
use super::orders::Orders;
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

/// How long a handshake may take that has begun before a listener is closed.
const HANDSHAKE: Duration = Duration::from_millis(10);

/// A listener with what its connections share.
#[derive(Debug)]
pub struct Proxy {
    pub name: String,
    /// Breaker and budget.
    pub gate: Arc<Gate>,
    pub upstream: Arc<Upstream>,
    /// What they hold together with those of other listeners.
    pub buffers: Arc<Buffers>,
    clock: Clock,
    orders: watch::Sender<Orders>,
}

/// The clients of a listener.
struct Clients {
    /// One more than there are clients.
    places: Arc<()>,
    refusals: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Proxy {
    pub fn new(
        settings: SessionSettings,
        connections: usize,
        gate: Gate,
        upstream: Upstream,
        buffers: Arc<Buffers>,
        clock: Clock,
    ) -> Self {
        Self {
            name: settings.name.clone(),
            gate: Arc::new(gate),
            upstream: Arc::new(upstream),
            buffers,
            clock,
            orders: watch::Sender::new(Orders {
                stop: false,
                settings: Arc::new(settings),
                connections,
            }),
        }
    }

    /// How many clients there may be.
    pub fn connections(&self) -> usize {
        self.orders.borrow().connections
    }

    /// Other settings take force, for connected clients too.
    pub fn reconfigure(&self, settings: SessionSettings, connections: usize) {
        self.orders.send_modify(|orders| {
            orders.settings = Arc::new(settings);
            orders.connections = connections;
        });
    }

    /// [`run`](Self::run) ends.
    pub fn stop(&self) {
        self.orders.send_modify(|orders| orders.stop = true);
    }

    /// Accepts clients until [`stop`](Self::stop), then waits until all have their replies, also those that the kernel has
    /// accepted before the listener is closed. The caller bounds that.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let part = format!("redis/{}", self.name);
        let mut acceptor = Acceptor::new(listener, part, self.clock);
        let mut clients = Clients {
            places: Arc::default(),
            refusals: Arc::new(Semaphore::new(MOST_REFUSED)),
            tasks: JoinSet::new(),
        };
        let mut orders = self.orders.subscribe();
        loop {
            let client = tokio::select! {
                client = acceptor.accept() => client,
                _ = orders.wait_for(|orders| orders.stop) => break,
                Some(_) = clients.tasks.join_next(), if !clients.tasks.is_empty() => continue,
            };
            self.clone().take_in(client, &mut clients);
        }
        for client in close(acceptor.into_listener()).await {
            self.clone().take_in(client, &mut clients);
        }
        while clients.tasks.join_next().await.is_some() {}
    }

    fn take_in(self: Arc<Self>, client: TcpStream, clients: &mut Clients) {
        let place = clients.places.clone();
        if Arc::strong_count(&place) - 2 < self.connections() {
            clients.tasks.spawn(async move {
                self.serve(client).await;
                drop(place);
            });
            return;
        }
        self.gate.counts.refused_limit.inc();
        if let Ok(place) = clients.refusals.clone().try_acquire_owned() {
            clients.tasks.spawn(async move {
                refuse(client).await;
                drop(place);
            });
        }
    }

    async fn serve(&self, client: TcpStream) {
        let _ = client.set_nodelay(true);
        let counts = &self.gate.counts;
        counts.connections_total.inc();
        counts.connections.inc();
        let orders = self.orders.subscribe();
        let settings = orders.borrow().settings.clone();
        let session = Session::new(settings, self.gate.clone(), self.clock.now());
        let share = Share::new(self.buffers.clone());
        serve(
            client,
            session,
            self.upstream.clone(),
            share,
            self.clock,
            orders,
        )
        .await;
        counts.connections.dec();
    }
}

/// Closes a listener. Returns the connections that it still had: the kernel would reset them.
async fn close(listener: TcpListener) -> Vec<TcpStream> {
    if hand_over::steer_to_successor(&listener).is_ok() {
        tokio::time::sleep(HANDSHAKE).await;
    }
    let mut last = Vec::new();
    let Ok(listener) = listener.into_std() else {
        return last;
    };
    while let Ok((client, _)) = listener.accept() {
        if client.set_nonblocking(true).is_ok() {
            last.extend(TcpStream::from_std(client));
        }
    }
    last
}

/// Says to a client that there is no place for it, in the words of Redis.
async fn refuse(mut client: TcpStream) {
    let _ = client.write_all(TOO_MANY_CLIENTS).await;
    let _ = client.shutdown().await;
    let mut rest = [0; 1024];
    let drain = async { while matches!(client.read(&mut rest).await, Ok(read) if read > 0) {} };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
