//! `levee check` reports each mistake with its line, and nothing else.
#![allow(missing_docs)]

mod formats;
mod nesting;
mod validation;

use levee::check::traps;
use levee::check::{Severity, of_envoy, of_levee};
use std::collections::BTreeSet;
use std::fs;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GATEWAY: &str = include_str!("../../../envoy/gateway.yaml");
const MINIMAL: &str = include_str!("../../../envoy/minimal.yaml");

/// Marks a line in `tests/configs/broken/` with the name of its trap.
const MARK: &str = "# <-- ";

/// A line and the name of its trap.
type Place = (usize, String);

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(project().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    files
}

/// Exit code, standard output and standard error of `levee check` where there is no Envoy.
fn check(arguments: &[&str]) -> (i32, String, String) {
    let nowhere = Path::new("/nowhere");
    check_in(nowhere, nowhere, arguments)
}

/// The same with another `PATH`, in another folder.
fn check_in(path: &Path, folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let folder = if folder.is_dir() {
        folder
    } else {
        Path::new(".")
    };
    let output = Command::new(env!("CARGO_BIN_EXE_levee"))
        .arg("check")
        .args(arguments)
        .env("PATH", path)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The places that a file marks.
fn marked(text: &str) -> BTreeSet<Place> {
    let lines = text.lines().zip(1..);
    lines
        .filter_map(|(line, number)| Some((number, line.split_once(MARK)?.1.to_owned())))
        .collect()
}

/// The places that `levee check` named in `file`.
fn named(said: &str, file: &str) -> BTreeSet<Place> {
    let place = |line: &str| {
        let (number, rest) = line
            .strip_prefix(file)?
            .strip_prefix(':')?
            .split_once(':')?;
        let trap = rest.strip_suffix(']')?.rsplit_once('[')?.1;
        Some((number.parse().ok()?, trap.to_owned()))
    };
    said.lines().filter_map(place).collect()
}

#[test]
fn each_broken_configuration_has_its_traps_named_with_their_lines() {
    let mut seen = BTreeSet::new();
    let files = yaml_files("tests/configs/broken");
    assert!(files.len() >= 12);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let mut wanted = marked(&text);
        if path.ends_with("configuration-text.yaml") {
            // The trap is inside a JSON text, which can't hold a mark.
            let lines = text.lines().zip(1..);
            let wrong = lines.filter(|(line, _)| line.contains("loud") || line.contains(": 0"));
            wanted.extend(wrong.map(|(_, number)| (number, "configuration".to_owned())));
        }
        let file = path.to_str().unwrap();
        let (code, said, _) = check(&["--envoy", file]);
        assert!(!wanted.is_empty(), "{file} marks nothing");
        assert_eq!(named(&said, file), wanted, "{said}");

        let severity = |name: &str| {
            traps::all()
                .find(|trap| trap.name == name)
                .unwrap()
                .severity
        };
        let is_error = wanted
            .iter()
            .any(|(_, name)| severity(name) == Severity::Error);
        assert_eq!(code, if is_error { 2 } else { 0 }, "{said}");
        let is_remark = wanted
            .iter()
            .all(|(_, name)| severity(name) == Severity::Remark);
        let strict = match (is_error, is_remark) {
            (true, _) => 2,
            (false, true) => 0,
            (false, false) => 1,
        };
        assert_eq!(check(&["--strict", "--envoy", file]).0, strict);
        seen.extend(wanted.into_iter().map(|(_, name)| name));
    }
    let all: BTreeSet<String> = traps::all().map(|trap| trap.name.to_owned()).collect();
    assert_eq!(seen, all, "each trap has a file");
}

#[test]
fn the_configurations_that_levee_comes_with_are_silent() {
    for path in yaml_files("envoy") {
        let file = path.to_str().unwrap();
        let (code, said, error) = check(&["--strict", "--envoy", file]);
        if path.ends_with("tls.yaml") {
            // A part of a configuration, to be put into another one.
            assert_eq!(code, 2, "{said}");
            continue;
        }
        let verdict = format!(
            "{file}: no error found; Envoy did not validate it: there is none on PATH, nor in .tools/; name it by --envoy-binary\n"
        );
        assert_eq!((code, said, error), (0, verdict, String::new()));
    }
}

