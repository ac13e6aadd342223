//! What the Redis proxy promises, with a real Redis.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use levee_tests::clock::Stopwatch;
use levee_tests::process::Signal;
use levee_tests::redis::{Client, Redis, free_address};
use levee_tests::relay::{Dead, Relay, answering};
use levee_tests::sidecar::Sidecar;
use levee_tests::wait::GENEROUS;

/// More than a deadline of 3 s, on a busy machine.
const DEADLINE_AND_SLACK: Duration = Duration::from_secs(8);

/// Clients that read and write as long as they are told to, and note what went wrong.
struct Load {
    running: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<(u64, Vec<String>, Duration)>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let clients = (0..clients)
            .map(|number| {
                let running = running.clone();
                thread::spawn(move || drive(address, number, &running))
            })
            .collect();
        Self { running, clients }
    }

    /// Ends it: how many commands were answered, what went wrong, and the longest time of a round.
    fn end(self) -> (u64, Vec<String>, Duration) {
        self.running.store(false, Ordering::SeqCst);
        let mut all = (0, Vec::new(), Duration::ZERO);
        for client in self.clients {
            let (answered, wrong, longest) = client.join().expect("a client that ends");
            all.0 += answered;
            all.1.extend(wrong);
            all.2 = all.2.max(longest);
        }
        all
    }
}

fn drive(address: SocketAddr, number: usize, running: &AtomicBool) -> (u64, Vec<String>, Duration) {
    let mut client = Client::connect(address);
    let (mut answered, mut wrong, mut longest) = (0, Vec::new(), Duration::ZERO);
    while running.load(Ordering::SeqCst) {
        let key = format!("k{number}");
        // A third of the clients sends pipelines.
        let commands: Vec<String> = if number.is_multiple_of(3) {
            (0..8)
                .flat_map(|_| [format!("SET {key} v"), format!("GET {key}")])
                .collect()
        } else {
            vec![if number % 3 == 1 {
                format!("GET {key}")
            } else {
                format!("SET {key} v")
            }]
        };
        let took = Stopwatch::start();
        for command in &commands {
            client.command(command);
        }
        for _ in &commands {
            match client.reply() {
                Some(reply) if !reply.starts_with('-') => answered += 1,
                Some(reply) => wrong.push(reply),
                None => {
                    wrong.push("closed".to_owned());
                    return (answered, wrong, longest);
                }
            }
        }
        longest = longest.max(took.elapsed());
        thread::sleep(Duration::from_millis(2));
    }
    (answered, wrong, longest)
}

#[test]
fn a_redis_that_is_away_for_600_ms_shows_no_client_an_error() {
    let mut redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "");
    let load = Load::start(sidecar.address(), 30);
    // The budget is a share of the commands: so many pay for 30 clients with their pipelines.
    sidecar.wait_for("traffic", |s| {
        s.metric("circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}") > 4000
    });
    redis.stop();
    thread::sleep(Duration::from_millis(600));
    redis.start_again();
    let before =
        sidecar.metric("circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}");
    sidecar.wait_for("traffic again", |s| {
        s.metric("circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}")
            > before + 500
    });
    let (answered, wrong, longest) = load.end();
    assert!(
        wrong.is_empty(),
        "{} of {answered}: {}",
        wrong.len(),
        wrong[0]
    );
    assert!(
        longest >= Duration::from_millis(500),
        "nobody had to wait: {longest:?}"
    );
    assert!(sidecar.metric("redis_retry_total{upstream=\"x\"}") >= 30);
    assert_eq!(
        sidecar.metric("redis_retry_failed_total{upstream=\"x\"}"),
        0
    );
}

