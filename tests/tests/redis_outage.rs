//! Redis is down, unreachable or frozen: how long clients wait, and what load the server sees.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::process::Signal;
use levee_harness::redis::{Client, Redis};
use levee_harness::relay::{Dead, Relay, Silence};
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;

/// More than a deadline of 3 s, on a busy machine.
const DEADLINE_AND_SLACK: Duration = Duration::from_secs(8);

/// Clients that read and write until stopped, and record errors.
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

    /// Stops the clients. Returns the number of replies, the errors, and the longest time of a round.
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
    let mut client = Client::connect(address).unwrap();
    let (mut answered, mut wrong, mut longest) = (0, Vec::new(), Duration::ZERO);
    while running.load(Ordering::SeqCst) {
        let key = format!("k{number}");
        // A third of the clients send pipelines.
        let commands: Vec<String> = if number.is_multiple_of(3) {
            // Each with a key of its own: a read before a write of the same key would not be repeated.
            (0..8)
                .flat_map(|place| [format!("SET {key}:{place} v"), format!("GET {key}:{place}")])
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
            match client.reply().unwrap() {
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
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let load = Load::start(sidecar.address().unwrap(), 30);
    // The budget is a share of the commands: this many cover 30 clients with their pipelines.
    sidecar
        .wait_for_metric(
            "circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}",
            |value| value > 4000,
        )
        .unwrap();
    redis.stop();
    thread::sleep(Duration::from_millis(600));
    redis.start_again().unwrap();
    let before = sidecar
        .metric("circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}")
        .unwrap();
    sidecar
        .wait_for("traffic again", |s| {
            s.metric("circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}")
                .unwrap()
                > before + 500
        })
        .unwrap();
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
    // By those whose command was under way, and by one client that tried for all.
    let retries = sidecar.metric("redis_retry_total{upstream=\"x\"}").unwrap();
    assert!(retries > 0);
    assert_eq!(
        sidecar
            .metric("redis_retry_failed_total{upstream=\"x\"}")
            .unwrap(),
        0
    );
}

#[test]
fn two_hundred_clients_that_need_redis_while_it_is_away_see_no_error() {
    const CLIENTS: usize = 200;
    let mut redis = Redis::start().unwrap();
    // Default settings, and no earlier traffic that filled the budget.
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    redis.stop();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| sidecar.client().unwrap()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.command(&format!("INCR k{number}"));
    }
    thread::sleep(Duration::from_millis(600));
    redis.start_again().unwrap();
    for client in &mut clients {
        assert_eq!(client.reply().unwrap().as_deref(), Some(":1\r\n"));
    }
    let retries = sidecar.metric("redis_retry_total{upstream=\"x\"}").unwrap();
    // One client's attempts: after 100, 300, 700, 1,500 ms, or down to half of that; more if Redis took longer to start.
    assert!((1..20).contains(&retries), "{retries} attempts");
    assert_eq!(sidecar.state().unwrap()["breaker"]["state"], "closed");
}

#[test]
fn a_redis_that_is_gone_fails_within_the_deadline_then_at_once_and_works_when_it_is_back() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut first = sidecar.client().unwrap();
    assert_eq!(first.ask("SET a 1").unwrap(), "+OK\r\n");
    redis.stop();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = sidecar.client().unwrap();
            thread::spawn(move || {
                let took = Stopwatch::start();
                (client.ask("GET a").unwrap(), took.elapsed())
            })
        })
        .collect();
    for client in clients {
        let (reply, took) = client.join().expect("a client that ends");
        assert!(reply.starts_with("-ERR levee: "), "{reply}");
        assert!(took < DEADLINE_AND_SLACK, "{took:?}");
    }
    let failed = sidecar
        .metric("redis_retry_failed_total{upstream=\"x\"}")
        .unwrap();
    assert_eq!(failed, 8, "each was to be tried again");
    // They failed at one moment, which is one failure to the breaker. Others need not wait.
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(110));
        let took = Stopwatch::start();
        let reply = first.ask("GET a").unwrap();
        assert!(
            reply.starts_with("-ERR levee: Redis can't be reached since"),
            "{reply}"
        );
        assert!(took.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(sidecar.state().unwrap()["breaker"]["state"], "open");
    assert!(sidecar.state().unwrap()["last_error"]["message"].is_string());
    assert_eq!(
        sidecar
            .metric("circuit_breaker_state{service=\"redis:x\"}")
            .unwrap(),
        1
    );
    let fastest = (0..50)
        .map(|_| {
            let took = Stopwatch::start();
            let reply = first.ask("INCR a").unwrap();
            assert!(
                reply.starts_with("-ERR levee: circuit open for x"),
                "{reply}"
            );
            took.elapsed()
        })
        .min();
    assert!(fastest < Some(Duration::from_millis(5)), "{fastest:?}");

    redis.start_again().unwrap();
    let back = Stopwatch::start();
    // No command is a probe.
    while first.ask("SET a 2").unwrap() != "+OK\r\n" {
        assert!(back.elapsed() < GENEROUS);
        thread::sleep(Duration::from_millis(5));
    }
    println!("works again after {:?}", back.elapsed());
    for _ in 0..10 {
        assert_eq!(first.ask("SET a 2").unwrap(), "+OK\r\n");
    }
    assert_eq!(sidecar.state().unwrap()["breaker"]["state"], "closed");
}

