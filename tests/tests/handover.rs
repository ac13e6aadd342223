//! Starting, stopping and handing over to another process, without systemd and as systemd does it.
#![allow(missing_docs)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use redis::Commands;
use tempfile::TempDir;

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
    let progress = |by: u64| {
        let wanted = [&short, &long].map(|seen| seen.commands.load(Ordering::SeqCst) + by);
        let clock = Stopwatch::start();
        while [&short, &long]
            .iter()
            .zip(wanted)
            .any(|(seen, wanted)| seen.commands.load(Ordering::SeqCst) < wanted)
        {
            assert!(clock.elapsed() < GENEROUS, "the clients got no further");
            thread::sleep(Duration::from_millis(5));
        }
    };
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
fn an_address_in_use_is_an_error_unless_it_is_to_be_taken_over() {
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

/// Listens and passes its sockets on, as systemd does: the descriptors from 3, their number, names and for whom.
const PASS_SOCKETS: &str = r#"
import fcntl, os, socket, sys
names, addresses, program = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
high = []
for address in addresses:
    host, port = address.split(":")
    listener = socket.create_server((host, int(port)))
    high.append(fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 100))
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place, inheritable=True)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"#;

/// What is in a unit file, by section and key.
fn unit(name: &str) -> Vec<(String, String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (mut section, mut all) = (String::new(), Vec::new());
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            name.clone_into(&mut section);
        } else {
            let (key, value) = line
                .split_once('=')
                .unwrap_or_else(|| panic!("{name}: {line}"));
            all.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    all
}

fn values<'a>(unit: &'a [(String, String, String)], key: &str) -> Vec<&'a str> {
    let of_key = unit.iter().filter(|(_, other, _)| other == key);
    of_key.map(|(_, _, value)| value.as_str()).collect()
}

/// What a process says at `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(GENEROUS)).expect("a bound");
        Self { socket, folder }
    }

    fn path(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    /// Waits for a message with this line, and returns it.
    fn wait_for(&self, line: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let length = self
                .socket
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("no {line}: {error}"));
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|said| said == line) {
                return text;
            }
        }
    }
}

#[test]
fn it_runs_as_its_unit_says_with_sockets_notifications_and_watchdog_of_systemd() {
    let redis = Redis::start().unwrap();
    let (listen, other) = (free_address().unwrap(), free_address().unwrap());
    let manager = Manager::new();
    // The configuration has another address for Redis: the socket is found by its name, and admin's by its address.
    let yaml = upstream(other, &redis) + &format!("admin: {{listen: '{other}'}}\n");
    let yaml = yaml.replacen(&other.to_string(), &free_address().unwrap().to_string(), 1);
    let config = Config::new(yaml).write(manager.folder.path()).unwrap();
    let service = unit("levee.service");
    let start = values(&service, "ExecStart")[0]
        .replace("/etc/levee/levee.yaml", &config.display().to_string());
    let start = start.strip_prefix("/usr/bin/levee ").expect("levee");
    let log = manager.folder.path().join("log");
    let mut command = Command::new("python3");
    command
        .args([
            "-c",
            PASS_SOCKETS,
            "x:unknown",
            &format!("{listen},{other}"),
        ])
        .arg(built::levee().unwrap())
        .args(start.split(' '))
        .env("NOTIFY_SOCKET", manager.path())
        .env("WATCHDOG_USEC", "200000")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap());
    // Before it is ready, connections wait.
    let mut process = Process::spawn(command, Signal::Kill).unwrap();
    manager.wait_for("READY=1");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    assert_eq!(
        Client::connect(listen).unwrap().ask("PING").unwrap(),
        "+PONG\r\n"
    );
    let admin = Request::get("/readyz").send_blocking(other).unwrap();
    assert_eq!(admin.status, 200, "{}", admin.text());
    process.signal(Signal::Terminate);
    manager.wait_for("STOPPING=1");
    let log = || fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(
        process.wait(GENEROUS).and_then(|status| status.code()),
        Some(0),
        "{}",
        log()
    );
}

#[test]
fn the_units_are_complete_and_fit_the_program() {
    let service = unit("levee.service");
    for (key, wanted) in [
        ("Type", "notify"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
    ] {
        assert_eq!(values(&service, key), [wanted], "{key}");
    }
    for key in [
        "WatchdogSec",
        "LimitNOFILE",
        "TimeoutStopSec",
        "SystemCallFilter",
        "RestrictAddressFamilies",
    ] {
        assert!(!values(&service, key).is_empty(), "{key}");
    }
    assert_eq!(values(&service, "ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    for line in values(&service, "ExecStart") {
        let arguments = line.strip_prefix("/usr/bin/levee ").expect("levee");
        let output = Command::new(built::levee().unwrap())
            .args(arguments.split(' '))
            .arg("--help")
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}");
    }
    // The defaults of Levee's own examples.
    let sockets = unit("levee.socket");
    assert_eq!(
        values(&sockets, "ListenStream"),
        ["127.0.0.1:6380", "127.0.0.1:9464"]
    );
    // Where systemd is installed, it reads them itself; it misses only the program.
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let verify = Command::new("systemd-analyze")
        .arg("verify")
        .args(["levee.service", "levee.socket"].map(|name| files.join(name)))
        .output();
    if let Ok(output) = verify {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let wrong: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("packaging/levee") || line.starts_with("levee."))
            .filter(|line| !line.contains("/usr/bin/levee"))
            .collect();
        assert!(wrong.is_empty(), "{said}");
    }
}

