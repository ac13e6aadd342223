//! Places in the list of a service's scopes.

mod fake;

use fake::{End, FILTER, Gateway, Stream};
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);
const OK: End = End::Status(200);
const TWO: &str = r#"{"scopes": {"by_route": true, "max": 2}}"#;

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

/// Lets time pass in which these scopes are called now and then.
fn pass(gateway: &mut Gateway, minutes: u32, called: &[(usize, &str)]) {
    for _ in 0..minutes {
        gateway.pass_without_ticks(MINUTE);
        gateway.pass(Duration::from_millis(100));
        for (worker, scope) in called {
            assert!(call(gateway, *worker, scope, OK));
        }
    }
    gateway.pass(Duration::from_millis(100));
}

/// Whether the scope has, or had, a breaker of its own.
fn has_breaker(gateway: &Gateway, scope: &str) -> bool {
    let name = format!("circuit_breaker_state.service.auth.scope.{scope}");
    gateway.metric_names().contains(&name)
}

fn over_limit(gateway: &Gateway) -> u64 {
    gateway.metric("circuit_breaker_scopes_over_limit_total.service.auth")
}

/// Two scopes of which only `b` is called, for an hour.
fn with_an_idle_scope(workers: usize) -> Gateway {
    let mut gateway = Gateway::new(workers, TWO);
    for worker in 0..workers {
        for scope in ["a", "b"] {
            assert!(call(&mut gateway, worker, scope, OK));
        }
    }
    let called: Vec<(usize, &str)> = (0..workers).map(|worker| (worker, "b")).collect();
    pass(&mut gateway, 61, &called);
    gateway
}

#[test]
fn scopes_that_find_no_place_are_counted_once_by_each_worker() {
    let mut gateway = Gateway::new(2, TWO);
    for worker in [0, 1] {
        for scope in ["a", "b", "c", "c", "d"] {
            assert!(call(&mut gateway, worker, scope, OK));
        }
    }
    assert_eq!(over_limit(&gateway), 4);
    pass(&mut gateway, 10, &[(0, "a"), (1, "b"), (0, "c"), (1, "d")]);
    assert_eq!(over_limit(&gateway), 4);
    assert!(!has_breaker(&gateway, "c"));
}

#[test]
fn a_scope_that_is_not_called_for_an_hour_gives_its_place_to_a_new_one() {
    let mut gateway = with_an_idle_scope(1);
    assert!(call(&mut gateway, 0, "c", OK));
    assert!(has_breaker(&gateway, "c"));
    for _ in 0..5 {
        assert!(call(&mut gateway, 0, "c", End::Reset));
    }
    assert!(!call(&mut gateway, 0, "c", OK));
    assert!(call(&mut gateway, 0, "b", OK));
    // The other is in use.
    assert!(call(&mut gateway, 0, "d", OK));
    assert!(!has_breaker(&gateway, "d"));
    assert_eq!(over_limit(&gateway), 1);
}

#[test]
fn a_scope_that_comes_back_gets_a_new_breaker() {
    let mut gateway = with_an_idle_scope(1);
    assert!(call(&mut gateway, 0, "c", OK));
    pass(&mut gateway, 70, &[(0, "b")]);
    assert!(call(&mut gateway, 0, "a", OK));
    gateway.pass(Duration::from_millis(100));
    for _ in 0..5 {
        assert!(call(&mut gateway, 0, "a", End::Reset));
    }
    assert!(!call(&mut gateway, 0, "a", OK));
    assert!(call(&mut gateway, 0, "b", OK));
    let state = "circuit_breaker_state.service.auth.scope.a";
    assert_eq!(gateway.metric(state), 1);
}

#[test]
fn while_all_are_called_none_gives_its_place() {
    let mut gateway = Gateway::new(2, TWO);
    for worker in [0, 1] {
        for scope in ["a", "b"] {
            assert!(call(&mut gateway, worker, scope, OK));
        }
    }
    // Each by one worker.
    pass(&mut gateway, 100, &[(0, "a"), (1, "b")]);
    assert!(call(&mut gateway, 0, "c", OK));
    assert!(!has_breaker(&gateway, "c"));
}

#[test]
fn a_scope_that_found_no_place_gets_one_later() {
    let mut gateway = Gateway::new(1, TWO);
    for scope in ["a", "b", "c"] {
        assert!(call(&mut gateway, 0, scope, OK));
    }
    pass(&mut gateway, 55, &[(0, "b"), (0, "c")]);
    assert!(!has_breaker(&gateway, "c"));
    pass(&mut gateway, 8, &[(0, "b"), (0, "c")]);
    assert!(has_breaker(&gateway, "c"));
    for _ in 0..5 {
        assert!(call(&mut gateway, 0, "c", End::Reset));
    }
    assert!(!call(&mut gateway, 0, "c", OK));
    assert!(call(&mut gateway, 0, "b", OK));
}

#[test]
fn a_new_configuration_is_no_call() {
    let mut gateway = Gateway::new(1, TWO);
    for scope in ["a", "b"] {
        assert!(call(&mut gateway, 0, scope, OK));
    }
    for place in 1..=8 {
        pass(&mut gateway, 8, &[(0, "b")]);
        let newer = TWO.replace("true,", &format!("true, {}", " ".repeat(place)));
        let id = u32::try_from(1000 + place).unwrap();
        gateway.workers[0].configure(id, &newer);
        gateway.workers[0].contexts.on_tick(id);
        gateway.workers[0].contexts.on_tick(FILTER);
    }
    assert!(call(&mut gateway, 0, "c", OK));
    assert!(has_breaker(&gateway, "c"));
}

#[test]
fn a_worker_that_still_knows_the_old_scope_learns_that_it_has_lost_its_place() {
    let mut gateway = with_an_idle_scope(2);
    assert!(call(&mut gateway, 1, "c", OK));
    assert!(has_breaker(&gateway, "c"));
    // Its breaker there is one of its own still, for some moments.
    for _ in 0..5 {
        assert!(call(&mut gateway, 0, "a", End::Reset));
    }
    assert!(!call(&mut gateway, 0, "a", OK));
    pass(&mut gateway, 1, &[(0, "b"), (1, "c")]);
    assert!(call(&mut gateway, 0, "a", OK), "by the service's breaker");
    assert_eq!(over_limit(&gateway), 1);
}

#[test]
fn places_are_given_away_a_few_times_only() {
    let mut gateway = Gateway::new(1, TWO);
    for scope in 0..40 {
        assert!(call(&mut gateway, 0, &format!("s{scope}"), OK));
        pass(&mut gateway, 61, &[]);
    }
    let names = gateway.metric_names();
    let states = names
        .iter()
        .filter(|name| name.starts_with("circuit_breaker_state.service.auth.scope."));
    assert_eq!(states.count(), 4 * 2);
}
