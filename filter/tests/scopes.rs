//! Services that are divided into scopes.

mod fake;

use fake::{Call, End, Gateway, Stream};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn at(route: &str) -> Stream {
    Stream {
        cluster: b"auth".to_vec(),
        route: route.as_bytes().to_vec(),
        source: b"10.0.0.1:1".to_vec(),
        ..Stream::default()
    }
}

fn begin(gateway: &mut Gateway, worker: usize, route: &str) -> Call {
    gateway.begin_stream(worker, at(route))
}

/// A request of another client.
fn begin_by(gateway: &mut Gateway, client: &str, route: &str) -> Call {
    let stream = Stream {
        source: format!("{client}:1").into_bytes(),
        ..at(route)
    };
    gateway.begin_stream(0, stream)
}

/// A whole request. Returns whether it was let through.
fn request(gateway: &mut Gateway, worker: usize, route: &str, end: End) -> bool {
    let call = begin(gateway, worker, route);
    if !call.was_refused {
        gateway.end(call, end);
    }
    !call.was_refused
}

const OK: End = End::Status(200);
/// No caller can bring it about.
const RESET: End = End::Reset;

fn unreachable(gateway: &mut Gateway, route: &str) -> bool {
    let call = begin(gateway, 0, route);
    if call.was_refused {
        return false;
    }
    gateway.change(call, |stream| {
        stream.code = Some(503);
        stream.flags = 1 << 5;
        stream.details = b"upstream_reset_before_response_started{connection_failure}".to_vec();
        stream.has_no_connection = true;
    });
    gateway.finish(call);
    true
}

/// A gateway whose workers know two routes of a service.
fn divided(workers: usize, configuration: &str) -> Gateway {
    let mut gateway = Gateway::new(workers, configuration);
    for worker in 0..workers {
        for route in ["login", "profile"] {
            assert!(request(&mut gateway, worker, route, OK));
        }
    }
    gateway
}

fn state(gateway: &Gateway, scope: &str) -> u64 {
    gateway.metric(&format!("circuit_breaker_state.service.auth.scope.{scope}"))
}

fn shut(gateway: &mut Gateway, worker: usize, route: &str) {
    for _ in 0..5 {
        assert!(request(gateway, worker, route, RESET));
    }
    assert!(!request(gateway, worker, route, OK));
}

