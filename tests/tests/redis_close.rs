//! How fast the connections of clients end that don't close by themselves.
#![allow(missing_docs)]

use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;

#[test]
fn idle_clients_that_do_not_close_do_not_hold_a_restart_back() {
    let redis = Redis::start().unwrap();
    let mut sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut clients: Vec<Client> = (0..50).map(|_| sidecar.client().unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    }
    let waited = Stopwatch::start();
    sidecar.terminate();
    assert_eq!(sidecar.wait(GENEROUS).expect("it ends").code(), Some(0));
    // Those that are younger than 250 ms could still send their first command.
    assert!(
        waited.elapsed() < Duration::from_millis(800),
        "{:?}",
        waited.elapsed()
    );
    for client in &mut clients {
        assert!(client.is_closed().unwrap());
    }
}

#[test]
fn after_a_protocol_error_the_connection_ends_soon_and_the_error_arrives() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    let waited = Stopwatch::start();
    assert!(client.send(b"*x\r\n"));
    // It reads nothing, and sends on.
    while client.send(b"payload\r\n") && waited.elapsed() < GENEROUS {
        thread::yield_now();
    }
    assert!(
        waited.elapsed() < Duration::from_millis(500),
        "{:?}",
        waited.elapsed()
    );
    assert_eq!(
        client.reply().unwrap().as_deref(),
        Some("-ERR Protocol error: invalid multibulk length\r\n")
    );
    assert!(client.is_closed().unwrap());
}
