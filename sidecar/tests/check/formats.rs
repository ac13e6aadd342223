//! Whatever form a configuration has, Levee's filter is found in it; what can't be read is not called valid.

use super::{MINIMAL, changed, configured};
use levee::check::of_envoy;
use serde_json::{Value, json};
use std::path::Path;

/// All that is reported, a line for each finding, and the verdict.
fn said(text: &str) -> String {
    let checked = of_envoy(text);
    let findings = checked.findings.iter();
    let lines: Vec<String> = findings.map(|found| found.show(Path::new("f"))).collect();
    format!("{}\n{}", lines.join("\n"), checked.verdict())
}

/// The names of all traps, remarks included.
fn traps_in(text: &str) -> Vec<&'static str> {
    let findings = of_envoy(text).findings;
    let mut traps: Vec<_> = findings.iter().filter_map(|finding| finding.trap).collect();
    traps.sort_unstable();
    traps
}

/// `envoy/minimal.yaml` as a value that can be taken apart.
fn minimal() -> Value {
    serde_norway::from_str(MINIMAL).unwrap()
}

const LISTENER: &str = "/static_resources/listeners/0";
const CLUSTER: &str = "/static_resources/clusters/0";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const FILTER: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0";

fn part(all: &Value, path: &str) -> Value {
    all.pointer(path).expect(path).clone()
}

/// `envoy/minimal.yaml` with another value at a path.
fn with(path: &str, value: Value) -> Value {
    let mut all = minimal();
    *all.pointer_mut(path).expect(path) = value;
    all
}

fn typed(kind: &str, value: &Value) -> Value {
    let mut typed = json!({"@type": format!("type.googleapis.com/{kind}")});
    let fields = value.as_object().unwrap().clone();
    typed.as_object_mut().unwrap().extend(fields);
    typed
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

/// `envoy/minimal.yaml` whose routes come from RDS and whose filter comes from ECDS.
fn with_discovery() -> Value {
    let mut all = minimal();
    let manager = all.pointer_mut(MANAGER).unwrap().as_object_mut().unwrap();
    manager.remove("route_config");
    manager.insert(
        "rds".to_owned(),
        json!({"route_config_name": "routes", "config_source": {"ads": {}}}),
    );
    *all.pointer_mut(FILTER).unwrap() = json!({"name": "levee", "config_discovery": {
        "config_source": {"ads": {}},
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}});
    all
}

/// The answer of the admin interface's `/config_dump` for an Envoy that gets everything by discovery. Its filter, its
/// routes and its cluster have a trap each.
fn config_dump() -> Value {
    let from = with_discovery();
    let admin = |kind: &str, value: Value| typed(&format!("envoy.admin.v3.{kind}"), &value);
    let listener = typed("envoy.config.listener.v3.Listener", &part(&from, LISTENER));
    let mut old = listener.clone();
    old["per_connection_buffer_high_watermark_timeout"] = json!("0s");
    let mut cluster = part(&from, CLUSTER);
    cluster["connect_timeout"] = json!("6s");
    let mut routes = part(&minimal(), &format!("{MANAGER}/route_config"));
    routes["name"] = json!("routes");
    routes["virtual_hosts"][0]["routes"][0]["route"]["timeout"] = json!("0s");
    let mut filter = part(&minimal(), FILTER);
    filter["typed_config"]["config"]["failure_policy"] = json!("FAIL_OPEN");
    json!({"configs": [
        admin("BootstrapConfigDump", json!({"bootstrap": {
            "admin": from["admin"], "stats_config": from["stats_config"],
            "dynamic_resources": {"ads_config": {}, "lds_config": {"ads": {}}, "cds_config": {"ads": {}}}}})),
        admin("ClustersConfigDump", json!({"dynamic_active_clusters": [
            {"cluster": typed("envoy.config.cluster.v3.Cluster", &cluster)}]})),
        admin("ListenersConfigDump", json!({"dynamic_listeners": [
            {"name": "gateway", "active_state": {"listener": listener},
             "draining_state": {"listener": old}}]})),
        admin("RoutesConfigDump", json!({"dynamic_route_configs": [
            {"route_config": typed("envoy.config.route.v3.RouteConfiguration", &routes)}]})),
        admin("EcdsConfigDump", json!({"ecds_filters": [
            {"ecds_filter": typed("envoy.config.core.v3.TypedExtensionConfig", &filter)}]})),
    ]})
}

#[test]
fn a_config_dump_is_read_with_all_that_came_by_discovery() {
    let dump = pretty(&config_dump());
    assert_eq!(
        traps_in(&dump),
        ["connect-timeout", "failure-policy", "no-limit"],
        "{}",
        said(&dump)
    );
    for finding in of_envoy(&dump).findings {
        let line = dump.lines().nth(finding.line - 1).unwrap();
        let key = finding.path.rsplit('.').next().unwrap();
        assert!(line.contains(&format!("\"{key}\"")), "{finding:?}: {line}");
    }
}

#[test]
fn a_part_of_a_config_dump_is_read_too() {
    let mut dump = config_dump();
    let listeners = dump["configs"][2]["dynamic_listeners"].clone();
    dump["configs"] = Value::Array(
        listeners
            .as_array()
            .unwrap()
            .iter()
            .map(|listener| {
                typed(
                    "envoy.admin.v3.ListenersConfigDump.DynamicListener",
                    listener,
                )
            })
            .collect(),
    );
    assert!(!said(&pretty(&dump)).contains("HTTP listener"));
    // A bootstrap has its static resources itself.
    let minimal = minimal();
    let listener = typed(
        "envoy.config.listener.v3.Listener",
        &part(&minimal, LISTENER),
    );
    let dump = json!({"configs": [
        typed("envoy.admin.v3.BootstrapConfigDump", &json!({"bootstrap": minimal})),
        typed("envoy.admin.v3.ListenersConfigDump", &json!({"static_listeners": [{"listener": listener}]})),
    ]});
    assert_eq!(traps_in(&pretty(&dump)), [""; 0]);
    let broken = pretty(&dump).replace("FAIL_RELOAD", "FAIL_OPEN");
    assert_eq!(traps_in(&broken), ["failure-policy"], "reported once");
}

/// The same value with each list of one replaced by what is in it.
fn without_brackets(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.len() == 1 => without_brackets(&items[0]),
        Value::Array(items) => items.iter().map(without_brackets).collect(),
        Value::Object(entries) => {
            let entries = entries.iter();
            entries
                .map(|(key, value)| (key.clone(), without_brackets(value)))
                .collect()
        }
        other => other.clone(),
    }
}

