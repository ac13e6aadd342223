//! Listeners beside each other: no two take the same port, and nothing that Levee connects to is a listener of its own.

use super::redis::Redis;
use crate::resolve::addresses_within;
use levee_config::reader::Section;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How long all lookups of names may take together. What is not known by then is no mistake.
const LOOK_UP_WITHIN: Duration = Duration::from_millis(500);

/// A listener of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its key, such as `redis[0].listen`.
    pub path: String,
    pub address: SocketAddr,
    /// The configuration says that other machines are meant to reach it.
    pub exposed: bool,
}

/// `redis[0].listen (127.0.0.1:6380)`
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path, self.address)
    }
}

impl Listener {
    /// Whether any machine may reach it that reaches this one.
    pub fn is_open_to_all(&self) -> bool {
        self.address.ip().to_canonical().is_unspecified()
    }

    /// Whether a connection to `target`, at its own port, reaches it.
    fn is_reached_at(&self, target: IpAddr) -> bool {
        let own = self.address.ip().to_canonical();
        takes(own, target) && (!own.is_unspecified() || is_of_this_machine(target))
    }
}

/// What the configuration connects to.
pub(super) struct Target<'a> {
    /// The key that says so.
    pub path: String,
    pub host: &'a str,
    pub port: u16,
}

/// Whether both can't be bound at the same time.
pub fn overlap(one: SocketAddr, two: SocketAddr) -> bool {
    // The system chooses another port for each 0.
    one.port() != 0
        && one.port() == two.port()
        && (takes(one.ip(), two.ip()) || takes(two.ip(), one.ip()))
}

/// The first listener that takes the port of an earlier one, behind that one.
pub fn clash(listeners: &[Listener]) -> Option<(&Listener, &Listener)> {
    listeners.iter().enumerate().find_map(|(place, later)| {
        let mut earlier = listeners.iter().take(place);
        let earlier = earlier.find(|earlier| overlap(earlier.address, later.address))?;
        Some((earlier, later))
    })
}

/// All listeners of a configuration.
pub(super) fn listeners(admin: SocketAddr, exposed: bool, redis: &[Redis]) -> Vec<Listener> {
    let admin = Listener {
        path: "admin.listen".to_owned(),
        address: admin,
        exposed,
    };
    let redis = redis.iter().enumerate().map(|(place, redis)| Listener {
        path: format!("redis[{place}].listen"),
        address: redis.listen,
        exposed: redis.exposed,
    });
    std::iter::once(admin).chain(redis).collect()
}

/// Reports names and ports that are used twice, and targets that are listeners of Levee's own.
pub(super) fn check(
    root: &mut Section<'_>,
    listeners: &[Listener],
    redis: &[Redis],
    targets: &[Target<'_>],
) {
    let mut names = HashSet::new();
    for (place, redis) in redis.iter().enumerate() {
        if !names.insert(&redis.name) {
            root.error(
                &format!("redis[{place}].name"),
                "is used twice; each needs its own",
            );
        }
    }
    for (place, listener) in listeners.iter().enumerate() {
        let mut earlier = listeners.iter().take(place);
        if let Some(other) = earlier.find(|other| overlap(other.address, listener.address)) {
            let wrong =
                format!("is used twice: {other} has this port; each needs an address of its own");
            root.error(&listener.path, &wrong);
        }
    }
    check_loops(root, listeners, targets);
}

/// Only hosts at a port of Levee's own are looked up.
fn check_loops(root: &mut Section<'_>, listeners: &[Listener], targets: &[Target<'_>]) {
    let at = |port: u16| {
        let listeners = listeners.iter();
        listeners.filter(move |listener| port != 0 && listener.address.port() == port)
    };
    let suspects = targets
        .iter()
        .filter(|target| at(target.port).next().is_some());
    let hosts = suspects.clone().map(|target| target.host).collect();
    let addresses = addresses_within(&hosts, LOOK_UP_WITHIN);
    for Target { path, host, port } in suspects {
        let known = addresses.get(*host).map(Vec::as_slice).unwrap_or_default();
        let ips = destinations(host, known);
        let reached = ips.iter().find_map(|ip| {
            let own = at(*port).find(|listener| listener.is_reached_at(*ip))?;
            Some((own, ip))
        });
        let Some((own, ip)) = reached else { continue };
        let since = match host.parse::<IpAddr>() {
            Ok(_) => String::new(),
            Err(_) => format!(", since {host} is {ip}"),
        };
        let wrong =
            format!("is Levee's own {own}{since}; it must be where the other program listens");
        root.error(path, &wrong);
    }
}

