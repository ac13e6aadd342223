//! Sockets that listen: inherited from systemd, or bound here, beside those of another instance if that is wanted.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use tokio::net::{TcpListener, TcpSocket};

/// The first inherited descriptor (`sd_listen_fds(3)`).
const FIRST: RawFd = 3;

/// The most inherited sockets.
const MOST: RawFd = 1024;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

#[derive(Debug, thiserror::Error)]
#[error("{part} can't listen on {address}")]
pub struct ListenError {
    pub part: String,
    pub address: SocketAddr,
    pub source: io::Error,
}

/// What an address in use means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Somebody listens there by mistake.
    Alone,
    /// An older instance is about to stop: listen beside it.
    TakeOver,
}

#[derive(Debug)]
struct Inherited {
    name: String,
    listener: StdListener,
}

/// Where listeners come from.
#[derive(Debug)]
pub struct Sockets {
    start: Start,
    inherited: Vec<Inherited>,
}

impl Sockets {
    /// With the sockets that systemd has passed to this process, if any.
    pub fn new(start: Start) -> Self {
        Self {
            start,
            inherited: inherited(),
        }
    }

    /// The inherited socket of this name or address, or else a new one.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub fn listen(&mut self, name: &str, address: SocketAddr) -> Result<TcpListener, ListenError> {
        let listener = match self.take_inherited(name, address) {
            Some(listener) => TcpListener::from_std(listener),
            None => bind(address, self.start),
        };
        listener.map_err(|source| ListenError {
            part: name.to_owned(),
            address,
            source,
        })
    }

    fn take_inherited(&mut self, name: &str, address: SocketAddr) -> Option<StdListener> {
        let by_name = |inherited: &Inherited| inherited.name == name;
        let by_address =
            |inherited: &Inherited| inherited.listener.local_addr().ok() == Some(address);
        let place = self
            .inherited
            .iter()
            .position(by_name)
            .or_else(|| self.inherited.iter().position(by_address))?;
        let taken = self.inherited.swap_remove(place);
        log::info!(part = name; "listens on the socket {:?} of systemd", taken.name);
        Some(taken.listener)
    }

    /// Warns of inherited sockets that no part wanted: connections to them would wait forever.
    pub fn close_unused(&mut self) {
        for Inherited { name, listener } in self.inherited.drain(..) {
            let address = listener.local_addr();
            let address = address.map_or_else(|error| error.to_string(), |a| a.to_string());
            log::warn!(
                "the socket {name:?} of systemd ({address}) is neither admin's nor a Redis upstream's, by name or address; it is closed"
            );
        }
    }
}

/// With `SO_REUSEPORT`, so that a later instance can listen beside this one. It is set before binding only to take over:
/// set afterwards, an address in use is an error.
fn bind(address: SocketAddr, start: Start) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    if start == Start::TakeOver {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.set_reuseport(true)?;
    socket.listen(BACKLOG)
}

/// The sockets of `LISTEN_FDS`, with their names of `LISTEN_FDNAMES`, if they are for this process.
fn inherited() -> Vec<Inherited> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok());
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(""));
    (FIRST..FIRST + count.unwrap_or(0).min(MOST))
        .zip(names)
        .filter_map(|(fd, name)| match adopt(fd) {
            Ok(listener) => Some(Inherited {
                name: name.to_owned(),
                listener,
            }),
            Err(error) => {
                log::warn!("the socket {name:?} of systemd can't be used: {error}");
                None
            }
        })
        .collect()
}

/// The listening TCP socket that was passed to this process as `fd`.
fn adopt(fd: RawFd) -> io::Result<StdListener> {
    let what = std::fs::read_link(format!("/proc/self/fd/{fd}"))?;
    if !what.to_string_lossy().starts_with("socket:") {
        return Err(io::Error::other(format!("it is {}", what.display())));
    }
    #[allow(
        unsafe_code,
        reason = "the standard library has no safe way to take over a descriptor that was passed by number"
    )]
    // SAFETY: it is open, as was just seen, and by the protocol of LISTEN_FDS it belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let listener = StdListener::from(socket);
    // Fails for sockets of another family.
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_an_error_unless_it_is_taken_over() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let old = bind(any, Start::Alone).unwrap();
        let address = old.local_addr().unwrap();
        let refused = bind(address, Start::Alone).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let new = bind(address, Start::TakeOver).unwrap();
        let refused = bind(address, Start::Alone).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop((old, new));
        bind(address, Start::Alone).unwrap();
    }

    #[tokio::test]
    async fn a_stranger_is_not_taken_over() {
        let stranger = StdListener::bind("127.0.0.1:0").unwrap();
        let address = stranger.local_addr().unwrap();
        let refused = bind(address, Start::TakeOver).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
