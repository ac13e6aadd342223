//! Sockets that systemd has opened and passed to this process (`sd_listen_fds(3)`).

use super::listening::{Bound, InUse, ListenError, listen};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use std::env;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use tokio::net::TcpListener;

/// The first of them.
const FIRST: RawFd = 3;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InheritedError {
    #[error("LISTEN_FDS is {0:?}; it must be a number of sockets")]
    Count(String),
    #[error(
        "descriptor {fd} of LISTEN_FDS ({name:?}) {wrong}; it must be a TCP socket that listens"
    )]
    Socket {
        fd: RawFd,
        name: String,
        wrong: &'static str,
    },
}

#[derive(Debug)]
struct Socket {
    name: String,
    address: SocketAddr,
    listener: StdListener,
}

/// A part that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// For people.
    pub name: String,
    /// Names that its socket may have, the preferred one first.
    pub socket_names: Vec<String>,
    /// Where it listens by the configuration.
    pub address: SocketAddr,
}

impl Part {
    pub fn admin(address: SocketAddr) -> Self {
        Self {
            name: "admin".to_owned(),
            socket_names: vec!["admin".to_owned()],
            address,
        }
    }

    /// A Redis upstream.
    pub fn redis(name: &str, address: SocketAddr) -> Self {
        let mut socket_names = vec![format!("redis/{name}")];
        // That is the admin interface's.
        if name != "admin" {
            socket_names.push(name.to_owned());
        }
        Self {
            name: name.to_owned(),
            socket_names,
            address,
        }
    }
}

/// The inherited sockets.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Socket>);

impl Inherited {
    /// Takes the sockets of `LISTEN_FDS`, with their names of `LISTEN_FDNAMES`, if they are for this process. Call it before
    /// the process opens a descriptor, which could get one of their numbers.
    ///
    /// # Errors
    /// Something else was passed, or less than was announced.
    pub fn from_environment() -> Result<Self, InheritedError> {
        let pid = env::var("LISTEN_PID").ok();
        if pid.and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
            return Ok(Self::default());
        }
        let Ok(count) = env::var("LISTEN_FDS") else {
            return Ok(Self::default());
        };
        let last = count.parse::<RawFd>().ok().filter(|count| *count >= 0);
        let last = last.and_then(|count| count.checked_add(FIRST));
        let last = last.ok_or(InheritedError::Count(count))?;
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').chain(std::iter::repeat(""));
        let sockets = (FIRST..last).zip(names).map(|(fd, name)| {
            let name = name.to_owned();
            match adopt(fd) {
                Ok((listener, address)) => Ok(Socket {
                    name,
                    address,
                    listener,
                }),
                Err(wrong) => Err(InheritedError::Socket { fd, name, wrong }),
            }
        });
        sockets.collect::<Result<_, _>>().map(Self)
    }

    /// A socket for each part: an inherited one, or else a new one. Warns of inherited ones that no part wants, and closes
    /// them: connections to them would wait forever.
    ///
    /// # Errors
    /// An address can't be listened on.
    pub fn listen(self, parts: &[Part], in_use: InUse) -> Result<Vec<Bound>, ListenError> {
        let known: Vec<(&str, SocketAddr)> = self
            .0
            .iter()
            .map(|socket| (socket.name.as_str(), socket.address))
            .collect();
        let chosen = assign(parts, &known);
        let mut sockets: Vec<Option<Socket>> = self.0.into_iter().map(Some).collect();
        let mut bound = Vec::new();
        for (part, place) in parts.iter().zip(chosen) {
            let socket = place.and_then(|place| sockets.get_mut(place)?.take());
            bound.push(match socket {
                Some(socket) => adapt(part, socket)?,
                None => listen(&part.name, part.address, in_use)?,
            });
        }
        for Socket { name, address, .. } in sockets.into_iter().flatten() {
            log::warn!(
                "the socket {name:?} of systemd ({address}) is neither admin's nor a Redis upstream's, by name or address; it is closed"
            );
        }
        Ok(bound)
    }
}

