//! Routes of one service with a breaker each: one that fails shuts itself, and no other.

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::{Connection, Request};
use levee_harness::envoy::{Envoy, Start};
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour, status};
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
    let envoy = start(&auth, &json!({})).await;
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
    // One was answered before.
    assert_eq!(auth.seen().by_path[LOGIN], 1 + 5, "{logins:?}");
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
        if (sum - 84.0).abs() < 0.5 && (rejected - 56.0).abs() < 0.5 {
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
async fn what_a_route_has_shut_is_shut_for_all_workers() {
    let auth = Backend::start().unwrap();
    let four = Start {
        concurrency: 4,
        ..Start::default()
    };
    let config = gateway(&auth, &json!({}));
    let envoy = Envoy::start_with(config, &four).await.unwrap();
    // A new connection each, which Envoy spreads over the workers.
    for path in [LOGIN, PROFILE].repeat(10) {
        assert_eq!(status(&envoy, path, 1).await, 200);
    }
    fail_login(&auth, 503);
    envoy.first_refusal(LOGIN, wait::GENEROUS).await.unwrap();
    wait::until("all workers to refuse", wait::GENEROUS, || async {
        for _ in 0..20 {
            let answer = envoy.get(LOGIN).await.unwrap();
            if !answer.is_refusal() {
                return Err(answer.status);
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    for _ in 0..20 {
        assert_eq!(status(&envoy, PROFILE, 1).await, 200);
    }
}

#[tokio::test]
async fn a_new_configuration_finds_the_scopes_as_they_were_and_has_its_own_mode() {
    let auth = Backend::start().unwrap();
    let config = gateway(&auth, &json!({}));
    let envoy = Envoy::start_with_listeners_in_a_file(config).await.unwrap();
    for path in [LOGIN, PROFILE] {
        assert_eq!(status(&envoy, path, 1).await, 200);
    }
    fail_login(&auth, 503);
    envoy.first_refusal(LOGIN, wait::GENEROUS).await.unwrap();
    let asked = auth.seen().by_path[LOGIN];
    let mut kept_alive = Connection::open(envoy.address()).await.unwrap();
    let login = Request::get(LOGIN);
    assert!(kept_alive.send(&login).await.unwrap().is_refusal());

    let named = json!({"login": {"breaker": {"mode": "shadow"}}});
    let shadow = json!({"services": {"auth": {"scopes": {"named": named}}}});
    envoy.replace_listeners(gateway(&auth, &shadow)).unwrap();
    let labels = [("service", "auth"), ("scope", "login")];
    for (gauge, value) in [
        ("circuit_breaker_mode", 1.0),
        ("circuit_breaker_state", 1.0),
    ] {
        envoy.wait_for_metric(gauge, &labels, value).await.unwrap();
    }
    // It is open, in a mode that lets all through.
    assert_eq!(kept_alive.send(&login).await.unwrap().status, 503);
    assert_eq!(auth.seen().by_path[LOGIN], asked + 1);
}

#[tokio::test]
async fn a_service_that_fails_in_all_routes_is_shut_as_a_whole_and_back_soon() {
    let auth = Backend::start().unwrap();
    let envoy = start(&auth, &json!({})).await;
    let routes = [LOGIN, REFRESH, PROFILE];
    for path in routes {
        assert_eq!(status(&envoy, path, 1).await, 200);
    }
    auth.always(Behaviour::status(503));
    let mut failures = 0;
    for path in routes.repeat(5) {
        failures += usize::from(!envoy.get(path).await.unwrap().is_refusal());
    }
    assert_eq!(failures, 10);
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "auth")], 1.0)
        .await
        .unwrap();
    auth.always(Behaviour::status(200));
    for path in routes {
        let answer = envoy.first_let_through(path, wait::GENEROUS).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "auth")], 0.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_rule_gives_a_method_of_grpc_a_breaker_of_its_own() {
    let chat = GrpcBackend::start().unwrap();
    let rules = json!([{"name": "Send", "path_prefix": "/v1/chat/chat.Chat/Send"}]);
    let config = EnvoyConfig::gateway()
        .upstream("chat", chat.address())
        .upstream_http2("chat")
        .plugin(&json!({"services": {"chat": {"scopes": {"rules": rules}}}}));
    let envoy = Envoy::start(config).await.unwrap();
    let [send, list] =
        ["Send", "List"].map(|method| grpc::call(&format!("/v1/chat/chat.Chat/{method}")));
    let ok = GrpcBehaviour::Trailers(status::OK);
    for call in [&send, &list] {
        let answer = grpc::send(call, envoy.address()).await.unwrap();
        assert_eq!(grpc::status_of(&answer), Some(status::OK));
    }
    chat.always(GrpcBehaviour::Trailers(status::UNAVAILABLE));
    wait::until("Send to be refused", wait::GENEROUS, || async {
        let answer = grpc::send(&send, envoy.address()).await.unwrap();
        assert_eq!(grpc::status_of(&answer), Some(status::UNAVAILABLE));
        if answer.is_refusal() {
            Ok(())
        } else {
            Err("it fails")
        }
    })
    .await
    .unwrap();
    chat.always(ok);
    for _ in 0..20 {
        let answer = grpc::send(&list, envoy.address()).await.unwrap();
        assert_eq!(grpc::status_of(&answer), Some(status::OK));
        assert!(
            grpc::send(&send, envoy.address())
                .await
                .unwrap()
                .is_refusal()
        );
    }
}

#[tokio::test]
async fn a_service_that_is_down_opens_at_the_fifth_failure_whichever_routes_are_called() {
    let auth = Backend::start().unwrap();
    let envoy = start(&auth, &json!({})).await;
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
