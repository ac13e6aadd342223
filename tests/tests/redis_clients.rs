//! Ordinary client libraries and tools see no difference.
#![allow(missing_docs)]

use std::collections::{HashMap, HashSet};
use std::env;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use levee_harness::address::free_address;
use levee_harness::certificate::Certificate;
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::Sidecar;
use levee_harness::tool::go_client;
use levee_harness::wait::GENEROUS;
use levee_redis_session::commands::Class;
use levee_redis_session::idempotency::{Idempotency, OVERWRITES, READS, Repeat};
use levee_redis_session::resp::encode;

/// The output of a program, which must succeed.
fn output(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}\n{errors}");
    text
}

/// Runs a program directly at Redis and through the sidecar: both must print the same.
fn same_with_and_without(mut session: impl FnMut(SocketAddr) -> String) {
    let redis = Redis::start_with(&["--requirepass", "secret"]).unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let direct = session(redis.address);
    assert!(direct.lines().count() > 10, "{direct}");
    assert_eq!(session(sidecar.address().unwrap()), direct);
}

#[test]
fn go_redis_sees_no_difference() {
    same_with_and_without(|address| {
        let mut session = go_client("redis-session").unwrap();
        output(session.arg(address.to_string()))
    });
}

#[test]
fn redis_py_sees_no_difference() {
    let session = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/session.py");
    let path = env::var_os("LEVEE_PYTHONPATH")
        .expect("LEVEE_PYTHONPATH: where the package `redis` is; `cargo xtask test` fetches it and sets this");
    same_with_and_without(|address| {
        let mut python = Command::new("python3");
        output(
            python
                .env("PYTHONPATH", &path)
                .arg(&session)
                .arg(address.to_string()),
        )
    });
}

#[test]
fn the_redis_crate_sees_no_difference() {
    same_with_and_without(|address| session(address).expect("a session without an error"));
}

/// The session of the other clients, with the `redis` crate.
fn session(address: SocketAddr) -> redis::RedisResult<String> {
    let client = redis::Client::open(format!("redis://:secret@{address}/?protocol=resp3"))?;
    let mut connection = client.get_connection()?;
    let mut lines = Vec::new();
    let mut show = |what: &str, value: redis::Value| lines.push(format!("{what} {value:?}"));
    for (what, words) in [
        ("flush", "FLUSHALL"),
        ("set", "SET a 1"),
        ("get", "GET a"),
        ("hash", "HSET h x 1"),
        ("map", "HGETALL h"),
        ("blocked in vain", "BLPOP none 1"),
        ("push", "RPUSH queue job"),
        ("blocked", "BLPOP queue 1"),
        ("select", "SELECT 3"),
        ("empty", "GET a"),
        ("back", "SELECT 0"),
        ("scan", "SCAN 0"),
    ] {
        let mut command = redis::Cmd::new();
        for word in words.split(' ') {
            command.arg(word);
        }
        show(what, command.query(&mut connection)?);
    }
    let mut pipe = redis::pipe();
    for number in 0..100 {
        pipe.cmd("SET")
            .arg(number)
            .arg(number)
            .cmd("GET")
            .arg(number);
    }
    show("pipeline", pipe.query(&mut connection)?);
    let mut transaction = redis::pipe();
    transaction
        .atomic()
        .cmd("INCR")
        .arg("n")
        .cmd("INCR")
        .arg("n");
    show("transaction", transaction.query(&mut connection)?);
    let wrong = redis::cmd("INCR")
        .arg("h")
        .query::<redis::Value>(&mut connection);
    show("error", redis::Value::SimpleString(format!("{wrong:?}")));

    let mut subscriber = client.get_connection()?;
    let mut subscription = subscriber.as_pubsub();
    subscription.set_read_timeout(Some(GENEROUS))?;
    subscription.subscribe("news")?;
    let mut publish = redis::cmd("PUBLISH");
    show(
        "published",
        publish.arg("news").arg("hello").query(&mut connection)?,
    );
    let message = subscription.get_message()?;
    lines.push(format!("message {}", message.get_payload::<String>()?));
    Ok(lines.join("\n"))
}

#[test]
fn redis_cli_and_redis_benchmark_work() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let port = sidecar.address().unwrap().port().to_string();
    assert_eq!(
        output(Command::new("redis-cli").args(["-p", &port, "SET", "a", "b c"])),
        "OK\n"
    );
    assert_eq!(
        output(Command::new("redis-cli").args(["-3", "-p", &port, "GET", "a"])),
        "b c\n"
    );
    // Mass insertion sends everything before it reads.
    let mut pipe = Command::new("redis-cli")
        .args(["-p", &port, "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start redis-cli");
    let mut input = pipe.stdin.take().expect("its input");
    for number in 0..50_000 {
        write!(input, "SET key{number} value{number}\r\n").expect("it reads its input");
    }
    drop(input);
    let said = pipe.wait_with_output().expect("redis-cli ends").stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("errors: 0, replies: 50000"), "{said}");
    assert_eq!(redis.client().unwrap().ask("DBSIZE").unwrap(), ":50001\r\n");

    for pipeline in ["1", "16"] {
        let mut benchmark = Command::new("redis-benchmark");
        let said =
            output(benchmark.args(["-p", &port, "-c", "32", "-n", "10000", "-P", pipeline, "-q"]));
        assert!(
            said.contains("GET: ") && said.contains("MSET (10 keys): "),
            "{said}"
        );
        assert!(!said.contains("rror"), "{said}");
    }
}

