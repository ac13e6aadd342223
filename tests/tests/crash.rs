//! The gateway's behaviour when the filter's virtual machine fails.

use std::time::Duration;

use levee_harness::backend::Backend;
use levee_harness::client::Request;
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::wait;

/// A minimal filter that traps on a request with 40 or more headers, as a panic would. Nothing is known to make Levee's
/// own filter panic.
const TRAPS_ON_MANY_HEADERS: &str = r#"
    (module
      (memory (export "memory") 1)
      (func (export "proxy_abi_version_0_2_1"))
      (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 1024)
      (func (export "proxy_on_context_create") (param i32 i32))
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (if (i32.ge_u (local.get 1) (i32.const 40)) (then unreachable))
        i32.const 0))
"#;

#[tokio::test]
async fn a_gateway_whose_filter_has_failed_recovers_by_itself() {
    let video = Backend::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let filter = folder.path().join("traps.wasm");
    std::fs::write(&filter, wat::parse_str(TRAPS_ON_MANY_HEADERS).unwrap()).unwrap();
    let config = EnvoyConfig::gateway().upstream("video", video.address());
    let start = Start {
        filter: Some(filter),
        ..Start::default()
    };
    let envoy = Envoy::start_with(config, &start).await.unwrap();
    assert_eq!(envoy.get("/v1/video/x").await.unwrap().status, 200);

    let mut fatal = Request::get("/v1/video/x");
    for number in 0..40 {
        fatal = fatal.header(&format!("x-{number}"), "1");
    }
    assert_eq!(fatal.send(envoy.address()).await.unwrap().status, 503);
    assert_eq!(
        envoy.get("/v1/video/x").await.unwrap().status,
        503,
        "closed, not open"
    );
    wait::until(
        "the gateway to serve again",
        Duration::from_secs(30),
        || async {
            match envoy.get("/v1/video/x").await.unwrap().status {
                200 => Ok(()),
                status => Err(format!("{status}")),
            }
        },
    )
    .await
    .unwrap();
}
