//! Breakers in shared data, with several workers.

mod fake;

use fake::Gateway;
use levee_filter::host::Host;
use levee_filter::shared::{BreakerId, List, breakers, change, read, take_turn_to_check};
use levee_policy::breaker::{Breaker, BreakerSettings, Outcome, Verdict};
use levee_policy::time::Instant;
use std::time::Duration;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

/// The breaker of a service, found or created.
fn find_or_create<H: Host>(host: &H, service: &str, settings: &BreakerSettings) -> BreakerId {
    levee_filter::shared::find_or_create(host, List::Services, service, settings, 10, NOW)
        .unwrap()
        .id
}

fn fail_once(breaker: &mut Breaker) {
    let settings = BreakerSettings::default();
    let (Verdict::Admit(permit), _) = breaker.admit(&settings, NOW) else {
        return;
    };
    breaker.record(&settings, permit, Outcome::FAILURE, NOW, 0);
}

#[test]
fn workers_that_meet_a_service_at_the_same_time_share_one_breaker_and_lose_nothing() {
    let gateway = Gateway::new(2, "");
    let settings = BreakerSettings::default();
    let (first, second) = (
        gateway.workers[0].host.clone(),
        gateway.workers[1].host.clone(),
    );
    first.interrupt_before_writing("levee/5/services", move || {
        let id = find_or_create(&second, "auth", &settings);
        change(&second, id, &settings, NOW, fail_once).unwrap();
    });
    let id = find_or_create(&first, "auth", &settings);
    let second = &gateway.workers[1].host;
    assert_eq!(find_or_create(second, "auth", &settings), id);
    let mut expected = Breaker::new(&settings, NOW);
    fail_once(&mut expected);
    assert_eq!(read(&first, id, &settings, NOW), expected);
}

#[test]
fn an_overtaken_change_is_repeated_on_the_newer_breaker() {
    let gateway = Gateway::new(2, "");
    let settings = BreakerSettings::default();
    let (first, second) = (
        gateway.workers[0].host.clone(),
        gateway.workers[1].host.clone(),
    );
    let id = find_or_create(&first, "auth", &settings);
    let keys = first.shared_keys();
    let key: &'static str = keys
        .into_iter()
        .find(|key| key.starts_with("levee/5/breaker/"))
        .unwrap()
        .leak();
    first.interrupt_before_writing(key, move || {
        change(&second, id, &settings, NOW, fail_once).unwrap();
    });
    change(&first, id, &settings, NOW, fail_once).unwrap();
    let mut expected = Breaker::new(&settings, NOW);
    fail_once(&mut expected);
    fail_once(&mut expected);
    assert_eq!(read(&first, id, &settings, NOW), expected);
}

#[test]
fn nothing_is_written_if_nothing_changed() {
    let mut gateway = Gateway::new(1, "");
    let settings = BreakerSettings::default();
    let host = gateway.workers[0].host.clone();
    let id = find_or_create(&host, "auth", &settings);
    gateway.take_calls(0);
    change(&host, id, &settings, NOW, |_| ()).unwrap();
    assert_eq!(gateway.take_calls(0), ["shared"]);
}

#[test]
fn two_workers_that_meet_scopes_of_a_service_at_the_same_time_list_both() {
    let gateway = Gateway::new(2, "");
    let settings = BreakerSettings::default();
    let [first, second] = [0, 1].map(|worker| gateway.workers[worker].host.clone());
    let list = List::ScopesOf(find_or_create(&first, "auth", &settings));
    let add = move |host: &fake::FakeHost, name: &str, at_most| {
        levee_filter::shared::find_or_create(host, list, name, &settings, at_most, NOW)
    };
    let keys = first.shared_keys();
    let key = keys
        .into_iter()
        .find(|key| key.starts_with("levee/5/scopes/"));
    let key: &'static str = key.expect("it exists before there is a scope").leak();
    first.interrupt_before_writing(key, move || {
        let listed = add(&second, "login", 2).unwrap();
        assert_eq!((listed.among, listed.is_new), (1, true));
    });
    let refresh = add(&first, "refresh", 2).unwrap();
    assert_eq!((refresh.among, refresh.is_new), (2, true));
    let names: Vec<String> = breakers(&first, list)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["login", "refresh"]);
    assert_eq!(add(&first, "profile", 2), None);
    let known = add(&first, "refresh", 2).unwrap();
    assert_eq!((known.id, known.is_new), (refresh.id, false));
}

#[test]
fn the_lists_exist_before_there_are_workers() {
    // A key that does not exist is written without comparing, so these must exist.
    let gateway = Gateway::new(1, "");
    let host = &gateway.workers[0].host;
    assert!(host.shared("levee/5/services").is_some());
    assert!(host.shared("levee/1/workers").is_some());
}

#[test]
fn of_workers_that_see_the_same_turn_to_check_a_service_one_has_it() {
    let gateway = Gateway::new(2, "");
    let [first, second] = [0, 1].map(|worker| gateway.workers[worker].host.clone());
    let id = find_or_create(&first, "auth", &BreakerSettings::default());
    let every = Duration::from_secs(1);
    let keys = first.shared_keys();
    let key = keys
        .into_iter()
        .find(|key| key.starts_with("levee/1/checked/"));
    let key: &'static str = key.expect("it exists before it is used").leak();
    let mut now = NOW;
    for _ in 0..3 {
        let other = second.clone();
        first.interrupt_before_writing(key, move || {
            assert!(take_turn_to_check(&other, id, every, now));
        });
        assert!(!take_turn_to_check(&first, id, every, now));
        assert!(!take_turn_to_check(&first, id, every, now.after(every / 2)));
        now = now.after(every);
    }
    assert!(take_turn_to_check(&first, id, every, now));
}
