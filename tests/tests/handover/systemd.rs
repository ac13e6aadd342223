//! Started by systemd, or as systemd starts it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::client::Request;
use levee_harness::process::{Process, Signal};
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::{Config, Sidecar, Start};
use levee_harness::wait::GENEROUS;
use tempfile::TempDir;

use super::upstream;

/// Passes sockets on, as systemd does: the descriptors from 3, their number, names and for whom. An address stands for a
/// socket that listens there; what else there is are mistakes.
const PASS_SOCKETS: &str = r#"
import fcntl, os, socket, sys
count, names, wanted, program = sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4:]
high = []
def make(what):
    if what == "udp":
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
    elif what == "idle":
        made = socket.socket()
        made.bind(("127.0.0.1", 0))
    elif what == "unix":
        made = socket.socket(socket.AF_UNIX)
        made.bind("")
        made.listen()
    elif what == "file":
        made = open("/dev/null")
    else:
        host, port = what.split(":")
        made = socket.create_server((host, int(port)))
    return made
for what in wanted:
    made = make(what)
    high.append(fcntl.fcntl(made.fileno(), fcntl.F_DUPFD, 100))
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place, inheritable=True)
    os.close(fd)
os.closerange(3 + len(high), 100)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count or str(len(high)), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"#;

/// Sockets that are passed.
struct Passed<'a> {
    /// `LISTEN_FDS`, if it is not their number.
    count: &'a str,
    names: &'a str,
    sockets: String,
}

impl Passed<'_> {
    /// `levee` with these arguments.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("python3");
        command
            .args(["-c", PASS_SOCKETS, self.count, self.names, &self.sockets])
            .arg(built::levee().unwrap())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

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
    let passed = Passed {
        count: "",
        names: "x:unknown",
        sockets: format!("{listen},{other}"),
    };
    let mut command = passed.command(&start.split(' ').collect::<Vec<_>>());
    command
        .env("NOTIFY_SOCKET", manager.path())
        .env("WATCHDOG_USEC", "200000")
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
}

#[test]
fn sockets_that_are_missing_or_of_another_kind_are_refused_with_the_reason() {
    let redis = Redis::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(upstream(free_address().unwrap(), &redis))
        .write(folder.path())
        .unwrap();
    let config = config.to_str().unwrap();
    let good = free_address().unwrap();
    for (count, second, wanted) in [
        (
            "5",
            good.to_string(),
            "descriptor 5 of LISTEN_FDS (\"\") is not open: fewer sockets were passed than LISTEN_FDS says; it must be a \
             TCP socket that listens",
        ),
        ("2000000000", good.to_string(), "descriptor 5 of LISTEN_FDS"),
        ("many", good.to_string(), "LISTEN_FDS is \"many\""),
        (
            "",
            "udp".to_owned(),
            "descriptor 4 of LISTEN_FDS (\"y\") is a datagram socket",
        ),
        ("", "idle".to_owned(), "(\"y\") doesn't listen"),
        (
            "",
            "unix".to_owned(),
            "(\"y\") is a socket of another family",
        ),
        ("", "file".to_owned(), "(\"y\") is not a socket"),
    ] {
        let passed = Passed {
            count,
            names: "x:y",
            sockets: format!("{},{second}", free_address().unwrap()),
        };
        let log = folder.path().join("log");
        let mut command = passed.command(&["run", "--config", config]);
        command
            .env("LEVEE_TOKEN", "secret")
            .stderr(fs::File::create(&log).unwrap());
        let mut process = Process::spawn(command, Signal::Kill).unwrap();
        let ended = process.wait(GENEROUS).and_then(|status| status.code());
        let log = fs::read_to_string(&log).unwrap();
        assert_eq!(ended, Some(1), "{second}: {log}");
        assert!(log.contains(wanted), "{wanted}: {log}");
    }
}

#[test]
fn an_upstream_named_admin_does_not_take_the_socket_of_the_admin_interface() {
    let redis = Redis::start().unwrap();
    let sockets: [SocketAddr; 2] = [free_address().unwrap(), free_address().unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let yaml = upstream(free_address().unwrap(), &redis).replace("name: x", "name: admin")
        + &format!("admin: {{listen: '{}'}}\n", free_address().unwrap());
    let config = Config::new(yaml).write(folder.path()).unwrap();
    let manager = Manager::new();
    let passed = Passed {
        count: "",
        names: "admin:redis/admin",
        sockets: sockets.map(|address| address.to_string()).join(","),
    };
    let mut command = passed.command(&["run", "--config", config.to_str().unwrap()]);
    command
        .env("NOTIFY_SOCKET", manager.path())
        .stderr(Stdio::null());
    let _process = Process::spawn(command, Signal::Kill).unwrap();
    manager.wait_for("READY=1");
    let [admin, upstream] = sockets;
    let health = Request::get("/healthz").send_blocking(admin).unwrap();
    assert_eq!(health.status, 200);
    let mut client = Client::connect(upstream).unwrap();
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
}

#[test]
fn a_socket_for_notifications_that_does_not_exist_is_logged_once() {
    let config = Config::new("")
        .variable("NOTIFY_SOCKET", "/nowhere/notify")
        .variable("WATCHDOG_USEC", "20000");
    let mut sidecar = Sidecar::start_with(&config, &Start::default()).unwrap();
    let warning = "systemd can't be notified at NOTIFY_SOCKET";
    sidecar.wait_for_log(warning).unwrap();
    sidecar.terminate();
    assert_eq!(sidecar.wait(GENEROUS).and_then(|exit| exit.code()), Some(0));
    assert_eq!(sidecar.log().matches(warning).count(), 1);
}
