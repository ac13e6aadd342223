//! The limits that a request gets.

mod fake;

use fake::{Gateway, Stream};

fn limits(gateway: &mut Gateway, stream: Stream) -> (String, String) {
    let call = gateway.begin_stream(0, stream);
    let stream = gateway.stream(call);
    let text = |name: &str| String::from_utf8(stream.header(name).unwrap().to_vec()).unwrap();
    (
        text("x-envoy-upstream-rq-timeout-ms"),
        text("x-envoy-upstream-rq-per-try-timeout-ms"),
    )
}

fn to(cluster: &str) -> Stream {
    Stream {
        cluster: cluster.as_bytes().to_vec(),
        ..Stream::default()
    }
}

fn with_headers(cluster: &str, headers: &[(&str, &str)]) -> Stream {
    let headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()));
    Stream {
        request_headers: headers.collect(),
        ..to(cluster)
    }
}

#[test]
fn each_class_has_its_default_and_headers_at_most_ten_seconds() {
    for (class, whole, headers) in [
        ("short", "7000", "7000"),
        ("medium", "10000", "10000"),
        ("default", "30000", "10000"),
        ("long", "60000", "10000"),
        ("very_long", "300000", "10000"),
    ] {
        let configuration =
            format!(r#"{{"services": {{"auth": {{"timeouts": {{"class": "{class}"}}}}}}}}"#);
        let mut gateway = Gateway::new(1, &configuration);
        assert_eq!(
            limits(&mut gateway, to("auth")),
            (whole.to_owned(), headers.to_owned())
        );
        assert_eq!(limits(&mut gateway, to("other")).0, "30000");
    }
}

#[test]
fn limits_sent_by_a_client_are_overwritten() {
    let mut gateway = Gateway::new(1, "");
    let cheat = with_headers(
        "auth",
        &[
            ("x-envoy-upstream-rq-timeout-ms", "600000"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ],
    );
    assert_eq!(
        limits(&mut gateway, cheat),
        ("30000".to_owned(), "10000".to_owned())
    );
}

#[test]
fn the_first_matching_rule_gives_the_class_and_a_services_own_rules_come_first() {
    let mut gateway = Gateway::new(
        1,
        r#"{"timeouts": {"rules": [
                {"path_prefix": "/v1/storage", "method": "PUT", "class": "very_long"},
                {"path_prefix": "/v1/storage", "class": "long"},
                {"route": "reports", "class": "medium"}]},
            "services": {"fast": {"timeouts": {
                "class": "medium",
                "rules": [{"path_prefix": "/v1/storage/meta", "class": "short"}]}}}}"#,
    );
    let mut whole = |cluster: &str, method: &str, path: &str, route: &str| {
        let mut stream = with_headers(cluster, &[(":method", method), (":path", path)]);
        stream.route = route.as_bytes().to_vec();
        limits(&mut gateway, stream).0
    };
    assert_eq!(whole("storage", "PUT", "/v1/storage/a", ""), "300000");
    assert_eq!(whole("storage", "GET", "/v1/storage/a?x=1", ""), "60000");
    assert_eq!(whole("storage", "GET", "/v2", "reports"), "10000");
    assert_eq!(whole("storage", "GET", "/v2", ""), "30000");
    assert_eq!(whole("fast", "PUT", "/v1/storage/meta/x", ""), "7000");
    assert_eq!(whole("fast", "PUT", "/v1/storage/x", ""), "300000");
    assert_eq!(whole("fast", "GET", "/", ""), "10000");
}

#[test]
fn a_trusted_clients_deadline_shortens_and_never_lengthens() {
    let mut gateway = Gateway::new(
        1,
        r#"{"timeouts": {"client_deadline_header": "X-Deadline-Ms"}}"#,
    );
    for (value, expected) in [
        ("2000", "2000"),
        ("600000", "30000"),
        ("0", "1"),
        ("-5", "30000"),
        ("soon", "30000"),
        ("99999999999999999999999999", "30000"),
        ("", "30000"),
    ] {
        let stream = with_headers("auth", &[("x-deadline-ms", value)]);
        assert_eq!(limits(&mut gateway, stream).0, expected, "{value:?}");
    }
    let mut gateway = Gateway::new(
        1,
        r#"{"timeouts": {"client_deadline_header": "grpc-timeout"}}"#,
    );
    let stream = with_headers("auth", &[("grpc-timeout", "1500m")]);
    assert_eq!(
        limits(&mut gateway, stream),
        ("1500".to_owned(), "1500".to_owned())
    );
}

#[test]
fn without_configuration_clients_cannot_shorten_limits() {
    let mut gateway = Gateway::new(1, "");
    let stream = with_headers("auth", &[("grpc-timeout", "1m")]);
    assert_eq!(limits(&mut gateway, stream).0, "30000");
}
