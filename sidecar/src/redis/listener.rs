//! Accepting clients.

use super::buffers::{Buffers, Share};
use super::close::close;
use super::connection::serve;
use super::hand_over;
use super::keepalive::end_when_silent;
use super::orders::Orders;
use super::spares::Spares;
use super::upstream::Upstream;
use crate::accept::Acceptor;
use crate::clock::Clock;
use levee_policy::callers::Caller;
use levee_redis_session::gate::Gate;
use levee_redis_session::session::{Session, TOO_MANY_CLIENTS};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How many clients may be getting a refusal at once. Further ones are closed without a word.
pub const MOST_REFUSED: usize = 16;

/// How long a refused client may take to receive the refusal.
const LINGER: Duration = Duration::from_millis(100);

/// How long a handshake may take that has begun before a listener is closed.
const HANDSHAKE: Duration = Duration::from_millis(10);

/// Why a proxy stops accepting at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptEnd {
    /// Nobody accepts there any more: clients that wait are taken in first.
    Close,
    /// Another proxy accepts there from now on, and gets the clients that wait.
    HandOver,
}

/// What the clients of an upstream share.
#[derive(Debug)]
pub struct Proxy {
    pub name: String,
    /// Breaker and budget.
    pub gate: Arc<Gate>,
    pub upstream: Arc<Upstream>,
    spares: Arc<Spares>,
    /// What they hold together with those of other listeners.
    pub buffers: Arc<Buffers>,
    clock: Clock,
    orders: watch::Sender<Orders>,
    /// Each client holds a clone.
    places: Arc<()>,
    refusals: Arc<Semaphore>,
}

impl Proxy {
    pub fn new(
        orders: Orders,
        gate: Gate,
        upstream: Upstream,
        buffers: Arc<Buffers>,
        clock: Clock,
    ) -> Self {
        let (gate, upstream) = (Arc::new(gate), Arc::new(upstream));
        Self {
            name: orders.settings.name.clone(),
            spares: Arc::new(Spares::new(upstream.clone(), gate.clone(), clock)),
            gate,
            upstream,
            buffers,
            clock,
            orders: watch::Sender::new(orders),
            places: Arc::default(),
            refusals: Arc::new(Semaphore::new(MOST_REFUSED)),
        }
    }

    /// How many clients there may be.
    pub fn connections(&self) -> usize {
        self.orders.borrow().connections
    }

    /// Other settings take force, for connected clients too.
    pub fn reconfigure(&self, orders: Orders) {
        self.orders.send_modify(|current| {
            let stop = current.stop;
            *current = Orders { stop, ..orders };
        });
    }

    /// Clients get the replies that they are owed, and are disconnected.
    pub fn stop(&self) {
        self.orders.send_modify(|orders| orders.stop = true);
    }

    /// Keeps connections to Redis ready until [`stop`](Self::stop).
    pub async fn keep_spares(self: Arc<Self>) {
        self.spares.keep(self.orders.subscribe()).await;
    }

    /// Accepts clients until `end` says how to stop accepting, drops `end`, then waits until these clients have left.
    /// [`stop`](Self::stop) makes them leave.
    pub async fn run(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        mut end: watch::Receiver<Option<AcceptEnd>>,
    ) {
        let part = format!("redis/{}", self.name);
        let mut acceptor = Acceptor::new(listener.clone(), part, self.clock);
        let mut tasks = JoinSet::new();
        let how = loop {
            let client = tokio::select! {
                biased;
                ended = end.wait_for(Option::is_some) => {
                    break ended.ok().and_then(|end| *end).unwrap_or(AcceptEnd::Close);
                }
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                client = acceptor.accept() => client,
            };
            self.clone().take_in(client, &mut tasks);
        };
        drop(acceptor);
        if how == AcceptEnd::Close {
            for client in end_listener(listener).await {
                self.clone().take_in(client, &mut tasks);
            }
        } else {
            drop(listener);
        }
        drop(end);
        while tasks.join_next().await.is_some() {}
    }

    fn take_in(self: Arc<Self>, client: TcpStream, tasks: &mut JoinSet<()>) {
        let place = self.places.clone();
        if Arc::strong_count(&place) - 2 < self.connections() {
            tasks.spawn(async move {
                self.serve(client).await;
                drop(place);
            });
            return;
        }
        self.gate.counts.refused_limit.inc();
        if let Ok(place) = self.refusals.clone().try_acquire_owned() {
            tasks.spawn(async move {
                refuse(client).await;
                drop(place);
            });
        }
    }

    async fn serve(&self, client: TcpStream) {
        let orders = self.orders.subscribe();
        let (settings, keepalive) = {
            let orders = orders.borrow();
            (orders.settings.clone(), orders.keepalive)
        };
        // They fail for a client that has left.
        let _ = client.set_nodelay(true);
        let _ = keepalive
            .clients
            .map_or(Ok(()), |within| end_when_silent(&client, within));
        let counts = &self.gate.counts;
        counts.connections_total.inc();
        counts.connections.inc();
        self.spares.wake();
        let session =
            Session::new(settings, self.gate.clone(), self.clock.now()).called_by(caller(&client));
        let share = Share::new(self.buffers.clone());
        serve(
            client,
            session,
            self.upstream.clone(),
            self.spares.clone(),
            share,
            self.clock,
            orders,
        )
        .await;
        counts.connections.dec();
        self.spares.wake();
    }
}

/// Ends a listener. Returns the connections that waited there: the kernel would reset them.
async fn end_listener(listener: Arc<TcpListener>) -> Vec<TcpStream> {
    if hand_over::steer_to_successor(&listener).is_ok() {
        tokio::time::sleep(HANDSHAKE).await;
    }
    let mut last = Vec::new();
    // Not by tokio: what it knows of the socket may be out of date.
    loop {
        match accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(client) => last.extend(TcpStream::from_std(client.into())),
            // This one has left.
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(_) => return last,
        }
    }
}

/// A service, by its address. Its connections are many, and may all send the same.
fn caller(client: &TcpStream) -> Caller {
    let mut hasher = DefaultHasher::new();
    client
        .peer_addr()
        .ok()
        .map(|peer| peer.ip())
        .hash(&mut hasher);
    #[allow(clippy::cast_possible_truncation, reason = "any part of a hash is one")]
    Caller::from_hash(hasher.finish() as u32)
}

/// Says to a client that there is no place for it, in the words of Redis.
async fn refuse(mut client: TcpStream) {
    let _ = client.write_all(TOO_MANY_CLIENTS).await;
    close(client, LINGER).await;
}