#[test]
fn errors_come_before_warnings_and_each_is_a_line_of_one_form() {
    let folder = Folder::new("order");
    let levee = folder.file("levee.yaml", "log:\n  level: loud\nredis: 5\n");
    let envoy = project().join("tests/configs/broken/several.yaml");
    let envoy = envoy.to_str().unwrap();
    let (code, said, _) = check(&["--config", &levee, "--envoy", envoy]);
    assert_eq!(code, 2);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with(&format!(
        "{levee}:2: log.level: is \"loud\"; it must be one of"
    )));
    assert!(
        lines[1].starts_with(&format!("{levee}:3: redis: is 5")),
        "{said}"
    );
    assert!(
        lines[2].contains("value.breaker.open_for: \"soon\" is not a duration"),
        "{said}"
    );
    assert!(lines.len() > 8, "{said}");
    for line in &lines[3..] {
        assert!(
            line.contains(": warning: ") && line.starts_with(&format!("{envoy}:")),
            "{line}"
        );
    }
}

#[test]
fn the_exit_code_says_how_it_went() {
    let folder = Folder::new("codes");
    let good = folder.file("good.yaml", "log: {level: info}\n");
    let twice = folder.file("twice.yaml", "log: {level: info}\nlog: {level: warn}\n");
    let bad = folder.file("bad.yaml", "a: 1\nb: 2\n");
    let broken = folder.file("broken.yaml", "log: {level: info\n");
    let minimal = project().join("envoy/minimal.yaml");
    let minimal = minimal.to_str().unwrap();
    for (arguments, wanted) in [
        (vec!["--config", &good], 0),
        (vec!["--config", &twice], 0),
        (vec!["--config", &twice, "--strict"], 1),
        (vec!["--config", &bad], 2),
        (vec!["--config", &bad, "--strict"], 2),
        (vec!["--config", &broken], 2),
        (vec!["--config", "/nowhere/levee.yaml"], 1),
        (vec!["--envoy", "/nowhere/envoy.yaml"], 1),
        // levee.yaml is required if it is given, or if no file is.
        (
            vec!["--config", "/nowhere/levee.yaml", "--envoy", minimal],
            1,
        ),
        (vec!["--config", &good, "--envoy", minimal], 0),
        (vec!["--config", &bad, "--envoy", minimal], 2),
        (vec!["--envoy", minimal], 0),
        (vec!["--nonsense"], 2),
    ] {
        let (code, said, error) = check(&arguments);
        assert_eq!(code, wanted, "{arguments:?}: {said}{error}");
    }
}

#[test]
fn mistakes_in_levee_yaml_have_the_line_of_what_is_wrong_or_of_what_lacks_it() {
    let text = "\
log: {format: text}
redis:
  - name: sessions
    listen: 127.0.0.1:6380
    upstream: redis://127.0.0.1:6379
    breaker: &breaker
      open_for: 5s
      half_open: {lease: never}
  - name: SESSIONS
    listen: 127.0.0.1:6380
    breaker: *breaker
nonsense: 1
";
    let checked = of_levee(text);
    let places: BTreeSet<(usize, &str)> = checked
        .findings
        .iter()
        .map(|finding| (finding.line, finding.path.as_str()))
        .collect();
    let wanted = [
        (8, "redis[0].breaker.half_open.lease"),
        (8, "redis[1].breaker.half_open.lease"),
        (9, "redis[1].name"),
        (9, "redis[1].upstream"),
        (10, "redis[1].listen"),
        (12, "nonsense"),
    ];
    assert_eq!(places, BTreeSet::from(wanted));
}

/// What is wrong with a `levee.yaml`, a line for each finding.
fn lines(text: &str) -> Vec<String> {
    let findings = of_levee(text).findings.into_iter();
    let shown = findings.map(|finding| finding.show(Path::new("f")));
    shown.collect()
}

