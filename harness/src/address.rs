//! Addresses of loopback that nobody has.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that Linux gives to outgoing connections (from 32768 on; others from 49152 on, RFC 6335, section 6). One of
/// these may be taken at any moment, even by the connection that looks whether somebody listens there, which then meets
/// itself.
const PORTS: Range<u16> = 20_000..32_000;

/// An address that is free, and that this process has not given out for a while.
pub fn free_address() -> SocketAddr {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let count = PORTS.end - PORTS.start;
    let next = NEXT.get_or_init(|| {
        // Processes at once begin at different places.
        let spread = u64::from(std::process::id()) * 7919 % u64::from(count);
        AtomicU16::new(u16::try_from(spread).expect("less than the count"))
    });
    let free = (0..count).find_map(|_| {
        let place = next.fetch_add(1, Ordering::Relaxed) % count;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + place));
        TcpListener::bind(address).ok().map(|_| address)
    });
    free.expect("a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_given_out_twice() {
        let mut all: Vec<SocketAddr> = (0..100).map(|_| free_address()).collect();
        assert!(all.iter().all(|address| PORTS.contains(&address.port())));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 100);
    }
}
