//! Too many clients, too many bytes, or invalid protocol: a clear error, and bounded memory.
#![allow(missing_docs)]

use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::redis::{Client, Redis};
use levee_harness::relay::answering;
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;

#[test]
fn more_clients_than_the_limit_are_told_so_and_the_others_go_on() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "limits: {connections: 10, idle: 1s}").unwrap();
    let mut clients: Vec<Client> = (0..10).map(|_| sidecar.client().unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    }
    let mut over = sidecar.client().unwrap();
    assert_eq!(
        over.reply().unwrap().as_deref(),
        Some("-ERR max number of clients reached\r\n")
    );
    assert!(over.is_closed().unwrap());
    assert_eq!(clients[0].ask("PING").unwrap(), "+PONG\r\n");
    assert_eq!(
        sidecar
            .metric("redis_proxy_connections_refused_total{reason=\"limit\",upstream=\"x\"}")
            .unwrap(),
        1
    );
    // An idle client loses its place to others.
    for client in &mut clients {
        assert!(client.is_closed().unwrap());
    }
    sidecar
        .wait_for("free places", |s| {
            s.state().unwrap()["connections"]["open"] == 0
        })
        .unwrap();
    assert_eq!(sidecar.client().unwrap().ask("PING").unwrap(), "+PONG\r\n");
}

#[test]
fn the_upstreams_own_limit_is_told_word_for_word() {
    let redis = Redis::start_with(&["--maxclients", "5"]).unwrap();
    let mut direct = Vec::new();
    let waited = Stopwatch::start();
    while direct.len() < 5 {
        // The connection that waited for Redis to start may not be closed yet.
        let mut client = redis.client().unwrap();
        if client.ask("PING").unwrap() == "+PONG\r\n" {
            direct.push(client);
        }
        assert!(waited.elapsed() < GENEROUS);
    }
    let sidecar = Sidecar::before(redis.address, "deadline: 500ms").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(
        client.ask("INCR a").unwrap(),
        "-ERR max number of clients reached\r\n"
    );
    drop(direct);
    // The connection is kept, and works as soon as a place is free.
    let waited = Stopwatch::start();
    while client.ask("INCR a").unwrap() != ":1\r\n" {
        assert!(waited.elapsed() < GENEROUS);
    }
}

#[test]
fn large_values_pass_as_they_are_and_are_not_held() {
    const LENGTH: usize = 64 << 20;
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "deadline: 20s").unwrap();
    let before = sidecar.resident_kib().unwrap();
    let mut client = sidecar.client().unwrap();
    let value: Vec<u8> = (0..LENGTH).map(|at| b"levee"[at * at % 5]).collect();
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${LENGTH}\r\n").as_bytes());
    client.send(&value);
    client.send(b"\r\n");
    assert_eq!(client.reply().unwrap().as_deref(), Some("+OK\r\n"));
    let reply = client.ask("GET a").unwrap().into_bytes();
    let head = format!("${LENGTH}\r\n").len();
    assert!(
        reply[head..head + LENGTH] == value[..],
        "the value came back changed"
    );
    // Replies to a client that does not read are not buffered without limit either.
    for _ in 0..4 {
        client.command("GET a");
    }
    thread::sleep(Duration::from_millis(500));
    let grown = sidecar.resident_kib().unwrap().saturating_sub(before);
    assert!(
        grown < 8 * 1024,
        "{grown} kB for values of {} kB",
        LENGTH / 1024
    );
}

#[test]
fn whatever_clients_send_ends_in_an_error_or_a_closed_connection_and_little_memory() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let before = sidecar.resident_kib().unwrap();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = levee_policy::random::SplitMix64::new(seed);
    let noise = (0..200).map(|_| {
        let length = random.next_u64() % 3000;
        (0..length)
            .map(|_| random.next_u64().to_le_bytes()[0])
            .collect()
    });
    let mut all: Vec<Vec<u8>> = noise.collect();
    all.push(b"*1\r\n".repeat(1_000_000));
    for bytes in [
        &b"*1\r\n$9223372036854775808\r\n"[..],
        b"*9223372036854775808\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n",
        b"*3\r\n$3\r\nSET\r\n$1",
        b"*-1\r\n*0\r\n$5\r\n",
    ] {
        all.push(bytes.to_vec());
    }
    for bytes in &all {
        // The connection may be closed before all is read.
        Client::connect(sidecar.address().unwrap())
            .unwrap()
            .send(bytes);
    }
    for (bytes, text) in [
        (
            &b"*1\r\n$9223372036854775808\r\n"[..],
            "Protocol error: invalid bulk length",
        ),
        (b"*1\r\n*1\r\n", "Protocol error: expected '$', got '*'"),
        (
            b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n",
            "command_bytes",
        ),
    ] {
        let mut client = sidecar.client().unwrap();
        client.send(bytes);
        let reply = client.reply().unwrap().unwrap_or_default();
        assert!(
            reply.starts_with("-ERR ") && reply.contains(text),
            "{reply}"
        );
        assert!(client.is_closed().unwrap());
    }
    assert_eq!(sidecar.client().unwrap().ask("PING").unwrap(), "+PONG\r\n");
    let grown = sidecar.resident_kib().unwrap().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} kB");
    assert!(!sidecar.log().contains("panicked"));
}

#[test]
fn whatever_an_upstream_sends_ends_in_an_error_or_a_closed_connection_and_little_memory() {
    let evil = [
        b"$9223372036854775807\r\n".to_vec(),
        b"*9223372036854775807\r\n".to_vec(),
        b"?\r\n".to_vec(),
        b"*4294967296\r\n".repeat(1000),
        b"*1\r\n".repeat(1_000_000),
        b"$536870912\r\nhalf".to_vec(),
    ];
    let count = evil.len();
    let sidecar = Sidecar::before(
        answering(evil.to_vec()).unwrap(),
        "breaker: {mode: disabled}",
    )
    .unwrap();
    let before = sidecar.resident_kib().unwrap();
    for _ in 0..count {
        let mut client = sidecar.client().unwrap();
        client.command("INCR a");
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes, b"-ERR levee: ");
    }
    let grown = sidecar.resident_kib().unwrap().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} kB");
    assert!(!sidecar.log().contains("panicked"));
}

#[test]
fn who_has_not_logged_in_is_held_to_the_limits_of_redis() {
    let redis = Redis::start_with(&["--requirepass", "secret"]).unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    // Levee learns it from the first that must log in.
    let reply = sidecar.client().unwrap().ask("GET a").unwrap();
    assert!(reply.starts_with("-NOAUTH"), "{reply}");
    for bytes in [
        &b"*11\r\n"[..],
        b"*2\r\n$3\r\nGET\r\n$16385\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$5\r\nwrong\r\n*11\r\n",
    ] {
        let said = |mut client: Client| {
            client.send(bytes);
            let mut said = Vec::new();
            client.read_to_end(&mut said, b"never");
            String::from_utf8_lossy(&said).into_owned()
        };
        let direct = said(redis.client().unwrap());
        assert!(direct.contains("unauthenticated"), "{direct}");
        assert_eq!(said(sidecar.client().unwrap()), direct);
    }
    let mut client = sidecar.client().unwrap();
    let mut commands =
        b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$20000\r\n".to_vec();
    commands.extend(b"v".repeat(20_000));
    commands.extend(b"\r\n");
    client.send(&commands);
    for _ in 0..2 {
        assert_eq!(client.reply().unwrap().as_deref(), Some("+OK\r\n"));
    }
}