#[test]
fn listeners_that_clash_loop_or_are_open_to_all_are_named() {
    let text = "\
admin:
  listen: 0.0.0.0:9464
envoy:
  admin: http://localhost:9464
redis:
  - name: sessions
    listen: 127.0.0.1:6380
    upstream: redis://localhost:6380
  - name: cache
    listen: '[::]:6380'
    upstream: redis://0.0.0.0:9464
  - name: admin
    listen: 127.0.0.1:9464
    upstream: redis://127.0.0.1:6379
";
    let said = lines(text);
    for (line, wanted) in [
        (4, "envoy.admin: is Levee's own admin.listen (0.0.0.0:9464)"),
        (
            8,
            "redis[0].upstream: is Levee's own redis[0].listen (127.0.0.1:6380)",
        ),
        (
            10,
            "redis[1].listen: is used twice: redis[0].listen (127.0.0.1:6380) has this port",
        ),
        (
            11,
            "redis[1].upstream: is Levee's own admin.listen (0.0.0.0:9464)",
        ),
        (
            13,
            "redis[2].listen: is used twice: admin.listen (0.0.0.0:9464) has this port",
        ),
    ] {
        let start = format!("f:{line}: {wanted}");
        assert!(
            said.iter().any(|line| line.starts_with(&start)),
            "{start}: {said:#?}"
        );
    }
    assert_eq!(said.len(), 5, "{said:#?}");

    let mapped = "admin: {listen: '[::ffff:0.0.0.0]:1'}\n";
    assert!(lines(mapped)[0].contains("listens for all machines"));
    let open = "admin: {listen: '[::]:1'}\nredis:\n  - {name: a, listen: '0.0.0.0:2', upstream: 'redis://h'}\n";
    let said = lines(open);
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said[0].starts_with("f:1: admin.listen: warning: [::]:1 listens for all machines"));
    assert!(
        said[1].starts_with("f:3: redis[0].listen: warning: 0.0.0.0:2 listens for all machines")
    );
    let meant = open.replace("listen:", "exposed: true, listen:");
    assert_eq!(lines(&meant), [""; 0]);
}

#[test]
fn a_loop_is_named_however_its_address_is_written() {
    let own_name = gethostname::gethostname().into_string().unwrap();
    // Where no name server and no file knows it, it leads nowhere.
    let own_name = (own_name.as_str(), 0)
        .to_socket_addrs()
        .map_or("localhost", |_| own_name.as_str());
    for host in [
        "127.1",
        "0",
        "localhost.",
        "[::ffff:127.0.0.1]",
        "127.0.0.1",
        own_name,
    ] {
        let text = format!(
            "redis:\n- {{name: a, listen: '0.0.0.0:6380', exposed: true, upstream: 'redis://{host}:6380'}}\nstate: {{upstream: \
             'redis://{host}:6380'}}\nenvoy: {{admin: 'http://{host}:6380'}}\n"
        );
        let said = lines(&text);
        for (place, start) in [
            "f:2: redis[0].upstream: is Levee's own redis[0].listen",
            "f:3: state.upstream: is Levee's own redis[0].listen",
            "f:4: envoy.admin: is Levee's own redis[0].listen",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(said[place].starts_with(start), "{host}: {said:#?}");
        }
    }
    // A name that nobody knows, and one at another port, are no loop.
    for elsewhere in ["nobody.invalid:6380", "localhost:6379"] {
        let text = format!(
            "redis:\n- {{name: a, listen: '127.0.0.1:6380', upstream: 'redis://{elsewhere}'}}\n"
        );
        assert_eq!(lines(&text), [""; 0], "{elsewhere}");
    }
}