/// Whether a socket that listens on `listening` gets connections to `target`.
fn takes(listening: IpAddr, target: IpAddr) -> bool {
    match (listening.to_canonical(), target.to_canonical()) {
        // Linux lets such a socket accept IPv4, too.
        (IpAddr::V6(any), _) if any.is_unspecified() => true,
        (IpAddr::V4(any), IpAddr::V4(_)) if any.is_unspecified() => true,
        (listening, target) => listening == target,
    }
}

/// Where a connection to `host` goes, which has these addresses as far as they are known.
fn destinations(host: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
    const LOOPBACK: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // They are loopback whatever a name server says (RFC 6761, section 6.3).
    if name == "localhost" || name.ends_with(".localhost") {
        return LOOPBACK.to_vec();
    }
    let canonical = addresses.iter().map(IpAddr::to_canonical);
    canonical
        .map(|ip| match ip {
            // A connection to no address in particular goes to loopback.
            IpAddr::V4(any) if any.is_unspecified() => LOOPBACK[0],
            IpAddr::V6(any) if any.is_unspecified() => LOOPBACK[1],
            ip => ip,
        })
        .collect()
}

/// Whether `ip` is loopback or an address of an interface. To its own addresses the system connects from the same one.
fn is_of_this_machine(ip: IpAddr) -> bool {
    /// Nothing is sent: the port does not matter.
    const DISCARD: u16 = 9;
    let any: IpAddr = if ip.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, DISCARD))?;
        socket.local_addr()
    };
    ip.is_loopback() || source().is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn listener(address: &str) -> Listener {
        Listener {
            path: "x".to_owned(),
            address: address.parse().unwrap(),
            exposed: false,
        }
    }

    #[test]
    fn two_listeners_clash_where_the_system_would_refuse_the_second() {
        for (one, two, clash) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "0.0.0.0:1", true),
            ("[::1]:1", "127.0.0.1:1", false),
            ("[::1]:1", "0.0.0.0:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (one, two) = (one.parse().unwrap(), two.parse().unwrap());
            assert_eq!(overlap(one, two), clash, "{one} {two}");
            assert_eq!(overlap(two, one), clash, "{two} {one}");
        }
    }

    #[test]
    fn a_connection_to_a_listener_of_ones_own_is_known_under_all_names_of_loopback() {
        for (own, host, reaches) in [
            ("127.0.0.1:1", "127.0.0.1", true),
            ("127.0.0.1:1", "LOCALHOST", true),
            ("127.0.0.1:1", "localhost.", true),
            ("127.0.0.1:1", "redis.localhost", true),
            ("127.0.0.1:1", "0.0.0.0", true),
            ("127.0.0.1:1", "::1", false),
            ("127.0.0.1:1", "::ffff:127.0.0.1", true),
            ("127.0.0.1:1", "::ffff:0.0.0.0", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1", true),
            ("[::1]:1", "localhost", true),
            ("[::1]:1", "::", true),
            ("0.0.0.0:1", "127.0.0.2", true),
            // Another machine's, which the configuration of this one says nothing about.
            ("0.0.0.0:1", "198.51.100.1", false),
            ("[::]:1", "198.51.100.1", false),
            ("[::]:1", "::ffff:127.0.0.1", true),
            ("[::ffff:0.0.0.0]:1", "127.0.0.1", true),
            ("10.0.0.1:1", "localhost", false),
            ("10.0.0.1:1", "10.0.0.1", true),
            // The forms of inet_aton(3).
            ("127.0.0.1:1", "127.1", true),
            ("127.0.0.1:1", "0", true),
            ("127.0.0.1:1", "2130706433", true),
            ("127.0.0.1:1", "0x7f000001", true),
            ("127.0.0.1:1", "127.2", false),
            ("0.0.0.0:1", "127.2", true),
        ] {
            let own = listener(own);
            let known = addresses_within(&BTreeSet::from([host]), LOOK_UP_WITHIN);
            let known = known.get(host).map(Vec::as_slice).unwrap_or_default();
            let ips = destinations(host, known);
            let is_reached = ips.iter().any(|ip| own.is_reached_at(*ip));
            assert_eq!(is_reached, reaches, "{own} {host} {ips:?}");
        }
    }

    #[test]
    fn addresses_of_interfaces_are_of_this_machine_and_others_are_not() {
        let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("198.51.100.1:9")?;
            socket.local_addr()
        });
        // Without a route there is none.
        if let Ok(own) = own {
            assert!(is_of_this_machine(own.ip()), "{own}");
            assert!(listener("0.0.0.0:1").is_reached_at(own.ip()), "{own}");
        }
        for (ip, wanted) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("198.51.100.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_of_this_machine(ip.parse().unwrap()), wanted, "{ip}");
        }
    }
}
