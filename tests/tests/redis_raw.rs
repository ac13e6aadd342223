//! MONITOR and replication: sessions that only pass bytes on. What CLIENT REPLY does is compared in `redis_faithful.rs`.
#![allow(missing_docs)]

use levee_harness::process::Signal;
use levee_harness::redis::Redis;
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::{GENEROUS, until_blocking};

#[test]
fn a_monitor_sees_commands_of_others_until_its_reset_and_then_is_a_client() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "deadline: 300ms").unwrap();
    let mut direct = redis.client().unwrap();
    let mut monitor = sidecar.client().unwrap();
    assert_eq!(monitor.ask("SELECT 3").unwrap(), "+OK\r\n");
    assert_eq!(monitor.ask("MONITOR").unwrap(), "+OK\r\n");
    // Longer than any deadline.
    std::thread::sleep(std::time::Duration::from_millis(500));
    for number in 0..3 {
        direct.ask(&format!("SET seen {number}")).unwrap();
        // It also hears of Levee's own checks, now and then.
        let mut lines = std::iter::from_fn(|| monitor.reply().unwrap());
        let line = lines.find(|line| {
            !["\"RESET\"\r\n", "\"PING\"\r\n"]
                .iter()
                .any(|own| line.ends_with(own))
        });
        let line = line.unwrap();
        assert!(
            line.ends_with(&format!("\"SET\" \"seen\" \"{number}\"\r\n")),
            "{line}"
        );
    }
    assert!(monitor.command("RESET"));
    let mut lines = std::iter::from_fn(|| monitor.reply().unwrap());
    assert!(lines.any(|line| line == "+RESET\r\n"));
    assert_eq!(
        monitor.ask("GET seen").unwrap(),
        "$1\r\n2\r\n",
        "of database 0"
    );
    // It is repeated again where its connection is lost.
    direct.ask("CLIENT KILL TYPE normal SKIPME yes").unwrap();
    assert_eq!(monitor.ask("GET seen").unwrap(), "$1\r\n2\r\n");
}

#[test]
fn a_replica_follows_its_master_through_levee() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "deadline: 300ms").unwrap();
    let mut direct = redis.client().unwrap();
    let value = "v".repeat(100_000);
    for number in 0..30 {
        direct.ask(&format!("SET {number} {value}")).unwrap();
    }
    let port = sidecar.address().unwrap().port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).unwrap();
    let follows = |wanted: &str| {
        until_blocking("the replica to follow", GENEROUS, || {
            let seen = replica.client().unwrap().ask("GET last").unwrap();
            if seen == format!("${}\r\n{wanted}\r\n", wanted.len()) {
                Ok(())
            } else {
                Err(seen)
            }
        })
        .unwrap();
    };
    direct.ask("SET last one").unwrap();
    follows("one");
    assert_eq!(replica.client().unwrap().ask("DBSIZE").unwrap(), ":31\r\n");
    direct.ask("SET last two").unwrap();
    follows("two");
    // Its master hears of it, too.
    let waited = direct.ask("WAIT 1 5000").unwrap();
    assert_eq!(waited, ":1\r\n");
    // A pause that is longer than the deadline ends nothing.
    redis.signal(Signal::Stop).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(600));
    redis.signal(Signal::Continue).unwrap();
    direct.ask("SET last three").unwrap();
    follows("three");
    let info = direct.ask("INFO stats").unwrap();
    assert!(info.contains("sync_full:1\r\n"), "{info}");
}

#[test]
fn what_a_silent_client_sent_before_it_left_is_executed() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    for address in [redis.address, sidecar.address().unwrap()] {
        let mut client = levee_harness::redis::Client::connect(address).unwrap();
        let commands = "INCR sent\r\n".repeat(10_000);
        assert!(client.send(format!("CLIENT REPLY OFF\r\n{commands}").as_bytes()));
    }
    until_blocking("all to be executed", GENEROUS, || {
        let seen = redis.client().unwrap().ask("GET sent").unwrap();
        if seen == "$5\r\n20000\r\n" {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .unwrap();
    // And their connections are closed.
    sidecar
        .wait_for("the end of the client", |s| {
            s.state().unwrap()["connections"]["open"] == 0
        })
        .unwrap();
}

#[test]
fn a_stop_of_the_process_ends_monitors() {
    let redis = Redis::start().unwrap();
    let mut sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut monitor = sidecar.client().unwrap();
    assert_eq!(monitor.ask("MONITOR").unwrap(), "+OK\r\n");
    sidecar.terminate();
    // It may hear of Levee's own PING before.
    while monitor.reply().unwrap().is_some() {}
}
