//! The check that ports are free, before anything is started.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use crate::failure::Failure;

/// Envoy shares ports with others that allow it, so a second gateway would go unnoticed; binding without sharing tells.
pub fn check_free(
    address: SocketAddr,
    what: &'static str,
    option: &'static str,
) -> Result<(), Failure> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure::PortInUse {
            address,
            what,
            option,
        }),
        Err(error) => Err(Failure::Other(format!(
            "{what} can't listen on {address} ({option}): {error}"
        ))),
    }
}
