//! A name server that stops answering: what the sidecar still does, and how quickly.
//!
//! The test runs itself again in namespaces of its own, where it is the name server. Without the right to make them
//! nothing can be shown.
#![allow(missing_docs)]

use std::env;
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::redis::Redis;
use levee_harness::sidecar::{Config, Sidecar, Start};
use levee_harness::wait::GENEROUS;

/// Set in the namespaces.
const INSIDE: &str = "LEVEE_TEST_INSIDE_NAMESPACES";

/// So many that their probes together would take all threads for lookups, if each probe took one.
const UNREACHABLE: usize = 70;

/// As long as the resolver of the system waits by default, and a little longer.
const HUNG_FOR: Duration = Duration::from_secs(12);

/// Runs its arguments in a network of its own, where `resolv.conf` and `nsswitch.conf` are those of this folder.
const ENTER: &str = r#"
ip link set lo up &&
mount --bind "$0/resolv.conf" /etc/resolv.conf &&
mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf &&
exec "$@"
"#;

#[test]
fn a_name_server_that_never_answers_delays_neither_admin_nor_clients_nor_the_end() {
    if env::var_os(INSIDE).is_some() {
        return inside();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    fs::write(path("nsswitch.conf"), "hosts: files dns\n").unwrap();
    let unshare = |program: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c"])
            .arg(ENTER)
            .arg(folder.path())
            .args(program);
        command
    };
    let possible = unshare(&["true"]).output();
    if !possible
        .as_ref()
        .is_ok_and(|output| output.status.success())
    {
        println!("not tested, namespaces can't be made: {possible:?}");
        return;
    }
    let this = env::current_exe().unwrap();
    let name = "a_name_server_that_never_answers_delays_neither_admin_nor_clients_nor_the_end";
    let output = unshare(&[&this.to_string_lossy(), "--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    println!("{said}");
}

/// A name server that knows `redis.known`, as long as it answers. To all else it says nothing.
fn name_server(answers: Arc<AtomicBool>) {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let query = &query[..length];
            let is_known = query.windows(12).any(|name| name == b"\x05redis\x05known");
            if is_known && answers.load(Ordering::SeqCst) {
                let _ = socket.send_to(&answer(query), client);
            }
        }
    });
}

/// 127.0.0.1 to a query for a name's IPv4 address, else nothing (RFC 1035).
fn answer(query: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    let name_length = query[HEADER..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &query[HEADER..HEADER + name_length + 4];
    let asks_for_ipv4 = question[name_length..name_length + 2] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(asks_for_ipv4), 0, 0, 0, 0]);
    answer.extend(question);
    if asks_for_ipv4 {
        // The name in the question, after the header; its type and class, for no time at all.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

fn config(redis: &Redis) -> Config {
    let unreachable = |number| {
        format!(
            "  - {{name: y{number}, listen: 127.0.0.1:0, upstream: 'redis://y{number}.hung:6379'}}\n"
        )
    };
    let unreachable: String = (0..UNREACHABLE).map(unreachable).collect();
    let yaml = format!(
        "envoy: {{admin: 'http://envoy.hung:9901'}}\n\
         state: {{upstream: 'redis://state.hung:6379', instance: me}}\n\
         redis:\n  - {{name: x, listen: 127.0.0.1:0, upstream: 'redis://redis.known:{}'}}\n{unreachable}",
        redis.address.port()
    );
    let keys = "jobs: {own: {table: t, key: k, where: {column: at, before: 0s}, action: delete}}\n\
                watchdog: {roles: [app], every: 100ms}";
    Config::new(yaml).database("postgres://levee@db.hung/app", keys)
}

fn inside() {
    let answers = Arc::new(AtomicBool::new(true));
    name_server(answers.clone());
    let redis = Redis::start().unwrap();
    let took = Stopwatch::start();
    let mut sidecar = Sidecar::start_with(&config(&redis), &Start::default()).unwrap();
    within(Duration::from_secs(5), "the start", &took);
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");
    answers.store(false, Ordering::SeqCst);
    let hung = Stopwatch::start();
    let mut longest = Duration::ZERO;
    while hung.elapsed() < HUNG_FOR {
        for (path, bound) in [("/healthz", 1), ("/readyz", 1), ("/metrics", 3)] {
            let took = Stopwatch::start();
            assert_eq!(sidecar.get(path).unwrap().0, 200);
            within(Duration::from_secs(bound), path, &took);
            longest = longest.max(took.elapsed());
        }
        let took = Stopwatch::start();
        assert_eq!(client.ask("GET a").unwrap(), "$1\r\n1\r\n");
        within(Duration::from_secs(1), "a connected client", &took);
        let took = Stopwatch::start();
        let mut another = sidecar.client().unwrap();
        assert_eq!(another.ask("GET a").unwrap(), "$1\r\n1\r\n");
        within(Duration::from_secs(2), "a new client", &took);
        longest = longest.max(took.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    println!("the longest wait was {longest:?}");
    let (_, body) = sidecar.get("/readyz").unwrap();
    assert!(body.contains("\"redis/y0\":\"down\""), "{body}");
    assert!(body.contains("\"redis/x\":\"ready\""), "{body}");
    drop((client, redis));
    let took = Stopwatch::start();
    sidecar.terminate();
    assert_eq!(sidecar.wait(GENEROUS).and_then(|exit| exit.code()), Some(0));
    within(Duration::from_secs(5), "the end", &took);
}

fn within(bound: Duration, what: &str, took: &Stopwatch) {
    let took = took.elapsed();
    assert!(took < bound, "{what} took {took:?}");
}