#[test]
fn a_route_that_fails_shuts_itself_and_no_other() {
    let mut gateway = divided(2, "");
    shut(&mut gateway, 0, "login");
    for worker in [0, 1] {
        assert!(!request(&mut gateway, worker, "login", OK));
        assert!(request(&mut gateway, worker, "profile", OK));
    }
    let call = begin(&mut gateway, 1, "login");
    let reply = gateway.stream(call).reply.expect("it is refused");
    assert!(reply.body.contains(r#""service":"auth","scope":"login","#));
    assert_eq!((state(&gateway, "login"), gateway.state("auth")), (1, 0));
    assert_eq!(state(&gateway, "profile"), 0);
}

#[test]
fn a_service_with_one_route_has_no_scopes_until_another_one_is_called() {
    let mut gateway = Gateway::new(2, "");
    for worker in [0, 1] {
        assert!(request(&mut gateway, worker, "login", OK));
    }
    assert!(
        !gateway
            .metric_names()
            .iter()
            .any(|name| name.contains(".scope."))
    );
    shut(&mut gateway, 0, "login");
    assert_eq!(gateway.state("auth"), 1);
    // The other one need not wait until the service's breaker is closed again.
    for _ in 0..3 {
        assert!(request(&mut gateway, 1, "profile", OK));
    }
    assert_eq!(gateway.state("auth"), 0);
    // So does the first worker, which has not met it.
    shut(&mut gateway, 0, "login");
    assert!(request(&mut gateway, 0, "profile", OK));
    assert_eq!((state(&gateway, "login"), gateway.state("auth")), (1, 0));
}

#[test]
fn a_scope_shows_few_counters_before_they_count() {
    let mut gateway = divided(1, "");
    assert!(request(&mut gateway, 0, "login", OK));
    gateway.pass(SECOND);
    let counters = |gateway: &Gateway| {
        let names = gateway.metric_names().into_iter();
        let is_one = |name: &String| name.contains("_total") && name.contains(".scope.login");
        names.filter(is_one).collect::<Vec<_>>()
    };
    assert_eq!(counters(&gateway).len(), 4, "its requests by outcome");
    assert!(request(&mut gateway, 0, "login", RESET));
    gateway.pass(SECOND);
    assert_eq!(counters(&gateway).len(), 5);
}

#[test]
fn failures_to_connect_concern_the_service_whichever_routes_are_called() {
    let mut gateway = divided(1, "");
    for route in ["login", "profile", "login", "profile", "login"] {
        assert!(unreachable(&mut gateway, route));
    }
    assert!(!request(&mut gateway, 0, "profile", OK));
    assert_eq!((gateway.state("auth"), state(&gateway, "login")), (1, 0));
    gateway.pass(2 * SECOND);
    for route in ["login", "profile", "login"] {
        assert!(request(&mut gateway, 0, route, OK));
    }
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn a_service_opens_when_none_of_its_scopes_works_and_closes_where_one_does() {
    let mut gateway = divided(1, "");
    assert!(request(&mut gateway, 0, "refresh", OK));
    // Nobody calls it any more.
    gateway.pass(15 * SECOND);
    shut(&mut gateway, 0, "login");
    assert_eq!(gateway.state("auth"), 0);
    for _ in 0..5 {
        assert!(request(&mut gateway, 0, "profile", RESET));
    }
    assert_eq!(gateway.state("auth"), 1);
    assert!(!request(&mut gateway, 0, "refresh", OK));
    gateway.pass(2 * SECOND);
    for _ in 0..3 {
        assert!(request(&mut gateway, 0, "refresh", OK));
    }
    assert_eq!(gateway.state("auth"), 0);
    assert_eq!(state(&gateway, "profile"), 1);
    assert!(request(&mut gateway, 0, "profile", RESET), "a probe");
    assert!(!request(&mut gateway, 0, "profile", OK));
}

#[test]
fn one_rule_is_enough_for_a_scope() {
    let rules = r#"{"scopes": {"rules": [{"name": "x", "path_prefix": "/x"}]}}"#;
    let mut gateway = Gateway::new(1, rules);
    let call = |gateway: &mut Gateway, rule: &str, end| {
        let stream = Stream {
            scope_by_rule: rule.as_bytes().to_vec(),
            ..at("everything")
        };
        let call = gateway.begin_stream(0, stream);
        let is_let_through = gateway.stream(call).reply.is_none();
        if is_let_through {
            gateway.end(call, end);
        }
        is_let_through
    };
    for _ in 0..5 {
        assert!(call(&mut gateway, "x", RESET));
    }
    assert!(!call(&mut gateway, "x", OK));
    assert!(call(&mut gateway, "", OK));
    assert_eq!((state(&gateway, "x"), gateway.state("auth")), (1, 0));
}

#[test]
fn scopes_that_fail_keep_no_other_out_of_a_service_that_is_half_open() {
    let mut gateway = divided(1, "");
    for _ in 0..5 {
        assert!(unreachable(&mut gateway, "login"));
    }
    gateway.pass(2 * SECOND);
    for route in ["login", "verify", "login", "verify"] {
        assert!(request(&mut gateway, 0, route, RESET));
    }
    assert_eq!(gateway.state("auth"), 2);
    for _ in 0..3 {
        assert!(request(&mut gateway, 0, "profile", OK));
    }
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn right_after_the_start_scopes_that_work_in_other_workers_are_known() {
    let mut gateway = divided(2, "");
    for _ in 0..2 {
        assert!(request(&mut gateway, 1, "refresh", OK));
    }
    gateway.pass(SECOND / 4);
    shut(&mut gateway, 0, "login");
    for _ in 0..5 {
        assert!(request(&mut gateway, 0, "profile", RESET));
    }
    assert_eq!(gateway.state("auth"), 0);
    assert!(request(&mut gateway, 0, "refresh", OK));
}

#[test]
fn scopes_that_work_in_other_workers_count() {
    let mut gateway = divided(2, "");
    for route in ["refresh", "verify"] {
        assert!(request(&mut gateway, 1, route, OK));
    }
    // The other worker hands in that these two are called.
    for _ in 0..7 {
        gateway.pass(SECOND);
        for route in ["refresh", "verify"] {
            assert!(request(&mut gateway, 1, route, OK));
        }
    }
    gateway.pass(SECOND);
    shut(&mut gateway, 0, "login");
    shut(&mut gateway, 0, "profile");
    assert_eq!(gateway.state("auth"), 0);
    assert!(request(&mut gateway, 1, "refresh", OK));
}

#[test]
fn the_place_of_a_probe_is_free_again_if_the_service_refuses() {
    let mut gateway = divided(1, "");
    shut(&mut gateway, 0, "login");
    gateway.pass(35 * SECOND);
    for _ in 0..5 {
        assert!(unreachable(&mut gateway, "profile"));
    }
    gateway.pass(2 * SECOND);
    // The service lets three through and no more.
    let held = ["profile", "refresh", "verify"].map(|route| begin_by(&mut gateway, route, route));
    assert!(held.iter().all(|call| !call.was_refused));
    for _ in 0..10 {
        assert!(begin(&mut gateway, 0, "login").was_refused);
    }
    for call in held {
        gateway.end(call, OK);
    }
    assert_eq!(gateway.state("auth"), 0);
    for _ in 0..3 {
        assert!(request(&mut gateway, 0, "login", OK));
    }
    assert_eq!(state(&gateway, "login"), 0);
}

#[test]
fn two_clients_of_one_scope_have_a_probe_of_the_service_each() {
    let mut gateway = divided(1, "");
    for _ in 0..5 {
        assert!(unreachable(&mut gateway, "profile"));
    }
    gateway.pass(2 * SECOND);
    let held = ["10.0.0.1", "10.0.0.2"].map(|client| begin_by(&mut gateway, client, "login"));
    assert!(held.iter().all(|call| !call.was_refused));
    assert!(begin_by(&mut gateway, "10.0.0.1", "profile").was_refused);
}

/// Twelve routes that work, each known to have been called by somebody else.
fn many_routes(gateway: &mut Gateway) -> Vec<String> {
    let routes: Vec<String> = (0..12).map(|number| format!("route{number}")).collect();
    for route in &routes {
        for client in ["10.0.0.8", "10.0.0.9"] {
            let call = begin_by(gateway, client, route);
            gateway.end(call, OK);
        }
    }
    routes
}

#[test]
fn a_service_that_fails_in_many_scopes_opens_before_each_has_failed_five_times() {
    let mut gateway = divided(1, "");
    let routes = many_routes(&mut gateway);
    gateway.pass(11 * SECOND);
    let mut failures = 0;
    for client in ["10.0.0.2", "10.0.0.3"] {
        for route in &routes {
            let call = begin_by(&mut gateway, client, route);
            if !call.was_refused {
                failures += 1;
                gateway.end(call, RESET);
            }
        }
    }
    assert_eq!((failures, gateway.state("auth")), (17, 1));
    assert_eq!(state(&gateway, "route0"), 0);
}

#[test]
fn five_failures_in_a_row_shut_no_scope_where_a_third_of_all_calls_fail() {
    let mut gateway = divided(2, "");
    let routes = many_routes(&mut gateway);
    for _ in 0..4 {
        for (number, route) in routes.iter().enumerate() {
            for end in [RESET, OK, OK] {
                assert!(request(&mut gateway, number % 2, route, end));
            }
        }
    }
    for _ in 0..10 {
        assert!(request(&mut gateway, 0, "login", RESET));
    }
    assert!(request(&mut gateway, 1, "login", OK));
    // Much more than the others.
    for _ in 0..25 {
        request(&mut gateway, 0, "login", RESET);
    }
    assert!(!request(&mut gateway, 1, "login", OK));
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn an_error_in_one_scope_does_not_keep_the_service_from_closing() {
    let mut gateway = divided(1, "");
    for _ in 0..5 {
        assert!(unreachable(&mut gateway, "profile"));
    }
    gateway.pass(2 * SECOND);
    assert!(request(&mut gateway, 0, "login", End::Status(500)));
    for _ in 0..3 {
        assert!(request(&mut gateway, 0, "profile", OK));
    }
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn requests_without_a_route_name_are_one_scope() {
    let mut gateway = Gateway::new(1, "");
    for route in ["", "login", ""] {
        assert!(request(&mut gateway, 0, route, OK));
    }
    shut(&mut gateway, 0, "");
    assert_eq!((state(&gateway, "_other"), gateway.state("auth")), (1, 0));
    assert!(request(&mut gateway, 0, "login", OK));
}

#[test]
fn requests_without_a_route_name_speak_for_their_service() {
    let mut gateway = divided(1, "");
    assert!(request(&mut gateway, 0, "", OK));
    gateway.pass(SECOND / 4);
    for route in ["login", "profile"] {
        for _ in 0..5 {
            assert!(request(&mut gateway, 0, route, RESET));
        }
    }
    assert_eq!(gateway.state("auth"), 0);
    assert!(request(&mut gateway, 0, "", OK));
}

#[test]
fn a_scope_is_open_for_a_second_at_first_and_for_half_a_minute_at_most() {
    let mut gateway = divided(1, "");
    shut(&mut gateway, 0, "login");
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        gateway.pass(SECOND / 10 * (10 * seconds - 1));
        assert!(!request(&mut gateway, 0, "login", OK), "{seconds}");
        // And a tenth for the jitter.
        gateway.pass(seconds * SECOND / 10 + SECOND / 5);
        assert!(request(&mut gateway, 0, "login", RESET), "{seconds}");
    }
}

#[test]
fn beyond_the_limit_there_is_no_scope_and_off_means_none() {
    let mut gateway = divided(1, r#"{"scopes": {"max": 2}}"#);
    shut(&mut gateway, 0, "third");
    assert!(!request(&mut gateway, 0, "fourth", OK));
    assert_eq!((state(&gateway, "_other"), gateway.state("auth")), (1, 0));
    let over = "circuit_breaker_scopes_over_limit_total.service.auth";
    assert_eq!(gateway.metric(over), 2);
    let off = r#"{"services": {"auth": {"scopes": {"by_route": false}}}}"#;
    let mut gateway = divided(1, off);
    shut(&mut gateway, 0, "login");
    assert_eq!(gateway.state("auth"), 1);
    let names = gateway.metric_names();
    assert!(
        !names.iter().any(|name| name.contains(".scope.")),
        "{names:?}"
    );
}

#[test]
fn without_cel_there_are_no_scopes() {
    let mut gateway = Gateway::with_cel(1, "", false);
    for route in ["login", "profile"] {
        assert!(request(&mut gateway, 0, route, OK));
    }
    shut(&mut gateway, 0, "login");
    assert_eq!(gateway.state("auth"), 1);
}

#[test]
fn a_rule_names_the_scope_before_the_route_does() {
    let rules = r#"{"scopes": {"by_route": false, "rules": [{"name": "x", "path_prefix": "/x"}]}}"#;
    let mut gateway = Gateway::new(1, rules);
    let begin = |gateway: &mut Gateway, rule: &str| {
        let stream = Stream {
            scope_by_rule: rule.as_bytes().to_vec(),
            ..at("everything")
        };
        gateway.begin_stream(0, stream)
    };
    for rule in ["x", "y", ""] {
        let call = begin(&mut gateway, rule);
        gateway.end(call, OK);
    }
    for _ in 0..5 {
        let call = begin(&mut gateway, "x");
        gateway.end(call, RESET);
    }
    assert!(begin(&mut gateway, "x").was_refused);
    assert!(!begin(&mut gateway, "y").was_refused);
    assert!(!begin(&mut gateway, "").was_refused);
}

#[test]
fn a_result_belongs_to_the_route_that_was_taken() {
    let mut gateway = divided(1, "");
    for _ in 0..5 {
        let call = begin(&mut gateway, 0, "login");
        // A later filter has chosen the route again.
        gateway.change(call, |stream| stream.route = b"profile".to_vec());
        gateway.end(call, RESET);
    }
    assert!(request(&mut gateway, 0, "login", OK));
    assert!(!request(&mut gateway, 0, "profile", OK));
}

/// Where the fallback's route leads to `cluster`: how many of ten requests to a scope that is shut go
/// there.
fn sent_to_fallback(cluster: &str) -> usize {
    let mut gateway = divided(
        1,
        r#"{"aliases": {"auth-v2": "auth"}, "services": {"auth": {"fallback": {"route": "other"}}}}"#,
    );
    for _ in 0..5 {
        assert!(request(&mut gateway, 0, "login", RESET));
    }
    let mut sent = 0;
    for _ in 0..10 {
        let stream = Stream {
            cluster_by_fallback: Some(cluster.into()),
            route_by_fallback: Some(b"other".to_vec()),
            ..at("login")
        };
        let call = gateway.begin_stream(0, stream);
        if !call.was_refused {
            sent += 1;
            gateway.end(call, RESET);
        }
    }
    let names = gateway.metric_names();
    assert!(
        !names.iter().any(|name| name.ends_with(".scope.other")),
        "{names:?}"
    );
    assert_eq!((state(&gateway, "login"), gateway.state("auth")), (1, 0));
    sent
}

#[test]
fn a_fallback_route_with_a_name_of_its_own_that_leads_back_does_not_disable_the_breaker() {
    assert_eq!(sent_to_fallback("auth"), 1);
    assert_eq!(sent_to_fallback("auth-v2"), 1);
    assert_eq!(sent_to_fallback("maintenance"), 10);
}

#[test]
fn a_scope_may_have_settings_and_failures_of_its_own() {
    let mut gateway = divided(
        1,
        r#"{"services": {"auth": {
            "breaker": {"consecutive_failures": 7},
            "scopes": {"named": {
                "login": {"breaker": {"consecutive_failures": 2}},
                "profile": {"failures": {"http": [404, "500-599"]}}
            }}}}}"#,
    );
    for expected in [true, true, false] {
        assert_eq!(request(&mut gateway, 0, "login", RESET), expected);
    }
    for _ in 0..7 {
        for route in ["profile", "refresh"] {
            assert!(request(&mut gateway, 0, route, End::Status(404)));
        }
    }
    gateway.pass(SECOND);
    let failures_of =
        |scope: &str| format!("circuit_breaker_failures_total.service.auth.scope.{scope}");
    assert_eq!(gateway.metric(&failures_of("profile")), 7);
    let shown = gateway.metric_names();
    assert!(!shown.contains(&failures_of("refresh")), "{shown:?}");
}

#[test]
fn a_scope_with_settings_of_its_own_is_there_from_its_first_request() {
    let forced = r#"{"services": {"auth": {"scopes": {"named": {
        "login": {"breaker": {"mode": "forced_open"}}}}}}}"#;
    let mut gateway = Gateway::new(1, forced);
    assert!(!request(&mut gateway, 0, "login", OK));
    assert!(request(&mut gateway, 0, "profile", OK));
}

