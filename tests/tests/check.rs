//! `levee check` compared with Envoy's own validation.
#![allow(missing_docs)]

use levee::check::validation::{LIMIT, Verdict, ask};
use levee::check::{Severity, of_envoy, of_envoy_file};
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::wait;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Traps that Envoy itself rejects. It accepts all others silently, which makes them traps.
const REFUSED: [&str; 2] = ["configuration", "filter-order"];

const MINIMAL: &str = include_str!("../../envoy/minimal.yaml");

#[test]
fn the_broken_configurations_are_ones_that_envoy_takes_unless_the_filter_or_the_order_is_wrong() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/broken");
    let files = Files::new();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        let findings = of_envoy(&text).findings;
        let is_refused = |trap: &str| REFUSED.contains(&trap);
        let wanted = !findings
            .iter()
            .any(|finding| finding.trap.is_some_and(is_refused));
        let verdict = files.ask(&text);
        assert_eq!(
            verdict == Verdict::Accepts,
            wanted,
            "{}: {verdict:?}",
            file.path().display()
        );
        assert!(!matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
    }
}

/// `envoy/minimal.yaml` with a change.
fn changed(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from}");
    MINIMAL.replacen(from, to, 1)
}

#[test]
fn levee_takes_the_forms_that_envoy_takes() {
    let files = Files::new();
    let route = "route: {cluster: auth, timeout: 30s}";
    let single = changed(
        "        - filters:\n            - name: envoy.filters.network",
        "          filters:\n            - name: envoy.filters.network",
    );
    let single = single.replace("domains: [\"*\"]", "domains: \"*\"");
    let typed_struct = changed(
        "envoy.extensions.filters.http.wasm.v3.Wasm\n",
        "xds.type.v3.TypedStruct\n                      type_url: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n                      value:\n",
    );
    let (before, after) = typed_struct.split_once("value:\n").unwrap();
    let (config, rest) = after
        .split_once("                  - name: envoy.filters.http.router")
        .unwrap();
    let config = config.replace("\n                  ", "\n                    ");
    let config = format!("  {config}");
    let typed_struct = format!(
        "{before}value:\n{config}                  - name: envoy.filters.http.router{rest}"
    );
    let route_of_its_own = "{'@type': type.googleapis.com/envoy.config.route.v3.Route, match: {prefix: /}, route: {cluster: auth, timeout: 30s}}";
    let input = "{name: path, typed_config: {'@type': type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ':path'}}";
    let matcher = changed(
        &format!(
            "routes:\n                        - match: {{prefix: /}}\n                          {route}\n"
        ),
        &format!(
            "matcher: {{matcher_tree: {{input: {input}, prefix_match_map: {{map: {{/: {{action: {{name: route, typed_config: {route_of_its_own}}}}}}}}}}}}}\n"
        ),
    );
    let discovery = format!(
        "node: {{id: a, cluster: a}}\n{}",
        changed(
            "                  - name: envoy.filters.http.router\n",
            "                  - name: another\n                    config_discovery: {config_source: {path_config_source: {path: /dev/null}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm]}\n                  - name: envoy.filters.http.router\n",
        )
    );
    for text in [
        MINIMAL.to_owned(),
        single,
        typed_struct,
        matcher,
        discovery,
        format!("{MINIMAL}---\nnonsense: [\n"),
    ] {
        let found = files.check(&text);
        assert_eq!(found.unvalidated, None, "{text}");
        assert!(!found.has(Severity::Error), "{found:?}\n{text}");
        assert_eq!(found.absent, None, "{text}");
        let broken = text.replace("FAIL_RELOAD", "FAIL_OPEN");
        let found = of_envoy(&broken).findings;
        let mut traps = found.iter().filter_map(|finding| finding.trap);
        assert!(
            traps.any(|trap| trap == "failure-policy"),
            "{found:?}\n{text}"
        );
    }
}

