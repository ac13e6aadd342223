//! Both files: what a request waits for ends before the request does.

use super::{GATEWAY, MINIMAL, check};
use levee::check::levee::read;
use levee::check::nesting;
use std::path::Path;

/// `levee.yaml` with an upstream and a watchdog.
fn sidecar(deadline: &str, query: &str) -> String {
    let url = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nesting-url");
    std::fs::write(&url, "postgres://levee@127.0.0.1/app").unwrap();
    format!(
        "redis:\n  - name: sessions\n    listen: 127.0.0.1:6380\n    upstream: redis://127.0.0.1:6379\n{deadline}\
         database:\n  url_file: {}\n  watchdog:\n    roles: [app]\n{query}",
        url.display()
    )
}

/// The lines of both files, and what is wrong.
fn findings(sidecar: &str, envoy: &str) -> Vec<(usize, String, String)> {
    let valid = read(sidecar).unwrap();
    let found = nesting::compare(&valid, Path::new("envoy.yaml"), envoy);
    let found = found.into_iter().map(|finding| {
        assert_eq!(finding.trap, Some(nesting::NAME));
        (finding.line, finding.path, finding.message)
    });
    found.collect()
}

#[test]
fn the_defaults_and_the_gateway_nest() {
    let defaults = sidecar("", "");
    assert_eq!(findings(&defaults, GATEWAY), []);
    let compose = include_str!("../../../compose/envoy.yaml");
    assert_eq!(findings(&defaults, compose), []);
    let short = GATEWAY.replace("class: default", "class: short");
    assert_eq!(findings(&defaults, &short), []);
    assert_eq!(findings(&defaults, MINIMAL), []);
}

#[test]
fn a_statement_that_may_outlive_its_request_is_found_in_both_files() {
    let long = sidecar("", "    classes: {query: 8s}\n");
    let found = findings(&long, GATEWAY);
    let line = 1 + GATEWAY
        .lines()
        .position(|line| line.contains("auth: {timeouts: {class: short}}"))
        .unwrap();
    let [(place, path, message)] = &found[..] else {
        panic!("{found:#?}");
    };
    assert_eq!(*place, 9);
    assert_eq!(path, "database.watchdog.classes.query");
    for part in [
        "may take 8s",
        "a request to auth 7s (class short, ",
        &format!("envoy.yaml:{line})"),
        "timeouts.classes.short longer",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn the_limit_of_the_responses_headers_counts_too() {
    let long = sidecar("", "    classes: {query: 12s}\n");
    let other = GATEWAY.replace("auth: {timeouts: {class: short}}", "auth: {}");
    let found = findings(&long, &other);
    assert!(found[0].2.contains("10s (response_header, "), "{found:#?}");
}

#[test]
fn the_deadline_of_redis_must_be_shorter_than_a_request() {
    let long = sidecar("    deadline: 7s\n", "");
    let found = findings(&long, GATEWAY);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].0, &*found[0].1), (5, "redis[0].deadline"));
    // No route leads to a service of the class.
    let storage = GATEWAY.replace(
        "route: {cluster: auth, timeout: 30s}",
        "route: {cluster: chat, timeout: 30s}",
    );
    assert_eq!(findings(&long, &storage), []);
}

#[test]
fn levee_check_compares_the_files_that_it_is_given() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = |name: &str| folder.join(name).display().to_string();
    let (config, envoy) = (path("nesting-levee.yaml"), path("nesting-envoy.yaml"));
    std::fs::write(&config, sidecar("    deadline: 9s\n", "")).unwrap();
    std::fs::write(&envoy, GATEWAY).unwrap();
    let (_, output, _) = check(&["--config", &config, "--envoy", &envoy]);
    let wanted = format!("{config}:5: redis[0].deadline: warning: ");
    assert!(output.contains(&wanted), "{output}");
    assert!(
        output.contains(&format!("{envoy}:")) && output.contains("[limits-nest]"),
        "{output}"
    );
    assert!(output.contains("valid, with a warning"), "{output}");
    let (code, output, _) = check(&["--strict", "--config", &config]);
    assert_eq!(
        (code, output.contains("limits-nest")),
        (0, false),
        "{output}"
    );
}

#[test]
fn services_that_only_discovery_knows_have_the_general_limits() {
    let routes = r#"{"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: edge, rds: {route_config_name: all, config_source: {ads: {}}},
        http_filters: [{name: levee, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm,
          config: {name: levee, vm_config: {runtime: envoy.wasm.runtime.v8, code: {local: {filename: levee_filter.wasm}}},
            configuration: {"@type": type.googleapis.com/google.protobuf.StringValue,
              value: '{"timeouts": {"class": "short", "classes": {"short": "3s"}}}'}}}}]}"#;
    let envoy = format!(
        "static_resources:\n  listeners:\n  - address: {{socket_address: {{address: 127.0.0.1, port_value: 8080}}}}\n    \
         filter_chains: [{{filters: [{{name: http, typed_config: {routes}}}]}}]\n"
    );
    let found = findings(&sidecar("", ""), &envoy);
    let messages: Vec<&str> = found
        .iter()
        .map(|(_, _, message)| message.as_str())
        .collect();
    assert!(
        messages
            .iter()
            .any(|message| message.contains("a request to any other service 3s (class short, ")),
        "{messages:#?}"
    );
}