#[test]
fn a_redis_that_is_gone_fails_within_the_deadline_then_at_once_and_works_when_it_is_back() {
    let mut redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "");
    let mut first = sidecar.client();
    assert_eq!(first.ask("SET a 1"), "+OK\r\n");
    redis.stop();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = sidecar.client();
            thread::spawn(move || {
                let took = Stopwatch::start();
                (client.ask("GET a"), took.elapsed())
            })
        })
        .collect();
    for client in clients {
        let (reply, took) = client.join().expect("a client that ends");
        assert!(reply.starts_with("-ERR levee: "), "{reply}");
        assert!(took < DEADLINE_AND_SLACK, "{took:?}");
    }
    assert_eq!(sidecar.state()["breaker"]["state"], "open");
    assert!(sidecar.state()["last_error"]["message"].is_string());
    assert_eq!(
        sidecar.metric("circuit_breaker_state{service=\"redis:x\"}"),
        1
    );
    let fastest = (0..50)
        .map(|_| {
            let took = Stopwatch::start();
            let reply = first.ask("INCR a");
            assert!(
                reply.starts_with("-ERR levee: circuit open for x"),
                "{reply}"
            );
            took.elapsed()
        })
        .min();
    assert!(fastest < Some(Duration::from_millis(5)), "{fastest:?}");

    redis.start_again();
    // A PONG makes it half-open; the next commands are its probes.
    sidecar.wait_for("a health check", |s| {
        s.state()["breaker"]["state"] != "open"
    });
    for _ in 0..10 {
        assert_eq!(first.ask("SET a 2"), "+OK\r\n");
    }
    assert_eq!(sidecar.state()["breaker"]["state"], "closed");
}

#[test]
fn a_redis_that_stands_still_hangs_nobody_past_the_deadline() {
    let mut redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "deadline: 500ms\nbreaker: {mode: disabled}");
    let mut client = sidecar.client();
    assert_eq!(client.ask("SET a 1"), "+OK\r\n");
    redis.signal(Signal::Stop);
    for (command, text) in [
        ("GET a", "no answer from Redis within 500ms"),
        ("INCR a", "may or may not have been executed"),
        ("BLPOP l 1", "no answer"),
    ] {
        let took = Stopwatch::start();
        let reply = client.ask(command);
        assert!(
            reply.starts_with("-ERR levee: ") && reply.contains(text),
            "{command}: {reply}"
        );
        assert!(took.elapsed() < DEADLINE_AND_SLACK);
    }
    redis.signal(Signal::Continue);
    assert_eq!(client.ask("GET a").lines().count(), 2);
}

#[test]
fn blocking_commands_wait_for_as_long_as_they_say() {
    let redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "deadline: 200ms");
    let took = Stopwatch::start();
    assert_eq!(sidecar.client().ask("BLPOP l 1"), "*-1\r\n");
    assert!(took.elapsed() >= Duration::from_millis(900));
    let mut waiting = sidecar.client();
    waiting.command("BLPOP l 0");
    thread::sleep(Duration::from_millis(600));
    redis.client().ask("LPUSH l v");
    assert_eq!(
        waiting.reply().as_deref(),
        Some("*2\r\n$1\r\nl\r\n$1\r\nv\r\n")
    );
}

#[test]
fn writes_whose_reply_is_lost_are_never_applied_twice_and_reads_succeed() {
    const ROUNDS: usize = 250;
    let redis = Redis::start();
    let relay = Relay::to(redis.address);
    let sidecar = Sidecar::before(
        relay.address,
        "retry: {base: 1ms, max: 2ms}\nbudget: {per_second: 1000}\nbreaker: {mode: disabled}",
    );
    let mut client = sidecar.client();
    for round in 0..ROUNDS {
        for (lost, command) in [
            ("INCR", "INCR counter".to_owned()),
            ("LPUSH", "LPUSH list v".to_owned()),
            ("SET", format!("SET once{round} v NX")),
        ] {
            relay.lose_reply_to(lost);
            let reply = client.ask(&command);
            assert!(
                reply.contains("may or may not have been executed"),
                "{command}: {reply}"
            );
        }
        assert_eq!(client.ask("MULTI"), "+OK\r\n");
        assert_eq!(client.ask("INCR transaction"), "+QUEUED\r\n");
        relay.lose_reply_to("EXEC");
        let reply = client.ask("EXEC");
        assert!(
            reply.contains("may or may not have been executed"),
            "{reply}"
        );

        relay.lose_reply_to("GET");
        assert!(client.ask("GET counter").starts_with('$'));
        relay.lose_reply_to("SET");
        assert_eq!(client.ask(&format!("SET k{round} v")), "+OK\r\n");
    }
    let mut direct = redis.client();
    let digits = ROUNDS.to_string().len();
    assert_eq!(
        direct.ask("GET counter"),
        format!("${digits}\r\n{ROUNDS}\r\n")
    );
    assert_eq!(
        direct.ask("GET transaction"),
        format!("${digits}\r\n{ROUNDS}\r\n")
    );
    assert_eq!(direct.ask("LLEN list"), format!(":{ROUNDS}\r\n"));
    assert_eq!(relay.lost(), 6 * ROUNDS as u64);
    assert_eq!(
        sidecar.metric("redis_retry_total{upstream=\"x\"}"),
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
        let upstream = answering(vec![no.clone(), no, b":1\r\n".to_vec()]);
        let sidecar = Sidecar::before(upstream, "retry: {base: 1ms, max: 2ms}");
        assert_eq!(sidecar.client().ask("INCR a"), ":1\r\n", "{word}");
    }
}

