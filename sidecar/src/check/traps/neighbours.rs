//! Traps about the other filters of a connection manager: those that hide requests from Levee's, and those that send them
//! elsewhere after it has decided.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::{Envoy, Manager, Route, Side, clusters_of};
use crate::check::http_filter::HttpFilter;
use std::collections::BTreeSet;

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("filter-bypassed", filter_bypassed),
    Trap::warning("cache-timeouts", cache_timeouts),
    Trap::warning("route-changes", route_changes),
];

/// Whether a filter calls services by itself: what it sends does not pass the filters between it and the router.
fn is_cache(filter: &HttpFilter<'_>) -> bool {
    filter
        .extension()
        .is_some_and(|(name, _)| matches!(name, "cache" | "cache_v2"))
}

/// A cache in front: Levee sees neither the requests that it answers nor those that it sends.
fn filter_bypassed(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, _) in envoy.guarded() {
        for filter in manager
            .others(Side::BeforeLevee)
            .iter()
            .filter(|at| is_cache(at))
        {
            caught.at(
                &filter.entry,
                "calls services by itself, past Levee's filter: such requests have no breaker and no time limit by class, and only circuit_breaker_unseen_requests_total counts them; put it after Levee's filter",
            );
        }
    }
}

/// A cache behind: a time limit ends its request, and its answer looks like one of the service.
fn cache_timeouts(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, _) in envoy.guarded() {
        for filter in manager
            .others(Side::AfterLevee)
            .iter()
            .filter(|at| is_cache(at))
        {
            caught.at(
                &filter.entry,
                "turns a time limit that it runs into to a 504 of the service: breakers count that as a failure, but proxy_request_timeout_total may not count it; watch circuit_breaker_failures_total instead",
            );
        }
    }
}

/// A filter behind Levee's that may send a request to another service.
fn route_changes(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, _) in envoy.guarded() {
        if leads_to_one_service(manager) {
            continue;
        }
        for filter in manager.others(Side::AfterLevee) {
            if let Some((at, right)) = may_change_route(filter) {
                caught.at(
                    &at,
                    format!("may change the route after Levee's filter: failures count for the service that is called in the end, but breaker and time limits are those of the first; {right}"),
                );
            }
        }
    }
}

/// Whether all routes are known, and name the same cluster.
fn leads_to_one_service(manager: &Manager<'_>) -> bool {
    let mut routes = manager.routes();
    routes.retain(Route::leads_on);
    let names: BTreeSet<&str> = routes
        .iter()
        .flat_map(|route| clusters_of(&route.at))
        .collect();
    let is_named = |route: &Route<'_>| !clusters_of(&route.at).is_empty();
    manager.has_all_routes() && routes.iter().all(is_named) && names.len() < 2
}

/// Where a filter's configuration lets it change the route, and what would prevent it.
fn may_change_route<'a>(filter: &HttpFilter<'a>) -> Option<(At<'a>, &'static str)> {
    const BEFORE: &str = "put it before Levee's filter";
    const LEAVE_OUT: &str = "leave this out, or put the filter before Levee's";
    let (name, config) = filter.extension()?;
    let switch = |at: &At<'a>| {
        at.get("clear_route_cache")
            .filter(|at| at.text() == Some("true"))
    };
    match name {
        "wasm" | "golang" | "dynamic_modules" | "ip_tagging" | "grpc_http1_reverse_bridge" => {
            Some((filter.entry.clone(), BEFORE))
        }
        "lua" => lua_may(config).then(|| {
            (
                filter.entry.clone(),
                "put it before Levee's filter, or set clear_route_cache: false and do not call clearRouteCache",
            )
        }),
        "ext_proc" => processor_may(config).then(|| {
            (
                filter.entry.clone(),
                "put it before Levee's filter, or set route_cache_action: RETAIN",
            )
        }),
        "ext_authz" => switch(config)
            .or_else(|| config.get("clear_route_cache_headers"))
            .map(|at| (at, LEAVE_OUT)),
        "jwt_authn" => {
            let providers = config.get("providers")?.entries();
            let found = providers.iter().find_map(|(_, provider)| switch(provider));
            found.map(|at| (at, LEAVE_OUT))
        }
        "set_filter_state" | "transform" | "mcp" => switch(config).map(|at| (at, LEAVE_OUT)),
        "mcp_json_rest_bridge" => (!config.is_true("disable_clear_route_cache")).then(|| {
            (
                filter.entry.clone(),
                "put it before Levee's filter, or set disable_clear_route_cache: true",
            )
        }),
        "grpc_json_transcoder" => (!config.is_true("match_incoming_request_route")).then(|| {
            (
                filter.entry.clone(),
                "put it before Levee's filter, or set match_incoming_request_route: true",
            )
        }),
        _ => None,
    }
}

/// By default a script changes the route whenever it changes a request's headers.
fn lua_may(config: &At<'_>) -> bool {
    const CHANGES: [&str; 4] = ["add", "replace", "remove", "clearRouteCache"];
    let is_kept = config.text_at("clear_route_cache") == Some("false");
    let inline = ["default_source_code.inline_string", "inline_code"];
    let code = inline.iter().find_map(|key| config.text_at(key));
    match code {
        Some(code) if is_kept => code.contains("clearRouteCache"),
        Some(code) if config.get("source_codes").is_none() => {
            code.contains("envoy_on_request") && CHANGES.iter().any(|word| code.contains(word))
        }
        _ => !is_kept,
    }
}

/// A processor asks for it in its answer, unless it is asked nothing, or its wish is not heard.
fn processor_may(config: &At<'_>) -> bool {
    let mode = |key: &str| config.text_at(&format!("processing_mode.{key}"));
    let sees_no_request = mode("request_header_mode") == Some("SKIP")
        && mode("request_body_mode").is_none_or(|mode| mode == "NONE");
    let is_kept = config.is_true("disable_clear_route_cache")
        || config.text_at("route_cache_action") == Some("RETAIN");
    !(is_kept || sees_no_request || config.is_true("observability_mode"))
}
