//! Traps about headers by which clients could control Envoy.

use super::trap::{Caught, Trap};
use crate::check::at::At;
use crate::check::envoy::Envoy;
use levee_filter::config::Fallback;

pub(super) const TRAPS: &[Trap] = &[
    Trap::warning("client-headers", client_headers),
    Trap::warning("fallback-route", fallback_route),
];

/// Envoy obeys `x-envoy-` headers of internal clients, and believes their addresses. It must count all clients as external, or remove the headers early:
/// the filter overwrites only those for the two time limits.
fn client_headers(envoy: &Envoy<'_>, caught: &mut Caught) {
    const RIGHT: &str =
        "or remove them by early_header_mutation_extensions as envoy/gateway.yaml does";
    for (manager, _) in envoy.guarded() {
        if manager.removes_early("x-envoy-") {
            continue;
        }
        if !manager.at.is_true("use_remote_address") {
            let at = manager.at.get("use_remote_address");
            caught.at(
                at.as_ref().unwrap_or(&manager.at),
                format!("without use_remote_address every client counts as internal: Envoy obeys its x-envoy- headers (x-envoy-max-retries, ...) and believes its x-forwarded-for, so one client can be several callers to a breaker; set use_remote_address: true, {RIGHT}"),
            );
        }
        if let Some(internal) = manager.at.get("internal_address_config") {
            let has_any =
                !internal.list("cidr_ranges").is_empty() || internal.is_true("unix_sockets");
            if has_any {
                caught.at(
                    &internal,
                    format!("Envoy obeys the x-envoy- headers of clients at these addresses (x-envoy-max-retries, ...); leave it out, {RIGHT}"),
                );
            }
        }
    }
}

/// A fallback route is chosen by a header, which must be removed from clients' requests.
fn fallback_route(envoy: &Envoy<'_>, caught: &mut Caught) {
    const HEADER: &str = "x-levee-fallback";
    for (manager, filter) in envoy.guarded() {
        let Some(config) = filter
            .config
            .as_ref()
            .filter(|config| config.has_fallback_routes())
        else {
            continue;
        };
        if !manager.removes_early(HEADER) {
            caught.at(
                &manager.at,
                format!("does not remove {HEADER} from clients' requests, which get 400 if they send it; remove x-levee- by early_header_mutation_extensions as envoy/gateway.yaml does"),
            );
        }
        if !manager.has_all_routes() {
            continue;
        }
        let of_services = config
            .services
            .iter()
            .map(|(name, service)| (format!("services.{name}.fallback.route"), &service.fallback));
        let general = ("fallback.route".to_owned(), &config.general.fallback);
        for (path, fallback) in of_services.chain([general]) {
            // A service without a fallback of its own inherits the general one, which is reported there.
            let is_inherited = path != "fallback.route" && *fallback == config.general.fallback;
            let Fallback::Route(value) = fallback else {
                continue;
            };
            let is_there = manager
                .routes()
                .iter()
                .flat_map(|route| route.at.list("match.headers"))
                .any(|header| header.text_at("name") == Some(HEADER) && may_match(&header, value));
            if !is_there && !is_inherited {
                caught.there(
                    filter.locate(&path),
                    format!("no route matches the header {HEADER} with {value:?}: refused requests get 503; add the route"),
                );
            }
        }
    }
}

/// Whether a `HeaderMatcher` may match this value: true unless it certainly does not.
fn may_match(header: &At<'_>, value: &str) -> bool {
    let exact = header
        .text_at("string_match.exact")
        .or_else(|| header.text_at("exact_match"));
    exact.is_none_or(|exact| exact == value)
}
