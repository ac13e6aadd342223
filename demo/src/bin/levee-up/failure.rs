//! What can go wrong, how it is said, and the exit code.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::process::ExitCode;

/// Why the gateway can't run.
#[derive(Debug)]
pub enum Failure {
    /// A port is taken: exit code 5.
    PortInUse {
        /// Which address.
        address: SocketAddr,
        /// What wanted it.
        what: &'static str,
        /// The option that chooses another.
        option: &'static str,
    },
    /// The command line asks for something impossible: exit code 2, as for other mistakes in it.
    Usage(String),
    /// Anything else: exit code 1.
    Other(String),
}

impl Failure {
    /// Anything that has a text.
    pub fn other(error: impl Display) -> Self {
        Self::Other(error.to_string())
    }

    /// The program's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::PortInUse { .. } => 5,
            Self::Usage(_) => 2,
            Self::Other(_) => 1,
        })
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortInUse {
                address,
                what,
                option,
            } => write!(
                f,
                "{address}, where {what} should listen, is in use. Stop what listens there (`ss -ltnp 'sport = :{}'` \
                 shows it), or choose another address by {option}.",
                address.port()
            ),
            Self::Usage(text) | Self::Other(text) => f.write_str(text),
        }
    }
}
