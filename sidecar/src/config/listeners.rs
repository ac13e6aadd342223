//! Listeners beside each other: no two take the same port, and no upstream is a listener of Levee's own.

use super::redis::Redis;
use crate::fetch::Origin;
use levee_config::reader::Section;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
    /// Whether a connection to `host` and `port` may reach it. Names other than `localhost` are not looked up.
    fn is_reached_by(&self, host: &str, port: u16) -> bool {
        let is_here = |target: &IpAddr| takes(self.address.ip(), *target);
        self.address.port() == port && port != 0 && targets(host).iter().any(is_here)
    }
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

/// Reports names and ports that are used twice, and upstreams that are listeners of Levee's own.
pub(super) fn check(
    root: &mut Section<'_>,
    listeners: &[Listener],
    redis: &[Redis],
    envoy: Option<&Origin>,
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
    let upstreams = redis.iter().enumerate().map(|(place, redis)| {
        let path = format!("redis[{place}].upstream");
        (path, redis.upstream.host.as_str(), redis.upstream.port)
    });
    let envoy = envoy
        .into_iter()
        .map(|admin| ("envoy.admin".to_owned(), admin.host(), admin.port()));
    for (path, host, port) in upstreams.chain(envoy) {
        let own = listeners
            .iter()
            .find(|listener| listener.is_reached_by(host, port));
        if let Some(own) = own {
            let wrong = format!("is Levee's own {own}; it must be where the other program listens");
            root.error(&path, &wrong);
        }
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

/// The addresses of this machine that a connection to `host` may go to.
fn targets(host: &str) -> Vec<IpAddr> {
    const LOOPBACK: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    if host.eq_ignore_ascii_case("localhost") {
        return LOOPBACK.to_vec();
    }
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        // A connection to no address in particular goes to loopback.
        Ok(ip) if ip.is_unspecified() => LOOPBACK
            .into_iter()
            .filter(|loopback| loopback.is_ipv4() == ip.is_ipv4())
            .collect(),
        // Other addresses may belong to another machine, even if a listener takes all of this one's.
        Ok(ip) if ip.is_loopback() => vec![ip],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("127.0.0.1:1", "0.0.0.0", true),
            ("127.0.0.1:1", "::1", false),
            ("[::1]:1", "localhost", true),
            ("[::1]:1", "::", true),
            ("0.0.0.0:1", "127.0.0.2", true),
            ("0.0.0.0:1", "10.0.0.1", false),
            ("[::]:1", "::ffff:127.0.0.1", true),
            ("10.0.0.1:1", "localhost", false),
            ("127.0.0.1:1", "redis", false),
        ] {
            let own = listener(own);
            assert_eq!(own.is_reached_by(host, 1), reaches, "{own} {host}");
            assert!(!own.is_reached_by(host, 2), "{own} {host}");
        }
    }
}
