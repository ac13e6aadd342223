//! An HTTP/1.1 service on 127.0.0.1 that follows a script, and remembers what it saw.
//!
//! | file | the one thing in it |
//! |---|---|
//! | `mod.rs` | the service: its port, its script, what it saw |
//! | `behaviour.rs` | what it can do with a request |
//! | `seen.rs` | what it remembers |
//! | `connection.rs` | a request on the wire, and what is done with it |
//!
//! ```no_run
//! use levee_harness::backend::{Backend, Behaviour};
//!
//! let auth = Backend::start()?;                            // answers 200
//! auth.next([Behaviour::status(500), Behaviour::Stall]);   // the next two requests
//! auth.always(Behaviour::status(204));                     // all after them
//! assert_eq!(auth.requests(), 0);
//! # Ok::<(), levee_harness::error::Error>(())
//! ```

mod behaviour;
mod connection;
mod seen;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Context, Error, Result};
use crate::lock::lock;
use crate::runtime::{Serving, accept_each, runtime};
use crate::wait;
use behaviour::Script;
use connection::{Shared, serve};

pub use behaviour::{Behaviour, Gate, Response};
pub use seen::{Seen, SeenRequest};

/// The service. Dropping it closes its port and all connections.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Bound, but never listening: keeps the port ours while connections are refused.
    _reserved: Socket,
    serving: Mutex<Option<Serving>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// Starts one that answers every request with 200.
    pub fn start() -> Result<Self> {
        let backend = Self::start_refusing()?;
        backend.accept()?;
        Ok(backend)
    }

    /// Starts one that refuses connections, until [`Self::accept`].
    pub fn start_refusing() -> Result<Self> {
        let reserved =
            bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("bind a port on 127.0.0.1")?;
        let address = reserved
            .local_addr()
            .context("the address of a backend")?
            .as_socket()
            .ok_or_else(|| Error::new("a backend has no IP address"))?;
        let shared = Arc::new(Shared {
            script: Mutex::new(Script::new(|_, _| Behaviour::status(200))),
            seen: Mutex::default(),
        });
        Ok(Self {
            address,
            shared,
            _reserved: reserved,
            serving: Mutex::new(None),
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    // --- what it shall do ----------------------------------------------------------------------------------------

    /// For all requests from now on (after those of [`Self::next`]).
    pub fn always(&self, behaviour: Behaviour) {
        self.choose(move |_, _| behaviour.clone());
    }

    /// For the next requests, one after the other.
    pub fn next(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        lock(&self.shared.script).insert(behaviours);
    }

    /// Chosen for each request by its number (from 0 on) and what is in it.
    pub fn choose(
        &self,
        choice: impl Fn(usize, &SeenRequest) -> Behaviour + Send + Sync + 'static,
    ) {
        lock(&self.shared.script).choose(choice);
    }

    /// 502 for this share of the requests, spread as evenly as can be, 200 for the others.
    pub fn fail_per_thousand(&self, share: usize) {
        self.choose(move |number, _| {
            Behaviour::status(if spread(number, share) { 502 } else { 200 })
        });
    }

    /// Closes the port and all connections: new ones are refused.
    pub fn refuse(&self) {
        *lock(&self.serving) = None;
    }

    /// Opens the port (again).
    pub fn accept(&self) -> Result<()> {
        self.serve(serve)
    }

    /// Accepts connections and says nothing on them, ever: to a client that begins with TLS, a silent handshake.
    pub fn be_silent(&self) -> Result<()> {
        self.serve(|stream, _| async move {
            // Only holds it open.
            let _held = stream;
            std::future::pending::<()>().await;
        })
    }

    fn serve<F, Fut>(&self, each: F) -> Result<()>
    where
        F: Fn(TcpStream, Arc<Shared>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut serving = lock(&self.serving);
        // The old listener must be gone before the port can be listened on again.
        *serving = None;
        let listener = listen(self.address)?;
        let shared = Arc::clone(&self.shared);
        *serving = Some(accept_each(listener, move |stream| {
            lock(&shared.seen).connections += 1;
            each(stream, Arc::clone(&shared))
        })?);
        Ok(())
    }

    // --- what it saw ---------------------------------------------------------------------------------------------

    /// Everything it saw so far.
    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        lock(&self.shared.seen).requests
    }

    /// The last request that came.
    pub fn last_request(&self) -> Result<SeenRequest> {
        let last = lock(&self.shared.seen).last.back().cloned();
        last.ok_or_else(|| Error::new("the backend has seen no request"))
    }

    /// An error if anything came that is not HTTP. No request is counted for it, so a test that something does not come, or
    /// comes unharmed, checks this too.
    pub fn check_only_http(&self) -> Result<()> {
        match &lock(&self.shared.seen).not_http {
            Some(what) => Err(Error::new(format!(
                "the backend got what is not HTTP: {what}"
            ))),
            None => Ok(()),
        }
    }

    /// Waits until what it saw `fits`.
    pub async fn wait_until(&self, what: &str, fits: impl Fn(&Seen) -> bool) -> Result<()> {
        wait::until_now(&format!("the backend to see {what}"), wait::GENEROUS, || {
            let seen = lock(&self.shared.seen);
            if fits(&seen) {
                return Ok(());
            }
            Err(format!(
                "{} connections, {} requests, {} in flight (most {}), {} cancelled, {} answered, not HTTP: {:?}",
                seen.connections,
                seen.requests,
                seen.in_flight,
                seen.most_in_flight,
                seen.cancelled,
                seen.answered,
                seen.not_http
            ))
        })
        .await
    }

    /// Waits until this many requests are in flight.
    pub async fn wait_in_flight(&self, count: usize) -> Result<()> {
        self.wait_until(&format!("{count} requests in flight"), |seen| {
            seen.in_flight == count
        })
        .await
    }
}

/// Whether request `number` is one of those, when this many per thousand are, spread evenly.
pub fn spread(number: usize, per_thousand: usize) -> bool {
    (number + 1) * per_thousand / 1000 > number * per_thousand / 1000
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Lets the listening socket and the reserving one have the same port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let _context = runtime()?.enter();
    // The task that held the old listener is dropped by another thread, which may take a moment.
    let mut last = None;
    for _ in 0..200 {
        match bind(address).and_then(|socket| {
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket.into())
        }) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Error::new(format!("listen on {address}: {last:?}")))
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_share_is_spread_evenly() {
        let failures: Vec<bool> = (0..1000).map(|number| spread(number, 600)).collect();
        assert_eq!(failures.iter().filter(|&&failed| failed).count(), 600);
        assert!(
            failures.windows(5).all(|five| five.contains(&false)),
            "never five in a row"
        );
        assert_eq!((0..10_000).filter(|&number| spread(number, 1)).count(), 10);
    }
}
