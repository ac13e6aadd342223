//! The configurations in `envoy/`: each starts, options work, and an invalid filter configuration has no effect.

use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::certificate::Certificate;
use levee_harness::client::{Answer, Connection, Request};
use levee_harness::envoy::{Envoy, start_that_fails};
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, status};
use levee_harness::raw::{RawConnection, Read};
use levee_harness::wait;
use serde_json::{Value, json};

/// A mistake of each kind, with the path at which the filter must report it.
fn four_mistakes() -> (Value, [&'static str; 4]) {
    let configuration = json!({
        "breaker": {"open_for": "soon", "consecutive_failures": -1},
        "services": {"auth": {"timeouts": {"class": "quick"}}},
        "brake": {},
    });
    let paths = [
        "breaker.open_for: ",
        "breaker.consecutive_failures: ",
        "services.auth.timeouts.class: ",
        "brake: ",
    ];
    (configuration, paths)
}

#[tokio::test]
async fn gateway_yaml_starts_and_serves_each_service() {
    let names = ["auth", "chat", "video", "storage"];
    let backends = names.map(|_| Backend::start().unwrap());
    let config = names
        .iter()
        .zip(&backends)
        .fold(EnvoyConfig::gateway(), |config, (name, backend)| {
            config.upstream(name, backend.address())
        });
    let envoy = Envoy::start(config).await.unwrap();
    for (name, backend) in names.iter().zip(&backends) {
        for path in [format!("/v1/{name}"), format!("/v1/{name}/x")] {
            assert_eq!(
                Request::get(&path)
                    .send(envoy.address())
                    .await
                    .unwrap()
                    .status,
                200,
                "{path}"
            );
        }
        assert_eq!(backend.requests(), 2, "{name}");
        envoy
            .wait_for_metric(
                "circuit_breaker_requests_total",
                &[("service", name), ("outcome", "success")],
                2.0,
            )
            .await
            .unwrap();
    }
    assert_eq!(
        Request::get("/v1/authentic")
            .send(envoy.address())
            .await
            .unwrap()
            .status,
        404
    );
}

#[tokio::test]
async fn minimal_yaml_starts_and_its_breaker_works() {
    let auth = Backend::start().unwrap();
    auth.always(Behaviour::status(502));
    let envoy = Envoy::start(EnvoyConfig::minimal().upstream("auth", auth.address()))
        .await
        .unwrap();
    for wanted in [502, 502, 502, 502, 502, 503] {
        assert_eq!(
            Request::get("/")
                .send(envoy.address())
                .await
                .unwrap()
                .status,
            wanted
        );
    }
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "auth")], 1.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_tls_listener_serves_both_protocols_and_bounds_the_handshake() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::make_in(directory.path()).unwrap();
    let auth = Backend::start().unwrap();
    let mut config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .listener_tls(&certificate);
    let bound = &mut config.value_mut()["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket_connect_timeout"];
    assert_eq!(*bound, "5s");
    *bound = json!("0.500s");
    let envoy = Envoy::start(config).await.unwrap();
    for protocols in [&["h2", "http/1.1"][..], &["http/1.1"][..]] {
        let tls = certificate.trusting_client(protocols).unwrap();
        let mut connection = Connection::open_tls(envoy.address(), tls).await.unwrap();
        assert_eq!(connection.protocol(), Some(protocols[0]));
        assert_eq!(
            connection
                .send(&Request::get("/v1/auth/x"))
                .await
                .unwrap()
                .status,
            200
        );
    }
    let mut silent = RawConnection::open(envoy.address()).await.unwrap();
    assert_ne!(
        silent.read_to_end(wait::GENEROUS).await,
        Read::TooLate,
        "a silent client is let go"
    );
    let mut plain = RawConnection::open(envoy.address()).await.unwrap();
    plain
        .send("GET /v1/auth/x HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let end = plain.read_to_end(wait::GENEROUS).await;
    assert!(matches!(end, Read::Closed | Read::Reset), "{end:?}");
    assert_eq!(auth.requests(), 2, "nothing passes without TLS");
    auth.check_only_http().unwrap();
}

