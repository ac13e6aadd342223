//! Ports for a suite that starts its servers at numbers of its own choice, from a base on.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// A row of ports that were all free, kept from other runs on the machine until this is dropped.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    /// Listens at the first one: another run passes over the row.
    _lock: TcpListener,
}

/// Redis' suite listens itself at one of so many ports below its base.
const BELOW: u16 = 32;
/// How many ports there are for servers, at the base and above.
pub const SERVERS: u16 = 500;
const ROW: u16 = 1 + BELOW + SERVERS;

/// The rows begin here. They end below 20000, where [`levee_harness::address::free_address`] begins; a node of a cluster
/// listens 10000 above its port too, which is still below the ephemeral ports.
const FIRST: u16 = 10_100;
const END: u16 = 20_000;

impl Ports {
    /// The first row in which nobody listens.
    pub fn take() -> Result<Self> {
        (FIRST..END - ROW)
            .step_by(ROW.into())
            .find_map(Self::at)
            .with_context(|| format!("no row of {ROW} free ports between {FIRST} and {END}"))
    }

    fn at(first: u16) -> Option<Self> {
        let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        let lock = listen(first)?;
        let are_free = (first + 1..first + ROW).all(|port| listen(port).is_some());
        are_free.then_some(Self { first, _lock: lock })
    }

    /// Where the servers begin.
    pub fn base(&self) -> u16 {
        self.first + 1 + BELOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_at_a_time_have_ports_of_their_own() -> Result<()> {
        let (one, other) = (Ports::take()?, Ports::take()?);
        assert!(one.base().abs_diff(other.base()) >= ROW);
        Ok(())
    }

    #[test]
    fn a_row_with_a_server_of_somebody_elses_is_passed_over() -> Result<()> {
        let row = Ports::take()?;
        let base = row.base();
        drop(row);
        let _server = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 7))?;
        assert_ne!(Ports::take()?.base(), base);
        Ok(())
    }
}
