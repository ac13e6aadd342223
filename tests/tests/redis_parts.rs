//! Idle clients, several upstreams, and stopping while pipelines are in flight.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use levee_harness::address::free_address;
use levee_harness::process::Signal;
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;
use levee_redis_session::resp::encode;

#[test]
fn who_waits_for_redis_is_not_idle() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "limits: {idle: 300ms}").unwrap();
    let (mut blocked, mut subscribed, mut idle) = (
        sidecar.client().unwrap(),
        sidecar.client().unwrap(),
        sidecar.client().unwrap(),
    );
    blocked.command("BLPOP queue 0");
    assert!(subscribed.ask("SUBSCRIBE news").unwrap().starts_with("*3"));
    assert_eq!(idle.ask("PING").unwrap(), "+PONG\r\n");
    assert!(idle.is_closed().unwrap(), "it did nothing for 300 ms");
    // The other two have waited equally long; now twice as long.
    let mut another = sidecar.client().unwrap();
    assert_eq!(another.ask("PING").unwrap(), "+PONG\r\n");
    assert!(another.is_closed().unwrap());
    redis.client().unwrap().ask("PUBLISH news hello").unwrap();
    assert_eq!(
        subscribed.reply().unwrap().as_deref(),
        Some("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")
    );
    redis.client().unwrap().ask("LPUSH queue job").unwrap();
    assert_eq!(
        blocked.reply().unwrap().as_deref(),
        Some("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n")
    );
    sidecar
        .wait_for_metric(
            "redis_proxy_connections_refused_total{reason=\"idle\",upstream=\"x\"}",
            |value| value >= 2,
        )
        .unwrap();
}

#[test]
fn one_upstreams_outage_is_not_anothers() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::start(&format!(
        "redis:\n  - {{name: gone, listen: 127.0.0.1:0, upstream: 'redis://{}', deadline: 100ms}}\n  \
           - {{name: well, listen: 127.0.0.1:0, upstream: 'redis://{}', breaker: {{mode: shadow}}}}\n",
        free_address().unwrap(),
        redis.address
    )).unwrap();
    let (_, page) = sidecar.get("/v1/redis").unwrap();
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    let at = |place: usize| -> SocketAddr {
        let listen = page["upstreams"][place]["listen"].as_str();
        listen
            .and_then(|listen| listen.parse().ok())
            .expect("an address")
    };
    let (mut gone, mut well) = (
        Client::connect(at(0)).unwrap(),
        Client::connect(at(1)).unwrap(),
    );
    for _ in 0..5 {
        assert!(gone.ask("GET a").unwrap().starts_with("-ERR levee: "));
        assert_eq!(well.ask("SET a 1").unwrap(), "+OK\r\n");
        // Failures within 100 ms are one to the breaker.
        thread::sleep(Duration::from_millis(110));
    }
    assert!(gone.ask("GET a").unwrap().contains("circuit open for gone"));
    assert_eq!(well.ask("GET a").unwrap(), "$1\r\n1\r\n");
    for (service, state, mode) in [("gone", 1, 0), ("well", 0, 1)] {
        for (what, wanted) in [("state", state), ("mode", mode)] {
            let name = format!("circuit_breaker_{what}{{service=\"redis:{service}\"}}");
            assert_eq!(sidecar.metric(&name).unwrap(), wanted, "{name}");
        }
    }
    // An unreachable Redis does not make the sidecar unready.
    assert_eq!(sidecar.get("/readyz").unwrap().0, 200);
}

#[test]
fn a_redis_that_is_down_or_hangs_is_seen_without_a_client() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let becomes = |state: &str| {
        let wanted = format!("\"redis/x\":\"{state}\"");
        sidecar
            .wait_for(&wanted, |s| {
                let (status, body) = s.get("/readyz").unwrap();
                status == 200 && body.contains(&wanted)
            })
            .unwrap();
        let up = sidecar.metric("levee_part_up{part=\"redis/x\"}").unwrap();
        let required = sidecar.get("/readyz?require=redis").unwrap().0;
        let wanted = if state == "ready" { (1, 200) } else { (0, 503) };
        assert_eq!((up, required), wanted, "{state}");
    };
    becomes("ready");
    redis.stop();
    becomes("down");
    let (_, body) = sidecar.get("/readyz").unwrap();
    assert!(body.contains("refused"), "the reason: {body}");
    redis.start_again().unwrap();
    becomes("ready");
    redis.signal(Signal::Stop).unwrap();
    becomes("down");
    redis.signal(Signal::Continue).unwrap();
    becomes("ready");
    assert_eq!(
        sidecar
            .metric("redis_proxy_connections_total{upstream=\"x\"}")
            .unwrap(),
        0,
        "nobody asked"
    );
    for (query, status) in [
        ("all", 200),
        ("redis/x", 200),
        ("redis/y", 400),
        ("all,", 400),
        ("", 400),
    ] {
        let path = format!("/readyz?require={query}");
        let (found, body) = sidecar.get(&path).unwrap();
        assert_eq!(found, status, "{path}");
        let is_empty = query.split(',').any(str::is_empty);
        assert_eq!(body.contains("names an empty part"), is_empty, "{body}");
    }
}