#[test]
fn a_single_object_where_a_list_belongs_is_a_list_of_one() {
    let single = pretty(&without_brackets(&minimal()));
    assert_eq!(traps_in(&single), [""; 0], "{}", said(&single));
    assert!(!said(&single).contains("HTTP listener"));
    let broken = single
        .replace("\"30s\"", "\"0s\"")
        .replace("FAIL_RELOAD", "FAIL_OPEN");
    assert_eq!(traps_in(&broken), ["failure-policy", "no-limit"]);
    assert!(
        said(&broken).contains("static_resources.listeners.filter_chains.filters.typed_config")
    );

    let mut listener = part(&minimal(), LISTENER);
    listener["filter_chains"] = listener["filter_chains"][0].clone();
    let watched = json!({"resources": typed("envoy.config.listener.v3.Listener", &listener)});
    let broken = pretty(&watched).replace("FAIL_RELOAD", "FAIL_OPEN");
    assert_eq!(traps_in(&broken), ["failure-policy"]);
}

#[test]
fn what_is_no_configuration_of_envoys_is_not_called_valid() {
    for (text, line, wanted) in [
        ("", 1, "is empty"),
        ("# nothing\n---\n", 1, "is empty"),
        ("{}\n", 1, "has none of the keys of an Envoy configuration"),
        ("just text\n", 1, "is a text"),
        ("- a\n- b\n", 1, "is a list"),
        (
            "static_resource: {listeners: []}\n",
            1,
            "has none of the keys",
        ),
        (
            "admin: {}\nstatic_resource: {}\n",
            2,
            "static_resource: is no key of Envoy's bootstrap",
        ),
        (
            "global: {scrape_interval: 1s}\nscrape_configs: []\n",
            1,
            "has none of the keys",
        ),
        (
            "admin: {listen: 127.0.0.1:1}\nredis: []\n",
            2,
            "redis: is no key of Envoy's bootstrap",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {}\n",
            1,
            "is a Kubernetes object",
        ),
        ("resources:\n- name: a\n", 2, "resources[0]: has no @type"),
        (
            "resources:\n- '@type': type.googleapis.com/envoy.config.listener.v3.Listenr\n",
            2,
            "resources[0]: has a type that Envoy does not know",
        ),
        (
            "static_resources: 5\n",
            1,
            "static_resources: must be an object",
        ),
        (
            "static_resources: {listeners: [5]}\n",
            1,
            "static_resources.listeners[0]: must be an object",
        ),
        ("configs: 5\n", 1, "configs: must be a list"),
    ] {
        let found = said(text);
        assert!(found.contains(wanted), "{text:?}: {found}");
        let finding = &of_envoy(text).findings[0];
        assert_eq!(
            (finding.line, finding.trap),
            (line, None),
            "{text:?}: {found}"
        );
        assert!(
            of_envoy(text).has(levee::check::Severity::Error),
            "{text:?}: {found}"
        );
    }
}

