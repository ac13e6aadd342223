//! Traps about what Envoy listens on.

use super::trap::{Caught, Trap};
use crate::check::envoy::Envoy;
use std::net::IpAddr;

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("http3", http3),
    Trap::warning("admin-address", admin_address),
];

/// Levee's tests speak HTTP/1.1 and HTTP/2.
fn http3(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, _) in envoy.guarded() {
        let codec = manager.at.get("codec_type");
        let codec = codec.filter(|codec| codec.text() == Some("HTTP3"));
        let quic = || manager.listener.find("udp_listener_config.quic_options");
        if let Some(at) = codec.or_else(quic) {
            caught.at(
                &at,
                "over HTTP/3 Envoy shows the filter neither the status nor the deadline of a gRPC call: breakers judge gRPC on this listener by the HTTP status alone",
            );
        }
    }
}

/// The admin interface can stop Envoy.
fn admin_address(envoy: &Envoy<'_>, caught: &mut Caught) {
    let Some(at) = envoy.find("admin.address.socket_address.address") else {
        return;
    };
    let address = at.text().and_then(|text| text.parse::<IpAddr>().ok());
    if address.is_some_and(|address| !address.is_loopback()) {
        caught.at(
            &at,
            "others than this machine may reach the admin interface, which can stop Envoy; set it to 127.0.0.1",
        );
    }
}
