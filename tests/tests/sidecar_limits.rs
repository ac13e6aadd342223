//! What the sidecar itself runs out of: a reader of its log, file descriptors, memory.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::client::Request;
use levee_harness::clock::Stopwatch;
use levee_harness::process::{Process, Signal};
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::{Config, Sidecar, Start};
use levee_harness::wait::{GENEROUS, until_blocking};
use tempfile::TempDir;

/// A sidecar whose standard error is a pipe.
struct Piped {
    admin: SocketAddr,
    redis: SocketAddr,
    process: Process,
    _files: TempDir,
}

impl Piped {
    fn start(upstream: &Redis, stderr: PipeWriter) -> Self {
        let (admin, redis) = (free_address().unwrap(), free_address().unwrap());
        let files = tempfile::tempdir().unwrap();
        let upstream = upstream.address;
        let config = Config::new(format!(
            "admin: {{listen: '{admin}'}}\nredis:\n  - {{name: x, listen: '{redis}', upstream: 'redis://{upstream}'}}\n"
        ));
        let mut command = Command::new(built::levee().unwrap());
        config
            .add_variables(&mut command)
            .args(["run", "--config"])
            .arg(config.write(files.path()).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        Self {
            admin,
            redis,
            process: Process::spawn(command, Signal::Kill).unwrap(),
            _files: files,
        }
    }

    fn check_healthy(&self) {
        until_blocking("/healthz", GENEROUS, || {
            match Request::get("/healthz").send_blocking(self.admin) {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.status.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .unwrap();
    }
}

/// A pipe that takes nothing more until somebody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    // `/dev/stdout` opens the pipe once more: only that is non-blocking.
    let fill = Command::new("dd")
        .args([
            "if=/dev/zero",
            "of=/dev/stdout",
            "oflag=nonblock",
            "bs=4096",
        ])
        .stdout(writer.try_clone().unwrap())
        .stderr(Stdio::null())
        .status();
    assert!(!fill.unwrap().success(), "it ends when the pipe is full");
    (reader, writer)
}

#[test]
fn a_log_that_nobody_reads_stops_neither_redis_nor_admin_nor_the_end() {
    let redis = Redis::start().unwrap();
    let (mut reader, writer) = full_pipe();
    let mut sidecar = Piped::start(&redis, writer);
    sidecar.check_healthy();
    let mut client = Client::connect(sidecar.redis).unwrap();
    assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");
    assert_eq!(client.ask("GET a").unwrap(), "$1\r\n1\r\n");
    sidecar.check_healthy();
    drop(client);
    sidecar.process.signal(Signal::Terminate);
    let exit = sidecar.process.wait(GENEROUS).expect("it has ended");
    assert!(exit.success(), "{exit}");
    // What was waiting was given up, not written later.
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 0));
}

#[test]
fn a_log_that_is_read_late_is_written_whole_before_the_end() {
    let redis = Redis::start().unwrap();
    let (mut reader, writer) = full_pipe();
    let mut sidecar = Piped::start(&redis, writer);
    sidecar.check_healthy();
    let read = thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    });
    sidecar.process.signal(Signal::Terminate);
    let exit = sidecar.process.wait(GENEROUS).expect("it has ended");
    assert!(exit.success(), "{exit}");
    let all = read.join().unwrap();
    for message in ["listening", "ready", "stopping", "stopped"] {
        assert!(all.contains(message), "no {message}");
    }
}

/// A sidecar that is started by a shell with this `ulimit`. Its Redis upstream has all defaults.
struct Limited {
    sidecar: Sidecar,
    redis: Redis,
    _files: TempDir,
}

