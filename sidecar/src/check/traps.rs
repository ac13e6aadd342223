//! Known traps in Envoy configurations: settings that Envoy takes, and that make Levee work less or not at all.
//!
//! Each trap is one small function that looks at the configuration and tells where it is caught.

use super::at::At;
use super::envoy::{Envoy, Filter, Manager, clusters_of};
use super::stats::{durations_hidden, stats_hidden, stats_tags};
use super::{Finding, Severity};
use levee_filter::config::Fallback;
use levee_policy::timeout::Class;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use Severity::{Error, Warning};

/// A trap.
pub struct Trap {
    /// What it is called in messages.
    pub name: &'static str,
    /// Whether Levee doesn't work in it, or works less well.
    pub severity: Severity,
    find: fn(&Envoy<'_>, &mut Caught),
}

/// All traps, in the order of the table in the README.
pub const TRAPS: [Trap; 21] = [
    trap("configuration", Error, configuration),
    trap("filter-order", Error, filter_order),
    trap("capabilities", Error, capabilities),
    trap("filter-missing", Warning, filter_missing),
    trap("failure-policy", Warning, failure_policy),
    trap("stats-tags", Warning, stats_tags),
    trap("stats-hidden", Warning, stats_hidden),
    trap("durations-hidden", Warning, durations_hidden),
    trap("no-limit", Warning, no_limit),
    trap("idle-limit", Warning, idle_limit),
    trap("slow-clients", Warning, slow_clients),
    trap("connect-timeout", Warning, connect_timeout),
    trap("client-headers", Warning, client_headers),
    trap("fallback-route", Warning, fallback_route),
    trap("retry-budget", Warning, retry_budget),
    trap("outlier-detection", Warning, outlier_detection),
    trap("panic-threshold", Warning, panic_threshold),
    trap("unknown-name", Warning, unknown_name),
    trap("shared-vm", Warning, shared_vm),
    trap("http3", Warning, http3),
    trap("admin-address", Warning, admin_address),
];

const fn trap(name: &'static str, severity: Severity, find: fn(&Envoy<'_>, &mut Caught)) -> Trap {
    Trap {
        name,
        severity,
        find,
    }
}

/// Looks for all traps.
pub fn look(envoy: &Envoy<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for trap in &TRAPS {
        let mut caught = Caught(BTreeMap::new());
        (trap.find)(envoy, &mut caught);
        findings.extend(caught.0.into_iter().map(|((line, message), path)| Finding {
            line,
            path,
            message,
            severity: trap.severity,
            trap: Some(trap.name),
        }));
    }
    findings
}

/// Where a trap caught something: paths by lines and messages. What many parts share by an alias is told once.
pub(super) struct Caught(BTreeMap<(usize, String), String>);

impl Caught {
    pub(super) fn at(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.there((at.line, at.path.clone()), message);
    }

    pub(super) fn there(&mut self, (line, path): (usize, String), message: impl Into<String>) {
        self.0.entry((line, message.into())).or_insert(path);
    }
}

/// The filter refuses its own configuration, and Envoy the listener with it.
fn configuration(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (_, filter) in envoy.guarded() {
        for (line, path, message) in &filter.errors {
            caught.there((*line, path.clone()), message);
        }
    }
}

/// The router is the last filter that sees a request.
fn filter_order(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (_, filter) in envoy.guarded() {
        if filter.is_after_router {
            caught.at(
                &filter.entry,
                "stands after the router, which is the last to see a request; put it before the router",
            );
        }
    }
}

