//! While a breaker is open, one worker asks the service whether it is well again.

mod fake;

use fake::{Answer, End, FILTER, Gateway, Sent, Stream};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const BY_PATH: &str = r#"{"breaker": {"health_check": {"path": "/healthz"}}}"#;

/// The breaker of `auth` is open at all workers.
fn opened(workers: usize, configuration: &str) -> Gateway {
    let mut gateway = Gateway::new(workers, configuration);
    open(&mut gateway);
    gateway
}

fn open(gateway: &mut Gateway) {
    for worker in 0..gateway.workers.len() {
        gateway.request(worker, "auth", End::Status(200));
    }
    for _ in 0..5 {
        assert!(gateway.request(0, "auth", End::Status(503)));
    }
    assert_eq!(gateway.state("auth"), 1);
}

/// The check that is sent within a bit more than a second.
fn next_check(gateway: &mut Gateway) -> Sent {
    for _ in 0..14 {
        gateway.pass(Duration::from_millis(100));
        let mut sent = gateway.take_sent();
        assert!(sent.len() <= 1, "{sent:?}");
        if let Some(check) = sent.pop() {
            return check;
        }
    }
    panic!("no check was sent")
}

#[test]
fn a_service_that_is_back_is_asked_for_probes_at_once() {
    let mut gateway = opened(2, BY_PATH);
    let check = next_check(&mut gateway);
    assert_eq!(check.cluster, "auth");
    assert_eq!(check.header(":method"), "GET");
    assert_eq!(check.header(":path"), "/healthz");
    assert_eq!(check.header(":authority"), "auth");
    assert_eq!(check.timeout, SECOND);
    assert!(!gateway.request(0, "auth", End::Status(200)));
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 2, "half-open");
    // All workers know it: they need three probes, as ever.
    for worker in [1, 0, 1] {
        assert!(gateway.request(worker, "auth", End::Status(200)));
    }
    assert_eq!(gateway.state("auth"), 0);
    gateway.pass(5 * SECOND);
    assert!(gateway.take_sent().is_empty());
}

#[test]
fn without_a_path_nothing_is_sent() {
    let mut gateway = opened(2, "");
    gateway.pass(20 * SECOND);
    assert!(gateway.take_sent().is_empty());
    assert!(!gateway.request(0, "auth", End::Status(200)));
}

#[test]
fn other_answers_change_nothing() {
    let mut gateway = opened(1, BY_PATH);
    for answer in [
        Answer::status("503"),
        Answer::status("404"),
        Answer::status("302"),
        Answer::status("x"),
        Answer::NONE,
    ] {
        let check = next_check(&mut gateway);
        gateway.answer(&check, answer);
        assert_eq!(gateway.state("auth"), 1);
    }
    let check = next_check(&mut gateway);
    gateway.answer(&check, Answer::status("204"));
    assert_eq!(gateway.state("auth"), 2);
}

/// A second configuration of each worker.
const OTHER: u32 = 1000;

/// How many checks are sent within 20 s, none of which is answered.
fn checks_in_20_s(gateway: &mut Gateway) -> usize {
    let mut sent = 0;
    for _ in 0..200 {
        gateway.pass(Duration::from_millis(100));
        for worker in &mut gateway.workers {
            worker.contexts.on_tick(OTHER);
        }
        for check in gateway.take_sent() {
            sent += 1;
            gateway.answer(&check, Answer::NONE);
        }
    }
    sent
}

#[test]
fn all_workers_and_configurations_send_one_check_a_second() {
    let mut gateway = Gateway::new(4, BY_PATH);
    for worker in &mut gateway.workers {
        worker.configure(OTHER, BY_PATH);
    }
    open(&mut gateway);
    let sent = checks_in_20_s(&mut gateway);
    assert!((14..=20).contains(&sent), "{sent} within 20 s");
}

#[test]
fn another_worker_goes_on_when_the_one_that_sent_the_checks_is_gone() {
    let mut gateway = opened(2, BY_PATH);
    let check = next_check(&mut gateway);
    gateway.end_plugin(check.worker);
    // Envoy drops the request with the plugin, or an answer comes all the same.
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 1);
    let next = next_check(&mut gateway);
    assert_ne!(next.worker, check.worker);
    gateway.answer(&next, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 2);
}