#[test]
fn the_capabilities_are_those_of_the_gateway() {
    let is_capability = |line: &&str| line.starts_with(&" ".repeat(30)) && line.ends_with(": {}");
    let names: Vec<&str> = GATEWAY.lines().filter(is_capability).collect();
    assert!(names.len() > 20);
    for line in names {
        let without = GATEWAY.replacen(&format!("{line}\n"), "", 1);
        let name = line.trim().trim_end_matches(": {}");
        let is_for_checks = ["proxy_http_call", "proxy_on_http_call_response"].contains(&name);
        let findings = of_envoy(&without).findings;
        assert_eq!(findings.is_empty(), is_for_checks, "{name}");
        let findings = of_envoy(&with_health_check(&without)).findings;
        assert_eq!(findings.len(), 1, "{name}");
        assert_eq!(findings[0].trap, Some("capabilities"));
        assert!(
            findings[0]
                .message
                .starts_with(&format!("leaves out {name},"))
        );
    }
}

/// A configuration like `envoy/gateway.yaml`, with the health check that a comment names.
fn with_health_check(text: &str) -> String {
    let comment = "# health_check: {path: /healthz}";
    assert!(text.contains(comment));
    text.replacen(comment, comment.trim_start_matches("# "), 1)
}

/// `envoy/minimal.yaml` with a change.
fn changed(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from}");
    MINIMAL.replacen(from, to, 1)
}

/// `envoy/minimal.yaml` with a configuration for the filter.
fn configured(json: &str) -> String {
    let policy = "failure_policy: FAIL_RELOAD";
    let value = format!(
        "{policy}\n                        configuration: {{'@type': type.googleapis.com/google.protobuf.StringValue, value: '{json}'}}"
    );
    changed(policy, &value)
}

/// `envoy/minimal.yaml` with another filter after Levee's.
fn with_filter(name: &str, kind: &str, config: &str) -> String {
    let router = "                  - name: envoy.filters.http.router\n";
    let config = if config == "{}" { "" } else { config };
    changed(
        router,
        &format!(
            "                  - name: {name}\n                    typed_config:\n                      '@type': type.googleapis.com/envoy.extensions.filters.http.{kind}\n                      {config}\n{router}"
        ),
    )
}

/// A second route, to another service.
fn with_two_services(text: &str) -> String {
    let route = "                        - match: {prefix: /}\n";
    assert!(text.contains(route));
    let other = "                        - {match: {prefix: /other}, route: {cluster: other, timeout: 30s}}\n";
    text.replacen(route, &format!("{other}{route}"), 1)
}

/// `envoy/minimal.yaml` with another rule for labels.
fn with_tags(tag: &str) -> String {
    changed("stats_tags:\n", &format!("stats_tags:\n    - {tag}\n"))
}

/// The same without Envoy's default rules.
fn without_default_tags(tag: &str) -> String {
    with_tags(tag).replacen(
        "stats_config:\n",
        "stats_config:\n  use_all_default_tags: false\n",
        1,
    )
}

/// The traps that are no mere remarks.
fn traps_in(text: &str) -> Vec<&'static str> {
    let mut findings = of_envoy(text).findings;
    findings.retain(|finding| finding.severity != Severity::Remark);
    findings.iter().filter_map(|finding| finding.trap).collect()
}

#[test]
fn json_and_the_other_spelling_of_keys_are_understood() {
    let json = |text: &str| serde_norway::from_str::<serde_json::Value>(text).unwrap();
    let pretty = |text: &str| serde_json::to_string_pretty(&json(text)).unwrap();
    assert_eq!(traps_in(&pretty(MINIMAL)), [""; 0]);
    let text = pretty(&changed("timeout: 30s", "timeout: 0s"));
    let finding = &of_envoy(&text).findings[0];
    assert_eq!(finding.trap, Some("no-limit"));
    let line = text.lines().nth(finding.line - 1).unwrap();
    assert_eq!(line.trim(), "\"timeout\": \"0s\"");

    let camel = MINIMAL
        .replace("use_remote_address", "useRemoteAddress")
        .replace("typed_config", "typedConfig")
        .replace("http_filters", "httpFilters")
        .replace("static_resources", "staticResources")
        .replace("filter_chains", "filterChains")
        .replace("connect_timeout: 3s", "connectTimeout: 6s");
    assert_eq!(traps_in(&camel), ["connect-timeout"]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "lists configurations")]
