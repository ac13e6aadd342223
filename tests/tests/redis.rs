//! What the Redis proxy promises, with a real Redis.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use levee_harness::redis::{Client, Redis};
use levee_harness::relay::{Relay, answering};
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;

#[test]
fn writes_whose_reply_is_lost_are_never_applied_twice_and_reads_succeed() {
    const ROUNDS: usize = 250;
    let redis = Redis::start().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(
        relay.address,
        "retry: {base: 1ms, max: 2ms}\nbudget: {per_second: 1000}\nbreaker: {mode: disabled}",
    )
    .unwrap();
    let mut client = sidecar.client().unwrap();
    for round in 0..ROUNDS {
        for (lost, command) in [
            ("INCR", "INCR counter".to_owned()),
            ("LPUSH", "LPUSH list v".to_owned()),
            ("SET", format!("SET once{round} v NX")),
        ] {
            relay.lose_reply_to(lost);
            let reply = client.ask(&command).unwrap();
            assert!(
                reply.contains("may or may not have been executed"),
                "{command}: {reply}"
            );
        }
        assert_eq!(client.ask("MULTI").unwrap(), "+OK\r\n");
        assert_eq!(client.ask("INCR transaction").unwrap(), "+QUEUED\r\n");
        relay.lose_reply_to("EXEC");
        let reply = client.ask("EXEC").unwrap();
        assert!(
            reply.contains("may or may not have been executed"),
            "{reply}"
        );

        // A connection that never answered would be no attempt.
        assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
        relay.lose_reply_to("GET");
        assert!(client.ask("GET counter").unwrap().starts_with('$'));
        relay.lose_reply_to("SET");
        assert_eq!(client.ask(&format!("SET k{round} v")).unwrap(), "+OK\r\n");
    }
    let mut direct = redis.client().unwrap();
    let digits = ROUNDS.to_string().len();
    assert_eq!(
        direct.ask("GET counter").unwrap(),
        format!("${digits}\r\n{ROUNDS}\r\n")
    );
    assert_eq!(
        direct.ask("GET transaction").unwrap(),
        format!("${digits}\r\n{ROUNDS}\r\n")
    );
    assert_eq!(direct.ask("LLEN list").unwrap(), format!(":{ROUNDS}\r\n"));
    assert_eq!(relay.lost(), 6 * ROUNDS as u64);
    assert_eq!(
        sidecar.metric("redis_retry_total{upstream=\"x\"}").unwrap(),
        2 * ROUNDS as u64
    );
}

#[test]
fn replies_that_say_not_executed_are_tried_again_whatever_the_command() {
    for word in [
        "LOADING",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "READONLY",
    ] {
        let no = format!("-{word} not now\r\n").into_bytes();
        let upstream = answering(vec![no.clone(), no, b":1\r\n".to_vec()]).unwrap();
        let sidecar = Sidecar::before(upstream, "retry: {base: 1ms, max: 2ms}").unwrap();
        assert_eq!(
            sidecar.client().unwrap().ask("INCR a").unwrap(),
            ":1\r\n",
            "{word}"
        );
    }
}

#[test]
fn a_clients_state_survives_its_upstream_connection() {
    let redis = Redis::start_with(&["--requirepass", "secret"]).unwrap();
    let sidecar = Sidecar::before(
        redis.address,
        "retry: {base: 1ms}\nlimits: {spare_connections: 0}",
    )
    .unwrap();
    let mut client = sidecar.client().unwrap();
    assert!(client.ask("GET a").unwrap().starts_with("-NOAUTH"));
    assert!(
        client
            .ask("HELLO 3 AUTH default secret SETNAME me")
            .unwrap()
            .starts_with('%')
    );
    assert_eq!(client.ask("SELECT 5").unwrap(), "+OK\r\n");
    assert_eq!(client.ask("SET only-in-5 v").unwrap(), "+OK\r\n");
    let mut direct = redis.client().unwrap();
    direct.ask("AUTH secret").unwrap();
    assert_eq!(
        direct.ask("CLIENT KILL TYPE normal SKIPME yes").unwrap(),
        ":1\r\n"
    );
    assert_eq!(client.ask("GET only-in-5").unwrap(), "$1\r\nv\r\n");
    assert_eq!(client.ask("CLIENT GETNAME").unwrap(), "$2\r\nme\r\n");
    assert!(
        client.ask("HGETALL none").unwrap().starts_with('%'),
        "RESP3 has maps"
    );
}

#[test]
fn what_can_not_be_made_anew_ends_with_its_upstream_connection() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    for commands in [
        &["WATCH a"][..],
        &["MULTI", "INCR a"],
        &["SUBSCRIBE a"],
        &["HELLO 3", "SUBSCRIBE a"],
        &["HELLO 3", "CLIENT TRACKING ON"],
    ] {
        let mut client = sidecar.client().unwrap();
        for command in commands {
            assert!(!client.ask(command).unwrap().starts_with('-'), "{command}");
        }
        redis.stop();
        assert!(client.is_closed().unwrap(), "{commands:?}");
        redis.start_again().unwrap();
    }
    assert_eq!(redis.client().unwrap().ask("GET a").unwrap(), "$-1\r\n");
}