#[test]
fn an_answer_that_comes_too_late_changes_nothing() {
    let mut gateway = opened(1, BY_PATH);
    let late = next_check(&mut gateway);
    let check = next_check(&mut gateway);
    gateway.answer(&late, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 1, "only the last one counts");
    gateway.answer(&check, Answer::status("200"));
    let probe = gateway.begin(0, "auth");
    assert!(!probe.was_refused);
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 2, "half-open");
    gateway.end(probe, End::Status(503));
    assert_eq!(gateway.state("auth"), 1);
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 1, "open again");
}

#[test]
fn an_answer_after_the_breaker_was_opened_again_changes_nothing() {
    let mut gateway = opened(
        1,
        r#"{"breaker": {"open_for": "2s", "health_check": {"path": "/healthz"}}}"#,
    );
    let check = next_check(&mut gateway);
    gateway.pass(2 * SECOND);
    assert!(gateway.request(0, "auth", End::Status(503)), "a probe");
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 1);
}

/// Its checks pass, and calls fail.
#[test]
fn a_service_that_only_answers_its_checks_gets_no_more_probes_than_without_them() {
    let mut probes = [0; 2];
    for (configuration, probes) in ["", BY_PATH].into_iter().zip(&mut probes) {
        let mut gateway = opened(2, configuration);
        for _ in 0..6_000 {
            gateway.pass(Duration::from_millis(100));
            for check in gateway.take_sent() {
                gateway.answer(&check, Answer::status("200"));
            }
            *probes += u32::from(gateway.request(0, "auth", End::Status(503)));
        }
    }
    let [without, with] = probes;
    assert!(without >= 4, "{without} within ten minutes");
    assert!(with <= without + 1, "{with}, {without} without checks");
}

#[test]
fn nothing_is_sent_in_a_mode_that_learns_nothing_and_in_shadow_all_is_the_same() {
    for (mode, sends) in [
        ("shadow", true),
        ("disabled", false),
        ("forced_closed", false),
    ] {
        let mut gateway = opened(1, BY_PATH);
        let changed = format!(
            r#"{{"breaker": {{"mode": "{mode}", "health_check": {{"path": "/healthz"}}}}}}"#
        );
        gateway.workers[0].configure(1000, &changed);
        gateway.workers[0].contexts.on_tick(1000);
        gateway.pass(3 * SECOND);
        let sent = gateway.take_sent();
        assert_eq!(!sent.is_empty(), sends, "{mode}: {sent:?}");
        if let Some(check) = sent.last() {
            gateway.answer(check, Answer::status("200"));
            assert_eq!(gateway.state("auth"), 2);
        }
    }
}

#[test]
fn a_service_without_calls_is_not_checked_once_its_time_has_passed() {
    let mut gateway = opened(1, BY_PATH);
    gateway.pass(40 * SECOND);
    let sent = gateway.take_sent().len();
    assert!((20..=33).contains(&sent), "{sent}");
    gateway.pass(40 * SECOND);
    assert!(gateway.take_sent().is_empty(), "the next call is a probe");
}

#[test]
fn the_clusters_of_a_service_are_asked_in_turn() {
    let mut gateway = opened(
        1,
        r#"{"aliases": {"auth-a": "auth", "auth-b": "auth"},
            "breaker": {"health_check": {"path": "/healthz", "host": "h"}}}"#,
    );
    gateway.lose_cluster("auth");
    let asked: Vec<String> = (0..4)
        .map(|_| {
            let check = next_check(&mut gateway);
            assert_eq!(check.header(":authority"), "h");
            gateway.answer(&check, Answer::NONE);
            check.cluster
        })
        .collect();
    assert_eq!(asked, ["auth-a", "auth-b", "auth-a", "auth-b"]);
    gateway.lose_cluster("auth-a");
    gateway.lose_cluster("auth-b");
    gateway.pass(5 * SECOND);
    assert!(gateway.take_sent().is_empty());
    assert_eq!(gateway.state("auth"), 1);
}