fn with_modes(service: &str, login: &str) -> Gateway {
    let mode = |mode: &str| format!(r#"{{"mode": "{mode}"}}"#);
    let (service, login) = (mode(service), mode(login));
    let configuration = format!(
        r#"{{"services": {{"auth": {{"breaker": {service}, "scopes": {{"named": {{
            "login": {{"breaker": {login}}}}}}}}}}}}}"#
    );
    divided(1, &configuration)
}

#[test]
fn a_breaker_in_shadow_leaves_the_decision_to_the_other() {
    // The service's breaker is open, in shadow.
    let mut gateway = with_modes("shadow", "enforce");
    for _ in 0..5 {
        assert!(unreachable(&mut gateway, "profile"));
    }
    assert_eq!(gateway.state("auth"), 1);
    shut(&mut gateway, 0, "login");
    gateway.pass(SECOND);
    let shadow = "circuit_breaker_shadow_rejected_total.service.auth.scope.login";
    assert_eq!(gateway.metric(shadow), 5);
    // The scope's is.
    let mut gateway = with_modes("enforce", "shadow");
    for _ in 0..5 {
        assert!(request(&mut gateway, 0, "login", RESET));
    }
    assert_eq!(state(&gateway, "login"), 1);
    for _ in 0..5 {
        assert!(unreachable(&mut gateway, "login"));
    }
    assert!(!request(&mut gateway, 0, "login", OK));
    gateway.pass(2 * SECOND);
    // Calls that the scope's would refuse are probes of the service, one of each client.
    let held = begin(&mut gateway, 0, "login");
    assert!(!held.was_refused);
    assert!(begin(&mut gateway, 0, "login").was_refused);
    gateway.end(held, OK);
    for _ in 0..2 {
        assert!(request(&mut gateway, 0, "login", OK));
    }
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn a_call_counts_for_its_scope_though_no_other_follows() {
    let mut gateway = divided(2, "");
    assert!(request(&mut gateway, 1, "refresh", OK));
    gateway.pass(3 * SECOND);
    // Worker 1 has handed in the first call, and hands in this one later.
    assert!(request(&mut gateway, 1, "refresh", OK));
    gateway.pass(9 * SECOND);
    shut(&mut gateway, 0, "login");
    for _ in 0..5 {
        assert!(request(&mut gateway, 0, "profile", RESET));
    }
    assert_eq!(gateway.state("auth"), 0);
    assert!(request(&mut gateway, 1, "refresh", OK));
}

#[test]
fn a_newer_configuration_reaches_the_scopes_of_old_connections_and_is_shown_without_a_request() {
    const OTHER: u32 = 1000;
    let mut gateway = divided(1, "");
    let newer = r#"{"services": {"auth": {"scopes": {"named": {
        "login": {"breaker": {"mode": "forced_open"}}}}}}}"#;
    gateway.workers[0].configure(OTHER, newer);
    gateway.pass_without_ticks(Duration::from_millis(100));
    gateway.workers[0].contexts.on_tick(OTHER);
    let mode = |scope: &str| format!("circuit_breaker_mode.service.auth.scope.{scope}");
    assert_eq!(gateway.metric(&mode("login")), 3);
    assert_eq!(gateway.metric(&mode("profile")), 0);
    assert_eq!(gateway.metric("circuit_breaker_mode.service.auth"), 0);
    assert!(!request(&mut gateway, 0, "login", OK));
    assert!(request(&mut gateway, 0, "profile", OK));
}

