//! The address of a service: host and port.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Where a service listens: a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>()
            && address.port() != 0
        {
            return Ok(address.into());
        }
        let wanted =
            || format!("`{text}` is not HOST:PORT, such as 127.0.0.1:9001 or auth.internal:80");
        let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
        let port = port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or_else(wanted)?;
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if host.len() > 253 || !host.trim_end_matches('.').split('.').all(is_label) {
            return Err(wanted());
        }
        // `1.2.3` or `999.0.0.1` would be looked up as names and not found.
        let last = host.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit())
            && host.parse::<std::net::Ipv4Addr>().is_err()
        {
            return Err(wanted());
        }
        Ok(Self {
            host: host.to_string(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::HostPort;

    #[test]
    fn addresses_are_read_and_what_is_none_is_refused() {
        for good in [
            "127.0.0.1:9001",
            "localhost:80",
            "auth.internal:8080",
            "[::1]:9001",
            "my_svc-1:1",
        ] {
            assert_eq!(
                good.parse::<HostPort>().map(|at| at.to_string()),
                Ok(good.to_string())
            );
        }
        for bad in [
            "",
            "9001",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:70000",
            "a..b:1",
            "a b:1",
            ":1",
            "1.2.3:4",
            "999.0.0.1:80",
            "http://a:1",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