#[test]
fn a_dead_upstream_sees_a_fifth_more_attempts_and_they_are_spread() {
    const CLIENTS: usize = 200;
    const COMMANDS: usize = 20;
    let dead = Dead::start();
    let sidecar = Sidecar::before(
        dead.address,
        "budget: {ratio: 0.2, per_second: 1}\nretry: {base: 100ms}\nbreaker: {mode: disabled}",
    );
    let address = sidecar.address();
    let commands = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let commands = commands.clone();
            thread::spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..COMMANDS {
                    let reply = client.ask("GET a");
                    assert!(reply.starts_with("-ERR levee: "), "{reply}");
                    commands.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client that ends");
    }
    let attempts = dead.attempts();
    let commands = usize::try_from(commands.load(Ordering::SeqCst)).expect("a small number");
    // The reserve of a second's retry for each of ten seconds comes on top; more windows than one may pass.
    let most = commands + commands / 5 + 40;
    assert!(attempts.len() > commands, "nothing was tried again");
    assert!(
        attempts.len() <= most,
        "{} attempts for {commands} commands",
        attempts.len()
    );

    // The first commands come at once; those that were paid for come again 50 to 100 ms later, spread.
    let tenths: std::collections::BTreeSet<u128> =
        attempts.iter().map(|at| at.as_millis() / 5).collect();
    println!(
        "{} attempts for {commands} commands, in {} different 5 ms",
        attempts.len(),
        tenths.len()
    );
    assert!(tenths.len() >= 8, "{attempts:?}");
}

#[test]
fn more_clients_than_the_limit_are_told_so_and_the_others_go_on() {
    let redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "limits: {connections: 10, idle: 1s}");
    let mut clients: Vec<Client> = (0..10).map(|_| sidecar.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING"), "+PONG\r\n");
    }
    let mut over = sidecar.client();
    assert_eq!(
        over.reply().as_deref(),
        Some("-ERR max number of clients reached\r\n")
    );
    assert!(over.is_closed());
    assert_eq!(clients[0].ask("PING"), "+PONG\r\n");
    assert_eq!(
        sidecar.metric("redis_proxy_connections_refused_total{reason=\"limit\",upstream=\"x\"}"),
        1
    );
    // Who does nothing loses the place to others.
    for client in &mut clients {
        assert!(client.is_closed());
    }
    sidecar.wait_for("free places", |s| s.state()["connections"]["open"] == 0);
    assert_eq!(sidecar.client().ask("PING"), "+PONG\r\n");
}

#[test]
fn the_upstreams_own_limit_is_told_word_for_word() {
    let redis = Redis::start_with(&["--maxclients", "5"]);
    let mut direct = Vec::new();
    let waited = Stopwatch::start();
    while direct.len() < 5 {
        // The connection that saw Redis come up may not have gone yet.
        let mut client = redis.client();
        if client.ask("PING") == "+PONG\r\n" {
            direct.push(client);
        }
        assert!(waited.elapsed() < GENEROUS);
    }
    let sidecar = Sidecar::before(redis.address, "deadline: 500ms");
    let mut client = sidecar.client();
    assert_eq!(
        client.ask("INCR a"),
        "-ERR max number of clients reached\r\n"
    );
    drop(direct);
    // The connection is kept, and works as soon as there is a place.
    let waited = Stopwatch::start();
    while client.ask("INCR a") != ":1\r\n" {
        assert!(waited.elapsed() < GENEROUS);
    }
}

#[test]
fn a_clients_state_survives_its_upstream_connection() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let sidecar = Sidecar::before(redis.address, "retry: {base: 1ms}");
    let mut client = sidecar.client();
    assert!(client.ask("GET a").starts_with("-NOAUTH"));
    assert!(
        client
            .ask("HELLO 3 AUTH default secret SETNAME me")
            .starts_with('%')
    );
    assert_eq!(client.ask("SELECT 5"), "+OK\r\n");
    assert_eq!(client.ask("SET only-in-5 v"), "+OK\r\n");
    let mut direct = redis.client();
    direct.ask("AUTH secret");
    assert_eq!(direct.ask("CLIENT KILL TYPE normal SKIPME yes"), ":1\r\n");
    assert_eq!(client.ask("GET only-in-5"), "$1\r\nv\r\n");
    assert_eq!(client.ask("CLIENT GETNAME"), "$2\r\nme\r\n");
    assert!(
        client.ask("HGETALL none").starts_with('%'),
        "RESP3 has maps"
    );
}