impl Limited {
    fn start(ulimit: &str) -> levee_harness::error::Result<Self> {
        let redis = Redis::start()?;
        let files = tempfile::tempdir().unwrap();
        let program = files.path().join("limited");
        let levee = built::levee()?;
        let script = format!(
            "#!/bin/sh\nulimit {ulimit} && exec '{}' \"$@\"\n",
            levee.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = Config::new(format!(
            "redis:\n  - {{name: x, listen: '127.0.0.1:0', upstream: 'redis://{}'}}\n",
            redis.address
        ));
        let start = Start {
            program: Some(program),
            ..Start::default()
        };
        Ok(Self {
            sidecar: Sidecar::start_with(&config, &start)?,
            redis,
            _files: files,
        })
    }

    /// How many clients it says that it serves.
    fn places(&self) -> usize {
        let state = self.sidecar.state().unwrap();
        let places = state["connections"]["limit"].as_u64().unwrap();
        usize::try_from(places).unwrap()
    }

    /// Clients that are connected to Redis through it.
    fn serves(&self, count: usize) -> Vec<Client> {
        let serve = |number| {
            let mut client = self.sidecar.client().unwrap();
            assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n", "client {number}");
            client
        };
        (0..count).map(serve).collect()
    }
}

#[test]
fn the_soft_limit_on_open_files_is_raised_to_the_hard_one() {
    let limited = Limited::start("-Sn 128").unwrap();
    assert_eq!(limited.places(), 1000);
    limited.serves(200);
}

#[test]
fn clients_that_do_not_fit_the_hard_limit_are_refused_and_admin_answers() {
    let limited = Limited::start("-n 256").unwrap();
    let places = limited.places();
    assert!((50..128).contains(&places), "{places}");
    let said = format!("is enough for {places} of 1000 Redis clients");
    limited.sidecar.wait_for_log(&said).unwrap();
    let mut served = limited.serves(places);
    let mut refused: Vec<Client> = (0..200)
        .map(|_| limited.sidecar.client().unwrap())
        .collect();
    assert_eq!(limited.sidecar.get("/healthz").unwrap().0, 200);
    assert_eq!(limited.sidecar.get("/metrics").unwrap().0, 200);
    for client in &mut refused {
        let said = client.reply().unwrap_or_default();
        assert!(
            said.as_deref()
                .is_none_or(|said| said == "-ERR max number of clients reached\r\n"),
            "{said:?}"
        );
    }
    for client in &mut served {
        assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    }
    assert!(!limited.sidecar.log().contains("can't be accepted"));
    assert!(limited.redis.client().is_ok());
}

#[test]
fn half_sent_requests_to_admin_deny_neither_redis_nor_admin() {
    let limited = Limited::start("-n 256").unwrap();
    let half = |_| {
        let mut stream = TcpStream::connect(limited.sidecar.admin).unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x");
        stream
    };
    let half: Vec<TcpStream> = (0..500).map(half).collect();
    limited.serves(limited.places());
    assert_eq!(limited.sidecar.get("/healthz").unwrap().0, 200);
    drop(half);
}

#[test]
fn a_flood_of_half_sent_requests_takes_no_more_descriptors_than_admin_has() {
    const ADMIN: usize = 34;
    const FLOODS: usize = 8;
    let limited = Limited::start("-n 200").unwrap();
    let places = limited.places();
    let mut served = limited.serves(places);
    let before = limited.sidecar.descriptors().unwrap();
    let admin = limited.sidecar.admin;
    let flood = move || -> Vec<TcpStream> {
        let half = |_| {
            let mut stream = TcpStream::connect(admin).unwrap();
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x");
            stream
        };
        (0..300).map(half).collect()
    };
    let floods: Vec<_> = (0..FLOODS).map(|_| thread::spawn(flood)).collect();
    let mut most = 0;
    while floods.iter().any(|flood| !flood.is_finished()) {
        most = most.max(limited.sidecar.descriptors().unwrap());
        // One in thousands gives its place to others before it sends its request.
        let took = Stopwatch::start();
        let healthy = || limited.sidecar.get("/healthz").ok();
        let answer = (0..3).find_map(|_| healthy());
        assert_eq!(answer.map(|answer| answer.0), Some(200));
        assert!(took.elapsed() < Duration::from_secs(2), "{took:?}");
    }
    println!("{before} descriptors, and {most} at most in the flood");
    assert!(most <= before + ADMIN, "{before}, then {most}");
    assert_eq!(limited.sidecar.get("/healthz").unwrap().0, 200);
    for client in &mut served {
        assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    }
    assert!(!limited.sidecar.log().contains("can't be accepted"));
    drop(floods);
}

#[test]
fn a_limit_that_is_enough_for_nobody_is_an_error_at_the_start() {
    let Err(error) = Limited::start("-n 64") else {
        panic!("it has started");
    };
    let error = error.to_string();
    let wanted = "the limit on open files is 64, and this configuration needs at least";
    assert!(error.contains(wanted), "{error}");
}

fn with_memory(redis: &Redis, memory: &str) -> Sidecar {
    let upstream = redis.address;
    Sidecar::start(&format!(
        "limits: {{memory: {memory}}}\nredis:\n  - {{name: x, listen: '127.0.0.1:0', upstream: 'redis://{upstream}', deadline: 1m}}\n"
    ))
    .unwrap()
}

/// The most resident memory in KiB until Redis has sent nothing for a second. Meanwhile a client is served.
fn most_resident_kib(sidecar: &Sidecar) -> u64 {
    let mut friend = sidecar.client().unwrap();
    let (mut most, mut last) = (0, 0);
    let whole = Stopwatch::start();
    let mut quiet = Stopwatch::start();
    while quiet.elapsed() < Duration::from_secs(1) && whole.elapsed() < GENEROUS {
        assert_eq!(friend.ask("SET friend 1").unwrap(), "+OK\r\n");
        most = most.max(sidecar.resident_kib().unwrap());
        let from_redis = "redis_proxy_bytes_total{direction=\"from_redis\",upstream=\"x\"}";
        let bytes = sidecar.metric(from_redis).unwrap();
        // The friend's own are few.
        if bytes > last + 10_000 {
            quiet = Stopwatch::start();
            last = bytes;
        }
    }
    most
}

#[test]
fn clients_that_take_no_replies_hold_no_more_than_the_limit() {
    const CLIENTS: usize = 100;
    let redis = Redis::start().unwrap();
    let sidecar = with_memory(&redis, "16MiB");
    let value = format!("SET a {}", "x".repeat(20_000));
    assert_eq!(redis.client().unwrap().ask(&value).unwrap(), "+OK\r\n");
    let before = sidecar.resident_kib().unwrap();
    let commands = levee_redis_session::resp::encode(&["GET", "a"]).repeat(300);
    let gluttons: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = sidecar.client().unwrap();
            client.send(&commands);
            client
        })
        .collect();
    let grown = most_resident_kib(&sidecar).saturating_sub(before);
    println!("{grown} KiB");
    // The limit, 64 KiB for each client, and what the allocator keeps.
    assert!(grown < (16 + 6 + 10) * 1024, "{grown} KiB");
    drop(gluttons);
    sidecar
        .wait_for_metric("redis_proxy_buffered_bytes", |bytes| bytes == 0)
        .unwrap();
    let failures = "circuit_breaker_failures_total{service=\"redis:x\"}";
    assert_eq!(sidecar.metric(failures).unwrap(), 0);
}

