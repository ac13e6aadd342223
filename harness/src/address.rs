//! Free addresses on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::error::{Error, Result};

/// Below the ephemeral ports: 32768 and up on Linux, 49152 and up elsewhere (RFC 6335, section 6). An ephemeral port may be
/// taken at any moment, even by a connection to that same port, which then connects to itself.
const PORTS: Range<u16> = 20_000..32_000;

/// An address that is free now and that this process has not returned recently.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let count = PORTS.end - PORTS.start;
    let next = NEXT.get_or_init(|| {
        // Processes that start together begin at different places.
        let spread = u64::from(std::process::id()) * 7919 % u64::from(count);
        AtomicU16::new(u16::try_from(spread).unwrap_or_default())
    });
    (0..count)
        .find_map(|_| {
            let place = next.fetch_add(1, Ordering::Relaxed) % count;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + place));
            TcpListener::bind(address).ok().map(|_| address)
        })
        .ok_or_else(|| Error::new(format!("no free port on 127.0.0.1 among {PORTS:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_given_out_twice() {
        let mut all: Vec<SocketAddr> = (0..100).map(|_| free_address().unwrap()).collect();
        assert!(all.iter().all(|address| PORTS.contains(&address.port())));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 100);
    }
}