#[tokio::test]
async fn grpc_goes_through_the_same_routes() {
    let auth = GrpcBackend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .upstream_http2("auth");
    let envoy = Envoy::start(config).await.unwrap();
    let answer = grpc::send(&grpc::call("/v1/auth/levee.Demo/Call"), envoy.address())
        .await
        .unwrap();
    assert_eq!(grpc::status_of(&answer), Some(status::OK), "{answer:?}");
    assert_eq!(answer.body, grpc::message(b"ping").unwrap());
}

#[tokio::test]
async fn a_configuration_with_four_mistakes_is_refused_and_all_four_are_named() {
    let (mistakes, paths) = four_mistakes();
    let refused = start_that_fails(EnvoyConfig::gateway().plugin_exactly(&mistakes))
        .await
        .unwrap();
    for path in paths {
        assert!(
            refused.log.contains(path),
            "{path} is missing in:\n{}",
            refused.log
        );
    }
}

#[tokio::test]
async fn the_filters_configuration_may_be_a_struct_or_text() {
    let configuration = json!({"breaker": {"consecutive_failures": 1}, "services": {"auth": {"fallback": {"status": 418}}}});
    for config in [
        EnvoyConfig::gateway().plugin_exactly(&configuration),
        EnvoyConfig::gateway().plugin_text(&configuration.to_string()),
    ] {
        let auth = Backend::start().unwrap();
        auth.always(Behaviour::status(502));
        let envoy = Envoy::start(config.upstream("auth", auth.address()))
            .await
            .unwrap();
        for wanted in [502, 418] {
            assert_eq!(envoy.get("/v1/auth/x").await.unwrap().status, wanted);
        }
    }
}

#[tokio::test]
async fn what_is_not_json_is_refused() {
    let refused = start_that_fails(EnvoyConfig::gateway().plugin_text("{\"breaker\":"))
        .await
        .unwrap();
    assert!(refused.log.contains("not valid JSON"), "{}", refused.log);
}

