//! Starting, stopping and handing over to another process, without systemd and as systemd does it.
#![allow(missing_docs)]

mod real_systemd;
mod reload;
mod systemd;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use levee_harness::address::free_address;
use levee_harness::clock::Stopwatch;
use levee_harness::process::Signal;
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::{Config, Sidecar, Start};
use levee_harness::wait::GENEROUS;
use redis::Commands;

/// Less than `stop_within`, with a margin for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

fn upstream(listen: SocketAddr, redis: &Redis) -> String {
    format!(
        "redis: [{{name: x, listen: '{listen}', upstream: 'redis://{}'}}]\n",
        redis.address
    )
}

fn take_over() -> Start {
    Start {
        arguments: vec!["--take-over".to_owned()],
        ..Start::default()
    }
}

/// What a client of the library `redis` saw.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    commands: AtomicU64,
}

/// A service that connects for each command, until it is over. Any error fails it.
fn connect_each_time(address: SocketAddr, seen: &Seen) {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    while !seen.over.load(Ordering::SeqCst) {
        let mut connection = client.get_connection().expect("it can connect");
        let _: i64 = connection.incr("short", 1).expect("a reply");
        seen.commands.fetch_add(1, Ordering::SeqCst);
    }
}

/// A service with a connection that reconnects by itself. It tries a command again whose connection ended, as the library
/// advises for commands that may be repeated; a refused connection fails it.
async fn keep_a_connection(address: SocketAddr, seen: Arc<Seen>) {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    let mut connection = client.get_connection_manager().await.unwrap();
    let mut number = 0_i64;
    while !seen.over.load(Ordering::SeqCst) {
        number += 1;
        let mut attempts = 0;
        loop {
            let mut set = redis::cmd("SET");
            set.arg("long").arg(number);
            match set.query_async::<()>(&mut connection).await {
                Ok(()) => break,
                Err(error) => {
                    assert!(!error.is_connection_refusal(), "{error}");
                    attempts += 1;
                    assert!(attempts < 3, "{error}");
                }
            }
        }
        seen.commands.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until each has had `by` further replies.
fn wait_for_progress(all: &[&Seen], by: u64) {
    let had = |seen: &&Seen| seen.commands.load(Ordering::SeqCst);
    let wanted: Vec<u64> = all.iter().map(|seen| had(seen) + by).collect();
    let is_behind = || {
        all.iter()
            .map(had)
            .zip(&wanted)
            .any(|(had, wanted)| had < *wanted)
    };
    let clock = Stopwatch::start();
    while is_behind() {
        assert!(clock.elapsed() < GENEROUS, "the clients got no further");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn clients_see_no_refused_connection_while_another_process_takes_over() {
    let redis = Redis::start().unwrap();
    let address = free_address().unwrap();
    let config = Config::new(upstream(address, &redis));
    let mut old = Sidecar::start_with(&config, &Start::default()).unwrap();
    let (short, long) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut clients = Vec::new();
    for _ in 0..4 {
        let seen = short.clone();
        clients.push(thread::spawn(move || connect_each_time(address, &seen)));
        let seen = long.clone();
        clients.push(thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(keep_a_connection(address, seen));
        }));
    }
    let progress = |by: u64| wait_for_progress(&[&short, &long], by);
    progress(100);
    for _ in 0..5 {
        let new = Sidecar::start_with(&config, &take_over()).unwrap();
        progress(50);
        old.terminate();
        assert_eq!(old.wait(GENEROUS).expect("it ends").code(), Some(0));
        progress(50);
        old = new;
    }
    short.over.store(true, Ordering::SeqCst);
    long.over.store(true, Ordering::SeqCst);
    for client in clients {
        client
            .join()
            .expect("a client without a refused connection");
    }
}

#[test]
fn an_address_in_use_is_an_error_unless_it_is_taken_over() {
    let redis = Redis::start().unwrap();
    let address = free_address().unwrap();
    let config = Config::new(upstream(address, &redis));
    let _old = Sidecar::start_with(&config, &Start::default()).unwrap();
    let error = Sidecar::start_with(&config, &Start::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("x can't listen on"), "{error}");
}

#[test]
fn blocked_clients_and_subscribers_are_ended_at_once_at_a_stop() {
    let redis = Redis::start().unwrap();
    let mut sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut blocked: Vec<Client> = [
        "BLPOP queue 0",
        "XREAD BLOCK 0 STREAMS s $",
        "BLPOP queue 600",
    ]
    .map(|command| {
        let mut client = sidecar.client().unwrap();
        client.command(command);
        client
    })
    .into();
    let mut subscriber = sidecar.client().unwrap();
    assert!(subscriber.ask("SUBSCRIBE news").unwrap().starts_with("*3"));
    sidecar
        .wait_for("the commands", |s| {
            s.state().unwrap()["attempts_in_flight"] == 3
        })
        .unwrap();
    let waited = Stopwatch::start();
    sidecar.terminate();
    assert_eq!(sidecar.wait(GENEROUS).expect("it ends").code(), Some(0));
    assert!(waited.elapsed() < AT_ONCE, "{:?}", waited.elapsed());
    blocked.push(subscriber);
    for client in &mut blocked {
        assert!(client.is_closed().unwrap());
    }
    // Nobody is left who would take it in vain.
    let mut direct = redis.client().unwrap();
    direct.ask("RPUSH queue job").unwrap();
    assert_eq!(direct.ask("LLEN queue").unwrap(), ":1\r\n");
}

#[test]
fn what_a_blocked_client_gets_just_before_a_stop_is_not_lost() {
    let redis = Redis::start().unwrap();
    for round in 0..20 {
        let mut sidecar = Sidecar::before(redis.address, "").unwrap();
        let mut blocked = sidecar.client().unwrap();
        blocked.command("BLPOP queue 0");
        sidecar
            .wait_for("the command", |s| {
                s.state().unwrap()["attempts_in_flight"] == 1
            })
            .unwrap();
        let mut direct = redis.client().unwrap();
        sidecar.terminate();
        thread::sleep(Duration::from_micros(100 * round));
        direct.ask("RPUSH queue job").unwrap();
        let delivered = blocked.reply().unwrap().is_some();
        let left = direct.ask("LLEN queue").unwrap();
        let wanted = if delivered { ":0\r\n" } else { ":1\r\n" };
        assert_eq!(left, wanted, "delivered: {delivered}");
        direct.ask("DEL queue").unwrap();
    }
}

#[test]
fn a_second_signal_ends_a_stop_at_once() {
    for second in [Signal::Terminate, Signal::Interrupt] {
        let mut redis = Redis::start().unwrap();
        let yaml = format!(
            "stop_within: 10m\nredis: [{{name: x, listen: '127.0.0.1:0', upstream: 'redis://{}', deadline: 10m}}]\n",
            redis.address
        );
        let mut sidecar = Sidecar::start(&yaml).unwrap();
        let mut client = sidecar.client().unwrap();
        redis.signal(Signal::Stop).unwrap();
        client.command("GET a");
        sidecar
            .wait_for("the command", |s| {
                s.state().unwrap()["attempts_in_flight"] == 1
            })
            .unwrap();
        sidecar.terminate();
        sidecar.wait_for_log("stopping").unwrap();
        let waited = Stopwatch::start();
        sidecar.signal(second);
        assert_eq!(sidecar.wait(GENEROUS).expect("it ends").code(), Some(0));
        assert!(waited.elapsed() < AT_ONCE, "{:?}", waited.elapsed());
        assert!(sidecar.log().contains("by a second signal"));
    }
}
