//! Several configurations in one virtual machine, and contexts in unexpected order.

mod fake;

use fake::{End, FILTER, Gateway, Stream};
use levee_filter::contexts::Action;
use levee_filter::plugin::Body;
use serde_json::json;
use std::time::Duration;

const OTHER: u32 = 1000;
const REFUSES_AUTH: &str = r#"{"services": {"auth": {"breaker": {"mode": "forced_open"}}}}"#;

fn to_auth() -> Stream {
    Stream {
        cluster: b"auth".to_vec(),
        ..Stream::default()
    }
}

/// Whether a request to the filter `id` is let through.
fn passes(gateway: &mut Gateway, id: u32) -> bool {
    passes_on(gateway, id, 1)
}

/// The same, on the client's connection of this number.
fn passes_on(gateway: &mut Gateway, id: u32, connection: u64) -> bool {
    let stream = Stream {
        connection,
        ..to_auth()
    };
    let worker = &mut gateway.workers[0];
    let (context, action) = worker.begin(id, stream);
    worker.finish(context);
    action == Action::Continue
}

/// Ticks of the filter `id`.
fn pass(gateway: &mut Gateway, id: u32, millis: u64) {
    for _ in 0..millis / 100 {
        gateway.pass_without_ticks(Duration::from_millis(100));
        for worker in &mut gateway.workers {
            worker.contexts.on_tick(FILTER);
            worker.contexts.on_tick(id);
        }
        gateway.deliver();
    }
}

fn mode(gateway: &Gateway) -> u64 {
    gateway.metric("circuit_breaker_mode.service.auth")
}

#[test]
fn each_request_follows_the_configuration_of_its_own_filter() {
    let mut gateway = Gateway::new(1, "");
    gateway.workers[0].configure_named(OTHER, "other", REFUSES_AUTH);
    for _ in 0..2 {
        assert!(passes(&mut gateway, FILTER));
        assert!(!passes(&mut gateway, OTHER));
    }
}

#[test]
fn a_deleted_filter_affects_no_other_and_its_late_requests_pass() {
    let mut gateway = Gateway::new(1, "");
    let worker = &mut gateway.workers[0];
    worker.configure(OTHER, REFUSES_AUTH);
    let (late, action) = worker.begin(FILTER, to_auth());
    assert_eq!(action, Action::Continue);
    worker.contexts.on_delete(FILTER);
    worker.finish(late);
    assert!(
        passes(&mut gateway, FILTER),
        "a request to a filter that does not exist"
    );
    assert!(!passes(&mut gateway, OTHER));
}

#[test]
fn a_reconfigured_filter_follows_the_new_configuration() {
    let mut gateway = Gateway::new(1, "");
    let call = gateway.begin(0, "auth");
    let other = gateway.begin(0, "chat");
    gateway.request(0, "auth", End::Status(200));
    gateway.workers[0].configure(FILTER, REFUSES_AUTH);
    assert!(!passes(&mut gateway, FILTER));
    let name = "circuit_breaker_requests_total.outcome.success.service.auth";
    assert_eq!(gateway.metric(name), 1, "earlier counts are kept");
    // Requests in flight belong to the old configuration.
    gateway.end(call, End::Status(503));
    gateway.end(other, End::Status(503));
    assert_eq!(gateway.outcome("auth", "failure"), 0);
    assert!(gateway.workers[0].tick() > Duration::ZERO);
}

#[test]
fn listeners_of_one_name_that_are_both_in_use_follow_their_own_configurations() {
    let mut gateway = Gateway::new(1, "");
    gateway.workers[0].configure(OTHER, REFUSES_AUTH);
    pass(&mut gateway, OTHER, 100);
    for connection in 1..5 {
        assert!(passes_on(&mut gateway, FILTER, 2 * connection));
        assert!(!passes_on(&mut gateway, OTHER, 2 * connection + 1));
        assert!(passes_on(&mut gateway, FILTER, 2));
        pass(&mut gateway, OTHER, 1000);
    }
}

#[test]
fn a_new_mode_is_shown_without_a_request() {
    let mut gateway = Gateway::new(1, "");
    assert!(passes(&mut gateway, FILTER));
    assert_eq!((mode(&gateway), gateway.state("auth")), (0, 0));
    gateway.workers[0].configure(OTHER, REFUSES_AUTH);
    assert_eq!(mode(&gateway), 0, "Envoy may still reject the listener");
    pass(&mut gateway, OTHER, 100);
    assert_eq!((mode(&gateway), gateway.state("auth")), (3, 1));
}

#[test]
fn a_new_mode_reaches_old_connections() {
    let mut gateway = Gateway::new(1, "");
    assert!(passes_on(&mut gateway, FILTER, 7));
    gateway.workers[0].configure(OTHER, REFUSES_AUTH);
    pass(&mut gateway, OTHER, 100);
    assert!(!passes_on(&mut gateway, FILTER, 7));
    pass(&mut gateway, OTHER, 60_000);
    assert!(!passes_on(&mut gateway, FILTER, 7));
    assert!(!passes_on(&mut gateway, OTHER, 9));
    // It had made no request before, but is older than one to the new listener.
    assert!(!passes_on(&mut gateway, FILTER, 8));
    // The old listener has drained.
    gateway.workers[0].contexts.on_delete(FILTER);
    assert!(!passes_on(&mut gateway, OTHER, 9));
}

