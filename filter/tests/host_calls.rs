//! The cost of a request in host calls. By measurement, each adds 2 to 4 % to the CPU time that bare
//! Envoy spends on a request.

mod fake;

use fake::{End, Gateway, Stream};
use levee_filter::plugin::Piece;
use std::time::Duration;

/// The calls of the second good request to a service. The first one creates the service.
fn calls_of_a_good_request(configuration: &str, stream: &Stream) -> Vec<&'static str> {
    calls_of_a_good_answer(configuration, stream, None)
}

fn calls_of_a_good_answer(
    configuration: &str,
    stream: &Stream,
    grpc_status: Option<u64>,
) -> Vec<&'static str> {
    let mut gateway = Gateway::new(1, configuration);
    for _ in 0..2 {
        gateway.take_calls(0);
        let call = gateway.begin_stream(0, stream.clone());
        gateway.change(call, |stream| {
            stream.code = Some(200);
            stream.details = b"via_upstream".to_vec();
            stream.grpc_status = grpc_status;
        });
        gateway.finish(call);
    }
    gateway.take_calls(0)
}

fn auth() -> Stream {
    Stream {
        cluster: b"auth".to_vec(),
        ..Stream::default()
    }
}

#[test]
fn a_good_request_costs_four_host_calls() {
    let calls = calls_of_a_good_request("", &auth());
    assert_eq!(
        calls,
        ["value", "set_request_header", "set_request_header", "holds"]
    );
}

#[test]
fn without_scopes_the_cluster_is_a_property() {
    let calls = calls_of_a_good_request(r#"{"scopes": {"by_route": false}}"#, &auth());
    assert_eq!((calls.len(), calls[0]), (4, "property"));
}

#[test]
fn a_scope_costs_no_host_call() {
    for configuration in [
        "",
        r#"{"scopes": {"rules": [{"name": "x", "path_prefix": "/x"}]}}"#,
    ] {
        let mut gateway = Gateway::new(1, configuration);
        let request = |gateway: &mut Gateway, route: &str| {
            let stream = Stream {
                route: route.as_bytes().to_vec(),
                ..auth()
            };
            let call = gateway.begin_stream(0, stream);
            gateway.end(call, End::Status(200));
        };
        for route in ["login", "refresh", "login"] {
            request(&mut gateway, route);
        }
        gateway.take_calls(0);
        request(&mut gateway, "login");
        let calls = gateway.take_calls(0);
        assert_eq!(calls.len(), 4, "{calls:?}");
    }
}

#[test]
fn in_a_second_there_are_up_to_ten_calls_more_for_callers_addresses_and_one_for_a_connections_number()
 {
    let mut gateway = Gateway::new(1, "");
    gateway.request(0, "auth", End::Status(200));
    let mut asked = 0;
    for _ in 0..30 {
        gateway.pass(Duration::from_millis(100));
        for _ in 0..20 {
            gateway.take_calls(0);
            gateway.request(0, "auth", End::Status(200));
            let calls = gateway.take_calls(0);
            assert!((4..=6).contains(&calls.len()), "{calls:?}");
            asked += calls.len() - 4;
        }
    }
    assert!((20..=33).contains(&asked), "{asked}");
    let configuration = r#"{"breaker": {"witnesses": 1}}"#;
    let mut gateway = Gateway::new(1, configuration);
    for _ in 0..29 {
        gateway.request(0, "auth", End::Status(200));
        gateway.pass(Duration::from_millis(100));
        gateway.take_calls(0);
    }
    gateway.request(0, "auth", End::Status(200));
    assert_eq!(gateway.take_calls(0).len(), 4);
}

#[test]
fn a_good_grpc_request_costs_four_host_calls() {
    let headers = vec![("content-type".to_owned(), b"application/grpc".to_vec())];
    let stream = Stream {
        request_headers: headers,
        ..auth()
    };
    let calls = calls_of_a_good_answer("", &stream, Some(0));
    assert_eq!(calls.len(), 4, "{calls:?}");
}

#[test]
fn rules_of_failures_cost_a_good_request_nothing() {
    let configuration = r#"{"failures": {"http": ["500-599"]},
        "services": {"auth": {"failures": {"http": ["404", "500-599"], "grpc": ["NOT_FOUND"]}},
                     "chat": {"failures": {"http": ["404", "503"]}},
                     "video": {"failures": {"http": []}}}}"#;
    for grpc_status in [None, Some(0)] {
        let calls = calls_of_a_good_answer(configuration, &auth(), grpc_status);
        assert_eq!(calls.len(), 4, "{calls:?}");
    }
    let gateway = Gateway::new(1, configuration);
    // HTTP and gRPC, below 404 and below 429.
    assert_eq!(gateway.workers[0].host.compiled(), 4);
}