fn adapt(part: &Part, socket: Socket) -> Result<Bound, ListenError> {
    let Socket {
        name,
        address,
        listener,
    } = socket;
    log::info!(part = part.name.as_str(); "listens on the socket {name:?} of systemd");
    listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .and_then(Bound::try_from)
        .map_err(|source| ListenError {
            part: part.name.clone(),
            address,
            source,
        })
}

/// The place of the socket of each part: one of its names, or else of its address. A name counts more than an address,
/// also than another part's.
fn assign(parts: &[Part], sockets: &[(&str, SocketAddr)]) -> Vec<Option<usize>> {
    let mut is_free = vec![true; sockets.len()];
    let mut take = |fits: &dyn Fn(&(&str, SocketAddr)) -> bool| {
        let mut places = sockets.iter().zip(is_free.iter_mut()).enumerate();
        let (place, (_, free)) = places.find(|(_, (socket, free))| **free && fits(socket))?;
        *free = false;
        Some(place)
    };
    let mut chosen: Vec<Option<usize>> = parts
        .iter()
        .map(|part| {
            let mut names = part.socket_names.iter();
            names.find_map(|wanted| take(&|(name, _)| name == wanted))
        })
        .collect();
    for (part, chosen) in parts.iter().zip(&mut chosen) {
        if chosen.is_none() {
            *chosen = take(&|(_, address)| *address == part.address);
        }
    }
    chosen
}

/// The socket that was passed as `fd`.
fn adopt(fd: RawFd) -> Result<(StdListener, SocketAddr), &'static str> {
    #[allow(
        unsafe_code,
        reason = "the standard library has no safe way to take over a descriptor that was passed by number"
    )]
    // SAFETY: by the protocol of LISTEN_FDS it belongs to this process and to nobody else in it, which has opened none
    // before. If it is not open, the call says so, and it is not taken over.
    let socket = unsafe {
        fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::CLOEXEC)
            .map_err(|_| "is not open: fewer sockets were passed than LISTEN_FDS says")?;
        OwnedFd::from_raw_fd(fd)
    };
    match socket_type(&socket) {
        Ok(SocketType::STREAM) => {}
        Ok(SocketType::DGRAM) => return Err("is a datagram socket"),
        Ok(_) => return Err("is a socket of another type"),
        Err(_) => return Err("is not a socket"),
    }
    if !socket_acceptconn(&socket).is_ok_and(|listens| listens) {
        return Err("doesn't listen");
    }
    let listener = StdListener::from(socket);
    let address = listener.local_addr();
    address.map_or(Err("is a socket of another family"), |address| {
        Ok((listener, address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn sockets_go_to_parts_by_name_and_else_by_address() {
        let parts = [
            Part::admin(at(1)),
            Part::redis("x", at(2)),
            Part::redis("admin", at(3)),
        ];
        for (sockets, wanted) in [
            (vec![], [None, None, None]),
            (vec![("", at(2)), ("", at(1))], [Some(1), Some(0), None]),
            (vec![("x", at(9))], [None, Some(0), None]),
            // The name says whose it is, whatever stands at its address.
            (vec![("x", at(1))], [None, Some(0), None]),
            (vec![("", at(2)), ("x", at(9))], [None, Some(1), None]),
            // A plain name that both have is the admin interface's.
            (vec![("admin", at(9))], [Some(0), None, None]),
            (
                vec![("redis/admin", at(8)), ("admin", at(9))],
                [Some(1), None, Some(0)],
            ),
            (
                vec![("admin", at(8)), ("admin", at(9))],
                [Some(0), None, None],
            ),
            (
                vec![("x", at(8)), ("redis/x", at(9))],
                [None, Some(1), None],
            ),
        ] {
            assert_eq!(assign(&parts, &sockets), wanted, "{sockets:?}");
        }
    }
}
