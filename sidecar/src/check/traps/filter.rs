//! Traps in how the filter is set up in Envoy.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::{Envoy, Route};
use crate::check::http_filter::HttpFilter;
use crate::check::levee_filter::Order;
use levee_filter::config::Config;
use std::collections::BTreeSet;

pub(super) const TRAPS: &[Trap] = &[
    Trap::error("configuration", configuration),
    Trap::error("filter-order", filter_order),
    Trap::error("capabilities", capabilities),
    Trap::warning("filter-missing", filter_missing),
    Trap::warning("filter-off", filter_off),
    Trap::warning("failure-policy", failure_policy),
];

/// The filter refuses its own configuration, and Envoy the listener with it.
fn configuration(envoy: &Envoy<'_>, caught: &mut Caught) {
    for filter in envoy.filters() {
        for wrong in &filter.errors {
            caught.there(wrong.place.clone(), &wrong.message);
        }
    }
}

/// The router is the last filter that sees a request.
fn filter_order(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (_, filter) in envoy.guarded() {
        if filter.order == Order::AfterRouter {
            caught.at(
                &filter.entry,
                "stands after the router, which is the last to see a request; put it before the router",
            );
        }
    }
}

/// The filter's imports and exports. A test compares it with `envoy/gateway.yaml`.
const CAPABILITIES: [&str; 32] = [
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_request_headers",
    "proxy_on_request_body",
    "proxy_on_request_trailers",
    "proxy_on_log",
    "proxy_on_delete",
    "proxy_on_tick",
    "proxy_on_queue_ready",
    "proxy_log",
    "proxy_get_buffer_bytes",
    "proxy_get_property",
    "proxy_get_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_send_local_response",
    "proxy_get_shared_data",
    "proxy_set_shared_data",
    "proxy_register_shared_queue",
    "proxy_enqueue_shared_queue",
    "proxy_dequeue_shared_queue",
    "proxy_define_metric",
    "proxy_increment_metric",
    "proxy_record_metric",
    "proxy_set_tick_period_milliseconds",
    "proxy_set_effective_context",
    "proxy_call_foreign_function",
    "clock_time_get",
    "random_get",
    "environ_get",
    "environ_sizes_get",
    "fd_write",
    "proc_exit",
];

/// Those that only health checks need.
const CAPABILITIES_OF_CHECKS: [&str; 2] = ["proxy_http_call", "proxy_on_http_call_response"];

/// A missing capability disables the filter silently. An empty list restricts nothing.
fn capabilities(envoy: &Envoy<'_>, caught: &mut Caught) {
    const PATHS: [&str; 2] = [
        "capability_restriction_config.allowed_capabilities",
        "vm_config.capability_restriction_config.allowed_capabilities",
    ];
    for filter in envoy.filters() {
        let Some(plugin) = &filter.plugin else {
            continue;
        };
        let Some(list) = PATHS.iter().find_map(|path| plugin.find(path)) else {
            continue;
        };
        let allowed: BTreeSet<&str> = list.entries().into_iter().map(|(name, _)| name).collect();
        let has_checks = filter
            .config
            .as_ref()
            .is_some_and(Config::has_health_checks);
        let for_checks = CAPABILITIES_OF_CHECKS.into_iter().filter(|_| has_checks);
        let missing: Vec<&str> = CAPABILITIES
            .into_iter()
            .chain(for_checks)
            .filter(|name| !allowed.contains(name))
            .collect();
        if !allowed.is_empty() && !missing.is_empty() {
            let message = format!(
                "leaves out {}, without which the filter does nothing, or not everything; add what is missing",
                missing.join(", ")
            );
            caught.at(&list, message);
        }
    }
}

/// A listener whose services are unprotected.
fn filter_missing(envoy: &Envoy<'_>, caught: &mut Caught) {
    for manager in &envoy.managers {
        let may_come = manager.unknown_filters().any(HttpFilter::may_be_wasm);
        if manager.levee.is_none() && !may_come && !manager.leads_nowhere() {
            let at = manager.at.get("http_filters");
            caught.at(
                at.as_ref().unwrap_or(&manager.at),
                "Levee's filter is not among the filters: what goes through here has no breaker and no time limit by class; put it before the router",
            );
        }
    }
}

/// Requests that do not pass the filter though it is there.
fn filter_off(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, filter) in envoy.guarded() {
        let mut routes = manager.routes();
        routes.retain(Route::leads_on);
        let mut switches: Vec<At<'_>> = routes
            .iter()
            .flat_map(|route| manager.off_switches(route))
            .collect();
        if routes.is_empty() && !manager.has_all_routes() {
            switches.extend(filter.disabled());
        }
        for at in switches {
            caught.at(
                &at,
                "switches Levee's filter off, and no route switches it on again: no breaker, no time limit by class; leave this out",
            );
        }
    }
}

/// Without `FAIL_RELOAD`, a virtual machine that failed stays so.
fn failure_policy(envoy: &Envoy<'_>, caught: &mut Caught) {
    const RIGHT: &str = "set failure_policy: FAIL_RELOAD, and Envoy restarts it";
    for plugin in envoy.filters().filter_map(|filter| filter.plugin.as_ref()) {
        let Some(policy) = plugin.get("failure_policy") else {
            let what = if plugin.is_true("fail_open") {
                "pass unguarded"
            } else {
                "get 503"
            };
            caught.at(
                plugin,
                format!("has no failure_policy: once the filter's virtual machine fails, requests {what} until Envoy restarts; {RIGHT}"),
            );
            continue;
        };
        let name = policy.text().unwrap_or_default();
        let what = match name {
            "FAIL_RELOAD" => continue,
            "FAIL_OPEN" => "pass unguarded",
            _ => "get 503",
        };
        caught.at(
            &policy,
            format!("is {name}: once the filter's virtual machine fails, requests {what} until Envoy restarts; {RIGHT}"),
        );
    }
}