#[test]
fn what_can_not_be_made_anew_ends_with_its_upstream_connection() {
    let mut redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "");
    for commands in [
        &["WATCH a"][..],
        &["MULTI", "INCR a"],
        &["SUBSCRIBE a"],
        &["HELLO 3", "SUBSCRIBE a"],
        &["HELLO 3", "CLIENT TRACKING ON"],
    ] {
        let mut client = sidecar.client();
        for command in commands {
            assert!(!client.ask(command).starts_with('-'), "{command}");
        }
        redis.stop();
        assert!(client.is_closed(), "{commands:?}");
        redis.start_again();
    }
    assert_eq!(redis.client().ask("GET a"), "$-1\r\n");
}

#[test]
fn messages_and_pushes_pass_through() {
    let redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "");
    let (mut two, mut three) = (sidecar.client(), sidecar.client());
    assert_eq!(
        two.ask("SUBSCRIBE news"),
        "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
    );
    three.ask("HELLO 3");
    assert!(three.ask("SUBSCRIBE news").starts_with(">3\r\n"));
    assert_eq!(sidecar.client().ask("PUBLISH news hello"), ":2\r\n");
    assert_eq!(
        two.reply().as_deref(),
        Some("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")
    );
    assert_eq!(
        three.reply().as_deref(),
        Some(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")
    );
    assert_eq!(three.ask("SET a 1"), "+OK\r\n");
}

#[test]
fn what_would_break_the_order_of_replies_is_refused() {
    let redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "");
    let mut client = sidecar.client();
    for command in [
        "MONITOR",
        "SYNC",
        "PSYNC ? -1",
        "CLIENT REPLY OFF",
        "REPLCONF x y",
    ] {
        let reply = client.ask(command);
        assert!(reply.starts_with("-ERR levee: "), "{command}: {reply}");
    }
    assert_eq!(client.ask("PING"), "+PONG\r\n");
    assert!(client.send(b"SET a \"b c\"\r\n\r\nGET a\r\nQUIT\r\n"));
    let replies: Vec<_> = (0..3).filter_map(|_| client.reply()).collect();
    assert_eq!(replies, ["+OK\r\n", "$3\r\nb c\r\n", "+OK\r\n"]);
    assert!(client.is_closed());
}

#[test]
fn large_values_pass_as_they_are_and_are_not_held() {
    const LENGTH: usize = 64 << 20;
    let redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "deadline: 20s");
    let before = sidecar.memory_kb();
    let mut client = sidecar.client();
    let value: Vec<u8> = (0..LENGTH).map(|at| b"levee"[at * at % 5]).collect();
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${LENGTH}\r\n").as_bytes());
    client.send(&value);
    client.send(b"\r\n");
    assert_eq!(client.reply().as_deref(), Some("+OK\r\n"));
    let reply = client.ask("GET a").into_bytes();
    let head = format!("${LENGTH}\r\n").len();
    assert!(
        reply[head..head + LENGTH] == value[..],
        "the value came back changed"
    );
    // A client that does not read what it asked for is not held in memory either.
    for _ in 0..4 {
        client.command("GET a");
    }
    thread::sleep(Duration::from_millis(500));
    let grown = sidecar.memory_kb().saturating_sub(before);
    assert!(
        grown < 8 * 1024,
        "{grown} kB for values of {} kB",
        LENGTH / 1024
    );
}

#[test]
fn whatever_clients_send_ends_in_an_error_or_a_closed_connection_and_little_memory() {
    let redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "");
    let before = sidecar.memory_kb();
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
        // Not all is taken: the connection may be closed in the middle.
        Client::connect(sidecar.address()).send(bytes);
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
        let mut client = sidecar.client();
        client.send(bytes);
        let reply = client.reply().unwrap_or_default();
        assert!(
            reply.starts_with("-ERR ") && reply.contains(text),
            "{reply}"
        );
        assert!(client.is_closed());
    }
    assert_eq!(sidecar.client().ask("PING"), "+PONG\r\n");
    let grown = sidecar.memory_kb().saturating_sub(before);
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
    let sidecar = Sidecar::before(answering(evil.to_vec()), "breaker: {mode: disabled}");
    let before = sidecar.memory_kb();
    for _ in 0..count {
        let mut client = sidecar.client();
        client.command("INCR a");
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes, b"-ERR levee: ");
    }
    let grown = sidecar.memory_kb().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} kB");
    assert!(!sidecar.log().contains("panicked"));
}