#[test]
fn each_request_is_counted_at_its_scope_only() {
    let mut gateway = divided(1, "");
    shut(&mut gateway, 0, "login");
    gateway.pass(SECOND);
    let count = |gateway: &Gateway, outcome: &str, service: &str| {
        let name = format!("circuit_breaker_requests_total.outcome.{outcome}.service.{service}");
        gateway.metric(&name)
    };
    // The first came before the service was divided.
    assert_eq!(count(&gateway, "success", "auth"), 1);
    assert_eq!(count(&gateway, "success", "auth.scope.profile"), 1);
    assert_eq!(count(&gateway, "failure", "auth.scope.login"), 5);
    assert_eq!(count(&gateway, "rejected", "auth.scope.login"), 1);
    for outcome in ["failure", "rejected", "neutral"] {
        assert_eq!(count(&gateway, outcome, "auth"), 0, "{outcome}");
    }
}

#[test]
fn shadow_mode_refuses_nothing_and_says_which_scope_it_would_refuse() {
    let mut gateway = divided(1, r#"{"breaker": {"mode": "shadow"}}"#);
    for _ in 0..7 {
        assert!(request(&mut gateway, 0, "login", RESET));
    }
    gateway.pass(SECOND);
    let name = "circuit_breaker_shadow_rejected_total.service.auth.scope.login";
    assert_eq!(gateway.metric(name), 2);
    assert_eq!((state(&gateway, "login"), gateway.state("auth")), (1, 0));
}

#[test]
fn forced_open_refuses_all_scopes() {
    let mut gateway = Gateway::new(
        1,
        r#"{"services": {"auth": {"breaker": {"mode": "forced_open"}}}}"#,
    );
    for route in ["login", "profile", "login"] {
        assert!(!request(&mut gateway, 0, route, OK));
    }
}

#[test]
fn a_scope_is_checked_by_the_path_of_its_service() {
    let configuration = r#"{"breaker": {"health_check": {"path": "/healthz"},
        "open_for_unreachable": "5s", "open_for_unreachable_max": "5s"}}"#;
    let mut gateway = divided(2, configuration);
    shut(&mut gateway, 0, "login");
    gateway.pass(SECOND.mul_f64(1.4));
    let sent = gateway.take_sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(
        (&*sent[0].cluster, sent[0].header(":path")),
        ("auth", "/healthz")
    );
    gateway.answer(&sent[0], fake::Answer::status("200"));
    assert_eq!(state(&gateway, "login"), 2);
    for worker in [0, 1, 0] {
        assert!(request(&mut gateway, worker, "login", OK));
    }
    assert_eq!(state(&gateway, "login"), 0);
}

#[test]
fn where_a_scope_and_its_service_recover_the_share_is_not_taken_twice() {
    let mut gateway = divided(1, r#"{"breaker": {"recover_for": "1m"}}"#);
    shut(&mut gateway, 0, "login");
    shut(&mut gateway, 0, "profile");
    assert_eq!(gateway.state("auth"), 1, "all scopes are open");
    gateway.pass(SECOND * 33);
    for _ in 0..3 {
        assert!(request(&mut gateway, 0, "login", OK));
    }
    assert_eq!((state(&gateway, "login"), gateway.state("auth")), (0, 0));
    let passed = (0..100).filter(|_| request(&mut gateway, 0, "login", OK));
    assert!((9..=12).contains(&passed.count()));
}