/// What the filter calls, and what Envoy calls it for. The test compares it with `envoy/gateway.yaml`.
const CAPABILITIES: [&str; 30] = [
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_request_headers",
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

/// A capability that is left out disables the filter without a word. An empty list restricts nothing.
fn capabilities(envoy: &Envoy<'_>, caught: &mut Caught) {
    const PATHS: [&str; 2] = [
        "capability_restriction_config.allowed_capabilities",
        "vm_config.capability_restriction_config.allowed_capabilities",
    ];
    for (_, filter) in envoy.guarded() {
        let Some(list) = PATHS.iter().find_map(|path| filter.plugin.find(path)) else {
            continue;
        };
        let allowed: BTreeSet<&str> = list.entries().into_iter().map(|(name, _)| name).collect();
        let missing: Vec<&str> = CAPABILITIES
            .into_iter()
            .filter(|name| !allowed.contains(name))
            .collect();
        if !allowed.is_empty() && !missing.is_empty() {
            let message = format!(
                "leaves out {}, without which the filter does nothing, or not all; add what is missing",
                missing.join(", ")
            );
            caught.at(&list, message);
        }
    }
}

/// A listener whose services nobody guards.
fn filter_missing(envoy: &Envoy<'_>, caught: &mut Caught) {
    for manager in &envoy.managers {
        if manager.filter.is_none() && !manager.leads_nowhere() {
            let at = manager.at.get("http_filters");
            caught.at(
                at.as_ref().unwrap_or(&manager.at),
                "Levee's filter is not among the filters: what goes through here has no breaker and no time limit by class; put it before the router",
            );
        }
    }
}

/// What happens when the filter's virtual machine has failed.
fn failure_policy(envoy: &Envoy<'_>, caught: &mut Caught) {
    const RIGHT: &str = "set failure_policy: FAIL_RELOAD, and it is made anew";
    for (_, filter) in envoy.guarded() {
        let Some(policy) = filter.plugin.get("failure_policy") else {
            let what = if filter.plugin.is_true("fail_open") {
                "pass unguarded"
            } else {
                "get 503"
            };
            caught.at(
                &filter.plugin,
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

/// The filter's class overrides it, but where the filter is absent or off nothing ends a request.
fn no_limit(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (_, route) in envoy.managers.iter().flat_map(Manager::routes) {
        if let Some(timeout) = route.find("route.timeout").filter(is_zero) {
            caught.at(
                &timeout,
                "is 0s, which is no limit: where the filter is absent or fails, a request may hang for ever; give it one, such as 30s",
            );
        }
    }
}

/// Envoy ends a stream on which nothing moves for that long; a request that waits longer is not ended by its class.
fn idle_limit(envoy: &Envoy<'_>, caught: &mut Caught) {
    const DEFAULT: Duration = Duration::from_mins(5);
    for (manager, filter) in envoy.guarded() {
        let at = manager.at.get("stream_idle_timeout");
        if let Some(at) = at.as_ref().filter(|at| is_zero(at)) {
            caught.at(
                at,
                "is 0s, which is no limit: silent WebSockets and uploads that stopped stay for ever; give it one, longer than the longest class in use",
            );
            continue;
        }
        let idle = at.as_ref().map_or(Some(DEFAULT), duration);
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

/// An answer that its client is too slow to take ends by its class, which its breaker counts as a failure of the service.
fn slow_clients(envoy: &Envoy<'_>, caught: &mut Caught) {
    const KEY: &str = "per_connection_buffer_high_watermark_timeout";
    for (manager, filter) in envoy.guarded() {
        let at = manager.listener.get(KEY);
        let Some(at) = at.as_ref().filter(|at| !is_zero(at)) else {
            caught.at(
                at.as_ref().unwrap_or(&manager.listener),
                format!("without {KEY} a client that takes no more of its answer is ended by its class, which counts as a failure of the service, and a few of them open its breaker; set it to 20s or so, as envoy/gateway.yaml does"),
            );
            continue;
        };
        let (Some(within), Some(longest)) = (duration(at), longest_class(filter)) else {
            continue;
        };
        if within >= longest {
            caught.at(
                at,
                format!("is not shorter than the longest class in use ({longest:?}): a client that takes no more of its answer is ended by its class before, which counts as a failure of the service; make it shorter"),
            );
        }
    }
}

/// The longest limit that any request may get.
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

/// It bounds the dial and the TLS handshake, which the filter doesn't. Envoy's default is 5 s.
fn connect_timeout(envoy: &Envoy<'_>, caught: &mut Caught) {
    const MOST: Duration = Duration::from_secs(5);
    for cluster in &envoy.clusters {
        let Some(at) = cluster.get("connect_timeout") else {
            continue;
        };
        if duration(&at).is_some_and(|timeout| timeout > MOST) {
            caught.at(
                &at,
                "is longer than 5s: it alone bounds the dial and the TLS handshake, while a request waits; make it 5s or less",
            );
        }
    }
}

/// Headers by which clients could steer Envoy: it takes them only from outside clients, or by an early mutation.
fn client_headers(envoy: &Envoy<'_>, caught: &mut Caught) {
    const RIGHT: &str =
        "or remove x-envoy- by early_header_mutation_extensions as envoy/gateway.yaml does";
    for (manager, _) in envoy.guarded() {
        if manager.removes_early("x-envoy-") {
            continue;
        }
        if !manager.at.is_true("use_remote_address") {
            let at = manager.at.get("use_remote_address");
            caught.at(
                at.as_ref().unwrap_or(&manager.at),
                format!("without use_remote_address every client counts as internal, and may set retries and timeouts by headers (x-envoy-max-retries, ...); set use_remote_address: true, {RIGHT}"),
            );
        }
        if let Some(internal) = manager.at.get("internal_address_config") {
            let has_any =
                !internal.list("cidr_ranges").is_empty() || internal.is_true("unix_sockets");
            if has_any {
                caught.at(
                    &internal,
                    format!("clients at these addresses may set retries and timeouts by headers (x-envoy-max-retries, ...); leave it out, {RIGHT}"),
                );
            }
        }
    }
}

/// A fallback route is chosen by a header, which no client may send.
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
        if manager.at.get("route_config").is_none() {
            continue;
        }
        let of_services = config
            .services
            .iter()
            .map(|(name, service)| (format!("services.{name}.fallback.route"), &service.fallback));
        let general = ("fallback.route".to_owned(), &config.general.fallback);
        for (path, fallback) in of_services.chain([general]) {
            // A service that says nothing has the general one: that is told there.
            let is_inherited = path != "fallback.route" && *fallback == config.general.fallback;
            let Fallback::Route(value) = fallback else {
                continue;
            };
            let is_there = manager
                .routes()
                .flat_map(|(_, route)| route.list("match.headers"))
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

/// Whether a `HeaderMatcher` may match this value. In doubt it does.
fn may_match(header: &At<'_>, value: &str) -> bool {
    let exact = header
        .text_at("string_match.exact")
        .or_else(|| header.text_at("exact_match"));
    exact.is_none_or(|exact| exact == value)
}

/// Retries multiply the load on a service that is failing.
fn retry_budget(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (host, route) in envoy.managers.iter().flat_map(Manager::routes) {
        let policy = route.find("route.retry_policy");
        let Some(policy) = policy.or_else(|| host.get("retry_policy")) else {
            continue;
        };
        let is_off = policy.text_at("retry_on").is_none_or(str::is_empty)
            || policy.text_at("num_retries") == Some("0");
        if is_off {
            continue;
        }
        for name in clusters_of(&route) {
            let Some(cluster) = envoy.cluster(name) else {
                continue;
            };
            let mut thresholds = cluster.list("circuit_breakers.thresholds").into_iter();
            if !thresholds.any(|threshold| threshold.get("retry_budget").is_some()) {
                caught.at(
                    &policy,
                    format!("retries, and the cluster {name} has no budget for them: they multiply the load when it fails; give it circuit_breakers.thresholds.retry_budget"),
                );
            }
        }
    }
}

/// Ejecting hosts is for one bad host of several. Whether the service as a whole works is the breaker's question.
fn outlier_detection(envoy: &Envoy<'_>, caught: &mut Caught) {
    for outliers in envoy
        .clusters
        .iter()
        .filter_map(|cluster| cluster.get("outlier_detection"))
    {
        if let Some(at) = outliers
            .get("always_eject_one_host")
            .filter(|at| at.text() == Some("true"))
        {
            caught.at(
                &at,
                "ejects the only host of a service: an outage made by the gateway, of which the breaker learns nothing; set it to false",
            );
        }
        let share = outliers.get("max_ejection_percent");
        if let Some(at) = share.filter(|at| number(at).is_some_and(|share| share > 50.0)) {
            caught.at(
                &at,
                "lets most hosts of a service be ejected, which is for the breaker to decide; set it to 34 or so",
            );
        }
    }
}

/// With 0, Envoy answers 503 by itself while no host counts as healthy, whatever the service does.
fn panic_threshold(envoy: &Envoy<'_>, caught: &mut Caught) {
    for cluster in &envoy.clusters {
        let takes_out =
            !cluster.list("health_checks").is_empty() || cluster.get("outlier_detection").is_some();
        let threshold = cluster.find("common_lb_config.healthy_panic_threshold");
        let is_zero = |at: &At<'_>| {
            at.get("value")
                .is_none_or(|value| number(&value) == Some(0.0))
        };
        if let Some(at) = threshold.filter(is_zero).filter(|_| takes_out) {
            caught.at(
                &at,
                "is 0: while no host counts as healthy, Envoy answers 503 by itself, and no probe reaches a service that is back; leave it at 50",
            );
        }
    }
}

/// A name in the filter's configuration that nothing has is a slip of the pen.
fn unknown_name(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, filter) in envoy.guarded() {
        let Some(config) = &filter.config else {
            continue;
        };
        if envoy.has_all_clusters() {
            for cluster in config
                .aliases
                .keys()
                .filter(|name| envoy.cluster(name).is_none())
            {
                let message = format!(
                    "there is no cluster {cluster:?}, so this alias is of no use; name one of the file"
                );
                caught.there(filter.locate(&format!("aliases.{cluster}")), message);
            }
            let has_service = |name: &str| {
                envoy.cluster(name).is_some()
                    || config.aliases.values().any(|service| service == name)
            };
            for service in config.services.keys().filter(|name| !has_service(name)) {
                let message = format!(
                    "there is no cluster {service:?} and no alias for it, so these settings hold for nothing; name one of the file"
                );
                caught.there(filter.locate(&format!("services.{service}")), message);
            }
        }
        if manager.at.get("route_config").is_none() {
            continue;
        }
        let names: BTreeSet<&str> = manager
            .routes()
            .filter_map(|(_, route)| route.text_at("name"))
            .collect();
        let rules = rules_by_path(filter);
        for (path, route) in rules
            .iter()
            .filter(|(_, route)| !names.contains(route.as_str()))
        {
            let message = format!(
                "no route is called {route:?}, so this rule holds for nothing; give a route this name"
            );
            caught.there(filter.locate(path), message);
        }
    }
}

/// The names of routes in the filter's rules, with their paths.
fn rules_by_path(filter: &Filter<'_>) -> Vec<(String, String)> {
    let Some(config) = &filter.config else {
        return Vec::new();
    };
    let general = config.general.timeouts.rules.len();
    let sections = config.services.iter().map(|(name, service)| {
        let rules = &service.timeouts.rules;
        // Behind a service's own rules are the general ones.
        let own = &rules[..rules.len().saturating_sub(general)];
        (format!("services.{name}.timeouts.rules"), own)
    });
    let general = (
        "timeouts.rules".to_owned(),
        config.general.timeouts.rules.as_slice(),
    );
    sections
        .chain([general])
        .flat_map(|(path, rules)| {
            let named = rules.iter().enumerate().filter_map(|(place, rule)| {
                let route = rule.route.clone()?;
                Some((format!("{path}[{place}].route"), route))
            });
            named.collect::<Vec<_>>()
        })
        .collect()
}

/// Filters with the same virtual machine share their breakers, and with them their window.
fn shared_vm(envoy: &Envoy<'_>, caught: &mut Caught) {
    let filters: Vec<&Filter<'_>> = envoy.guarded().map(|(_, filter)| filter).collect();
    for (place, filter) in filters.iter().enumerate() {
        let id = filter.plugin.find("vm_config.vm_id");
        let text = id.as_ref().and_then(At::text);
        let Some(config) = &filter.config else {
            continue;
        };
        let differs = |other: &&&Filter<'_>| {
            let is_shared = other.plugin.text_at("vm_config.vm_id") == text;
            let windows = other.config.as_ref().is_some_and(|other| {
                let names = other.services.keys().chain(config.services.keys());
                let window = |config: &levee_filter::config::Config, name: &str| {
                    config.of_service(name).breaker.window
                };
                config.general.breaker.window != other.general.breaker.window
                    || names
                        .into_iter()
                        .any(|name| window(config, name) != window(other, name))
            });
            is_shared && windows
        };
        if let Some(other) = filters[..place].iter().find(differs) {
            let at = id.as_ref().unwrap_or(&filter.plugin);
            caught.at(
                at,
                format!("the filter in line {} has the same vm_id, and so the same breakers, but another failure_rate.window; give both the same window, or each its own vm_id", other.entry.line),
            );
        }
    }
}

/// Levee's tests speak HTTP/1.1 and HTTP/2.
fn http3(envoy: &Envoy<'_>, caught: &mut Caught) {
    for (manager, _) in envoy.guarded() {
        let codec = manager.at.get("codec_type");
        let codec = codec.filter(|codec| codec.text() == Some("HTTP3"));
        let quic = || manager.listener.find("udp_listener_config.quic_options");
        if let Some(at) = codec.or_else(quic) {
            caught.at(
                &at,
                "Levee was not tried with HTTP/3: try breakers and time limits on this listener before you rely on them",
            );
        }
    }
}

/// The admin interface can stop Envoy.
fn admin_address(envoy: &Envoy<'_>, caught: &mut Caught) {
    let Some(at) = envoy.root.find("admin.address.socket_address.address") else {
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

/// A duration as protobuf's JSON has it: `0.250s`.
fn duration(at: &At<'_>) -> Option<Duration> {
    let seconds = at.text()?.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn is_zero(at: &At<'_>) -> bool {
    duration(at).is_some_and(|duration| duration.is_zero())
}

fn number(at: &At<'_>) -> Option<f64> {
    at.text()?.parse().ok()
}