#[test]
fn pieces_of_a_request_cost_no_host_call() {
    let mut gateway = Gateway::new(1, "");
    gateway.request(0, "auth", End::Status(200));
    let call = gateway.begin_upload(0, "auth");
    gateway.take_calls(0);
    for piece in [Piece::Some, Piece::Some, Piece::Last] {
        gateway.arrive(call, piece);
    }
    assert!(gateway.take_calls(0).is_empty());
}

#[test]
fn a_change_of_protocol_costs_more_calls_once() {
    let mut gateway = Gateway::new(1, "");
    gateway.request(0, "auth", End::Status(200));
    let calls = [None, Some(0), Some(0), None, None].map(|grpc_status| {
        let call = gateway.begin_stream(0, auth());
        gateway.take_calls(0);
        gateway.change(call, |stream| {
            stream.code = Some(200);
            stream.details = b"via_upstream".to_vec();
            stream.grpc_status = grpc_status;
        });
        gateway.finish(call);
        gateway.take_calls(0).len()
    });
    assert_eq!(calls, [1, 6, 1, 6, 1]);
    assert_eq!(gateway.outcome("auth", "success"), 6);
}

#[test]
fn each_kind_of_condition_costs_one_call_more() {
    let path = r#"{"path_prefix": "/v1/a", "class": "long"}"#;
    let method = r#"{"method": "PUT", "class": "long"}"#;
    for (rules, expected) in [
        (path.to_owned(), 5),
        (method.to_owned(), 5),
        (r#"{"route": "r", "class": "long"}"#.to_owned(), 5),
        (format!("{path}, {path}"), 5),
        (format!("{path}, {method}"), 6),
    ] {
        let configuration = format!(r#"{{"timeouts": {{"rules": [{rules}]}}}}"#);
        let calls = calls_of_a_good_request(&configuration, &auth());
        assert_eq!(calls.len(), expected, "{rules}: {calls:?}");
    }
}

#[test]
fn a_clients_deadline_a_fallback_route_and_slow_calls_cost_one_call_more_each() {
    for configuration in [
        r#"{"timeouts": {"client_deadline_header": "grpc-timeout"}}"#,
        r#"{"services": {"video": {"fallback": {"route": "maintenance"}}}}"#,
        r#"{"breaker": {"slow_calls": {"longer_than": "2s"}}}"#,
    ] {
        let calls = calls_of_a_good_request(configuration, &auth());
        assert_eq!(calls.len(), 5, "{configuration}: {calls:?}");
    }
}

#[test]
fn a_refusal_costs_two_host_calls() {
    let mut gateway = Gateway::new(1, "");
    for _ in 0..5 {
        gateway.request(0, "auth", End::Status(503));
    }
    gateway.take_calls(0);
    assert!(!gateway.request(0, "auth", End::Status(200)));
    let calls = gateway.take_calls(0);
    assert_eq!(calls, ["value", "reply"]);
}

#[test]
fn without_failures_neither_requests_nor_ticks_touch_shared_data() {
    let mut gateway = Gateway::new(1, "");
    gateway.request(0, "auth", End::Status(200));
    gateway.pass(Duration::from_millis(100));
    gateway.take_calls(0);
    for _ in 0..100 {
        gateway.request(0, "auth", End::Status(200));
    }
    // Less than the second after which a worker renews its entry.
    gateway.pass(Duration::from_millis(500));
    let calls = gateway.take_calls(0);
    assert!(!calls.contains(&"shared"), "{calls:?}");
    assert!(!calls.contains(&"set_shared"), "{calls:?}");
    let metric_calls = calls.iter().filter(|call| **call == "add").count();
    assert_eq!(metric_calls, 1, "one call hands over 100 requests");
}

#[test]
fn without_cel_a_good_request_costs_eight_and_decisions_are_the_same() {
    let mut gateway = Gateway::with_cel(1, "", false);
    gateway.request(0, "auth", End::Status(200));
    gateway.take_calls(0);
    gateway.request(0, "auth", End::Status(200));
    assert_eq!(gateway.take_calls(0).len(), 8);
    for _ in 0..5 {
        assert!(gateway.request(0, "auth", End::Status(503)));
    }
    assert!(!gateway.request(0, "auth", End::Status(200)));
}