#[test]
fn an_empty_configuration_runs_and_says_that_it_is_ready() {
    let mut sidecar = Sidecar::start("").unwrap();
    assert_eq!(sidecar.get("/readyz").unwrap().0, 200);
    assert_eq!(
        sidecar.get("/v1/redis").unwrap(),
        (200, "{\"upstreams\":[]}".to_owned())
    );
    sidecar.terminate();
    assert_eq!(sidecar.wait(GENEROUS).expect("it ends").code(), Some(0));
}

#[test]
fn a_stop_says_so_and_gives_what_is_under_way_its_time() {
    let mut redis = Redis::start().unwrap();
    let mut sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("INCR count").unwrap(), ":1\r\n");
    redis.signal(Signal::Stop).unwrap();
    client.command("INCR count");
    sidecar
        .wait_for("the command", |s| {
            s.state().unwrap()["attempts_in_flight"] == 1
        })
        .unwrap();
    sidecar.terminate();
    sidecar
        .wait_for("the word that it stops", |s| {
            s.get("/readyz").unwrap().0 == 503
        })
        .unwrap();
    redis.signal(Signal::Continue).unwrap();
    assert_eq!(client.reply().unwrap().as_deref(), Some(":2\r\n"));
    assert!(client.is_closed().unwrap());
    assert_eq!(sidecar.wait(GENEROUS).expect("it ends").code(), Some(0));
}

/// Sends pipelines until the connection is closed, and returns the number of replies.
fn pipelines(address: SocketAddr) -> u64 {
    const LENGTH: usize = 50;
    let mut client = Client::connect(address).unwrap();
    let pipeline = encode(&["INCR", "count"]).repeat(LENGTH);
    let mut replies = 0;
    loop {
        client.send(&pipeline);
        for _ in 0..LENGTH {
            match client.reply().unwrap() {
                Some(reply) if reply.starts_with(':') => replies += 1,
                Some(reply) => panic!("{reply}"),
                None => return replies,
            }
        }
    }
}

#[test]
fn a_stop_amid_pipelines_executes_nothing_that_it_does_not_answer() {
    let redis = Redis::start().unwrap();
    let mut sidecar = Sidecar::before(redis.address, "").unwrap();
    let address = sidecar.address().unwrap();
    let clients: Vec<_> = (0..8)
        .map(|_| thread::spawn(move || pipelines(address)))
        .collect();
    sidecar
        .wait_for_metric(
            "circuit_breaker_requests_total{outcome=\"success\",service=\"redis:x\"}",
            |value| value > 5000,
        )
        .unwrap();
    sidecar.terminate();
    let replies: u64 = clients
        .into_iter()
        .map(|client| client.join().expect("a client without an error"))
        .sum();
    let exit = sidecar.wait(Duration::from_secs(15));
    assert_eq!(exit.expect("it ends in time").code(), Some(0));
    let count = redis.client().unwrap().ask("GET count").unwrap();
    assert_eq!(
        count.lines().nth(1),
        Some(replies.to_string().as_str()),
        "what was executed, and what was answered"
    );
}

#[test]
fn passwords_are_shown_nowhere() {
    let redis = Redis::start_with(&["--requirepass", "hunter2"]).unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("AUTH hunter2").unwrap(), "+OK\r\n");
    assert!(
        client
            .ask("HELLO 3 AUTH default hunter2x")
            .unwrap()
            .starts_with('-')
    );
    let mut direct = redis.client().unwrap();
    direct.ask("AUTH hunter2").unwrap();
    direct.ask("CONFIG SET requirepass hunter3").unwrap();
    direct.ask("CLIENT KILL TYPE normal SKIPME yes").unwrap();
    // Its credentials are no longer valid: an error, or a closed connection.
    let reply = client.ask("GET a").unwrap();
    assert!(reply.is_empty() || reply.starts_with('-'), "{reply}");
    let (_, page) = sidecar.get("/v1/redis").unwrap();
    for text in [
        reply,
        page,
        sidecar.get("/metrics").unwrap().1,
        sidecar.log(),
    ] {
        assert!(!text.contains("hunter"), "{text}");
    }
}

#[test]
fn what_a_client_has_cached_is_called_back() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    assert!(client.ask("HELLO 3").unwrap().starts_with('%'));
    assert_eq!(client.ask("CLIENT TRACKING ON").unwrap(), "+OK\r\n");
    assert_eq!(client.ask("GET a").unwrap(), "_\r\n");
    redis.client().unwrap().ask("SET a 1").unwrap();
    assert_eq!(
        client.reply().unwrap().as_deref(),
        Some(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n")
    );
    assert_eq!(client.ask("GET a").unwrap(), "$1\r\n1\r\n");
}