fn what_does_no_harm_is_silent() {
    let route = "route: {cluster: auth, timeout: 30s}";
    let with_route = |keys: &str| changed(route, &format!("route: {{cluster: auth, {keys}}}"));
    let with_cluster =
        |keys: &str| changed("      connect_timeout: 3s\n", &format!("      {keys}\n"));
    for text in [
        // Envoy's own default is 5 s.
        with_cluster("lb_policy: ROUND_ROBIN"),
        with_cluster("connect_timeout: 0.250s"),
        // Shorter than the class of the requests that it gets, though not than the class of others.
        with_cluster("connect_timeout: 5s"),
        configured(r#"{"services": {"auth": {"timeouts": {"class": "long"}}}, "aliases": {}, "timeouts": {"classes": {"short": "5s"}, "class": "short"}}"#)
            .replace("connect_timeout: 3s", "connect_timeout: 5s"),
        configured(r#"{"timeouts": {"classes": {"short": "5s"}, "class": "short", "rules": [{"path_prefix": "/", "class": "long"}]}}"#)
            .replace("connect_timeout: 3s", "connect_timeout: 5s"),
        configured(r#"{"timeouts": {"classes": {"short": "5s"}, "rules": [{"path_prefix": "/other", "class": "short"}]}}"#)
            .replace("connect_timeout: 3s", "connect_timeout: 5s")
            .replace("match: {prefix: /}", "match: {prefix: /auth}"),
        // Filters that keep the route, or have no other one to choose.
        with_filter("x", "lua.v3.Lua", "default_source_code: {inline_string: 'function envoy_on_request(h) h:headers():add(1, 2) end'}"),
        with_two_services(&with_filter("x", "lua.v3.Lua", "default_source_code: {inline_string: 'function envoy_on_response(h) h:headers():add(1, 2) end'}")),
        with_two_services(&with_filter("x", "lua.v3.Lua", "clear_route_cache: false")),
        with_two_services(&with_filter("x", "ext_proc.v3.ExternalProcessor", "route_cache_action: RETAIN")),
        with_two_services(&with_filter("x", "ext_proc.v3.ExternalProcessor", "processing_mode: {request_header_mode: SKIP}")),
        with_two_services(&with_filter("x", "ext_authz.v3.ExtAuthz", "clear_route_cache: false")),
        with_two_services(&with_filter("x", "grpc_json_transcoder.v3.GrpcJsonTranscoder", "match_incoming_request_route: true")),
        with_two_services(&with_filter("x", "cors.v3.Cors", "{}")),
        with_filter("x", "cache.v3.CacheConfig", "{}").replace("- name: x\n", "- name: x\n                    disabled: true\n"),
        changed("request_timeout: 1800s", "common_http_protocol_options: {max_stream_duration: 600s}"),
        // By default, outlier detection ejects no host of a small cluster.
        with_cluster("outlier_detection: {}"),
        with_cluster("common_lb_config: {healthy_panic_threshold: {value: 0}}"),
        // No retries.
        with_route("retry_policy: {num_retries: 2}"),
        with_route("retry_policy: {retry_on: 5xx, num_retries: 0}"),
        with_route("timeout: 0.5s"),
        // An empty list of capabilities allows everything.
        changed(
            "runtime: envoy",
            "capability_restriction_config: {allowed_capabilities: {}}\n                          runtime: envoy",
        ),
        changed(
            "use_remote_address: true",
            "use_remote_address: true\n                internal_address_config: {}",
        ),
        // The file may be partial.
        changed(
            "static_resources:",
            "dynamic_resources: {cds_config: {path_config_source: {path: x}}}\nstatic_resources:",
        ),
        // Durations of clusters without a service.
        changed(
            "static_resources:",
            "  stats_matcher: {exclusion_list: {patterns: [{prefix: cluster.xds.}]}}\nstatic_resources:",
        ),
        changed(
            "static_resources:",
            "  stats_matcher: {inclusion_list: {patterns: [{prefix: wasmcustom.}, {suffix: .upstream_rq_time}]}}\nstatic_resources:",
        ),
        // The cluster's label is still extracted, or Envoy's own rule comes first.
        with_tags("{tag_name: x, regex: '^cluster\\.((.+?)\\.)'}"),
        with_tags("{tag_name: x, regex: '^http\\.((.+?)\\.)'}"),
        with_tags("{tag_name: envoy.cluster_name, regex: '^cluster\\.((..).*?\\.)'}"),
        with_tags("{tag_name: envoy.cluster_name}"),
        with_tags("{tag_name: x, fixed_value: y}"),
        without_default_tags("{tag_name: envoy.cluster_name}"),
        without_default_tags("{tag_name: envoy.cluster_name, regex: '^cluster\\.((.+?)\\.)'}"),
        // The whole name, and its first word, which Envoy takes.
        without_default_tags(
            "{tag_name: envoy.cluster_name, regex: '^cluster\\.((.+)\\.)upstream_rq_time$'}",
        )
        .replace("cluster: auth", "cluster: auth.default"),
        without_default_tags("{tag_name: envoy.cluster_name, regex: '^cluster\\.((.+?)\\.)'}")
            .replace("cluster: auth", "cluster: auth.default"),
        changed("timeout: 20s\n", "timeout: 29s\n"),
        changed(
            "address: 127.0.0.1, port_value: 9901",
            "address: '::1', port_value: 9901",
        ),
    ] {
        let mut findings = of_envoy(&text).findings;
        findings.retain(|finding| finding.severity != Severity::Remark);
        assert!(findings.is_empty(), "{findings:?}\n{text}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "lists configurations")]
fn traps_are_found_wherever_they_may_be_written() {
    let route = "route: {cluster: auth, timeout: 30s}";
    let retry = "retry_policy: {retry_on: 5xx}";
    let host = "domains: [\"*\"]";
    for (text, trap) in [
        (changed(host, &format!("{host}\n                      {retry}")), "retry-budget"),
        (
            changed(route, &format!("route: {{weighted_clusters: {{clusters: [{{name: auth, weight: 1}}]}}, {retry}}}")),
            "retry-budget",
        ),
        (
            changed(
                "        - filters:\n            - name: envoy.filters.network",
                "        []\n      default_filter_chain:\n          filters:\n            - name: envoy.filters.network",
            )
            .replace("timeout: 30s", "timeout: 0.0s"),
            "no-limit",
        ),
        (
            changed("name: levee\n                    typed", "name: reliability\n                    typed")
                .replacen("name: levee", "name: x", 1)
                .replace("root_id: levee", "root_id: x")
                .replace("vm_id: levee", "vm_id: x")
                .replace("FAIL_RELOAD", "UNSPECIFIED"),
            "failure-policy",
        ),
        (
            changed("failure_policy", "capability_restriction_config: {allowed_capabilities: {proxy_on_log: {}}}\n                        failure_policy"),
            "capabilities",
        ),
        (
            changed("static_resources:", "  stats_matcher: {reject_all: true}\nstatic_resources:"),
            "stats-hidden",
        ),
        (
            changed("static_resources:", "  stats_matcher: {exclusion_list: {patterns: [{safe_regex: {regex: '.*_probe_.*'}}]}}\nstatic_resources:"),
            "stats-hidden",
        ),
        (
            changed("static_resources:", "  stats_matcher: {exclusion_list: {patterns: [{prefix: wasmcustom.circuit_breaker_mode}]}}\nstatic_resources:"),
            "stats-hidden",
        ),
        (
            changed("static_resources:", "  stats_matcher: {exclusion_list: {patterns: [{suffix: _rq_time}]}}\nstatic_resources:"),
            "durations-hidden",
        ),
        // A service by its other name.
        (
            changed("static_resources:", "  stats_matcher: {exclusion_list: {patterns: [{prefix: cluster.other.}]}}\nstatic_resources:")
                .replace("type: STRICT_DNS", "type: STRICT_DNS\n      alt_stat_name: other"),
            "durations-hidden",
        ),
        (with_tags("{tag_name: x, regex: '(cluster\\.(.+?)\\.)upstream'}"), "durations-hidden"),
        (with_tags("{tag_name: envoy.cluster_name, fixed_value: x}"), "durations-hidden"),
        (without_default_tags("{tag_name: envoy.cluster_name, regex: '^cluster\\.((..).*?\\.)'}"), "durations-hidden"),
        (without_default_tags("{tag_name: envoy.cluster_name, regex: '^clusters\\.((.+?)\\.)'}"), "durations-hidden"),
        (without_default_tags("{tag_name: cluster, regex: '^cluster\\.((.+?)\\.)'}"), "durations-hidden"),
        (
            configured(r#"{"timeouts": {"classes": {"short": "5s"}, "rules": [{"method": "GET", "class": "short"}]}}"#)
                .replace("      connect_timeout: 3s\n", ""),
            "connect-timeout",
        ),
        (
            configured(r#"{"timeouts": {"classes": {"short": "5s"}, "rules": [{"path_prefix": "/login", "class": "short"}]}}"#)
                .replace("connect_timeout: 3s", "connect_timeout: 5s"),
            "connect-timeout",
        ),
        (
            configured(r#"{"timeouts": {"classes": {"short": "5s"}, "rules": [{"method": "GET", "class": "short"}, {"path_prefix": "/", "class": "long"}]}}"#)
                .replace("connect_timeout: 3s", "connect_timeout: 5s"),
            "connect-timeout",
        ),
        (
            configured(r#"{"services": {"accounts": {"timeouts": {"class": "short", "classes": {"short": "5s"}}}}, "aliases": {"auth": "accounts"}}"#)
                .replace("connect_timeout: 3s", "connect_timeout: 5s"),
            "connect-timeout",
        ),
        (changed("request_timeout: 1800s", "request_timeout: 0s"), "upload-limit"),
        (with_filter("x", "cache_v2.v3.CacheV2Config", "{}"), "cache-timeouts"),
        (
            with_filter("x", "cache.v3.CacheConfig", "{}")
                .replace("- name: x\n", "- name: x\n                    disabled: true\n")
                .replace(route, &format!("{route}\n                          typed_per_filter_config: {{x: {{}}}}")),
            "cache-timeouts",
        ),
        (with_two_services(&with_filter("x", "ext_authz.v3.ExtAuthz", "clear_route_cache: true")), "route-changes"),
        (with_two_services(&with_filter("x", "grpc_json_transcoder.v3.GrpcJsonTranscoder", "{}")), "route-changes"),
        (with_two_services(&with_filter("x", "wasm.v3.Wasm", "{}")), "route-changes"),
        (with_two_services(&with_filter("x", "lua.v3.Lua", "source_codes: {}")), "route-changes"),
        (changed("timeout: 20s\n", "timeout: 0s\n"), "slow-clients"),
        (changed("timeout: 20s\n", "timeout: 30s\n"), "slow-clients"),
        (configured(r#"{"timeouts": {"classes": {"short": "5s"}, "class": "short"}}"#).replace("timeout: 20s\n", "timeout: 5s\n"), "slow-clients"),
        (changed("      filter_chains", "      udp_listener_config: {quic_options: {}}\n      filter_chains"), "http3"),
        (changed("use_remote", "stream_idle_timeout: 0s\n                use_remote"), "idle-limit"),
        (configured(r#"{"timeouts": {"class": "very_long"}}"#), "idle-limit"),
        (configured(r#"{"breaker": {"mode": "loud"}}"#), "configuration"),
        (configured(r#"{"breaker": "#), "configuration"),
        (configured(r#"{"services": {"nobody": {"breaker": {"mode": "shadow"}}}}"#), "unknown-name"),
    ] {
        assert_eq!(traps_in(&text), [trap], "{text}");
    }
}

#[test]
fn a_fallback_whose_route_is_there_and_whose_header_is_removed_is_silent() {
    let from = "            services:\n";
    let services =
        "            fallback: {route: maintenance}\n                            services:\n";
    let text = GATEWAY.replacen(from, services, 1);
    assert_eq!(traps_in(&text), ["fallback-route"], "the route is missing");
    let route = "routes:\n                        # `timeout`";
    let with_route = |matcher: &str| {
        let new = format!(
            "routes:\n                        - match: {{prefix: /, headers: [{{name: x-levee-fallback, {matcher}}}]}}\n                          route: {{cluster: auth}}\n                        # `timeout`"
        );
        assert!(text.contains(route));
        text.replacen(route, &new, 1)
    };
    for matcher in [
        "string_match: {exact: maintenance}",
        "exact_match: maintenance",
        "present_match: true",
    ] {
        assert_eq!(traps_in(&with_route(matcher)), [""; 0], "{matcher}");
    }
    let other = with_route("string_match: {exact: other}");
    assert_eq!(traps_in(&other), ["fallback-route"]);
    let kept = with_route("present_match: true").replace("prefix: x-levee-", "prefix: x-other-");
    assert_eq!(traps_in(&kept), ["fallback-route"], "clients may send it");
}

#[test]
fn a_trap_that_clusters_share_by_an_anchor_is_reported_once() {
    let text = GATEWAY.replace("max_ejection_percent: 34", "max_ejection_percent: 100");
    assert_eq!(traps_in(&text), ["outlier-detection"]);
}

#[test]
fn listeners_in_a_file_that_envoy_watches_are_checked() {
    let (_, listeners) = MINIMAL.split_once("  listeners:\n").unwrap();
    let (listener, _) = listeners.split_once("  clusters:\n").unwrap();
    let listener = listener
        .replacen("    - name: gateway", "    - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n      name: gateway", 1)
        .replacen("FAIL_RELOAD", "FAIL_OPEN", 1);
    assert_eq!(
        traps_in(&format!("resources:\n{listener}")),
        ["failure-policy"]
    );
}

#[test]
fn nothing_that_is_written_makes_it_fail() {
    for text in [
        "",
        "5",
        "[]",
        "static_resources: 5",
        "static_resources: {listeners: 5, clusters: [5, [], {}]}",
        "configs: [5, [], {}, {bootstrap: 5}, {bootstrap: {static_resources: []}}]",
        "resources: {resources: {resources: []}}",
        "static_resources: {listeners: [{filter_chains: [{filters: [5, {typed_config: 5}]}]}]}",
        "resources: [5, {'@type': 5}, {'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster}]",
        "stats_config: 5\nadmin: {address: [1]}",
    ] {
        of_envoy(text);
    }
    // Leaving out a line or changing its value may lead to any findings, but not to a panic.
    for (place, line) in GATEWAY.lines().enumerate() {
        let mut lines: Vec<&str> = GATEWAY.lines().collect();
        let cut = line.split_inclusive(": ").next().unwrap_or_default();
        lines[place] = cut;
        of_envoy(&lines.join("\n"));
        lines.remove(place);
        of_envoy(&lines.join("\n"));
    }
}

#[test]
fn what_is_not_utf_8_is_an_error_with_its_line() {
    let folder = Folder::new("bytes");
    let path = folder.file("levee.yaml", "");
    fs::write(&path, b"log:\n  level: info # caf\xe9\n").unwrap();
    let (code, said, error) = check(&["--config", &path]);
    assert_eq!((code, error.as_str()), (2, ""), "{said}");
    assert!(said.starts_with(&format!("{path}:2: not UTF-8")), "{said}");
    let run = Command::new(env!("CARGO_BIN_EXE_levee"))
        .args(["run", "--config", &path])
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert_eq!(String::from_utf8(run.stderr).unwrap(), said);
}

#[test]
fn control_characters_are_escaped() {
    let folder = Folder::new("controls");
    let path = folder.file("levee.yaml", "\"\\e[31mred\\nred\": 1\n");
    let (code, said, _) = check(&["--config", &path]);
    assert_eq!(code, 2);
    assert!(said.contains("\\u{1b}[31mred\\nred"), "{said}");
    assert!(
        !said.contains('\u{1b}') && said.lines().count() == 1,
        "{said}"
    );
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("levee-check-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
