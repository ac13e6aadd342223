//! `levee-up`, which `cargo xtask up` runs: starts, serves, ends, and leaves nothing behind.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::built;
use levee_harness::client::Request;
use levee_harness::clock::Stopwatch;
use levee_harness::metrics::Metrics;
use levee_harness::process::{self, Process, Signal};
use levee_harness::redis::{Client, Redis};
use levee_harness::wait;
use tempfile::TempDir;

/// A `levee-up` with its output in files, and a folder for temporary files that must be empty at the end.
struct Up {
    process: Process,
    folder: TempDir,
}

impl Up {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, |_| {})
    }

    fn start_with(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).unwrap();
        // PostgreSQL writes here, as another user if the tests run as root.
        for path in [folder.path(), &temporary] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(built::program("levee-up").unwrap());
        let output = |name| fs::File::create(folder.path().join(name)).unwrap();
        command
            .args(arguments)
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"));
        change(&mut command);
        Self {
            process: Process::spawn(command, Signal::Terminate).unwrap(),
            folder,
        }
    }

    fn output(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// The address after `label` in the output.
    async fn address(&self, label: &str) -> SocketAddr {
        wait::until_now(
            &format!("`{label}` to be printed"),
            Duration::from_mins(1),
            || {
                let text = self.output("stdout");
                text.split_once(label)
                    .and_then(|(_, rest)| rest.split(['/', '\n', ' ']).next()?.parse().ok())
                    .ok_or_else(|| format!("{text}{}", self.output("stderr")))
            },
        )
        .await
        .unwrap()
    }

    fn wait(&mut self) -> i32 {
        let exit = self.process.wait(Duration::from_mins(1));
        exit.and_then(|exit| exit.code())
            .unwrap_or_else(|| panic!("{exit:?}\n{}", self.output("stderr")))
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        fs::read_dir(self.folder.path().join("tmp"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

const FREE_PORTS: [&str; 8] = [
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
    "--redis-listen",
    "127.0.0.1:0",
    "--sidecar-admin",
    "127.0.0.1:0",
];

fn free_ports_and<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&FREE_PORTS[..], more].concat()
}

#[expect(clippy::too_many_lines, reason = "one run, from its start to its end")]
#[tokio::test]
async fn the_demonstration_shows_a_breaker_opening_and_closing_and_ctrl_c_leaves_nothing() {
    let arguments = free_ports_and(&["--open-for", "1s", "--concurrency", "2"]);
    let mut up = Up::start_with(&arguments, |command| {
        command.env("LEVEE_BIN", built::levee().unwrap());
    });
    let gateway = up.address("gateway   http://").await;
    let admin = up.address("metrics   http://").await;
    let auth = up.address("/v1/auth -> ").await;
    for service in ["auth", "chat", "video", "storage"] {
        let answer = Request::get(&format!("/v1/{service}/hello"))
            .send(gateway)
            .await
            .unwrap();
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .text()
                .contains(&format!("\"service\":\"{service}\"")),
            "{}",
            answer.text()
        );
    }

    assert_eq!(
        Request::post("/demo/fail", "")
            .send(auth)
            .await
            .unwrap()
            .status,
        200
    );
    wait::until("a refusal", wait::GENEROUS, || async {
        let answer = Request::get("/v1/auth/hello").send(gateway).await.unwrap();
        if answer.header("x-levee-reason") == "circuit_open" {
            Ok(())
        } else {
            Err(answer.status)
        }
    })
    .await
    .unwrap();
    assert_eq!(
        Request::get("/v1/chat/hello")
            .send(gateway)
            .await
            .unwrap()
            .status,
        200
    );
    wait_for_state(admin, "auth", 1.0).await;
    assert_eq!(
        Request::post("/demo/recover", "")
            .send(auth)
            .await
            .unwrap()
            .status,
        200
    );
    wait::until("the breaker to close", wait::GENEROUS, || async {
        let _ = Request::get("/v1/auth/hello").send(gateway).await;
        let state = state(admin, "auth").await;
        if state == Some(0.0) {
            Ok(())
        } else {
            Err(format!("{state:?}"))
        }
    })
    .await
    .unwrap();

    up.address("sidecar   http://").await;
    let children = up.process.children();
    assert_eq!(children.len(), 4, "Envoy, Redis, PostgreSQL, the sidecar");
    up.process.signal(Signal::Interrupt);
    assert_eq!(up.wait(), 0, "{}", up.output("stderr"));
    assert!(!children.iter().any(|child| process::is_running(*child)));
    assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
    assert!(TcpListener::bind(gateway).is_ok(), "the port is free again");
}

async fn state(admin: SocketAddr, service: &str) -> Option<f64> {
    let page = Request::get("/stats/prometheus").send(admin).await.unwrap();
    Metrics::parse(&page.text())
        .unwrap()
        .get("circuit_breaker_state", &[("service", service)])
}

async fn wait_for_state(admin: SocketAddr, service: &str, wanted: f64) {
    wait::until("the breaker's state", wait::GENEROUS, || async {
        let state = state(admin, service).await;
        if state == Some(wanted) {
            Ok(())
        } else {
            Err(format!("{state:?}"))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_demonstration_keeps_sessions_in_redis_and_calls_in_the_database() {
    let up = Up::start_with(&free_ports_and(&[]), |command| {
        command.env("LEVEE_BIN", built::levee().unwrap());
    });
    let gateway = up.address("gateway   http://").await;
    let sidecar = up.address("sidecar   http://").await;
    up.address("database  postgres://app@").await;
    for (path, body) in [
        ("/v1/auth/login", r#"{"user": "ann"}"#),
        ("/v1/video/calls", r#"{"caller": "ann"}"#),
    ] {
        let request = Request::post(path, body).header("content-type", "application/json");
        let answer = request.send(gateway).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let page = Request::get("/metrics").send(sidecar).await.unwrap();
    let metrics = Metrics::parse(&page.text()).unwrap();
    let labels = [("service", "redis:demo"), ("outcome", "success")];
    assert!(metrics.sum("circuit_breaker_requests_total", &labels) >= 1.0);
    let jobs = Request::get("/v1/jobs").send(sidecar).await.unwrap().text();
    assert!(
        jobs.contains("auth_cleanup") && jobs.contains("video_cleanup"),
        "{jobs}"
    );
}

#[tokio::test]
async fn own_services_are_put_behind_the_gateway_and_no_others() {
    let billing = Backend::start().unwrap();
    billing.always(Behaviour::status(204));
    let upstream = format!("billing=localhost:{}", billing.address().port());
    let mut up = Up::start(&free_ports_and(&[
        "--upstream",
        &upstream,
        "--timeout-class",
        "billing=medium",
        "--consecutive-failures",
        "2",
    ]));
    let gateway = up.address("gateway   http://").await;
    assert_eq!(
        Request::get("/v1/billing/x")
            .send(gateway)
            .await
            .unwrap()
            .status,
        204
    );
    let limit = billing
        .last_request()
        .unwrap()
        .header("x-envoy-expected-rq-timeout-ms")
        .map(<[u8]>::to_vec);
    assert_eq!(limit.as_deref(), Some(&b"10000"[..]));
    assert_eq!(
        Request::get("/v1/auth/x")
            .send(gateway)
            .await
            .unwrap()
            .status,
        404
    );
    billing.always(Behaviour::status(502));
    for wanted in [502, 502, 503] {
        assert_eq!(
            Request::get("/v1/billing/x")
                .send(gateway)
                .await
                .unwrap()
                .status,
            wanted
        );
    }
    up.process.signal(Signal::Terminate);
    assert_eq!(up.wait(), 0);
    assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn when_it_is_killed_envoy_ends_too() {
    let mut up = Up::start(&free_ports_and(&[]));
    up.address("gateway   http://").await;
    let children = up.process.children();
    up.process.signal(Signal::Kill);
    wait::until_now("Envoy to end", wait::GENEROUS, || {
        if process::is_running(children[0]) {
            Err("still running")
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--listen", "--admin", "--redis-listen", "--sidecar-admin"] {
        let mut arguments = FREE_PORTS;
        let place = arguments.iter().position(|argument| *argument == option);
        arguments[place.unwrap() + 1] = &address;
        let mut up = Up::start_with(&arguments, |command| {
            command.env("LEVEE_BIN", built::levee().unwrap());
        });
        assert_eq!(up.wait(), 5);
        let error = up.output("stderr");
        assert!(
            error.contains(&address) && error.contains("in use") && error.contains(option),
            "{error}"
        );
        assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_mistake_on_the_command_line_says_what_is_right() {
    for (arguments, wanted) in [
        (&["--upstream", "auth"][..], "NAME=HOST:PORT"),
        (&["--upstream", "auth=here"][..], "not HOST:PORT"),
        (&["--open-for", "5"][..], "500ms"),
        (&["--redis", "cache"][..], "not HOST:PORT"),
        (&["--timeout-class", "auth=quick"][..], "very_long"),
        (
            &["--timeout-class", "nobody=short"][..],
            "auth, chat, video, storage",
        ),
        (&["--upstream", "a=h:1", "--upstream", "a=h:2"][..], "twice"),
    ] {
        let mut up = Up::start(&free_ports_and(arguments));
        assert_eq!(up.wait(), 2, "{arguments:?}");
        let error = up.output("stderr");
        assert!(error.contains(wanted), "{arguments:?}: {error}");
        assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
    }
}

#[test]
fn an_envoy_that_does_not_start_is_quoted() {
    let mut up = Up::start_with(&free_ports_and(&[]), |command| {
        // Not a Wasm module: Envoy rejects the configuration.
        command.env(
            "LEVEE_FILTER_WASM",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        );
    });
    assert_eq!(up.wait(), 1);
    let error = up.output("stderr");
    assert!(
        error.contains("Envoy didn't start") && error.contains("wasm"),
        "{error}"
    );
    assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
}

#[test]
fn the_filters_own_errors_are_quoted() {
    let mut up = Up::start(&free_ports_and(&["--open-for", "30days"]));
    assert_eq!(up.wait(), 1);
    let error = up.output("stderr");
    assert!(error.contains("breaker.open_for"), "{error}");
}

#[tokio::test]
async fn the_sidecar_stands_before_a_redis_that_ends_with_it() {
    let mut up = Up::start_with(&free_ports_and(&[]), |command| {
        command.env("LEVEE_BIN", built::levee().unwrap());
    });
    let address = up.address("redis     ").await;
    let redis = up.address("behind it ").await;
    let answer = tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(address).unwrap();
        assert_eq!(client.ask("SET greeting hello").unwrap(), "+OK\r\n");
        Client::connect(redis).unwrap().ask("GET greeting").unwrap()
    });
    assert_eq!(answer.await.unwrap(), "$5\r\nhello\r\n");
    up.process.signal(Signal::Interrupt);
    assert_eq!(up.wait(), 0);
    assert!(up.left_behind().is_empty(), "{:?}", up.left_behind());
    wait::until_now("Redis and the sidecar to end", wait::GENEROUS, || {
        let still = [address, redis]
            .into_iter()
            .find(|address| std::net::TcpStream::connect(address).is_ok());
        still.map_or(Ok(()), |address| Err(format!("{address} still listens")))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_temporary_redis_that_ends_is_back_soon_and_no_command_fails() {
    let up = Up::start_with(&free_ports_and(&[]), |command| {
        command.env("LEVEE_BIN", built::levee().unwrap());
    });
    let address = up.address("redis     ").await;
    let redis = up.address("behind it ").await;
    tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(address).unwrap();
        assert_eq!(client.ask("SET greeting hello").unwrap(), "+OK\r\n");
        for _ in 0..2 {
            assert_eq!(Client::connect(redis).unwrap().ask("SHUTDOWN").unwrap(), "");
            assert!(std::net::TcpStream::connect(redis).is_err());
            assert_eq!(client.ask("GET greeting").unwrap(), "$5\r\nhello\r\n");
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_users_own_redis_is_used_and_not_ended() {
    let redis = Redis::start().unwrap();
    let own = redis.address.to_string();
    let mut up = Up::start_with(&free_ports_and(&["--redis", &own]), |command| {
        command.env("LEVEE_BIN", built::levee().unwrap());
    });
    let address = up.address("redis     ").await;
    up.address("sidecar   http://").await;
    assert_eq!(
        up.process.children().len(),
        3,
        "Envoy, the sidecar, PostgreSQL"
    );
    tokio::task::spawn_blocking(move || {
        assert_eq!(
            Client::connect(address)
                .unwrap()
                .ask("SET greeting hello")
                .unwrap(),
            "+OK\r\n"
        );
    })
    .await
    .unwrap();
    up.process.signal(Signal::Terminate);
    assert_eq!(up.wait(), 0);
    let mut client = Client::connect(redis.address).unwrap();
    assert_eq!(client.ask("GET greeting").unwrap(), "$5\r\nhello\r\n");
}

#[tokio::test]
async fn a_sidecar_that_ends_by_itself_ends_it_with_an_error() {
    let mut up = Up::start_with(&free_ports_and(&[]), |command| {
        command.env("LEVEE_BIN", built::levee().unwrap());
    });
    up.address("sidecar   http://").await;
    let children = up.process.children();
    let named = |id: &u32| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let sidecar = children.iter().find(|id| named(id).trim() == "levee");
    let sidecar = sidecar.expect("the sidecar").to_string();
    // The shell's own `kill`: a bare Debian has no other.
    let kill = format!("kill -KILL {sidecar}");
    let killed = Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.unwrap().success());
    assert_eq!(up.wait(), 1);
    let error = up.output("stderr");
    assert!(error.contains("the sidecar ended by itself"), "{error}");
    assert!(!children.iter().any(|child| process::is_running(*child)));
    assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_database_that_ends_by_itself_ends_it_with_an_error() {
    let mut up = Up::start_with(&free_ports_and(&[]), |command| {
        command.env("LEVEE_BIN", built::levee().unwrap());
    });
    up.address("sidecar   http://").await;
    let children = up.process.children();
    let named = |id: &u32| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let database = children.iter().find(|id| named(id).trim() == "postgres");
    let kill = format!("kill -KILL {}", database.expect("PostgreSQL"));
    let killed = Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.unwrap().success());
    assert_eq!(up.wait(), 1);
    let error = up.output("stderr");
    assert!(error.contains("PostgreSQL ended by itself"), "{error}");
    assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
}

#[test]
fn a_full_disk_ends_it_with_an_error() {
    let mut up = Up::start_with(&free_ports_and(&[]), |command| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        command.stdout(full.unwrap());
    });
    assert_eq!(up.wait(), 1);
    let error = up.output("stderr");
    assert!(
        error.contains("can't write to the standard output"),
        "{error}"
    );
    assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn ctrl_c_while_the_sidecar_is_not_ready_ends_it_at_once_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let hanging = folder.path().join("levee");
    // Written by another process: while this one had it open for writing, a fork of another test would keep it busy.
    let written = Command::new("sh")
        .args([
            "-c",
            r#"printf '#!/bin/sh\nexec sleep 600\n' > "$0" && chmod +x "$0""#,
        ])
        .arg(&hanging)
        .status();
    assert!(written.unwrap().success());
    let mut up = Up::start_with(&free_ports_and(&[]), |command| {
        command.env("LEVEE_BIN", &hanging);
    });
    let name_of = |id: &u32| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let children = wait::until_now("the sidecar to start", wait::GENEROUS, || {
        let children = up.process.children();
        let names: Vec<String> = children.iter().map(name_of).collect();
        if names.iter().any(|name| name.trim() == "sleep") {
            Ok(children)
        } else {
            Err(format!("{names:?}{}", up.output("stderr")))
        }
    })
    .await
    .unwrap();
    assert_eq!(children.len(), 3, "Redis, PostgreSQL, the sidecar");
    up.process.signal(Signal::Interrupt);
    let waited = Stopwatch::start();
    assert_eq!(up.wait(), 0, "{}", up.output("stderr"));
    // Far less than the time that a sidecar gets to become ready.
    assert!(waited.elapsed() < Duration::from_secs(10), "{waited:?}");
    assert!(!children.iter().any(|child| process::is_running(*child)));
    assert_eq!(up.left_behind(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn without_redis_and_postgres_it_says_so_and_goes_on() {
    let nothing = tempfile::tempdir().unwrap();
    let up = Up::start_with(&free_ports_and(&[]), |command| {
        command
            .env("LEVEE_BIN", built::levee().unwrap())
            .env("PATH", nothing.path())
            .env("POSTGRES_BIN_PATH", nothing.path())
            .env_remove("REDIS_SERVER_PATH");
    });
    let gateway = up.address("gateway   http://").await;
    wait::until_now("word of what is left out", wait::GENEROUS, || {
        let text = up.output("stdout");
        let wanted = [
            "Without Redis: redis-server is not installed",
            "Without PostgreSQL: it is not installed",
        ];
        if wanted.iter().all(|wanted| text.contains(wanted)) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await
    .unwrap();
    assert!(std::net::TcpStream::connect(gateway).is_ok());
}
