//! No input from a client, an upstream or a configuration makes the filter panic: a panic would end
//! the worker's virtual machine.

mod fake;

use fake::{Gateway, Stream};
use levee_filter::config::Config;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;

const CONFIGURATION: &str = r#"{
    "breaker": {"slow_calls": {"longer_than": "1s"}},
    "timeouts": {"client_deadline_header": "x-deadline-ms",
                 "rules": [{"path_prefix": "/v1", "method": "PUT", "class": "long"},
                           {"route": "r", "class": "short"}]},
    "fallback": {"route": "maintenance"},
    "max_services": 20
}"#;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..40),
        Just(b"\xff\xfe\x00".to_vec()),
        Just(b"application/grpc".to_vec()),
        Just(b"/v1/\xc3\x28".to_vec()),
        "[0-9]{1,30}[HMSmun]?".prop_map(String::into_bytes),
    ]
}

fn stream() -> impl Strategy<Value = Stream> {
    let headers = (bytes(), bytes(), bytes(), bytes(), bytes());
    let properties = (bytes(), bytes(), bytes());
    let response = (
        any::<Option<u64>>(),
        any::<u64>(),
        any::<Option<u64>>(),
        any::<Option<u64>>(),
    );
    (headers, properties, response).prop_map(
        |((path, method, kind, deadline, other), (cluster, route, details), numbers)| Stream {
            cluster,
            route,
            details,
            code: numbers.0,
            flags: numbers.1,
            grpc_status: numbers.2,
            backend_latency: numbers.3,
            request_headers: vec![
                (":path".to_owned(), path),
                (":method".to_owned(), method),
                ("content-type".to_owned(), kind),
                ("x-deadline-ms".to_owned(), deadline.clone()),
                ("grpc-timeout".to_owned(), deadline),
                ("x-levee-fallback".to_owned(), other),
            ],
            ..Stream::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]
    #[test]
    fn ten_thousand_random_requests_pass(stream in stream(), has_cel in any::<bool>()) {
        let mut gateway = Gateway::with_cel(1, CONFIGURATION, has_cel);
        let call = gateway.begin_stream(0, stream);
        gateway.pass(Duration::from_millis(100));
        gateway.finish(call);
        gateway.pass(Duration::from_millis(100));
    }

    #[test]
    fn random_configurations_are_rejected_without_a_panic(text in bytes()) {
        let _ = Config::parse(&text);
    }

    #[test]
    fn random_bytes_in_shared_data_are_survived(key in 0_usize..3, length in 0_usize..2, bytes in vec(any::<u8>(), 1000)) {
        use levee_filter::host::{Host, Version};
        let mut gateway = Gateway::new(2, "");
        gateway.request(0, "auth", fake::End::Status(503));
        let host = &gateway.workers[0].host;
        let keys = host.shared_keys();
        let key = &keys[key % keys.len()];
        // As long as what is there, or shorter.
        let there = host.shared(key).expect("a value").value;
        let mut bytes = bytes[..if length == 0 { there.len() } else { there.len() / 2 }].to_vec();
        if let (Some(layout), Some(right)) = (bytes.first_mut(), there.first()) {
            *layout = *right;
        }
        host.set_shared(key, &bytes, Version::ANY);
        for worker in [0, 1] {
            gateway.request(worker, "auth", fake::End::Status(503));
            gateway.request(worker, "chat", fake::End::Status(200));
            gateway.pass(Duration::from_millis(100));
        }
    }
}