/// A server that answers each command with this line.
fn answers_with(line: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let line = line.to_owned();
    // Both threads end with the test process, or when the sidecar closes the connection.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let line = line.clone();
            thread::spawn(move || {
                let mut sent = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut sent) {
                    let sent = String::from_utf8_lossy(&sent[..read]);
                    let commands = sent.matches('*').count();
                    if stream.write_all(line.repeat(commands).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn an_error_of_redis_is_shown_by_readyz_on_one_short_line() {
    let long = format!("-ERR {}\r\n", "x".repeat(100_000));
    for (line, wanted) in [
        ("-\r\n", "Redis answered with an error that has no text"),
        (
            "-MISCONF disk \u{1b}[31mfull\r\n",
            "Redis answered with the error MISCONF disk  [31mfull",
        ),
        (&long, "Redis answered with the error ERR xxx"),
    ] {
        let sidecar = Sidecar::before(answers_with(line), "").unwrap();
        let (_, body) = sidecar.get("/readyz").unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let why = body["problems"]["redis/x"].as_str().unwrap();
        assert!(why.starts_with(wanted), "{why}");
        assert!(why.chars().count() <= 201, "{why}");
        let logged = sidecar.log().len();
        assert!(logged < 20_000, "{logged} bytes");
    }
}

#[test]
fn a_redis_that_stands_still_hangs_nobody_past_the_deadline() {
    let mut redis = Redis::start().unwrap();
    let sidecar =
        Sidecar::before(redis.address, "deadline: 500ms\nbreaker: {mode: disabled}").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");
    redis.signal(Signal::Stop).unwrap();
    let mut other = sidecar.client().unwrap();
    let reply = client.ask("INCR a").unwrap();
    assert!(
        reply.contains("may or may not have been executed"),
        "{reply}"
    );
    for command in ["GET a", "INCR a", "BLPOP l 1"] {
        let took = Stopwatch::start();
        let reply = other.ask(command).unwrap();
        assert!(reply.starts_with("-ERR levee: "), "{command}: {reply}");
        assert!(!reply.contains("may or may not"), "{command}: {reply}");
        assert!(took.elapsed() < DEADLINE_AND_SLACK);
    }
    redis.signal(Signal::Continue).unwrap();
    let back = Stopwatch::start();
    while other.ask("GET a").unwrap().lines().count() != 2 {
        assert!(back.elapsed() < GENEROUS);
        thread::sleep(Duration::from_millis(5));
    }
    println!("works again after {:?}", back.elapsed());
}

#[test]
fn blocking_commands_wait_for_as_long_as_they_say() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "deadline: 200ms").unwrap();
    let took = Stopwatch::start();
    assert_eq!(
        sidecar.client().unwrap().ask("BLPOP l 1").unwrap(),
        "*-1\r\n"
    );
    assert!(took.elapsed() >= Duration::from_millis(900));
    let mut waiting = sidecar.client().unwrap();
    waiting.command("BLPOP l 0");
    thread::sleep(Duration::from_millis(600));
    redis.client().unwrap().ask("LPUSH l v").unwrap();
    assert_eq!(
        waiting.reply().unwrap().as_deref(),
        Some("*2\r\n$1\r\nl\r\n$1\r\nv\r\n")
    );
}

#[test]
fn an_upstream_that_closes_each_connection_sees_few_attempts_and_they_are_spread() {
    const CLIENTS: usize = 200;
    const COMMANDS: usize = 20;
    let dead = Dead::start().unwrap();
    let sidecar = Sidecar::before(
        dead.address,
        "budget: {ratio: 0.2, per_second: 1}\nretry: {base: 100ms}\nbreaker: {mode: disabled}",
    )
    .unwrap();
    let address = sidecar.address().unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address).unwrap();
                for _ in 0..COMMANDS {
                    let reply = client.ask("GET a").unwrap();
                    assert!(
                        reply.starts_with("-ERR levee: Redis can't be reached"),
                        "{reply}"
                    );
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client that ends");
    }
    let attempts = dead.attempts();
    // Each client's first one, then one client's for all, and the sidecar's own checks.
    assert!(
        (CLIENTS..CLIENTS + 60).contains(&attempts.len()),
        "{} attempts for {CLIENTS} clients",
        attempts.len()
    );
    let tenths: BTreeSet<u128> = attempts.iter().map(|at| at.as_millis() / 100).collect();
    assert!(tenths.len() >= 5, "{attempts:?}");
}

#[test]
fn a_balancer_that_closes_what_it_accepts_while_redis_is_away_shows_no_client_an_error() {
    let mut redis = Redis::start().unwrap();
    // It accepts, finds nobody, and closes.
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(relay.address, "").unwrap();
    let mut clients: Vec<Client> = (0..20).map(|_| sidecar.client().unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    }
    redis.stop();
    thread::sleep(Duration::from_millis(100));
    for (number, client) in clients.iter_mut().enumerate() {
        let word = ["INCR", "GET", "LPUSH"][number % 3];
        let value = if word == "LPUSH" { " 1" } else { "" };
        client.command(&format!("{word} {word}{number}{value}"));
    }
    thread::sleep(Duration::from_millis(400));
    redis.start_again().unwrap();
    for client in &mut clients {
        let reply = client.reply().unwrap().unwrap();
        assert!(!reply.starts_with('-'), "{reply}");
    }
}

#[test]
fn a_client_that_is_new_in_an_outage_fails_within_one_deadline_with_and_without_a_breaker() {
    for breaker in ["", "breaker: {mode: disabled}"] {
        let mut redis = Redis::start().unwrap();
        let sidecar = Sidecar::before(redis.address, breaker).unwrap();
        redis.stop();
        let took = Stopwatch::start();
        let attempt = || {
            let mut client = sidecar.client().unwrap();
            client.ask("HELLO 3").unwrap()
        };
        let first = attempt();
        assert!(
            first.starts_with("-ERR levee: Redis can't be reached"),
            "{first}"
        );
        let waited = took.elapsed();
        // As go-redis does, with a new connection each time.
        for _ in 0..3 {
            let reply = attempt();
            assert!(
                reply.starts_with("-ERR levee: Redis can't be reached since"),
                "{reply}"
            );
        }
        let rest = took.elapsed().saturating_sub(waited);
        assert!(rest < Duration::from_secs(1), "{waited:?}, then {rest:?}");
        redis.start_again().unwrap();
        let back = Stopwatch::start();
        while !attempt().starts_with('%') {
            assert!(back.elapsed() < GENEROUS);
            thread::sleep(Duration::from_millis(5));
        }
        println!("works again after {:?}", back.elapsed());
    }
}

#[test]
fn a_client_whose_replies_redis_does_not_like_shuts_nobody_else_out() {
    let options = ["--client-output-buffer-limit", "normal 1mb 0 0"];
    let redis = Redis::start_with(&options).unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut direct = redis.client().unwrap();
    let value = "v".repeat(100_000);
    for _ in 0..40 {
        direct.ask(&format!("RPUSH list {value}")).unwrap();
    }
    let mut other = sidecar.client().unwrap();
    assert_eq!(other.ask("PING").unwrap(), "+PONG\r\n");
    for _ in 0..15 {
        // A connection ends where part of its reply was passed on.
        let mut greedy = sidecar.client().unwrap();
        greedy.command("LRANGE list 0 -1");
        let reply = greedy.reply().unwrap();
        assert!(reply.is_none_or(|reply| reply.starts_with("-ERR levee: ")));
    }
    assert_eq!(other.ask("PING").unwrap(), "+PONG\r\n");
    assert_eq!(sidecar.state().unwrap()["breaker"]["state"], "closed");
}

#[test]
fn connections_that_stop_without_a_word_cost_nobody_an_error() {
    let redis = Redis::start().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(relay.address, "").unwrap();
    let mut clients: Vec<Client> = (0..20).map(|_| sidecar.client().unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("INCR a").unwrap().chars().next(), Some(':'));
    }
    // Long enough for what must not be repeated to be sent with care.
    thread::sleep(Duration::from_millis(1100));
    relay.silence(Silence::Dropped).unwrap();
    for (number, client) in clients.iter_mut().enumerate() {
        let set = format!("SET b{number} 1");
        let lines = ["GET a", &set, "INCR c", "EVAL return(1) 0", "BLPOP d 1"];
        client.command(lines[number % 5]);
    }
    for client in &mut clients {
        let reply = client.reply().unwrap().unwrap();
        assert!(!reply.starts_with('-'), "{reply}");
    }
    assert_eq!(redis.client().unwrap().ask("GET c").unwrap(), "$1\r\n4\r\n");
    assert_eq!(sidecar.state().unwrap()["breaker"]["state"], "closed");
}