#[test]
fn a_stop_under_load_loses_no_reply_that_was_owed() {
    let redis = Redis::start();
    let mut sidecar = Sidecar::before(redis.address, "");
    let address = sidecar.address();
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let answered = answered.clone();
            thread::spawn(move || {
                let mut client = Client::connect(address);
                while client.ask("INCR a").starts_with(':') {
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut subscriber = sidecar.client();
    subscriber.ask("SUBSCRIBE a");
    let mut idle = sidecar.client();
    idle.ask("PING");
    sidecar.wait_for("traffic", |s| {
        s.metric("circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}") > 500
    });
    sidecar.terminate();
    for client in clients {
        client.join().expect("a client that ends");
    }
    assert!(subscriber.is_closed() && idle.is_closed());
    let exit = sidecar
        .wait(Duration::from_secs(15))
        .expect("it ends in time");
    assert_eq!(exit.code(), Some(0));
    let executed = redis.client().ask("GET a");
    let executed: u64 = executed
        .lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .expect("a number");
    assert_eq!(executed, answered.load(Ordering::SeqCst));
}

#[test]
fn a_stop_takes_no_longer_than_its_bound() {
    let redis = Redis::start();
    let mut sidecar = Sidecar::start(&format!(
        "stop_within: 300ms\nredis: [{{name: x, listen: 127.0.0.1:0, upstream: 'redis://{}'}}]\n",
        redis.address
    ));
    let mut client = sidecar.client();
    client.command("BLPOP none 0");
    sidecar.wait_for("the command", |s| s.state()["attempts_in_flight"] == 1);
    sidecar.terminate();
    assert_eq!(sidecar.wait(GENEROUS).expect("it ends").code(), Some(0));
    assert!(client.is_closed());
}

#[test]
fn a_sidecar_that_is_started_in_an_outage_goes_on_where_the_last_one_ended() {
    let store = Redis::start();
    let nobody = free_address();
    let yaml = format!(
        "redis: [{{name: x, listen: 127.0.0.1:0, upstream: 'redis://{nobody}', breaker: {{open_for: 1m}}, deadline: 100ms}}]\n\
         state: {{upstream: 'redis://{}', instance: me}}\n",
        store.address
    );
    let mut sidecar = Sidecar::start(&yaml);
    let mut client = sidecar.client();
    while client.ask("GET a").contains("can't be reached") {}
    assert_eq!(sidecar.state()["breaker"]["state"], "open");
    let mut direct = store.client();
    let waited = Stopwatch::start();
    // Layout, then the state: 1 is open.
    while direct
        .ask("HGET levee:me:redis:x breaker")
        .as_bytes()
        .iter()
        .skip_while(|byte| **byte != b'\n')
        .nth(2)
        != Some(&1)
    {
        assert!(waited.elapsed() < GENEROUS, "nothing was written down");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!direct.ask("PTTL levee:me:redis:x").starts_with(":-"));
    sidecar.kill();

    let next = Sidecar::start(&yaml);
    assert_eq!(next.state()["breaker"]["state"], "open");
    assert!(next.state()["retry_budget_left"].as_u64() < Some(100));
    assert!(next.client().ask("GET a").contains("circuit open"));

    let mut gone = store;
    gone.stop();
    let fresh = Sidecar::start(&yaml);
    assert_eq!(fresh.state()["breaker"]["state"], "closed");
}

#[test]
fn the_admin_interface_says_what_there_is() {
    let redis = Redis::start();
    let sidecar = Sidecar::before(redis.address, "");
    sidecar.client().ask("PING");
    assert_eq!(sidecar.get("/healthz"), (200, "ok\n".to_owned()));
    let (status, body) = sidecar.get("/readyz");
    assert_eq!(
        (status, body.contains("\"redis/x\":\"ready\"")),
        (200, true),
        "{body}"
    );
    let state = sidecar.state();
    assert_eq!(state["upstream"], format!("redis://{}", redis.address));
    assert_eq!(state["connections"]["limit"], 1000);
    assert!(sidecar.metric("redis_proxy_bytes_total{direction=\"to_redis\",upstream=\"x\"}") > 0);
    assert_eq!(sidecar.get("/nothing").0, 404);
}