#[test]
fn every_key_of_a_bootstrap_is_known() {
    for key in [
        "node",
        "layered_runtime",
        "layeredRuntime",
        "stats_sinks",
        "application_log_config",
        "overloadManager",
    ] {
        let text = format!("{key}: {{}}\n{MINIMAL}");
        assert_eq!(of_envoy(&text).findings, [], "{key}");
    }
}

#[test]
fn a_key_that_envoy_is_told_to_ignore_is_ignored() {
    let text = changed(
        "admin:\n  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}\n",
        "!ignore sockets:\n  - &admin {address: 127.0.0.1, port_value: 9901}\nadmin: {address: {socket_address: *admin}}\n",
    );
    assert_eq!(of_envoy(&text).findings, []);
    // Only keys can be ignored, not values.
    let text = text.replace("!ignore sockets:", "sockets: !ignore");
    assert!(
        said(&text).contains("sockets: is no key"),
        "{}",
        said(&text)
    );
}

#[test]
fn of_several_documents_envoy_reads_the_first() {
    let broken = MINIMAL.replace("FAIL_RELOAD", "FAIL_OPEN");
    let both = format!("---\n{broken}---\n{MINIMAL}");
    let found = said(&both);
    assert_eq!(traps_in(&both), ["failure-policy"], "{found}");
    let line = broken.lines().count() + 2;
    assert!(
        found.contains(&format!(
            "f:{line}: warning: Envoy reads only the first document"
        )),
        "{found}"
    );
    // What Envoy does not read may be anything.
    let rest = format!("{MINIMAL}---\na: [\n");
    assert!(said(&rest).contains("Envoy reads only the first document"));
    assert!(said(&format!("---\n---\n{MINIMAL}")).contains("is empty"));
}

#[test]
fn the_second_version_of_envoys_interface_is_refused_with_what_to_do() {
    let v2 = "type.googleapis.com/envoy.config.filter.network.http_connection_manager.v2.HttpConnectionManager";
    let v3 = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let found = said(&changed(v3, v2));
    assert!(
        found.contains("@type: envoy.config.filter.network.http_connection_manager.v2.HttpConnectionManager is of the v2 API"),
        "{found}"
    );
    for text in [
        "static_resources: {clusters: [{name: a, hosts: [{socket_address: {address: a, port_value: 1}}]}]}",
        "static_resources: {clusters: [{name: a, tls_context: {}}]}",
        "static_resources: {listeners: [{filter_chains: [{filters: [{name: envoy.http_connection_manager, config: {}}]}]}]}",
        "static_resources: {listeners: [{filter_chains: [{tls_context: {}}]}]}",
        "resources: [{'@type': type.googleapis.com/envoy.api.v2.Listener}]",
        "configs: [{'@type': type.googleapis.com/envoy.admin.v2alpha.BootstrapConfigDump}]",
    ] {
        let found = said(text);
        assert!(found.contains("is of the v2 API"), "{text}: {found}");
        assert!(found.contains("write it for v3"), "{text}: {found}");
    }
    let old_filter = changed(
        "                  - name: envoy.filters.http.router\n",
        "                  - {name: envoy.lua, config: {}}\n                  - name: envoy.filters.http.router\n",
    );
    assert!(said(&old_filter).contains("config: is of the v2 API"));
    assert_eq!(of_envoy(MINIMAL).findings, []);
}

#[test]
fn a_filter_whose_configuration_comes_by_discovery_is_found() {
    let remote = with(FILTER, part(&with_discovery(), FILTER));
    let found = said(&pretty(&remote));
    assert_eq!(traps_in(&pretty(&remote)), ["not-in-file"], "{found}");
    assert!(found.contains("config_discovery: remark: "), "{found}");

    // Its default is in the file.
    let mut default = part(&minimal(), &format!("{FILTER}/typed_config"));
    default["config"]["failure_policy"] = json!("FAIL_OPEN");
    let mut with_default = remote.clone();
    with_default.pointer_mut(FILTER).unwrap()["config_discovery"]["default_config"] = default;
    assert_eq!(
        traps_in(&pretty(&with_default)),
        ["failure-policy", "not-in-file"]
    );

    // One that may be any WebAssembly filter is not taken for a missing one.
    let mut unknown = remote;
    unknown.pointer_mut(FILTER).unwrap()["name"] = json!("plugin");
    assert_eq!(traps_in(&pretty(&unknown)), ["not-in-file"]);
}