#[test]
fn what_envoy_refuses_is_an_error() {
    let files = Files::new();
    let v3 = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let v2 = "envoy.config.filter.network.http_connection_manager.v2.HttpConnectionManager";
    for (text, is_seen_without_envoy) in [
        (String::new(), true),
        ("5\n".to_owned(), true),
        ("- a\n".to_owned(), true),
        (format!("nonsense: 1\n{MINIMAL}"), true),
        ("static_resource: {}\n".to_owned(), true),
        ("static_resources: 5\n".to_owned(), true),
        ("static_resources: {listeners: 5}\n".to_owned(), true),
        (changed(v3, v2), true),
        (
            "static_resources: {clusters: [{name: a, hosts: []}]}\n".to_owned(),
            true,
        ),
        (changed(v3, &format!("{v3}s")), false),
        (changed("port_value: 8080", "port_value: X"), false),
        (
            changed(
                "      connect_timeout: 3s\n",
                "      connect_timeouts: 3s\n",
            ),
            false,
        ),
    ] {
        let own = of_envoy(&text);
        assert_eq!(
            own.has(Severity::Error),
            is_seen_without_envoy,
            "{own:?}\n{text}"
        );
        assert!(matches!(files.ask(&text), Verdict::Refuses(_)), "{text}");
        assert!(files.check(&text).has(Severity::Error), "{text}");
    }
    let text = changed(v3, &format!("{v3}s"));
    let line = text
        .lines()
        .position(|line| line.contains("HttpConnectionManagers"));
    assert_eq!(files.check(&text).findings[0].line, line.unwrap() + 1);
}

/// A file that Envoy watches, with one resource.
fn watched(folder: &Path, name: &str, kind: &str, mut resource: Value) -> Value {
    resource["@type"] = json!(format!("type.googleapis.com/{kind}"));
    let file = folder.join(name);
    fs::write(&file, json!({"resources": [resource]}).to_string()).unwrap();
    json!({"path_config_source": {"path": file}})
}

/// Listeners, routes and the filter come from files that Envoy watches.
#[tokio::test]
async fn what_a_running_envoy_got_by_discovery_is_found_in_its_config_dump() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut config = EnvoyConfig::minimal();
    config.value_mut()["node"] = json!({"id": "gateway", "cluster": "gateway"});
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let manager = config.value_mut().pointer_mut(manager).unwrap();
    let manager = manager.as_object_mut().unwrap();

    let mut routes = manager.remove("route_config").unwrap();
    routes["name"] = json!("routes");
    routes["virtual_hosts"][0]["routes"][0]["route"]["timeout"] = json!("0s");
    let kind = "envoy.config.route.v3.RouteConfiguration";
    let source = watched(folder, "routes.json", kind, routes);
    let rds = json!({"route_config_name": "routes", "config_source": source});
    manager.insert("rds".to_owned(), rds);

    let mut filter = manager["http_filters"][0].take();
    let plugin = &mut filter["typed_config"]["config"];
    plugin["vm_config"]["code"]["local"]["filename"] = json!(path_from("LEVEE_FILTER_WASM"));
    plugin["failure_policy"] = json!("FAIL_OPEN");
    // The harness would complete one that is called `levee`.
    filter["name"] = json!("discovered-levee");
    let wasm = filter["typed_config"]["@type"].clone();
    let kind = "envoy.config.core.v3.TypedExtensionConfig";
    let source = watched(folder, "filter.json", kind, filter);
    manager["http_filters"][0] = json!({"name": "discovered-levee", "config_discovery": {
        "config_source": source, "type_urls": [wasm]}});

    let envoy = Envoy::start_with_listeners_in_a_file(config).await.unwrap();
    let traps = wait::until("Envoy to have the routes", wait::GENEROUS, async || {
        let dump = envoy
            .ask_admin("/config_dump")
            .await
            .map_err(|error| error.to_string())?;
        let found = of_envoy(&dump.text());
        assert!(!found.has(Severity::Error), "{found:?}");
        assert_eq!(found.absent, None, "{found:?}");
        let mut traps: Vec<_> = found
            .findings
            .iter()
            .filter_map(|finding| finding.trap)
            .collect();
        traps.sort_unstable();
        if traps.contains(&"not-in-file") {
            return Err(format!("{found:?}"));
        }
        Ok(traps)
    });
    assert_eq!(traps.await.unwrap(), ["failure-policy", "no-limit"]);
}

/// Files for Envoy.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, text: &str) -> (PathBuf, String) {
        let wasm = path_from("LEVEE_FILTER_WASM");
        let text = text.replace(
            "target/wasm32-wasip1/release/levee_filter.wasm",
            wasm.to_str().unwrap(),
        );
        let file = self.0.path().join("envoy.yaml");
        fs::write(&file, &text).unwrap();
        (file, text)
    }

    /// What Envoy says.
    fn ask(&self, text: &str) -> Verdict {
        let (file, _) = self.write(text);
        ask(&path_from("ENVOY_PATH"), &file, LIMIT)
    }

    /// What `levee check` says.
    fn check(&self, text: &str) -> levee::check::Checked {
        let (file, text) = self.write(text);
        of_envoy_file(&file, &text, Some(&path_from("ENVOY_PATH")))
    }
}

fn path_from(variable: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from);
    path.unwrap_or_else(|| {
        panic!("{variable} is not set: run this by `cargo xtask test`, which sets it")
    })
}
