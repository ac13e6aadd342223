//! A filter in front that goes upstream by itself.

use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::envoy::Envoy;
use serde_json::json;

use crate::case::gateway;

#[tokio::test]
async fn requests_that_a_cache_in_front_sends_upstream_by_itself_are_counted_as_unseen() {
    let video = Backend::start().unwrap();
    video.always(Behaviour::Answer(Response::status(503)));
    let mut config = gateway().upstream("video", video.address());
    let manager =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let filters = config.value_mut().pointer_mut(manager).unwrap();
    let cache = json!({"name": "cache", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig",
        },
    }});
    filters.as_array_mut().unwrap().insert(0, cache);
    let envoy = Envoy::start(config).await.unwrap();
    for _ in 0..5 {
        assert_eq!(envoy.get("/v1/video/x").await.unwrap().status, 503);
    }
    envoy
        .wait_for_metric("circuit_breaker_unseen_requests_total", &[], 5.0)
        .await
        .unwrap();
    assert!(
        envoy.log().contains("put Levee before it"),
        "and it is said once"
    );
}