#[test]
fn routes_and_resources_from_elsewhere_are_named() {
    let all = with_discovery();
    let found = said(&pretty(&all));
    assert!(found.contains(".rds: remark: "), "{found}");
    let text =
        "dynamic_resources: {lds_config: {ads: {}}, cds_config: {ads: {}}, ads_config: {}}\n";
    let found = said(text);
    assert!(
        found.contains("dynamic_resources.lds_config: remark: "),
        "{found}"
    );
    assert!(found.contains("has no HTTP listener"), "{found}");
}

/// `typed_per_filter_config` of Levee's filter.
fn switched(key: &str, value: &str) -> String {
    format!(
        "typed_per_filter_config: {{{key}: {{'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, {value}}}}}"
    )
}

#[test]
fn a_filter_that_is_off_is_named_where_it_is_switched_off() {
    let entry = "                  - name: levee\n";
    let off = changed(
        entry,
        &format!("{entry}                    disabled: true\n"),
    );
    assert_eq!(traps_in(&off), ["filter-off"]);
    let route = "route: {cluster: auth, timeout: 30s}";
    let with_route = |text: &str, switch: &str| {
        text.replace(
            route,
            &format!("{route}\n                          {switch}"),
        )
    };
    let by_route = with_route(MINIMAL, &switched("levee", "disabled: true"));
    assert_eq!(traps_in(&by_route), ["filter-off"]);
    let found = said(&by_route);
    assert!(
        found.contains("typed_per_filter_config.levee: warning: "),
        "{found}"
    );
    let host = "domains: [\"*\"]";
    let by_host = changed(
        host,
        &format!(
            "{host}\n                      {}",
            switched("levee", "disabled: true")
        ),
    );
    assert_eq!(traps_in(&by_host), ["filter-off"]);
    // What is off for all is on where a route says so.
    let on = with_route(&off, &switched("levee", "config: {}"));
    assert_eq!(traps_in(&on), [""; 0], "{}", said(&on));
    let host_off_route_on = with_route(&by_host, &switched("levee", "disabled: false"));
    assert_eq!(traps_in(&host_off_route_on), [""; 0]);
    let weighted = |switch: &str| {
        let cluster = format!("{{name: auth, weight: 1, {switch}}}");
        let clusters = format!("{{clusters: [{{name: auth, weight: 1}}, {cluster}]}}");
        MINIMAL.replace(
            "cluster: auth, timeout",
            &format!("weighted_clusters: {clusters}, timeout"),
        )
    };
    let by_cluster = weighted(&switched("levee", "disabled: true"));
    assert_eq!(
        traps_in(&by_cluster),
        ["filter-off"],
        "{}",
        said(&by_cluster)
    );
    assert_eq!(
        traps_in(&weighted(&switched("levee", "config: {}"))),
        [""; 0]
    );
    // Others' switches, and routes that lead to no service, do no harm.
    let other = with_route(MINIMAL, &switched("other", "disabled: true"));
    assert_eq!(traps_in(&other), [""; 0]);
    let answered = by_route.replace(route, "direct_response: {status: 200}");
    assert_eq!(traps_in(&answered), [""; 0], "{}", said(&answered));
}

