//! grpc-go's interoperability client and server see no difference.

use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::go_client::{INTEROP_CASES, InteropServer, interop};
use levee_harness::wait::{self, GENEROUS};
use serde_json::json;

const CLIENT: &str = "192.0.2.1";
const ATTACKER: &str = "198.51.100.1";

/// A gateway in front of `server`, as `auth`. It believes `x-forwarded-for`.
fn gateway(server: &InteropServer) -> EnvoyConfig {
    EnvoyConfig::gateway()
        .upstream("auth", server.address())
        .upstream_http2("auth")
        .first_route(json!({
            "name": "interop",
            "match": {"prefix": "/"},
            "route": {"cluster": "auth"},
        }))
        .connection_manager(&json!({"xff_num_trusted_hops": 1}))
}

/// What the client says of each case that fails.
async fn failures(gateway: &Envoy) -> Vec<String> {
    let mut failures = Vec::new();
    for case in INTEROP_CASES {
        let ended = interop(case, gateway.address(), CLIENT).await;
        failures.extend(ended.err().map(|error| error.to_string()));
    }
    failures
}

#[tokio::test]
async fn all_interoperability_cases_pass_as_they_do_without_the_filter() {
    let server = InteropServer::start().unwrap();
    let bare = Envoy::start(gateway(&server).without_filter())
        .await
        .unwrap();
    assert_eq!(failures(&bare).await, [""; 0]);
    let envoy = Envoy::start(gateway(&server)).await.unwrap();
    assert_eq!(failures(&envoy).await, [""; 0]);
    let counted = [("service", "auth"), ("outcome", "success")];
    wait::until("the good calls to be counted", GENEROUS, || async {
        let metrics = envoy.metrics().await.unwrap();
        let good = metrics.sum("circuit_breaker_requests_total", &counted);
        if good >= 30.0 { Ok(()) } else { Err(good) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_case_eight_times_shuts_the_service_for_another_client() {
    let server = InteropServer::start().unwrap();
    let envoy = Envoy::start(gateway(&server)).await.unwrap();
    for case in INTEROP_CASES {
        for _ in 0..8 {
            // It may be refused itself.
            let _ = interop(case, envoy.address(), ATTACKER).await;
        }
        interop("empty_unary", envoy.address(), CLIENT)
            .await
            .unwrap_or_else(|error| panic!("after {case}: {error}"));
    }
    let opened = [("service", "auth"), ("to", "open")];
    let opened = envoy
        .metrics()
        .await
        .unwrap()
        .sum("circuit_breaker_transitions_total", &opened);
    assert!(opened < 1.0, "opened {opened} times");
}
