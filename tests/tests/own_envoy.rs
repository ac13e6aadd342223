//! The README's snippets for your own Envoy, in a real one.

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_pages::Page;
use serde_json::Value;

/// `envoy/minimal.yaml` without Levee, with the README's two snippets added.
fn with_the_snippets() -> EnvoyConfig {
    let mut config = EnvoyConfig::minimal();
    let whole = config.value_mut();
    let listener = &mut whole["static_resources"]["listeners"][0];
    let top_of_listener = listener.as_object_mut().unwrap();
    top_of_listener.remove("per_connection_buffer_high_watermark_timeout");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().unwrap().remove("request_timeout");
    let section = Page::read("README.md").section("Put it into your own Envoy");
    let snippets = section.examples("yaml");
    let [for_manager, for_top] = snippets.as_slice() else {
        panic!("not two snippets: {snippets:?}");
    };
    replace_keys(manager, &for_manager.text);
    replace_keys(whole, &for_top.text);
    config
}

fn replace_keys(place: &mut Value, snippet: &str) {
    let snippet: Value = serde_norway::from_str(snippet).unwrap();
    for (key, value) in snippet.as_object().unwrap() {
        place[key] = value.clone();
    }
}

#[tokio::test]
async fn the_readmes_snippets_run_count_with_labels_and_refuse_nothing() {
    let auth = Backend::start().unwrap();
    auth.always(Behaviour::status(502));
    let envoy = Envoy::start(with_the_snippets().upstream("auth", auth.address()))
        .await
        .unwrap();
    for _ in 0..8 {
        let answer = Request::get("/").send(envoy.address()).await.unwrap();
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    assert_eq!(auth.requests(), 8);
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "auth")], 1.0)
        .await
        .unwrap();
    envoy
        .wait_for_metric(
            "circuit_breaker_shadow_rejected_total",
            &[("service", "auth")],
            3.0,
        )
        .await
        .unwrap();
    let labels = [("service", "auth"), ("outcome", "failure")];
    envoy
        .wait_for_metric("circuit_breaker_requests_total", &labels, 8.0)
        .await
        .unwrap();
}