#[test]
fn a_sidecar_that_is_started_in_an_outage_goes_on_where_the_last_one_ended() {
    let store = Redis::start().unwrap();
    let mut redis = Redis::start().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let yaml = format!(
        "redis: [{{name: x, listen: 127.0.0.1:0, upstream: 'redis://{}', breaker: {{open_for: 1m}}, budget: {{ratio: 0.001}}, deadline: 100ms}}]\n\
         state: {{upstream: 'redis://{}', instance: me}}\n",
        relay.address, store.address
    );
    let mut sidecar = Sidecar::start(&yaml).unwrap();
    let mut client = sidecar.client().unwrap();
    // The budget pays for retried commands.
    for _ in 0..3 {
        relay.lose_reply_to("GET");
        client.ask("GET a").unwrap();
    }
    redis.stop();
    let waited = Stopwatch::start();
    while !client.ask("GET a").unwrap().contains("circuit open") {
        assert!(waited.elapsed() < GENEROUS);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(sidecar.state().unwrap()["breaker"]["state"], "open");
    let mut direct = store.client().unwrap();
    let waited = Stopwatch::start();
    // Layout, then the state: 1 is open.
    while direct
        .ask("HGET levee:me:redis:x breaker")
        .unwrap()
        .as_bytes()
        .iter()
        .skip_while(|byte| **byte != b'\n')
        .nth(2)
        != Some(&1)
    {
        assert!(waited.elapsed() < GENEROUS, "nothing was written down");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(
        !direct
            .ask("PTTL levee:me:redis:x")
            .unwrap()
            .starts_with(":-")
    );
    sidecar.kill();

    let next = Sidecar::start(&yaml).unwrap();
    assert_eq!(next.state().unwrap()["breaker"]["state"], "open");
    let left = next.state().unwrap()["retry_budget_left"].as_u64();
    assert!(left < Some(100), "{left:?}");
    assert!(
        next.client()
            .unwrap()
            .ask("GET a")
            .unwrap()
            .contains("circuit open")
    );

    let mut gone = store;
    gone.stop();
    let fresh = Sidecar::start(&yaml).unwrap();
    assert_eq!(fresh.state().unwrap()["breaker"]["state"], "closed");
}

#[test]
fn a_state_redis_that_hangs_delays_the_start_by_a_second_for_all_upstreams_together() {
    const UPSTREAMS: usize = 5;
    let redis = Redis::start().unwrap();
    // It accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = |number| {
        format!(
            "  - {{name: x{number}, listen: 127.0.0.1:0, upstream: 'redis://{}'}}\n",
            redis.address
        )
    };
    let upstreams: String = (0..UPSTREAMS).map(upstream).collect();
    let state = silent.local_addr().unwrap();
    let yaml = format!("state: {{upstream: 'redis://{state}', instance: me}}\nredis:\n{upstreams}");
    let took = Stopwatch::start();
    let sidecar = Sidecar::start(&yaml).unwrap();
    let took = took.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(sidecar.client().unwrap().ask("PING").unwrap(), "+PONG\r\n");
    let warning = "no retry state was taken over: ";
    sidecar
        .wait_for("the warnings", |sidecar| {
            sidecar.log().matches(warning).count() == UPSTREAMS
        })
        .unwrap();
}

/// A balancer before a Redis: connections that are made while `swallows` is set are silent for ever, and the others then.
fn swallowing(swallows: &Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let swallows = swallows.clone();
    // The threads end with the test process, or when the sidecar closes the connection.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let swallows = swallows.clone();
            let mut is_dead = swallows.load(Ordering::SeqCst);
            thread::spawn(move || {
                let mut sent = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut sent) {
                    is_dead |= swallows.load(Ordering::SeqCst);
                    let commands = String::from_utf8_lossy(&sent[..read]).matches('*').count();
                    if !is_dead
                        && stream
                            .write_all("+OK\r\n".repeat(commands).as_bytes())
                            .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn another_connection_that_is_silent_too_is_followed_by_yet_another() {
    let swallows = Arc::new(AtomicBool::new(false));
    let keys = "deadline: 6s\nretry: {attempt_timeout: 1s}";
    let sidecar = Sidecar::before(swallowing(&swallows), keys).unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("GET a").unwrap(), "+OK\r\n");
    swallows.store(true, Ordering::SeqCst);
    client.command("GET a");
    // The second connection is made after one second and given up after two.
    thread::sleep(Duration::from_millis(1500));
    swallows.store(false, Ordering::SeqCst);
    assert_eq!(client.reply().unwrap().unwrap(), "+OK\r\n");
}