#[test]
fn a_connection_without_a_number_brings_no_earlier_configuration_back() {
    const HASH: u64 = u64::MAX;
    let mut gateway = Gateway::new(1, "");
    assert!(passes_on(&mut gateway, FILTER, HASH));
    gateway.workers[0].configure(OTHER, REFUSES_AUTH);
    pass(&mut gateway, OTHER, 100);
    for _ in 0..3 {
        assert!(!passes_on(&mut gateway, FILTER, HASH));
        pass(&mut gateway, OTHER, 5000);
    }
}

#[test]
fn a_new_configuration_knows_what_old_connections_have_brought_about() {
    let mut gateway = Gateway::new(1, "");
    assert!(passes_on(&mut gateway, FILTER, 7));
    gateway.workers[0].configure(OTHER, r#"{"breaker": {"open_for": "1m"}}"#);
    pass(&mut gateway, OTHER, 100);
    for _ in 0..5 {
        gateway.request(0, "auth", End::Status(503));
    }
    assert!(!passes_on(&mut gateway, OTHER, 9));
}

#[test]
fn a_configuration_that_is_in_force_again_is_followed_and_shown() {
    let mut gateway = Gateway::new(2, "");
    gateway.request(1, "auth", End::Status(200));
    assert!(passes_on(&mut gateway, FILTER, 7));
    for worker in &mut gateway.workers {
        worker.configure(OTHER, REFUSES_AUTH);
    }
    pass(&mut gateway, OTHER, 5000);
    assert!(!gateway.request(1, "auth", End::Status(200)));
    assert!(!passes_on(&mut gateway, OTHER, 9));
    // Envoy uses the first filter again, and says so to nobody.
    assert!(passes_on(&mut gateway, FILTER, 11));
    assert_eq!(mode(&gateway), 0);
    assert!(passes_on(&mut gateway, FILTER, 7), "old connections, too");
    assert!(
        passes_on(&mut gateway, OTHER, 9),
        "those of the other filter, too"
    );
    pass(&mut gateway, OTHER, 200);
    assert!(
        gateway.request(1, "auth", End::Status(200)),
        "a worker without new connections"
    );
    for worker in &mut gateway.workers {
        worker.contexts.on_delete(OTHER);
    }
    assert!(passes_on(&mut gateway, FILTER, 7));
    assert_eq!(mode(&gateway), 0);
}

#[test]
fn a_filter_that_envoy_rejects_after_all_has_no_effect() {
    let mut gateway = Gateway::new(1, "");
    assert!(passes_on(&mut gateway, FILTER, 7));
    gateway.workers[0].configure(OTHER, REFUSES_AUTH);
    assert!(passes_on(&mut gateway, FILTER, 7));
    gateway.workers[0].contexts.on_delete(OTHER);
    assert!(passes_on(&mut gateway, FILTER, 7));
    gateway.workers[0].configure(OTHER, REFUSES_AUTH);
    pass(&mut gateway, OTHER, 100);
    gateway.workers[0].contexts.on_delete(OTHER);
    assert!(passes_on(&mut gateway, FILTER, 7));
    assert_eq!((mode(&gateway), gateway.state("auth")), (0, 0));
}

#[test]
fn a_changed_window_keeps_the_rate_while_the_old_configuration_has_requests() {
    let rate = |window| {
        let rule = json!({"ratio": 0.5, "minimum_requests": 20, "window": window});
        json!({"breaker": {"consecutive_failures": 1000, "failure_rate": rule}}).to_string()
    };
    let mut gateway = Gateway::new(1, &rate("10s"));
    assert!(passes_on(&mut gateway, FILTER, 7));
    gateway.workers[0].configure(OTHER, &rate("30s"));
    pass(&mut gateway, OTHER, 100);
    for _ in 0..15 {
        for (filter, connection) in [(FILTER, 7), (OTHER, 9)] {
            let fails = Stream {
                code: Some(503),
                details: b"via_upstream".to_vec(),
                connection,
                ..to_auth()
            };
            let worker = &mut gateway.workers[0];
            let (context, _) = worker.begin(filter, fails);
            worker.finish(context);
        }
        pass(&mut gateway, OTHER, 100);
    }
    assert_eq!(gateway.state("auth"), 1);
}

#[test]
fn a_deleted_filter_is_no_longer_called() {
    let mut gateway = Gateway::new(1, "");
    assert!(gateway.workers[0].tick() > Duration::ZERO);
    gateway.workers[0].contexts.on_delete(FILTER);
    assert_eq!(gateway.workers[0].tick(), Duration::ZERO);
}

#[test]
fn unknown_contexts_pass_and_do_no_harm() {
    let mut gateway = Gateway::new(1, REFUSES_AUTH);
    let contexts = &mut gateway.workers[0].contexts;
    assert_eq!(
        contexts.on_request_headers(77, Body::None),
        Action::Continue
    );
    contexts.on_log(77);
    contexts.on_delete(77);
    contexts.on_tick(77);
    contexts.on_news(77);
    assert!(!passes(&mut gateway, FILTER));
}

#[test]
fn a_request_is_settled_once_whatever_follows_its_end() {
    let mut gateway = Gateway::new(1, "");
    let call = gateway.begin(0, "auth");
    gateway.end(call, End::Status(200));
    let contexts = &mut gateway.workers[0].contexts;
    contexts.on_log(call.context);
    contexts.on_delete(call.context);
    assert_eq!(gateway.outcome("auth", "success"), 1);
}