#[test]
fn a_service_of_grpc_is_asked_by_its_own_protocol() {
    let configuration = r#"{"breaker": {"health_check": {"path": "/healthz"}},
        "services": {"auth": {"breaker": {"health_check": {"grpc_service": "auth.v1"}}}}}"#;
    let mut gateway = opened(1, configuration);
    let serving = |headers, trailers, body: &[u8]| Answer {
        headers,
        trailers,
        body: body.to_vec(),
    };
    let (ok, zero) = (vec![(":status", "200")], vec![("grpc-status", "0")]);
    for wrong in [
        Answer::status("200"),
        // UNIMPLEMENTED, in headers only.
        serving(
            vec![(":status", "200"), ("grpc-status", "12")],
            Vec::new(),
            b"",
        ),
        serving(ok.clone(), zero.clone(), &[0, 0, 0, 0, 2, 0x08, 2]), // NOT_SERVING
        serving(ok.clone(), zero.clone(), &[0, 0, 0, 0, 0]),          // UNKNOWN
        serving(ok.clone(), zero.clone(), &[]),
        serving(
            ok.clone(),
            vec![("grpc-status", "5")],
            &[0, 0, 0, 0, 2, 0x08, 1],
        ),
    ] {
        let check = next_check(&mut gateway);
        assert_eq!(check.header(":method"), "POST");
        assert_eq!(check.header(":path"), "/grpc.health.v1.Health/Check");
        assert_eq!(check.header("content-type"), "application/grpc");
        assert_eq!(check.body, b"\0\0\0\0\x09\x0a\x07auth.v1");
        gateway.answer(&check, wrong);
        assert_eq!(gateway.state("auth"), 1);
    }
    let check = next_check(&mut gateway);
    gateway.answer(&check, serving(ok, zero, &[0, 0, 0, 0, 2, 0x08, 1]));
    assert_eq!(gateway.state("auth"), 2);
}

#[test]
fn a_worker_that_meets_an_open_breaker_checks_it_too() {
    let mut gateway = opened(1, BY_PATH);
    gateway.add_worker(BY_PATH);
    assert!(!gateway.request(1, "auth", End::Status(200)));
    gateway.end_plugin(0);
    let check = next_check(&mut gateway);
    assert_eq!(check.worker, 1);
}

#[test]
fn a_check_costs_a_tick_nothing_while_no_breaker_is_open() {
    let ticks = |configuration| {
        let mut gateway = Gateway::new(1, configuration);
        gateway.request(0, "auth", End::Status(200));
        gateway.pass(SECOND);
        gateway.take_calls(0);
        for _ in 0..5 {
            gateway.request(0, "auth", End::Status(200));
            gateway.workers[0].contexts.on_tick(FILTER);
        }
        gateway.take_calls(0)
    };
    assert_eq!(ticks(BY_PATH), ticks(""));
}

/// It may pass its checks, and answer calls with 429.
#[test]
fn a_service_that_asks_to_be_left_alone_is_not_checked_until_then() {
    let configuration = r#"{"breaker": {"health_check": {"path": "/healthz"}},
        "failures": {"http": [429, "500-599"], "retry_after": true}}"#;
    for (retry_after, is_checked) in [("60", false), ("5", true)] {
        let mut gateway = Gateway::new(1, configuration);
        for _ in 0..5 {
            let call = gateway.begin(0, "auth");
            gateway.change(call, |stream| {
                stream.code = Some(503);
                stream.details = b"via_upstream".to_vec();
                stream.retry_after = Some(retry_after);
            });
            gateway.finish(call);
        }
        assert_eq!(gateway.state("auth"), 1);
        gateway.pass(5 * SECOND);
        assert_eq!(!gateway.take_sent().is_empty(), is_checked, "{retry_after}");
    }
}

/// Scopes are open for half a minute, so that there is time for checks.
const SCOPES: &str = r#"{"breaker": {"health_check": {"path": "/healthz"},
    "open_for": "30s", "open_for_max": "5m",
    "open_for_unreachable": "30s", "open_for_unreachable_max": "30s"}}"#;

/// A request to a scope of `auth`.
fn call(gateway: &mut Gateway, worker: usize, scope: &str, end: End) -> bool {
    let stream = Stream {
        cluster: b"auth".to_vec(),
        route: scope.into(),
        source: b"10.0.0.1:1".to_vec(),
        ..Stream::default()
    };
    let call = gateway.begin_stream(worker, stream);
    if !call.was_refused {
        gateway.end(call, end);
    }
    !call.was_refused
}

/// A gateway with a scope that works.
fn with_scopes(workers: usize) -> Gateway {
    let mut gateway = Gateway::new(workers, SCOPES);
    for worker in 0..workers {
        for scope in ["works", "login"] {
            assert!(call(&mut gateway, worker, scope, End::Status(200)));
        }
    }
    // All know by now that it does.
    gateway.pass(SECOND / 4);
    gateway
}

fn shut(gateway: &mut Gateway, worker: usize, scope: &str) {
    for _ in 0..5 {
        assert!(call(gateway, worker, scope, End::Reset));
        for _ in 0..2 {
            assert!(call(gateway, worker, "works", End::Status(200)));
        }
    }
    assert_eq!((state(gateway, scope), gateway.state("auth")), (1, 0));
}

