//! Traps about time limits.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::{Envoy, Filter, Manager};
use levee_policy::timeout::Class;
use std::time::Duration;

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("no-limit", no_limit),
    Trap::warning("idle-limit", idle_limit),
    Trap::warning("slow-clients", slow_clients),
    Trap::warning("connect-timeout", connect_timeout),
];

/// The filter's class overrides the route's timeout, but where the filter is absent or off nothing ends a request.
fn no_limit(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (_, route) in envoy.managers.iter().flat_map(Manager::routes) {
        if let Some(timeout) = route.find("route.timeout").filter(At::is_zero) {
            caught.at(
                &timeout,
                "is 0s, which is no limit: where the filter is absent or fails, a request may hang for ever; give it one, such as 30s",
            );
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
        let (Some(idle), Some(longest)) = (idle, longest_class(filter)) else {
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

/// A response that its client reads too slowly is ended by its class, which the breaker counts as a failure of the service.
fn slow_clients(envoy: &Envoy<'_>, caught: &mut Caught) {
    const KEY: &str = "per_connection_buffer_high_watermark_timeout";
    for (manager, filter) in envoy.guarded() {
        let at = manager.listener.get(KEY);
        let Some(at) = at.as_ref().filter(|at| !at.is_zero()) else {
            caught.at(
                at.as_ref().unwrap_or(&manager.listener),
                format!("without {KEY} the request of a client that stops reading its response ends by the class's time limit, which counts as a failure of the service, and five of those open its breaker; set it to 20s or so, as envoy/gateway.yaml does"),
            );
            continue;
        };
        let (Some(within), Some(longest)) = (at.duration(), longest_class(filter)) else {
            continue;
        };
        if within >= longest {
            caught.at(
                at,
                format!("is not shorter than the longest class in use ({longest:?}): the request of a client that stops reading its response ends by the class's time limit first, which counts as a failure of the service; make it shorter"),
            );
        }
    }
}

/// The longest limit of any request.
fn longest_class(filter: &Filter<'_>) -> Option<Duration> {
    let config = filter.config.as_ref()?;
    let services = config.services.values().chain([&config.general]);
    services
        .flat_map(|service| {
            let timeouts = &service.timeouts;
            let ruled = timeouts.rules.iter().map(|rule| rule.class);
            ruled
                .chain([timeouts.class])
                .map(|class: Class| timeouts.classes.limit(class))
        })
        .max()
}

/// `connect_timeout` bounds the dial and the TLS handshake, which the filter does not. Envoy's default is 5 s.
fn connect_timeout(envoy: &Envoy<'_>, caught: &mut Caught) {
    const MOST: Duration = Duration::from_secs(5);
    for cluster in &envoy.clusters {
        let Some(at) = cluster.get("connect_timeout") else {
            continue;
        };
        if at.duration().is_some_and(|timeout| timeout > MOST) {
            caught.at(
                &at,
                "is longer than 5s: it alone bounds the dial and the TLS handshake, while a request waits; make it 5s or less",
            );
        }
    }
}