#[tokio::test]
async fn a_running_gateway_given_a_bad_configuration_keeps_the_old_one() {
    let auth = Backend::start().unwrap();
    auth.always(Behaviour::status(502));
    let config = || {
        EnvoyConfig::gateway()
            .upstream("auth", auth.address())
            .plugin(&json!({"breaker": {"consecutive_failures": 2}}))
    };
    let envoy = Envoy::start_with_listeners_in_a_file(config())
        .await
        .unwrap();
    let ask = async || {
        Request::get("/v1/auth/x")
            .send(envoy.address())
            .await
            .unwrap()
            .status
    };
    assert_eq!(ask().await, 502);

    let (mistakes, paths) = four_mistakes();
    envoy
        .replace_listeners(config().plugin_exactly(&mistakes))
        .unwrap();
    for path in paths {
        envoy.wait_for_log(path).await.unwrap();
    }
    wait::until("the update to be refused", wait::GENEROUS, || async {
        let metrics = envoy.metrics().await.unwrap();
        let refused = metrics.sum("envoy_listener_manager_lds_update_rejected", &[]);
        if refused > 0.0 {
            Ok(())
        } else {
            Err(metrics.show("envoy_listener_manager_lds"))
        }
    })
    .await
    .unwrap();
    assert_eq!(ask().await, 502, "the second failure");
    assert_eq!(
        ask().await,
        503,
        "the old limit of 2 is in force, and counted on"
    );

    envoy
        .replace_listeners(config().plugin(&json!({"breaker": {"mode": "disabled"}})))
        .unwrap();
    // While a listener is replaced, a connection not yet accepted may be reset.
    wait::until(
        "a good configuration to take effect",
        wait::GENEROUS,
        || async {
            match Request::get("/v1/auth/x").send(envoy.address()).await {
                Ok(answer) if answer.status == 502 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await
    .unwrap();
}

/// Replaces the listeners, and waits until the filter has the new configuration. That takes no request.
async fn replace(envoy: &Envoy, config: EnvoyConfig, mode: f64) {
    envoy.replace_listeners(config).unwrap();
    let auth = [("service", "auth")];
    envoy
        .wait_for_metric("circuit_breaker_mode", &auth, mode)
        .await
        .unwrap();
}

/// Asks on new connections until an answer is as wanted. Envoy may reset one that it accepts just while it replaces the
/// listener, so a connection that ends without an answer is asked again.
async fn first_after_reload(envoy: &Envoy, wanted: fn(&Answer) -> bool) {
    let what = "the new listener to answer";
    wait::until(what, wait::GENEROUS, || async {
        match envoy.get("/v1/auth/x").await {
            Ok(answer) if wanted(&answer) => Ok(()),
            Ok(answer) => Err(answer.status.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_new_mode_is_shown_without_a_request_and_reaches_connections_of_the_old_listener() {
    let auth = Backend::start().unwrap();
    let config = |mode| {
        EnvoyConfig::gateway()
            .upstream("auth", auth.address())
            .plugin(&json!({"breaker": {"mode": mode}}))
    };
    let envoy = Envoy::start_with_listeners_in_a_file(config("enforce"))
        .await
        .unwrap();
    let request = Request::get("/v1/auth/x");
    let mut kept_alive = Connection::open(envoy.address()).await.unwrap();
    assert_eq!(kept_alive.send(&request).await.unwrap().status, 200);

    replace(&envoy, config("forced_open"), 3.0).await;
    let auth_is = [("service", "auth")];
    envoy
        .wait_for_metric("circuit_breaker_state", &auth_is, 1.0)
        .await
        .unwrap();
    assert!(kept_alive.send(&request).await.unwrap().is_refusal());
    first_after_reload(&envoy, Answer::is_refusal).await;
    assert!(kept_alive.send(&request).await.unwrap().is_refusal());

    // Envoy uses the old configuration's filter again. What shows it is the first new connection.
    envoy.replace_listeners(config("enforce")).unwrap();
    first_after_reload(&envoy, |answer| answer.status == 200).await;
    assert_eq!(kept_alive.send(&request).await.unwrap().status, 200);
    for gauge in ["circuit_breaker_mode", "circuit_breaker_state"] {
        envoy.wait_for_metric(gauge, &auth_is, 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_window_keeps_the_rate_while_the_old_listener_has_connections() {
    let auth = Backend::start().unwrap();
    auth.always(Behaviour::status(502));
    let config = |mode, window| {
        let rate = json!({"ratio": 0.5, "minimum_requests": 20, "window": window});
        let breaker = json!({"consecutive_failures": 1000, "failure_rate": rate, "mode": mode});
        EnvoyConfig::gateway()
            .upstream("auth", auth.address())
            .plugin(&json!({"breaker": breaker}))
    };
    let envoy = Envoy::start_with_listeners_in_a_file(config("enforce", "60s"))
        .await
        .unwrap();
    let request = Request::get("/v1/auth/x");
    let mut old = Connection::open(envoy.address()).await.unwrap();
    assert_eq!(old.send(&request).await.unwrap().status, 502);
    // The mode shows that the configuration is there.
    replace(&envoy, config("shadow", "120s"), 1.0).await;
    let mut new = Connection::open(envoy.address()).await.unwrap();
    for _ in 0..15 {
        for connection in [&mut old, &mut new] {
            assert_eq!(connection.send(&request).await.unwrap().status, 502);
        }
    }
    envoy
        .wait_for_metric("circuit_breaker_state", &[("service", "auth")], 1.0)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_filter_of_another_name_leaves_the_modes_of_old_connections_alone() {
    let auth = Backend::start().unwrap();
    let config = |name, mode| {
        let mut config = EnvoyConfig::gateway()
            .upstream("auth", auth.address())
            .plugin(&json!({"breaker": {"mode": mode}}));
        let place = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config";
        let filter = config.value_mut().pointer_mut(place).unwrap();
        filter["config"]["name"] = json!(name);
        config
    };
    let envoy = Envoy::start_with_listeners_in_a_file(config("public", "enforce"))
        .await
        .unwrap();
    let request = Request::get("/v1/auth/x");
    let mut kept_alive = Connection::open(envoy.address()).await.unwrap();
    assert_eq!(kept_alive.send(&request).await.unwrap().status, 200);
    let refuses = config("internal", "forced_open");
    envoy.replace_listeners(refuses).unwrap();
    first_after_reload(&envoy, Answer::is_refusal).await;
    assert_eq!(kept_alive.send(&request).await.unwrap().status, 200);
}

#[tokio::test]
async fn clients_headers_that_would_steer_envoy_or_levee_do_not_arrive() {
    let auth = Backend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        // A route that only such a header selects.
        .first_route(json!({
            "name": "trap",
            "match": {"prefix": "/", "headers": [{"name": "x-levee-fallback", "present_match": true}]},
            "direct_response": {"status": 418},
        }));
    let envoy = Envoy::start(config).await.unwrap();
    let steering = [
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-retry-on",
        "x-envoy-max-retries",
        "x-envoy-hedge-on-per-try-timeout",
        "x-envoy-upstream-alt-stat-name",
        "x-envoy-original-path",
        "x-envoy-force-trace",
        "x-levee-fallback",
        "x-levee-anything",
    ];
    let request = steering
        .iter()
        .fold(Request::get("/v1/auth/x"), |request, name| {
            request.header(name, "7777777")
        });
    assert_eq!(request.send(envoy.address()).await.unwrap().status, 200);
    let seen = auth.last_request().unwrap();
    for (name, value) in &seen.headers {
        assert_ne!(value, b"7777777", "{name}");
    }
}

#[tokio::test]
async fn slow_and_silent_clients_are_let_go() {
    let auth = Backend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .upstream("auth", auth.address())
        .connection_manager(&json!({
            "request_headers_timeout": "0.5s",
            "common_http_protocol_options": {"idle_timeout": "0.5s"},
        }));
    let envoy = Envoy::start(config).await.unwrap();
    let mut slow = RawConnection::open(envoy.address()).await.unwrap();
    slow.send("GET /v1/auth/x HTTP/1.1\r\nhost: x\r\nx-slow: ")
        .await
        .unwrap();
    assert_eq!(slow.read_status(wait::GENEROUS).await, Ok(408));
    let mut idle = RawConnection::open(envoy.address()).await.unwrap();
    assert_eq!(idle.read_to_end(wait::GENEROUS).await, Read::Closed);
    assert_eq!(auth.requests(), 0);
    auth.check_only_http().unwrap();
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_the_admin_interface_still_answers() {
    let auth = Backend::start().unwrap();
    let mut config = EnvoyConfig::gateway().upstream("auth", auth.address());
    let monitor =
        &mut config.value_mut()["overload_manager"]["resource_monitors"][1]["typed_config"];
    monitor["max_active_downstream_connections"] = json!(3);
    let envoy = Envoy::start(config).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(envoy.address()).await.unwrap();
        assert_eq!(
            connection
                .send(&Request::get("/v1/auth/x"))
                .await
                .unwrap()
                .status,
            200
        );
        held.push(connection);
    }
    assert!(
        Request::get("/v1/auth/x")
            .bound(Duration::from_secs(10))
            .send(envoy.address())
            .await
            .is_err()
    );
    assert_eq!(envoy.ask_admin("/ready").await.unwrap().status, 200);
    drop(held.pop());
    wait::until("a place to be free again", wait::GENEROUS, || async {
        Request::get("/v1/auth/x")
            .send(envoy.address())
            .await
            .map(|_| ())
    })
    .await
    .unwrap();
}