fn state(gateway: &Gateway, scope: &str) -> u64 {
    gateway.metric(&format!("circuit_breaker_state.service.auth.scope.{scope}"))
}

#[test]
fn one_check_a_second_is_for_all_scopes_of_a_service() {
    for open in [2, 10] {
        let mut gateway = with_scopes(3);
        for worker in &mut gateway.workers {
            worker.configure(OTHER, SCOPES);
        }
        let scopes: Vec<String> = (0..open).map(|scope| format!("s{scope}")).collect();
        for scope in &scopes {
            shut(&mut gateway, 0, scope);
        }
        let sent = checks_in_20_s(&mut gateway);
        assert!((14..=20).contains(&sent), "{sent} within 20 s, {open} open");
        let check = next_check(&mut gateway);
        assert_eq!(check.header(":path"), "/healthz");
        gateway.answer(&check, Answer::status("200"));
        for scope in &scopes {
            assert_eq!(state(&gateway, scope), 2, "{scope} of {open}");
        }
        gateway.pass(5 * SECOND);
        assert!(gateway.take_sent().is_empty(), "none is open");
    }
}

#[test]
fn a_scope_that_opened_while_a_check_was_on_its_way_waits_for_the_next() {
    let mut gateway = with_scopes(2);
    shut(&mut gateway, 0, "login");
    let check = next_check(&mut gateway);
    shut(&mut gateway, 1, "verify");
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(
        (state(&gateway, "login"), state(&gateway, "verify")),
        (2, 1)
    );
    let check = next_check(&mut gateway);
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(state(&gateway, "verify"), 2);
}

#[test]
fn each_scope_is_open_for_a_while_before_it_is_checked() {
    let mut gateway = with_scopes(1);
    shut(&mut gateway, 0, "login");
    gateway.pass(SECOND / 2);
    shut(&mut gateway, 0, "verify");
    let check = next_check(&mut gateway);
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(
        (state(&gateway, "login"), state(&gateway, "verify")),
        (2, 1)
    );
    gateway.pass(SECOND * 9 / 10);
    assert!(gateway.take_sent().is_empty(), "one a second");
    let check = next_check(&mut gateway);
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(state(&gateway, "verify"), 2);
}

#[test]
fn a_service_that_is_open_itself_is_checked_with_its_scopes() {
    let configuration = r#"{"scopes": {"by_route": true},
        "breaker": {"open_for_unreachable": "30s", "health_check": {"path": "/healthz"}}}"#;
    let mut gateway = Gateway::new(1, configuration);
    for scope in ["login", "verify"] {
        assert!(call(&mut gateway, 0, scope, End::Status(200)));
    }
    for scope in ["login", "verify"] {
        for _ in 0..5 {
            call(&mut gateway, 0, scope, End::Reset);
        }
    }
    assert_eq!(gateway.state("auth"), 1, "none works");
    let check = next_check(&mut gateway);
    assert!(gateway.take_sent().is_empty());
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(gateway.state("auth"), 2);
    assert_eq!(
        (state(&gateway, "login"), state(&gateway, "verify")),
        (2, 2)
    );
}

/// The worker that sends the checks is always the same one.
#[test]
fn a_check_is_also_for_scopes_that_its_worker_has_not_met() {
    let mut gateway = with_scopes(2);
    shut(&mut gateway, 0, "login");
    shut(&mut gateway, 1, "verify");
    let check = next_check(&mut gateway);
    assert_eq!(check.worker, 0);
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(
        (state(&gateway, "login"), state(&gateway, "verify")),
        (2, 2)
    );
    for worker in [0, 1, 0] {
        assert!(call(&mut gateway, worker, "verify", End::Status(200)));
    }
    assert_eq!(state(&gateway, "verify"), 0);
}

#[test]
fn each_scope_is_hastened_once_in_an_open_period_whatever_the_others_do() {
    let mut gateway = with_scopes(1);
    shut(&mut gateway, 0, "login");
    let check = next_check(&mut gateway);
    gateway.answer(&check, Answer::status("200"));
    assert!(call(&mut gateway, 0, "login", End::Reset), "a probe");
    assert_eq!(state(&gateway, "login"), 1);
    gateway.pass(3 * SECOND);
    assert!(gateway.take_sent().is_empty(), "not before it is over");
    shut(&mut gateway, 0, "verify");
    let check = next_check(&mut gateway);
    gateway.answer(&check, Answer::status("200"));
    assert_eq!(
        (state(&gateway, "login"), state(&gateway, "verify")),
        (1, 2)
    );
}
