//! Connecting to one of a name's addresses: an attempt starts while the one before it is still waiting, and the first that
//! connects wins (RFC 8305, section 5). So an address that swallows packets costs 250 ms, once.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The Connection Attempt Delay of RFC 8305, section 8.
const DELAY: Duration = Duration::from_millis(250);

/// What the last attempts have shown of the addresses.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Those whose last attempt failed or was overtaken, the latest last. They are tried last.
    doubtful: Mutex<Vec<SocketAddr>>,
}

impl Addresses {
    /// Connects to one of `found`. Each of them is tried before `within` is over, which the caller enforces.
    ///
    /// # Errors
    /// None of them accepts the connection: why the last of them doesn't.
    pub async fn connect(&self, found: Vec<SocketAddr>, within: Duration) -> io::Result<TcpStream> {
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let delay = DELAY.min(within / count.saturating_add(1));
        let mut waiting = self.in_order(found).into_iter();
        let mut attempts = JoinSet::new();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        while let Some(latest) = waiting.next() {
            attempts.spawn(attempt(latest));
            let is_last = waiting.len() == 0;
            tokio::select! {
                Some(ended) = attempts.join_next() => match self.judge(ended) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = error,
                },
                () = tokio::time::sleep(delay), if !is_last => self.doubt(latest),
            }
        }
        while let Some(ended) = attempts.join_next().await {
            match self.judge(ended) {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn judge(
        &self,
        ended: Result<(SocketAddr, io::Result<TcpStream>), tokio::task::JoinError>,
    ) -> io::Result<TcpStream> {
        let (address, result) = ended.map_err(io::Error::other)?;
        match &result {
            Ok(_) => self.lock().retain(|doubtful| *doubtful != address),
            Err(_) => self.doubt(address),
        }
        result
    }

    fn doubt(&self, address: SocketAddr) {
        let mut doubtful = self.lock();
        doubtful.retain(|other| *other != address);
        doubtful.push(address);
    }

    /// The resolver's order with the families taking turns (RFC 8305, section 4), and what is doubtful last.
    fn in_order(&self, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut doubtful = self.lock();
        // Addresses that the name no longer has are forgotten.
        doubtful.retain(|address| found.contains(address));
        let is_good = |address: &SocketAddr| !doubtful.contains(address);
        let good = found.into_iter().filter(is_good).collect();
        let mut order = taking_turns(good);
        order.extend(doubtful.iter());
        order
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn attempt(address: SocketAddr) -> (SocketAddr, io::Result<TcpStream>) {
    (address, TcpStream::connect(address).await)
}

fn taking_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_what_is_doubtful_comes_last() {
        let of = |text: &str| -> Vec<SocketAddr> {
            text.split(' ')
                .map(|one| one.parse().expect("an address"))
                .collect()
        };
        let found = of("[::1]:1 [::2]:1 [::3]:1 127.0.0.1:1 127.0.0.2:1");
        let addresses = Addresses::default();
        assert_eq!(
            addresses.in_order(found.clone()),
            of("[::1]:1 127.0.0.1:1 [::2]:1 127.0.0.2:1 [::3]:1")
        );
        for address in of("[::2]:1 [::1]:1 [::2]:1 [::9]:1") {
            addresses.doubt(address);
        }
        assert_eq!(
            addresses.in_order(found),
            of("[::3]:1 127.0.0.1:1 127.0.0.2:1 [::1]:1 [::2]:1")
        );
        assert_eq!(addresses.lock().len(), 2, "a former address is forgotten");
    }
}
