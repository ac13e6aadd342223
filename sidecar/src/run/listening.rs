//! Sockets that listen.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

#[derive(Debug, thiserror::Error)]
#[error("{part} can't listen on {address}")]
pub struct ListenError {
    pub part: String,
    pub address: SocketAddr,
    pub source: io::Error,
}

/// What to do where somebody already listens at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUse {
    /// It is a mistake.
    Refuse,
    /// It is about to stop listening: listen beside it.
    Share,
}

/// A socket that listens, with its address.
#[derive(Clone, Debug)]
pub struct Bound {
    pub socket: Arc<TcpListener>,
    pub address: SocketAddr,
}

impl TryFrom<TcpListener> for Bound {
    type Error = io::Error;

    fn try_from(socket: TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let socket = Arc::new(socket);
        Ok(Self { socket, address })
    }
}

/// Listens on `address` for `part`.
///
/// # Errors
/// The address can't be listened on.
pub fn listen(part: &str, address: SocketAddr, in_use: InUse) -> Result<Bound, ListenError> {
    bind(address, in_use)
        .and_then(Bound::try_from)
        .map_err(|source| ListenError {
            part: part.to_owned(),
            address,
            source,
        })
}

/// With `SO_REUSEPORT`, so that a later instance can listen beside this one. To share an address it is set before binding:
/// set afterwards, an address in use is an error.
fn bind(address: SocketAddr, in_use: InUse) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    if in_use == InUse::Share {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.set_reuseport(true)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener as StdListener;

    #[tokio::test]
    async fn an_address_in_use_is_an_error_unless_it_is_shared() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let old = bind(any, InUse::Refuse).unwrap();
        let address = old.local_addr().unwrap();
        let refused = bind(address, InUse::Refuse).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let new = bind(address, InUse::Share).unwrap();
        let refused = bind(address, InUse::Refuse).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop((old, new));
        bind(address, InUse::Refuse).unwrap();
    }

    #[tokio::test]
    async fn a_strangers_address_is_not_shared() {
        let stranger = StdListener::bind("127.0.0.1:0").unwrap();
        let address = stranger.local_addr().unwrap();
        let refused = bind(address, InUse::Share).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
