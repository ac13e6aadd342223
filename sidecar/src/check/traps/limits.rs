//! Traps about time limits.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::classes;
use crate::check::envoy::Envoy;
use levee_filter::config::Config;
use std::time::Duration;

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("no-limit", no_limit),
    Trap::remark("route-limits", route_limits),
    Trap::warning("idle-limit", idle_limit),
    Trap::warning("slow-clients", slow_clients),
    Trap::warning("upload-limit", upload_limit),
    Trap::warning("connect-timeout", connect_timeout),
];

/// The filter's class overrides the route's timeout, but where the filter is absent or off nothing ends a request.
fn no_limit(envoy: &Envoy<'_>, caught: &mut Caught) {
    for route in envoy.routes() {
        if let Some(timeout) = route.at.find("route.timeout").filter(At::is_zero) {
            caught.at(
                &timeout,
                "is 0s, which is no limit: where the filter is absent or fails, a request may hang for ever; give it one, such as 30s",
            );
        }
    }
}

/// The filter overrides a route's `timeout` by the class, but `max_stream_duration` stays in force. A `timeout` that is longer
/// than a class that somebody chose is for times when the filter is absent.
fn route_limits(envoy: &Envoy<'_>, caught: &mut Caught) {
    let default = Config::default().general.timeouts;
    let default = default.classes.limit(default.class);
    for (manager, filter) in envoy.guarded() {
        for route in manager.routes().iter().filter(|route| manager.sees(route)) {
            let Some(longest) = classes::longest_of(filter, route) else {
                continue;
            };
            let limit = |path: &str| {
                let at = route.at.find(path)?;
                let limit = at.duration().filter(|limit| !limit.is_zero())?;
                Some((at, limit))
            };
            let is_lost =
                |limit: Duration| limit < longest || (limit > longest && longest == default);
            if let Some((at, _)) = limit("route.timeout").filter(|(_, limit)| is_lost(*limit)) {
                caught.at(
                    &at,
                    format!("does not apply: the filter sets {longest:?}, by the class of the request; give the route another class by timeouts.rules if that is not what it needs"),
                );
            }
            let stream = limit("route.max_stream_duration.max_stream_duration");
            if let Some((at, _)) = stream.filter(|(_, limit)| *limit < longest) {
                caught.at(
                    &at,
                    format!("ends requests before their class does ({longest:?}), and proxy_request_timeout_total does not count them; make it longer, or the class shorter"),
                );
            }
        }
    }
}

/// Envoy ends a stream that is idle for `stream_idle_timeout`, also while a request waits for its class to end it.
fn idle_limit(envoy: &Envoy<'_>, caught: &mut Caught) {
    const DEFAULT: Duration = Duration::from_mins(5);
    for (manager, filter) in envoy.guarded() {
        let at = manager.at.get("stream_idle_timeout");
        if let Some(at) = at.as_ref().filter(|at| at.is_zero()) {
            caught.at(
                at,
                "is 0s, which is no limit: silent WebSockets and uploads that stopped stay for ever; give it one, longer than the longest class in use",
            );
            continue;
        }
        let idle = at.as_ref().map_or(Some(DEFAULT), At::duration);
        let (Some(idle), Some(longest)) = (idle, classes::longest(filter)) else {
            continue;
        };
        if longest >= idle {
            caught.at(
                at.as_ref().unwrap_or(&manager.at),
                format!(
                    "stream_idle_timeout ({idle:?}{}) is not longer than the longest class in use ({longest:?}): it ends requests before their class does; make it longer",
                    if at.is_none() { ", Envoy's default" } else { "" }
                ),
            );
        }
    }
}

/// A response that its client reads too slowly is ended by its class. The breaker takes that for neutral, but the request
/// holds its place at the service until then, and counts as a timeout.
fn slow_clients(envoy: &Envoy<'_>, caught: &mut Caught) {
    const KEY: &str = "per_connection_buffer_high_watermark_timeout";
    for (manager, filter) in envoy.guarded() {
        let at = manager.listener.get(KEY);
        let Some(at) = at.as_ref().filter(|at| !at.is_zero()) else {
            caught.at(
                at.as_ref().unwrap_or(&manager.listener),
                format!("without {KEY} the request of a client that stops reading its response ends by the class's time limit: until then it keeps its connection to the service, and it counts in proxy_request_timeout_total as if the service were slow; set it to 20s or so, as envoy/gateway.yaml does"),
            );
            continue;
        };
        let (Some(within), Some(longest)) = (at.duration(), classes::longest(filter)) else {
            continue;
        };
        if within >= longest {
            caught.at(
                at,
                format!("is not shorter than the longest class in use ({longest:?}): the request of a client that stops reading its response ends by the class's time limit first, and counts as if the service were slow; make it shorter"),
            );
        }
    }
}

/// Classes begin when a request is complete, so they don't bound uploads. `stream_idle_timeout` only ends those that stop.
fn upload_limit(envoy: &Envoy<'_>, caught: &mut Caught) {
    const KEYS: [&str; 2] = [
        "request_timeout",
        "common_http_protocol_options.max_stream_duration",
    ];
    for (manager, _) in envoy.guarded() {
        let bounds = KEYS.iter().filter_map(|key| manager.at.find(key));
        if bounds.into_iter().any(|at| !at.is_zero()) {
            continue;
        }
        let at = manager.at.get("request_timeout");
        caught.at(
            at.as_ref().unwrap_or(&manager.at),
            "without request_timeout an upload that trickles in never ends: the filter's time limits begin when a request is complete; set it to as long as the longest upload may take, such as 1800s",
        );
    }
}

/// `connect_timeout` bounds the dial and the TLS handshake, which the filter does not. Where the class ends a request
/// first, nothing says that the service was asked, and the request is neutral.
fn connect_timeout(envoy: &Envoy<'_>, caught: &mut Caught) {
    const DEFAULT: Duration = Duration::from_secs(5);
    for cluster in &envoy.clusters {
        let at = cluster.get("connect_timeout");
        let Some(timeout) = at.as_ref().map_or(Some(DEFAULT), At::duration) else {
            continue;
        };
        let name = cluster.text_at("name").unwrap_or_default();
        let shortest = classes::shortest_to(envoy, name);
        let message = if let Some(shortest) = shortest.filter(|shortest| timeout >= *shortest) {
            format!(
                "connect_timeout ({timeout:?}{}) is not shorter than the shortest class of its requests ({shortest:?}): those that wait for a connection then end by their class, which is neutral, so no breaker opens for a service that takes no connections; make it shorter",
                if at.is_none() {
                    ", Envoy's default"
                } else {
                    ""
                }
            )
        } else if timeout > DEFAULT {
            "is longer than 5s: it alone bounds the dial and the TLS handshake, while a request waits; make it 5s or less".to_owned()
        } else {
            continue;
        };
        caught.at(at.as_ref().unwrap_or(cluster), message);
    }
}
