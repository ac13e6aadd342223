//! The host calls of the filter, and the callbacks by Envoy, as Envoy traces them.

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour, status};
use levee_harness::wait;
use serde_json::json;
use std::collections::BTreeMap;

/// The name of a call in a line of the trace, behind `direction`: `env.proxy_log(1, 2)` is `proxy_log`.
fn call<'a>(line: &'a str, direction: &str) -> Option<(&'a str, &'a str)> {
    let (_, call) = line.split_once(direction)?;
    let (name, arguments) = call.split_once('(')?;
    Some((name.rsplit('.').next().unwrap_or(name), arguments))
}

/// The calls in each completed request of this trace, in order: callbacks, host calls, and memory allocations.
fn requests(trace: &str) -> Vec<Vec<&str>> {
    let mut under_way: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let (mut ended, mut current) = (Vec::new(), None);
    for line in trace.lines() {
        if let Some((name, arguments)) = call(line, "[host->vm] ") {
            if name == "proxy_on_memory_allocate" {
                if let Some(calls) = current.and_then(|context| under_way.get_mut(context)) {
                    calls.push(name);
                }
                continue;
            }
            let context = arguments.split([',', ')']).next().unwrap_or_default();
            current = Some(context);
            if name == "proxy_on_request_headers" {
                under_way.insert(context, Vec::new());
            }
            if name == "proxy_on_delete" {
                ended.extend(under_way.remove(context));
            }
            if let Some(calls) = under_way.get_mut(context) {
                calls.push(name);
            }
        } else if let Some((name, _)) = call(line, "[vm->host] ")
            && let Some(calls) = current.and_then(|context| under_way.get_mut(context))
        {
            calls.push(name);
        }
    }
    ended
}

/// Waits for the calls of the request with this number, counted from one.
async fn calls_of(envoy: &Envoy, number: usize) -> Vec<String> {
    let mut found = Vec::new();
    wait::until_now("the request in the trace", wait::GENEROUS, || {
        let log = envoy.log();
        let all = requests(&log);
        found = match all.get(number - 1) {
            Some(calls) => calls.iter().map(|&name| name.to_owned()).collect(),
            None => return Err(format!("{} requests", all.len())),
        };
        Ok(())
    })
    .await
    .unwrap();
    found
}

async fn trace(envoy: &Envoy) {
    let answer = Request::post("/logging?wasm=trace", "")
        .send(envoy.admin())
        .await
        .expect("the admin interface");
    assert_eq!(answer.status, 200);
}

/// The cost of a successful response, in any protocol.
const GOOD: [&str; 7] = [
    "proxy_on_request_headers",
    "proxy_call_foreign_function",
    "proxy_on_memory_allocate",
    "proxy_replace_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_on_log",
    "proxy_call_foreign_function",
];

#[tokio::test]
async fn a_good_answer_is_known_by_one_call_in_http_and_in_grpc() {
    let (http, service) = (Backend::start().unwrap(), GrpcBackend::start().unwrap());
    service.always(GrpcBehaviour::Trailers(status::OK));
    let config = EnvoyConfig::gateway()
        .upstream("video", http.address())
        .upstream("auth", service.address())
        .upstream_http2("auth")
        .plugin_exactly(&json!({}));
    let envoy = Envoy::start(config).await.unwrap();
    let call = grpc::call("/v1/auth/levee.Demo/Call");
    // The first request of each registers the service and reveals its protocol.
    assert_eq!(envoy.get("/v1/video").await.unwrap().status, 200);
    grpc::send(&call, envoy.address()).await.expect("an answer");
    trace(&envoy).await;
    assert_eq!(envoy.get("/v1/video").await.unwrap().status, 200);
    assert_eq!(calls_of(&envoy, 1).await, GOOD);
    grpc::send(&call, envoy.address()).await.expect("an answer");
    let calls = calls_of(&envoy, 2).await;
    let (body, others): (Vec<_>, Vec<_>) = calls
        .into_iter()
        .partition(|call| call == "proxy_on_request_body");
    assert_eq!(others, GOOD);
    assert_eq!(body.len(), 1, "the filter is told when a body has arrived");

    http.always(Behaviour::status(500));
    assert_eq!(envoy.get("/v1/video").await.unwrap().status, 500);
    let calls = calls_of(&envoy, 3).await;
    assert!(
        calls.len() > GOOD.len() + 4,
        "a failure is looked at closely: {calls:?}"
    );
}