#[test]
fn messages_and_pushes_pass_through() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let (mut two, mut three) = (sidecar.client().unwrap(), sidecar.client().unwrap());
    assert_eq!(
        two.ask("SUBSCRIBE news").unwrap(),
        "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
    );
    three.ask("HELLO 3").unwrap();
    assert!(three.ask("SUBSCRIBE news").unwrap().starts_with(">3\r\n"));
    assert_eq!(
        sidecar.client().unwrap().ask("PUBLISH news hello").unwrap(),
        ":2\r\n"
    );
    assert_eq!(
        two.reply().unwrap().as_deref(),
        Some("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")
    );
    assert_eq!(
        three.reply().unwrap().as_deref(),
        Some(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")
    );
    assert_eq!(three.ask("SET a 1").unwrap(), "+OK\r\n");
}

#[test]
fn what_would_break_the_order_of_replies_is_refused_where_that_is_asked_for() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "raw: refuse").unwrap();
    let mut client = sidecar.client().unwrap();
    for command in [
        "MONITOR",
        "SYNC",
        "PSYNC ? -1",
        "CLIENT REPLY OFF",
        "REPLCONF x y",
    ] {
        let reply = client.ask(command).unwrap();
        assert!(reply.starts_with("-ERR levee: "), "{command}: {reply}");
    }
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    assert!(client.send(b"SET a \"b c\"\r\n\r\nGET a\r\nQUIT\r\n"));
    let replies: Vec<_> = (0..3).filter_map(|_| client.reply().unwrap()).collect();
    assert_eq!(replies, ["+OK\r\n", "$3\r\nb c\r\n", "+OK\r\n"]);
    assert!(client.is_closed().unwrap());
}

#[test]
fn a_stop_under_load_loses_no_reply_that_was_owed() {
    let redis = Redis::start().unwrap();
    let mut sidecar = Sidecar::before(redis.address, "").unwrap();
    let address = sidecar.address().unwrap();
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let answered = answered.clone();
            thread::spawn(move || {
                let mut client = Client::connect(address).unwrap();
                while client.ask("INCR a").unwrap().starts_with(':') {
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut subscriber = sidecar.client().unwrap();
    subscriber.ask("SUBSCRIBE a").unwrap();
    let mut idle = sidecar.client().unwrap();
    idle.ask("PING").unwrap();
    sidecar
        .wait_for_metric(
            "circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}",
            |value| value > 500,
        )
        .unwrap();
    sidecar.terminate();
    for client in clients {
        client.join().expect("a client that ends");
    }
    assert!(subscriber.is_closed().unwrap() && idle.is_closed().unwrap());
    let exit = sidecar
        .wait(Duration::from_secs(15))
        .expect("it ends in time");
    assert_eq!(exit.code(), Some(0));
    let executed = redis.client().unwrap().ask("GET a").unwrap();
    let executed: u64 = executed
        .lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .expect("a number");
    assert_eq!(executed, answered.load(Ordering::SeqCst));
}

#[test]
fn a_stop_takes_no_longer_than_its_bound() {
    let redis = Redis::start().unwrap();
    let mut sidecar = Sidecar::start(&format!(
        "stop_within: 300ms\nredis: [{{name: x, listen: 127.0.0.1:0, upstream: 'redis://{}'}}]\n",
        redis.address
    ))
    .unwrap();
    let mut client = sidecar.client().unwrap();
    client.command("BLPOP none 0");
    sidecar
        .wait_for("the command", |s| {
            s.state().unwrap()["attempts_in_flight"] == 1
        })
        .unwrap();
    sidecar.terminate();
    assert_eq!(sidecar.wait(GENEROUS).expect("it ends").code(), Some(0));
    assert!(client.is_closed().unwrap());
}

#[test]
fn the_admin_interface_says_what_there_is() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    sidecar.client().unwrap().ask("PING").unwrap();
    assert_eq!(sidecar.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    let (status, body) = sidecar.get("/readyz").unwrap();
    assert_eq!(
        (status, body.contains("\"redis/x\":\"ready\"")),
        (200, true),
        "{body}"
    );
    let state = sidecar.state().unwrap();
    assert_eq!(state["upstream"], format!("redis://{}", redis.address));
    assert_eq!(state["connections"]["limit"], 1000);
    assert!(
        sidecar
            .metric("redis_proxy_bytes_total{direction=\"to_redis\",upstream=\"x\"}")
            .unwrap()
            > 0
    );
    assert_eq!(sidecar.get("/nothing").unwrap().0, 404);
}