/// A sidecar whose configuration can be changed.
struct Reloadable {
    file: std::path::PathBuf,
    admin: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl Reloadable {
    fn start(yaml: &str) -> Self {
        let (folder, admin) = (tempfile::tempdir().unwrap(), free_address().unwrap());
        let mut this = Self {
            file: folder.path().join("levee.yaml"),
            admin,
            process: Process::spawn(Command::new("true"), Signal::Kill).unwrap(),
            folder,
        };
        this.write(yaml);
        let mut command = this.levee(&["run", "--take-over"]);
        command.stderr(fs::File::create(this.folder.path().join("log")).unwrap());
        this.process = Process::spawn(command, Signal::Kill).unwrap();
        this.wait_for_log("ready");
        this
    }

    /// Waits until its log has this text.
    fn wait_for_log(&self, text: &str) {
        until_blocking(text, GENEROUS, || {
            let log = self.log();
            log.contains(text).then_some(()).ok_or(log)
        })
        .unwrap();
    }

    fn write(&self, yaml: &str) {
        let admin = format!(
            "admin: {{listen: '{}', token_env: LEVEE_TOKEN}}\n",
            self.admin
        );
        fs::write(&self.file, admin + yaml).unwrap();
    }

    fn levee(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built::levee().unwrap());
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.file)
            .env("LEVEE_TOKEN", "secret")
            .stdin(Stdio::null());
        command
    }

    /// Exit code and output of `levee reload` with this configuration.
    fn reload(&self, yaml: &str) -> (Option<i32>, String) {
        self.write(yaml);
        let output = self.levee(&["reload"]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn page(&self, path: &str) -> String {
        Request::get(path).send_blocking(self.admin).unwrap().text()
    }
}

#[test]
fn a_reload_takes_force_without_a_connection_lost_and_says_what_needs_a_restart() {
    let redis = Redis::start().unwrap();
    let (first, second) = (free_address().unwrap(), free_address().unwrap());
    let to = redis.address;
    let yaml = |name: &str, listen: SocketAddr, keys: &str| {
        format!("  - {{name: {name}, listen: '{listen}', upstream: 'redis://{to}'{keys}}}\n")
    };
    let x = yaml("x", first, "");
    let sidecar = Reloadable::start(&format!("redis:\n{x}"));
    let mut client = Client::connect(first).unwrap();
    assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");

    // A deadline for a client that is connected already, and another upstream.
    let x = yaml("x", first, ", deadline: 150ms, limits: {connections: 7}");
    let y = yaml("y", second, "");
    let (code, said) = sidecar.reload(&format!("redis:\n{x}{y}"));
    assert_eq!(code, Some(0), "{said} {}", sidecar.log());
    assert!(
        said.contains("changed: redis/x\n") && said.contains("changed: redis/y (new)\n"),
        "{said}"
    );
    let mut redis = redis;
    redis.signal(Signal::Stop).unwrap();
    let late = client.ask("GET a").unwrap();
    redis.signal(Signal::Continue).unwrap();
    assert!(late.contains("150ms"), "{late}");
    assert_eq!(
        Client::connect(second).unwrap().ask("PING").unwrap(),
        "+PONG\r\n"
    );
    assert!(sidecar.page("/v1/redis").contains("\"limit\":7"));

    // What needs a restart is named and stays.
    let moved = x.replace(&first.to_string(), &free_address().unwrap().to_string());
    let (code, said) = sidecar.reload(&format!("redis:\n{moved}"));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("needs a restart: redis[0].listen") && said.contains("redis/y (removed)"),
        "{said}"
    );
    sidecar.wait_for_log("redis[0].listen has changed, which needs a restart");
    assert_eq!(client.ask("GET a").unwrap(), "$1\r\n1\r\n");
    until_blocking("the end of the upstream that is gone", GENEROUS, || {
        let connected = std::net::TcpStream::connect(second);
        connected.err().map(|_| ()).ok_or("it still listens")
    })
    .unwrap();
}

#[test]
fn an_invalid_configuration_is_rejected_with_its_lines_and_the_old_one_stays() {
    let redis = Redis::start().unwrap();
    let listen = free_address().unwrap();
    let yaml = upstream(listen, &redis);
    let mut sidecar = Reloadable::start(&yaml);
    let mut client = Client::connect(listen).unwrap();
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    let (code, said) = sidecar.reload("redis:\n  - {name: x}\nbogus: 1\n");
    assert_eq!(code, Some(2), "{said}");
    for mistake in [
        "levee.yaml:3: redis[0].listen: is missing",
        "levee.yaml:4: bogus: is not known here",
    ] {
        assert!(said.contains(mistake), "{mistake}: {said}");
        sidecar.wait_for_log(mistake);
    }
    // Whoever writes a file empties it first.
    fs::write(&sidecar.file, "").unwrap();
    sidecar.process.signal(Signal::HangUp);
    sidecar.wait_for_log("is empty, which would end all parts");
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    let metrics = sidecar.page("/metrics");
    assert!(
        metrics.contains("levee_config_last_reload_successful 0\n"),
        "{metrics}"
    );
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    // By a signal, too.
    sidecar.write(&(yaml + "stop_within: 3s\n"));
    sidecar.process.signal(Signal::HangUp);
    sidecar.wait_for_log("changed: stop_within");
    let metrics = sidecar.page("/metrics");
    for line in [
        "levee_config_last_reload_successful 1\n",
        "levee_config_reloads_total{outcome=\"invalid\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
}
