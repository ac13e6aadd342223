//! Several configurations in one virtual machine, and contexts in unexpected order.

mod fake;

use fake::{End, FILTER, Gateway, Stream};
use levee_filter::contexts::Action;
use levee_filter::plugin::Body;
use std::time::Duration;

const OTHER: u32 = 1000;
const REFUSES_AUTH: &str = r#"{"services": {"auth": {"breaker": {"mode": "forced_open"}}}}"#;
const SHADOW: &str = r#"{"breaker": {"mode": "shadow"}}"#;

fn to_auth() -> Stream {
    Stream {
        cluster: b"auth".to_vec(),
        ..Stream::default()
    }
}

/// Whether a request to the filter `id` is let through.
fn passes(gateway: &mut Gateway, id: u32) -> bool {
    let worker = &mut gateway.workers[0];
    let (context, action) = worker.begin(id, to_auth());
    worker.finish(context);
    action == Action::Continue
}

#[test]
fn each_request_follows_the_configuration_of_its_own_filter() {
    let mut gateway = Gateway::new(1, "");
    gateway.workers[0].configure(OTHER, REFUSES_AUTH);
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
fn a_mode_set_last_by_an_old_configuration_is_corrected_at_the_next_change() {
    let mut gateway = Gateway::new(1, "");
    gateway.workers[0].configure(OTHER, SHADOW);
    let mode = |gateway: &Gateway| gateway.metric("circuit_breaker_mode.service.auth");
    assert!(passes(&mut gateway, OTHER));
    assert_eq!(mode(&gateway), 1);
    // The old configuration, which is still active, meets the service later.
    assert!(passes(&mut gateway, FILTER));
    assert_eq!(mode(&gateway), 0);
    for _ in 0..5 {
        let fails = Stream {
            code: Some(503),
            details: b"via_upstream".to_vec(),
            ..to_auth()
        };
        let worker = &mut gateway.workers[0];
        let (context, _) = worker.begin(OTHER, fails);
        worker.finish(context);
    }
    assert_eq!(gateway.state("auth"), 1);
    assert_eq!(mode(&gateway), 1);
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
