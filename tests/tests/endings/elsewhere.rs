//! Requests that the service does not end: Envoy's own limits, refusals, other filters, redirects.

use levee_harness::backend::{Backend, Behaviour, Response};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::wait;
use serde_json::{Value, json};

use crate::case::{Case, Service, Target, compare_with_the_table, counted, gateway, whole};
use crate::page;

const OVERFLOW: &str = "Envoy's own limits for the cluster (UO, `overflow`)";
const REFUSED: &str = "Levee refuses it, since the breaker is open";
const OTHER_FILTER: &str = "another filter answers";
const REDIRECT: &str = "an internal redirect";
const MOVED: &str = "a later filter changes the route";

/// Rows that have a test of their own.
pub const ROWS: [&str; 2] = [REDIRECT, MOVED];

pub fn cases() -> Vec<Case> {
    let well = || Service::Http(Behaviour::status(200));
    let none = json!({"circuit_breakers": {"thresholds": [{"max_pending_requests": 0}]}});
    let overflows = |target: Target| async move {
        let answer = target.get().send(target.gateway).await.unwrap();
        assert_eq!(answer.header("x-envoy-overloaded"), "true", "{answer:?}");
    };
    let forced_open = json!({"breaker": {"mode": "forced_open"}});
    vec![
        Case::new(OVERFLOW, "", well(), overflows).cluster(none),
        Case::asked(REFUSED, "", well()).settings(forced_open),
        Case::new(OTHER_FILTER, "fault", well(), |target| async move {
            let request = target.get().header("please-fail", "1");
            assert_eq!(request.send(target.gateway).await.unwrap().status, 503);
        }),
    ]
}

/// Puts a filter right after Levee's.
fn filter_after_levee(mut config: EnvoyConfig, name: &str, typed: &Value) -> EnvoyConfig {
    let manager =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let filters = config.value_mut().pointer_mut(manager).unwrap();
    let filter = json!({"name": name, "typed_config": typed});
    filters.as_array_mut().unwrap().insert(1, filter);
    config
}

#[tokio::test]
async fn what_the_service_does_not_end_is_counted_as_the_table_says() {
    let fault = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": 503, "percentage": {"numerator": 100}},
        "headers": [{"name": "please-fail", "present_match": true}],
    });
    compare_with_the_table(filter_after_levee(gateway(), "fault", &fault), cases()).await;
}

/// A gateway to `first`, which is well, and `last`, which answers 503.
struct Two {
    envoy: Envoy,
    _services: [Backend; 2],
}

impl Two {
    async fn start(config: EnvoyConfig, answer: Response) -> Self {
        let services = [Backend::start().unwrap(), Backend::start().unwrap()];
        services[0].always(Behaviour::Answer(answer));
        services[1].always(Behaviour::status(503));
        let config = config
            .only_services(["first", "last"])
            .without_health_checks()
            .upstream("first", services[0].address())
            .upstream("last", services[1].address());
        let redirects =
            json!({"route": {"internal_redirect_policy": {"max_internal_redirects": 1}}});
        let envoy = Envoy::start(config.route("first", &redirects))
            .await
            .unwrap();
        Self {
            envoy,
            _services: services,
        }
    }

    /// Five requests to `first` that end with the 503 of `last`.
    async fn ask(&self) {
        for _ in 0..5 {
            let request = Request::get("/v1/first/x").header("move-to", "/v1/last/x");
            let answer = request.send(self.envoy.address()).await.unwrap();
            assert_eq!(answer.status, 503);
        }
    }

    /// Waits until these counts are there: success and failure of `first`, and of `last`, and whether these are open.
    async fn counts(&self, wanted: [[u32; 3]; 2]) {
        wait::until("the counts", wait::GENEROUS / 4, || async {
            let metrics = self.envoy.metrics().await.unwrap();
            let seen = ["first", "last"].map(|service| {
                let state = whole(metrics.sum("circuit_breaker_state", &[("service", service)]));
                let [success, failure] =
                    ["success", "failure"].map(|label| counted(&metrics, service, label));
                [success, failure, state]
            });
            if seen == wanted {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn an_internal_redirect_is_an_answer_of_the_service_that_was_called() {
    assert_eq!(page::outcome_of(REDIRECT).label, "success");
    let redirect = Response::status(302).header("location", "http://localhost/v1/last/x");
    let two = Two::start(gateway(), redirect).await;
    two.ask().await;
    two.counts([[5, 0, 0], [0, 5, 1]]).await;
}

#[tokio::test]
async fn a_failure_behind_a_later_filter_that_changes_the_route_is_that_of_the_service_that_was_called()
 {
    assert!(page::outcome_of(MOVED).opens_by_five());
    let lua = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": "
            function envoy_on_request(handle)
              local path = handle:headers():get('move-to')
              handle:headers():replace(':path', path)
              handle:clearRouteCache()
            end
        "},
    });
    let two = Two::start(
        filter_after_levee(gateway(), "lua", &lua),
        Response::status(200),
    )
    .await;
    two.ask().await;
    two.counts([[0, 0, 0], [0, 5, 1]]).await;
}