/// The commands that a server knows, with their flags.
fn commands_of(client: &mut Client) -> HashMap<String, HashSet<String>> {
    let reply = client.ask("COMMAND").unwrap();
    let lines: Vec<&str> = reply.split("\r\n").collect();
    let mut commands = HashMap::new();
    let mut at = 1;
    while at + 1 < lines.len() {
        // Each entry: an array; a bulk string (the name); the arity; an array of flags, and more.
        if lines[at].starts_with('*')
            && lines[at + 1].starts_with('$')
            && lines.get(at + 3).is_some_and(|l| l.starts_with(':'))
        {
            let name = lines[at + 2].to_ascii_uppercase();
            let count: usize = lines[at + 4][1..].parse().expect("a number of flags");
            let flags =
                (0..count).map(|flag| lines[at + 5 + flag].trim_start_matches('+').to_owned());
            commands.entry(name).or_insert_with(|| flags.collect());
        }
        at += 1;
    }
    commands
}

#[test]
fn the_tables_agree_with_the_servers_own_flags() {
    let redis = Redis::start().unwrap();
    let commands = commands_of(&mut redis.client().unwrap());
    assert!(commands.len() > 200, "{} commands", commands.len());
    // Commands that touch no data have no flag that says so.
    let no_data = ["PING", "ECHO", "TIME", "COMMAND", "INFO", "LOLWUT"];
    for name in READS {
        let Some(flags) = commands.get(*name) else {
            // From a newer server, or a container of subcommands.
            assert!(
                ["OBJECT", "XINFO"].contains(name) || !flags_known(&commands, name),
                "{name}"
            );
            continue;
        };
        let reads = flags.contains("readonly") && !flags.contains("write");
        let is_container = ["OBJECT", "XINFO"].contains(name);
        assert!(
            reads || no_data.contains(name) || is_container,
            "{name}: {flags:?}"
        );
    }
    for (name, _) in OVERWRITES {
        assert!(commands[name].contains("write"), "{name}");
    }
    // Writes that are not in the table are sent once, and so are unknown commands.
    let table = Idempotency::new(&[], &[]);
    let overwrites = OVERWRITES.map(|(name, _)| name);
    for (name, flags) in &commands {
        let class = Class::of(&encode(&[name.as_str(), "a", "b"]), &table);
        if flags.contains("write") && !overwrites.contains(&name.as_str()) {
            assert_eq!(class.repeat, Repeat::Never, "{name} writes");
        }
    }
}

fn flags_known(commands: &HashMap<String, HashSet<String>>, name: &str) -> bool {
    commands.contains_key(name)
}

#[test]
fn an_upstream_over_tls_is_reached_if_its_certificate_is_trusted() {
    let files = tempfile::tempdir().expect("make a directory");
    let certificate = Certificate::make_in(files.path()).unwrap();
    let tls = free_address().unwrap();
    let (port, cert, key) = (
        tls.port().to_string(),
        certificate.certificate.display().to_string(),
        certificate.key.display().to_string(),
    );
    let _redis = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
    ])
    .unwrap();
    let yaml = |trust: &str| {
        format!(
            "redis:\n  - name: x\n    listen: 127.0.0.1:0\n    upstream: rediss://localhost:{port}\n    \
             deadline: 500ms\n    tls: {{ca_file: {trust}}}\n"
        )
    };
    let sidecar = Sidecar::start(&yaml(&cert)).unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");
    let large = "v".repeat(1_000_000);
    assert_eq!(client.ask(&format!("SET big {large}")).unwrap(), "+OK\r\n");
    assert_eq!(
        client.ask("GET big").unwrap().len(),
        large.len() + "$1000000\r\n\r\n".len()
    );

    let others = tempfile::tempdir().expect("make a directory");
    let other = Certificate::make_in(others.path())
        .unwrap()
        .certificate
        .display()
        .to_string();
    let sidecar = Sidecar::start(&yaml(&other)).unwrap();
    let reply = sidecar.client().unwrap().ask("GET a").unwrap();
    assert!(reply.starts_with("-ERR levee: "), "{reply}");
    let message = sidecar.state().unwrap()["last_error"]["message"].to_string();
    assert!(message.contains("certificate"), "{message}");
}
