//! Who calls: the address of the client, as a hash.

use crate::host::{Host, property};
use crate::label::fnv1a_32;
use levee_policy::callers::Caller;

/// The caller of the current request, as far as Envoy knows it. That takes one host call.
pub fn of_current_request<H: Host>(host: &H) -> Caller {
    host.with_property(property::SOURCE_ADDRESS, of_address)
        .unwrap_or(Caller::UNKNOWN)
}

/// The caller at this address, whatever its port. One that has IPv6 has all of its network's /64
/// (RFC 6177), so that is what counts.
fn of_address(address: &[u8]) -> Caller {
    let Ok(text) = std::str::from_utf8(address) else {
        return Caller::UNKNOWN;
    };
    let without_port = match text.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') || !host.contains(':') => host,
        _ => text,
    };
    let without_brackets = without_port.trim_start_matches('[').trim_end_matches(']');
    Caller::from_hash(match without_brackets.parse() {
        Ok(std::net::IpAddr::V4(address)) => fnv1a_32(&address.octets()),
        Ok(std::net::IpAddr::V6(address)) => {
            if let Some(address) = address.to_ipv4_mapped() {
                fnv1a_32(&address.octets())
            } else {
                let [a, b, c, d, ..] = address.segments();
                let network = [a, b, c, d].map(u16::to_be_bytes);
                fnv1a_32(network.as_flattened())
            }
        }
        Err(_) => fnv1a_32(without_brackets.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_is_one_address_whatever_its_port() {
        let same = [
            ["10.0.0.1:4711", "10.0.0.1:80"],
            ["10.0.0.1:4711", "10.0.0.1"],
            ["10.0.0.1:4711", "[::ffff:10.0.0.1]:80"],
            ["[2001:db8::1]:443", "[2001:db8:0:0:ffff::2]:444"],
            ["[2001:db8::1]:443", "2001:db8::9"],
            ["/run/client.sock", "/run/client.sock"],
        ];
        for [one, other] in same {
            assert_eq!(
                of_address(one.as_bytes()),
                of_address(other.as_bytes()),
                "{one} {other}"
            );
        }
        let distinct = [
            "10.0.0.1:4711",
            "10.0.0.2:4711",
            "[2001:db8::1]:443",
            "[2001:db8:0:1::1]:443",
            "/run/client.sock",
        ];
        for (place, one) in distinct.iter().enumerate() {
            for other in &distinct[..place] {
                assert_ne!(of_address(one.as_bytes()), of_address(other.as_bytes()));
            }
            assert_ne!(of_address(one.as_bytes()), Caller::UNKNOWN);
        }
        assert_eq!(of_address(&[0xff]), Caller::UNKNOWN);
    }
}
