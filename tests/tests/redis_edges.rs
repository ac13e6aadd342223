//! Rare combinations of features and failures.
#![allow(missing_docs)]

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::process::Signal;
use levee_harness::redis::Redis;
use levee_harness::relay::Relay;
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;

#[test]
fn what_follows_a_refused_multi_is_no_transaction() {
    let redis = Redis::start().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(relay.address, "retry: {base: 1ms}").unwrap();
    let mut client = sidecar.client().unwrap();
    relay.lose_reply_to("INCR");
    assert!(client.send(b"MULTI x\r\nINCR n\r\n"));
    for _ in 0..2 {
        let reply = client.reply().unwrap().expect("the connection is kept");
        assert!(reply.starts_with("-ERR"), "{reply}");
    }
    assert_eq!(relay.lost(), 1);
    assert_eq!(redis.client().unwrap().ask("GET n").unwrap(), "$1\r\n1\r\n");

    // Nor does a transaction begin later.
    let mut client = sidecar.client().unwrap();
    assert!(client.ask("MULTI x").unwrap().starts_with("-ERR"));
    redis
        .client()
        .unwrap()
        .ask("CLIENT KILL TYPE normal SKIPME yes")
        .unwrap();
    assert_eq!(client.ask("GET n").unwrap(), "$1\r\n1\r\n");
}

#[test]
fn a_watch_outlives_what_ends_no_transaction() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "retry: {base: 1ms}").unwrap();
    let mut direct = redis.client().unwrap();
    for end in ["DISCARD", "EXEC"] {
        let mut client = sidecar.client().unwrap();
        assert_eq!(client.ask("WATCH a").unwrap(), "+OK\r\n");
        assert!(client.ask(end).unwrap().contains("without MULTI"));
        direct.ask("SET a other").unwrap();
        direct.ask("CLIENT KILL TYPE normal SKIPME yes").unwrap();
        for command in ["MULTI", "SET a mine", "EXEC"] {
            client.ask(command).unwrap();
        }
        assert_eq!(direct.ask("GET a").unwrap(), "$5\r\nother\r\n", "{end}");
    }
}

#[test]
fn a_write_past_its_deadline_says_that_its_fate_is_unknown() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "deadline: 300ms").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    redis.signal(Signal::Stop).unwrap();
    let (write, read) = (client.ask("SET a 1").unwrap(), client.ask("GET a").unwrap());
    redis.signal(Signal::Continue).unwrap();
    assert!(
        write.contains("may or may not have been executed"),
        "{write}"
    );
    assert!(!read.contains("may or may not"), "{read}");
}

#[test]
fn a_stream_that_is_called_block_blocks_nothing() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "deadline: 300ms").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    redis.signal(Signal::Stop).unwrap();
    let reply = client.ask("XREAD STREAMS block 0").unwrap();
    redis.signal(Signal::Continue).unwrap();
    assert!(reply.contains("no answer"), "{reply}");
}

#[test]
fn what_would_undo_others_writes_is_not_repeated() {
    let redis = Redis::start().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(relay.address, "retry: {base: 1ms}").unwrap();
    let mut client = sidecar.client().unwrap();
    for line in ["EXPIRE a 100", "MSET a 1", "SETRANGE a 0 x", "DEL a"] {
        assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");
        let (word, _) = line.split_once(' ').unwrap();
        relay.lose_reply_to(word);
        let reply = client.ask(line).unwrap();
        let is_unsure = reply.contains("may or may not have been executed");
        assert!(is_unsure, "{line}: {reply}");
    }
}

#[test]
fn a_set_whose_reply_was_lost_undoes_nothing() {
    let redis = Redis::start().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(relay.address, "retry: {base: 300ms}").unwrap();
    let mut direct = redis.client().unwrap();
    let mut client = sidecar.client().unwrap();
    for line in ["SET a old", "SETEX a 100 old", "PSETEX a 100000 old"] {
        // Nobody else writes.
        let (word, _) = line.split_once(' ').unwrap();
        relay.lose_reply_to(word);
        assert_eq!(client.ask(line).unwrap(), "+OK\r\n", "{line}");

        relay.lose_reply_to(word);
        assert!(client.command(line));
        let lost = 2 * relay.lost().div_ceil(2);
        let waited = Stopwatch::start();
        while relay.lost() < lost {
            assert!(waited.elapsed() < GENEROUS);
        }
        assert_eq!(direct.ask("SET a new").unwrap(), "+OK\r\n");
        let reply = client.reply().unwrap().unwrap();
        assert!(
            reply.contains("its key holds something else by now"),
            "{reply}"
        );
        assert!(
            reply.contains("may or may not have been executed"),
            "{reply}"
        );
        assert_eq!(direct.ask("GET a").unwrap(), "$3\r\nnew\r\n");
        direct.ask("DEL a").unwrap();
    }
}

#[test]
fn a_replica_says_that_it_takes_no_writes_after_as_many_attempts_as_there_may_be() {
    let redis = Redis::start_with(&["--replicaof", "127.0.0.1", "1"]).unwrap();
    let sidecar = Sidecar::before(redis.address, "retry: {base: 1ms, max: 1ms}").unwrap();
    let mut client = sidecar.client().unwrap();
    for count in 1..=3 {
        assert!(client.ask("SET a 1").unwrap().starts_with("-READONLY "));
        assert_eq!(
            sidecar.metric("redis_retry_total{upstream=\"x\"}").unwrap(),
            2 * count
        );
    }
    assert_eq!(client.ask("GET a").unwrap(), "$-1\r\n");
}

#[test]
fn a_client_that_leaves_takes_nothing_with_it() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    for _ in 0..20 {
        let mut client = sidecar.client().unwrap();
        client.command("BLPOP queue 0");
        sidecar
            .wait_for("the command", |s| {
                s.state().unwrap()["attempts_in_flight"] == 1
            })
            .unwrap();
    }
    let mut direct = redis.client().unwrap();
    sidecar
        .wait_for("their connections to end", |_| {
            !direct.ask("CLIENT LIST").unwrap().contains("cmd=blpop")
        })
        .unwrap();
    direct.ask("LPUSH queue job").unwrap();
    assert_eq!(direct.ask("LLEN queue").unwrap(), ":1\r\n");
}

#[test]
fn very_many_very_small_commands_are_not_all_taken_in() {
    const CLIENTS: usize = 8;
    let mut redis = Redis::start().unwrap();
    let sidecar =
        Sidecar::before(redis.address, "breaker: {mode: disabled}\ndeadline: 20s").unwrap();
    let before = sidecar.resident_kib().unwrap();
    redis.signal(Signal::Stop).unwrap();
    let address = sidecar.address().unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                let mut client = TcpStream::connect(address).expect("connect");
                client
                    .set_write_timeout(Some(Duration::from_secs(1)))
                    .expect("set an option of a socket");
                let commands = b"*1\r\n$1\r\nA\r\n".repeat(10_000);
                let taken = Stopwatch::start();
                // Until the socket accepts no more.
                while client.write_all(&commands).is_ok() {
                    assert!(taken.elapsed() < Duration::from_secs(15));
                }
                client
            })
        })
        .collect();
    let clients: Vec<_> = clients
        .into_iter()
        .map(|client| client.join().expect("a client that is held up"))
        .collect();
    let grown = sidecar.resident_kib().unwrap().saturating_sub(before);
    println!("{grown} kB for {} clients", clients.len());
    assert!(grown < CLIENTS as u64 * 4 * 1024, "{grown} kB");
    redis.signal(Signal::Continue).unwrap();
}