#[test]
fn the_largest_holders_are_closed_with_an_error_when_the_limit_is_reached() {
    const LARGE: usize = 400_000;
    let redis = Redis::start().unwrap();
    let sidecar = with_memory(&redis, "16MiB");
    // Half-sent commands: no back-pressure helps, since they need all of that room.
    let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nb\r\n${LARGE}\r\n");
    let small = [head.as_bytes(), &vec![b'x'; 20_000]].concat();
    let large = [head.as_bytes(), &vec![b'x'; LARGE - 1]].concat();
    let mut modest: Vec<Client> = (0..10).map(|_| sidecar.client().unwrap()).collect();
    for client in &mut modest {
        client.send(&small);
    }
    let mut greedy: Vec<Client> = (0..60).map(|_| sidecar.client().unwrap()).collect();
    for client in &mut greedy {
        client.send(&large);
    }
    let closed = "redis_proxy_connections_refused_total{reason=\"memory\",upstream=\"x\"}";
    sidecar
        .wait_for_metric(closed, |closed| closed > 0)
        .unwrap();
    sidecar
        .wait_for_metric("redis_proxy_buffered_bytes", |bytes| bytes <= 16 << 20)
        .unwrap();
    let mut count = 0;
    for client in &mut greedy {
        client.send(b"x\r\n");
        let reply = client.reply().unwrap_or_default().unwrap_or_default();
        if reply != "+OK\r\n" {
            count += 1;
            assert!(reply.starts_with("-ERR levee: out of memory"), "{reply:?}");
            assert!(client.is_closed().unwrap());
        }
    }
    assert_eq!(sidecar.metric(closed).unwrap(), count);
    assert!(count < 60, "only as many as needed");
    for client in &mut modest {
        client.send(&vec![b'x'; LARGE - 20_000]);
        client.send(b"\r\n");
        assert_eq!(client.reply().unwrap().as_deref(), Some("+OK\r\n"));
    }
}
