//! How a connection ends whose other end is gone without a word, though nothing is said on it: a subscriber and a client
//! in `BLPOP queue 0` only wait.

use rustix::net::sockopt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Probes before the other end counts as gone: losing one or two packets is nothing.
const PROBES: u32 = 3;

/// How long the other end may acknowledge nothing, on each side of the proxy. `None`: as long as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub redis: Option<Duration>,
    pub clients: Option<Duration>,
}

/// The kernel ends the connection once its other end has acknowledged neither data nor probes `within` this time. The
/// probes begin at half of it.
///
/// Linux counts data that is not acknowledged, too (`TCP_USER_TIMEOUT`), and data that the other end doesn't take. It
/// must not be shorter than all probes together: it would end the connection at the first of them that is lost.
/// Elsewhere only a connection on which nothing is said ends in this time, and others by the system's own limits.
///
/// # Errors
/// The socket has ended.
pub fn end_when_silent(socket: &impl AsFd, within: Duration) -> io::Result<()> {
    let (idle, every) = probing(within);
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, every)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_socket_keepalive(socket, true)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(
        socket,
        u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
    )?;
    Ok(())
}

/// When the first probe goes out, and how far apart they are: whole seconds, as the kernel has them.
fn probing(within: Duration) -> (Duration, Duration) {
    let seconds = within.as_secs();
    let every = (seconds / u64::from(2 * PROBES)).max(1);
    let idle = seconds.saturating_sub(every * u64::from(PROBES)).max(1);
    (Duration::from_secs(idle), Duration::from_secs(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_probes_are_sent_within_the_time() {
        for (within, idle, every) in [(30, 15, 5), (60, 30, 10), (20, 11, 3), (4, 1, 1), (3, 1, 1)]
        {
            assert_eq!(
                probing(Duration::from_secs(within)),
                (Duration::from_secs(idle), Duration::from_secs(every)),
                "{within} s"
            );
        }
    }
}
