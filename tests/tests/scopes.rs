//! Routes of one service with a breaker each: one that fails shuts itself, and no other.

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::Request;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::wait;
use serde_json::{Value, json};

const LOGIN: &str = "/v1/auth/login";
const REFRESH: &str = "/v1/auth/refresh";
const PROFILE: &str = "/v1/auth/profile";

/// A gateway before a service with a named route for each of three paths.
fn gateway(auth: &Backend, plugin: &Value) -> EnvoyConfig {
    let mut config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .only_services(["auth"])
        .connection_manager(&json!({"xff_num_trusted_hops": 1}));
    for (name, path) in [("login", LOGIN), ("refresh", REFRESH), ("profile", PROFILE)] {
        config = config.first_route(json!({
            "name": name,
            "match": {"path": path},
            "route": {"cluster": "auth", "timeout": "30s"},
        }));
    }
    config.plugin_exactly(plugin)
}

async fn start(auth: &Backend, plugin: &Value) -> Envoy {
    Envoy::start(gateway(auth, plugin)).await.unwrap()
}

/// The status that a caller of its own gets.
async fn status(envoy: &Envoy, path: &str, caller: usize) -> u16 {
    let request = Request::get(path).header("x-forwarded-for", format!("198.51.100.{caller}"));
    request.send(envoy.address()).await.unwrap().status
}

/// Login fails with this status, everything else works.
fn fail_login(auth: &Backend, status: u16) {
    auth.choose(move |_, request| {
        Behaviour::status(if request.path() == LOGIN { status } else { 200 })
    });
}

/// All callers log in, refresh and read their profile, until a login is refused. Everything else must
/// go on.
async fn only_login_is_shut(failure: u16) {
    let auth = Backend::start().unwrap();
    let envoy = start(&auth, &json!({"scopes": {"by_route": true}})).await;
    for path in [LOGIN, REFRESH, PROFILE] {
        assert_eq!(status(&envoy, path, 1).await, 200);
    }
    fail_login(&auth, failure);
    let mut logins = Vec::new();
    for round in 0..10 {
        for number in 0..6 {
            logins.push(status(&envoy, LOGIN, 10 * round + number).await);
        }
        for path in [REFRESH, PROFILE] {
            let answered = status(&envoy, path, round).await;
            assert_eq!(answered, 200, "{path} after logins {logins:?}");
        }
    }
    let refused = envoy.get(LOGIN).await.unwrap();
    assert!(refused.is_refusal(), "{logins:?}");
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(
        (&body["service"], &body["scope"]),
        (&json!("auth"), &json!("login"))
    );
    // One was answered before. Another worker may let one through until it hears of the fifth failure.
    let seen = auth.seen().by_path[LOGIN];
    assert!((1 + 5..=1 + 7).contains(&seen), "{seen}: {logins:?}");
    for (scope, state) in [("login", 1.0), ("refresh", 0.0), ("profile", 0.0)] {
        let labels = [("service", "auth"), ("scope", scope)];
        envoy
            .wait_for_metric("circuit_breaker_state", &labels, state)
            .await
            .unwrap();
    }
    // 84 requests, each counted once.
    wait::until("all requests to be counted", wait::GENEROUS, || async {
        let metrics = envoy.metrics().await.map_err(|error| error.to_string())?;
        let sum = metrics.sum("circuit_breaker_requests_total", &[("service", "auth")]);
        let rejected = [("scope", "login"), ("outcome", "rejected")];
        let rejected = metrics.sum("circuit_breaker_requests_total", &rejected);
        // But for those that were let through by another worker.
        if (84.0..=84.0).contains(&sum) && (54.0..=56.0).contains(&rejected) {
            Ok(())
        } else {
            Err(metrics.show("circuit_breaker_requests_total"))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_route_that_answers_503_shuts_no_other_route_of_its_service() {
    only_login_is_shut(503).await;
}

#[tokio::test]
async fn a_route_that_answers_500_to_everyone_shuts_no_other_route_of_its_service() {
    only_login_is_shut(500).await;
}

#[tokio::test]
async fn a_service_that_is_down_opens_at_the_fifth_failure_whichever_routes_are_called() {
    let auth = Backend::start().unwrap();
    let envoy = start(&auth, &json!({"scopes": {"by_route": true}})).await;
    for path in [LOGIN, REFRESH, PROFILE] {
        assert_eq!(status(&envoy, path, 1).await, 200);
    }
    auth.refuse();
    for path in [LOGIN, REFRESH, PROFILE, LOGIN, REFRESH] {
        let answer = envoy.get(path).await.unwrap();
        assert_eq!((answer.status, answer.is_refusal()), (503, false));
    }
    // No further request: the fifth has opened it.
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "auth")], 1.0)
        .await
        .unwrap();
    auth.accept().unwrap();
    for path in [LOGIN, REFRESH, PROFILE] {
        let answer = envoy.first_let_through(path, wait::GENEROUS).await.unwrap();
        assert_eq!(answer.status, 200);
    }
}
