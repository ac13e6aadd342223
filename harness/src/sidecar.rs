//! The sidecar under test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::Value;
use tempfile::TempDir;

use crate::clock::Stopwatch;
use crate::postgres::Postgres;
use crate::process::{Process, Signal};
use crate::redis::Client;
use crate::wait::GENEROUS;

/// A running `levee run`.
#[derive(Debug)]
pub struct Sidecar {
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    listeners: Vec<SocketAddr>,
    process: Process,
    files: TempDir,
}

/// `LEVEE_BIN`, or the program beside the tests.
pub fn program() -> PathBuf {
    env::var_os("LEVEE_BIN").map_or_else(
        || {
            let tests = env::current_exe().expect("the path of the tests");
            tests
                .ancestors()
                .nth(2)
                .expect("the folder of builds")
                .join("levee")
        },
        PathBuf::from,
    )
}

/// What a client must show before it may change something.
pub const TOKEN: &str = "let me in";

/// The section `database` for the database at `url`, with these further keys (YAML, one a line).
pub fn at(url: &str, keys: &str) -> String {
    let keys = keys.replace('\n', "\n  ");
    format!("database:\n  url_file: '{{files}}/url'\n  {keys}\n#url {url}\n")
}

/// Writes a configuration into `folder`, with what it names.
pub fn write_config(folder: &Path, yaml: &str) -> PathBuf {
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).expect("write a file for the sidecar");
    };
    write("token", TOKEN);
    let url = yaml.lines().find_map(|line| line.strip_prefix("#url "));
    write("url", url.unwrap_or_default());
    let admin = if yaml.lines().any(|line| line.starts_with("admin:")) {
        ""
    } else {
        "admin: {listen: '127.0.0.1:0', token_file: '{files}/token'}\n"
    };
    let all = format!("log: {{format: json, level: debug}}\n{admin}{yaml}");
    write(
        "levee.yaml",
        &all.replace("{files}", &folder.display().to_string()),
    );
    folder.join("levee.yaml")
}

impl Sidecar {
    /// Starts it with one upstream, and these further keys of that upstream (YAML, one a line).
    pub fn before(upstream: SocketAddr, keys: &str) -> Self {
        let keys = keys.replace('\n', "\n    ");
        Self::start(&format!(
            "redis:\n  - name: x\n    listen: 127.0.0.1:0\n    upstream: redis://{upstream}\n    {keys}\n"
        ))
    }

    /// Starts it with a database, where it logs in as `user`, and these further keys of that (YAML, one a line).
    pub fn at(postgres: &Postgres, user: &str, keys: &str) -> Self {
        Self::start(&at(&postgres.url_of(user), keys))
    }

    /// Starts it with this configuration, and waits until it is ready. `{files}` stands for a folder of its own.
    pub fn start(yaml: &str) -> Self {
        let files = tempfile::tempdir().expect("make a directory for the sidecar");
        let config = write_config(files.path(), yaml);
        let log = fs::File::create(files.path().join("log")).expect("make a log");
        let mut command = Command::new(program());
        command
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(log);
        let process = Process::spawn(command, Signal::Kill)
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", program().display()));
        let mut sidecar = Self {
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            listeners: Vec::new(),
            process,
            files,
        };
        sidecar.wait_until_ready();
        sidecar
    }

    fn wait_until_ready(&mut self) {
        let waited = Stopwatch::start();
        loop {
            let lines: Vec<Value> = self
                .log()
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            if lines.iter().any(|line| line["message"] == "ready") {
                for line in lines.iter().filter(|line| line["message"] == "listening") {
                    let address = line["address"].as_str().and_then(|text| text.parse().ok());
                    let address = address.expect("an address in the log");
                    if line["part"] == "admin" {
                        self.admin = address;
                    } else {
                        self.listeners.push(address);
                    }
                }
                return;
            }
            if let Some(exit) = self.process.exit_status() {
                panic!("the sidecar has ended ({exit}): {}", self.log());
            }
            assert!(waited.elapsed() < GENEROUS, "not ready: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    /// Where the first upstream's clients connect.
    pub fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// A client of the first upstream.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Status and body of a page of the admin interface.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path}"), "")
    }

    /// Status and body of what is asked to be done, by one who has the token.
    pub fn post(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.request(
            &format!("POST {path}"),
            &format!("authorization: Bearer {TOKEN}\r\n"),
        );
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Status and body of the answer to a request with these headers.
    pub fn request(&self, line: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("connect to the admin interface");
        stream
            .set_read_timeout(Some(3 * GENEROUS))
            .expect("set an option of a socket");
        write!(
            stream,
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"
        )
        .expect("send a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    /// The state of the first upstream, as `/v1/redis` has it.
    pub fn state(&self) -> Value {
        let (_, body) = self.get("/v1/redis");
        let page: Value = serde_json::from_str(&body).expect("JSON");
        page["upstreams"][0].clone()
    }

    /// A counter or gauge by its name and labels, as they stand in the text.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    }

    /// Waits until a page or a state is as it should be.
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let waited = Stopwatch::start();
        while !holds(self) {
            assert!(
                waited.elapsed() < GENEROUS,
                "waited for {what}: {} {} {}",
                self.state(),
                self.get("/v1/jobs").1,
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// How much memory it has, in kilobytes.
    pub fn memory_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .expect("read its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("its memory")
    }

    /// Asks it to end, without waiting.
    pub fn terminate(&mut self) {
        self.process.signal(Signal::Terminate);
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        self.process.wait(bound)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process.signal(Signal::Kill);
        self.process.wait(GENEROUS);
    }
}
