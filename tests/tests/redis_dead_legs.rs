//! Connections whose other end is gone without a word, on either side of the proxy, while nothing is said on them.
#![allow(missing_docs)]

use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::redis::{Client, Redis};
use levee_harness::relay::{Relay, Silence};
use levee_harness::sidecar::Sidecar;

/// The shortest that can be set is 3 s. The rest is for a busy machine.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn who_only_waits_is_told_that_redis_is_gone() {
    let redis = Redis::start().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(relay.address, "keepalive: {redis: 3s}").unwrap();
    let (mut subscriber, mut blocked) = (sidecar.client().unwrap(), sidecar.client().unwrap());
    assert!(subscriber.ask("SUBSCRIBE news").unwrap().starts_with("*3"));
    assert!(blocked.command("BLPOP queue 0"));
    sidecar
        .wait_for("BLPOP to wait", |s| {
            s.state().unwrap()["attempts_in_flight"] == 1
        })
        .unwrap();
    relay.silence(Silence::Dropped).unwrap();
    let waited = Stopwatch::start();
    assert!(subscriber.is_closed().unwrap(), "its subscription is lost");
    let error = blocked.reply().unwrap().expect("an error");
    assert!(error.contains("connection lost"), "{error}");
    assert!(waited.elapsed() < SOON, "{:?}", waited.elapsed());
}

#[test]
fn a_client_that_is_gone_without_a_word_frees_its_place() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "keepalive: {clients: 3s}").unwrap();
    let relay = Relay::to(sidecar.address().unwrap()).unwrap();
    let mut silent = Client::connect(relay.address).unwrap();
    assert!(silent.ask("SUBSCRIBE news").unwrap().starts_with("*3"));
    // One that is alive and says as little.
    let mut alive = sidecar.client().unwrap();
    assert_eq!(alive.ask("PING").unwrap(), "+PONG\r\n");
    relay.silence(Silence::Dropped).unwrap();
    let waited = Stopwatch::start();
    sidecar
        .wait_for("a free place", |s| {
            s.state().unwrap()["connections"]["open"] == 1
        })
        .unwrap();
    assert!(waited.elapsed() < SOON, "{:?}", waited.elapsed());
    assert_eq!(alive.ask("PING").unwrap(), "+PONG\r\n");
}

#[test]
fn messages_that_are_not_acknowledged_end_a_client_as_well() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "keepalive: {clients: 3s}").unwrap();
    let relay = Relay::to(sidecar.address().unwrap()).unwrap();
    let mut silent = Client::connect(relay.address).unwrap();
    assert!(silent.ask("SUBSCRIBE news").unwrap().starts_with("*3"));
    relay.silence(Silence::Dropped).unwrap();
    let mut publisher = redis.client().unwrap();
    assert_eq!(publisher.ask("PUBLISH news x").unwrap(), ":1\r\n");
    let waited = Stopwatch::start();
    sidecar
        .wait_for("a free place", |s| {
            s.state().unwrap()["connections"]["open"] == 0
        })
        .unwrap();
    assert!(waited.elapsed() < SOON, "{:?}", waited.elapsed());
}