#[test]
fn limits_of_a_route_that_the_class_replaces_are_remarked() {
    let route = "timeout: 30s";
    for (with, wanted) in [
        ("timeout: 30s", None),
        ("timeout: 5s", Some("does not apply: the filter sets 30s")),
        ("timeout: 300s", Some("does not apply: the filter sets 30s")),
        (
            "timeout: 30s, max_stream_duration: {max_stream_duration: 10s}",
            Some("ends requests before their class does (30s)"),
        ),
        (
            "timeout: 30s, max_stream_duration: {max_stream_duration: 600s}",
            None,
        ),
        (
            "timeout: 30s, max_stream_duration: {max_stream_duration: 0s}",
            None,
        ),
    ] {
        let text = changed(route, with);
        let found = said(&text);
        let traps: Vec<&str> = wanted.iter().map(|_| "route-limits").collect();
        assert_eq!(traps_in(&text), traps, "{with}: {found}");
        assert!(
            found.contains(wanted.unwrap_or_default()),
            "{with}: {found}"
        );
        let is_warning = of_envoy(&text).has(levee::check::Severity::Warning);
        assert!(!is_warning, "{found}");
    }
    let short = configured(r#"{"timeouts": {"class": "short"}}"#)
        .replace("connect_timeout: 3s", "connect_timeout: 1s")
        .replace("timeout: 20s\n", "timeout: 4s\n");
    // A longer one is for times without the filter, where somebody chose the class.
    assert_eq!(traps_in(&short), [""; 0]);
    assert_eq!(
        traps_in(&short.replace("timeout: 30s", "timeout: 4s")),
        ["route-limits"]
    );
}

#[test]
fn a_typed_struct_is_what_it_holds() {
    for kind in ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"] {
        let wrap = |path: &str, all: &Value| {
            let inner = part(all, path);
            let mut fields = inner.as_object().unwrap().clone();
            let url = fields.remove("@type").unwrap();
            typed(kind, &json!({"type_url": url, "value": fields}))
        };
        let path = format!("{FILTER}/typed_config");
        let mut all = with(&path, wrap(&path, &minimal()));
        assert_eq!(traps_in(&pretty(&all)), [""; 0], "{}", said(&pretty(&all)));
        *all.pointer_mut(MANAGER).unwrap() = wrap(MANAGER, &all);
        let text = pretty(&all);
        assert_eq!(traps_in(&text), [""; 0], "{}", said(&text));
        let broken = text
            .replace("FAIL_RELOAD", "FAIL_OPEN")
            .replace("\"30s\"", "\"0s\"");
        assert_eq!(traps_in(&broken), ["failure-policy", "no-limit"]);
    }
}

#[test]
fn files_that_envoy_watches_are_read() {
    let mut routes = part(&minimal(), &format!("{MANAGER}/route_config"));
    routes["virtual_hosts"][0]["routes"][0]["route"]["timeout"] = json!("0s");
    let mut host = routes["virtual_hosts"][0].clone();
    host["name"] = json!("gateway/host");
    let mut cluster = part(&minimal(), CLUSTER);
    cluster["connect_timeout"] = json!("6s");
    for (kind, value, trap) in [
        (
            "envoy.config.route.v3.RouteConfiguration",
            &routes,
            "no-limit",
        ),
        ("envoy.config.route.v3.VirtualHost", &host, "no-limit"),
        (
            "envoy.config.cluster.v3.Cluster",
            &cluster,
            "connect-timeout",
        ),
    ] {
        let resource = typed(kind, value);
        let wrapped = typed(
            "envoy.service.discovery.v3.Resource",
            &json!({"name": "a", "resource": resource}),
        );
        for resources in [json!([resource]), resource, json!([wrapped])] {
            let text = pretty(&json!({"version_info": "0", "resources": resources}));
            assert_eq!(traps_in(&text), [trap], "{}", said(&text));
        }
    }
    let filter = part(&minimal(), FILTER);
    let mut broken = filter;
    broken["typed_config"]["config"]["failure_policy"] = json!("FAIL_OPEN");
    let text = pretty(
        &json!({"resources": [typed("envoy.config.core.v3.TypedExtensionConfig", &broken)]}),
    );
    assert_eq!(traps_in(&text), ["failure-policy"], "{}", said(&text));
}

#[test]
fn routes_in_a_matcher_are_read() {
    let action = |route: Value| {
        let route = typed("envoy.config.route.v3.Route", &route);
        json!({"action": {"name": "route", "typed_config": route}})
    };
    let match_all = json!({"prefix": "/"});
    let first = action(json!({"match": match_all, "route": {"cluster": "auth", "timeout": "0s"}}));
    let list = typed(
        "envoy.config.route.v3.RouteList",
        &json!({"routes": [
        {"match": match_all, "route": {"cluster": "auth", "timeout": "0s", "retry_policy": {"retry_on": "5xx"}}}]}),
    );
    let matcher = json!({
        "matcher_tree": {
            "input": {"name": "path"},
            "exact_match_map": {"map": {"/a": {"matcher": {"matcher_list": {"matchers": [{"on_match": first}]}}}}}},
        "on_no_match": {"action": {"name": "route", "typed_config": list}}});
    let host = json!({"name": "gateway", "domains": ["*"], "matcher": matcher});
    let all = with(
        &format!("{MANAGER}/route_config/virtual_hosts"),
        json!([host]),
    );
    let text = pretty(&all);
    assert_eq!(
        traps_in(&text),
        ["no-limit", "no-limit", "retry-budget"],
        "{}",
        said(&text)
    );
}
