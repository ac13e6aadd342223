//! `levee status` for a whole stack, and for parts that can't be reached.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use levee_demo::stack::{Parts, Stack};
use levee_harness::address::free_address;
use levee_harness::backend::{Backend, Behaviour};
use levee_harness::built;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::process::{Process, Signal};
use levee_harness::redis::Redis;
use levee_harness::sidecar::{Sidecar, TOKEN};
use levee_harness::wait::{self, GENEROUS};
use serde_json::{Value, json};

/// Output and exit code of `levee status` with these arguments, in `folder`.
fn status_in(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(built::levee().unwrap())
        .arg("status")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("run levee");
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("it was not killed");
    (code, String::from_utf8(said).expect("text"))
}

fn status(admin: SocketAddr, arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("make a directory");
    let url = format!("http://{admin}");
    let all = [&["--admin", &url], arguments].concat();
    status_in(folder.path(), &all)
}

fn json_of(admin: SocketAddr) -> (i32, Value) {
    let (code, said) = status(admin, &["--once", "--json"]);
    let page = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    (code, page)
}

/// Waits until the condition holds.
fn eventually(what: &str, holds: impl FnMut() -> Result<(), String>) {
    wait::until_blocking(what, 2 * GENEROUS, holds).unwrap();
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let all = list.as_array().expect("a list");
    let one = all.iter().find(|one| one["name"] == name);
    one.unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[expect(
    clippy::too_many_lines,
    reason = "one run of a whole stack, checked step by step"
)]
#[test]
fn a_breaker_that_is_open_and_all_else_is_shown() {
    let mut stack = Stack::start(Parts::ALL).unwrap();
    let login = json!({"user": "5f0c1a52-54a2-4d0b-9f0c-000000000001"});
    for _ in 0..5 {
        assert!(stack.post("/v1/auth/login", &login).0 < 300);
    }
    let admin = stack.sidecar.as_ref().expect("there is one").admin;
    // It must have polled once, to know later that the breaker has opened since.
    eventually("the first look", || {
        let (_, page) = json_of(admin);
        let seen = page["services"][0]["name"] == "auth";
        seen.then_some(()).ok_or(page.to_string())
    });
    stack.service("video").unwrap().stop();
    for _ in 0..8 {
        assert_eq!(stack.get("/v1/video/x").0, 503);
    }
    eventually("the whole status", || {
        let (code, page) = json_of(admin);
        let (auth, video) = (&page["services"], &page["services"]);
        if auth.as_array().is_none_or(|list| list.len() < 2) {
            return Err(page.to_string());
        }
        let (auth, video) = (named(auth, "auth"), named(video, "video"));
        let job = named(&page["jobs"], "auth_cleanup");
        let redis = named(&page["redis"], "sessions");
        let holds = code == 0
            && page["sidecar"]["problem"].is_null()
            && page["envoy"]["configured"] == true
            && page["envoy"]["problem"].is_null()
            && page["database"]["configured"] == true
            && video["state"] == "open"
            && video["failures"].as_u64() >= Some(5)
            && video["requests"]["rejected"].as_u64() >= Some(1)
            // It opened between two polls, so both bounds are known.
            && video["since"]["at_most_seconds"].as_f64() > video["since"]["at_least_seconds"].as_f64()
            && auth["state"] == "closed"
            && auth["requests"]["success"].as_u64() >= Some(5)
            && auth["durations"]["p50_seconds"].as_f64().is_some_and(|p50| p50 > 0.0)
            && auth["durations"]["p99_seconds"].as_f64() >= auth["durations"]["p50_seconds"].as_f64()
            && redis["state"] == "closed"
            && redis["requests"]["success"].as_u64() >= Some(5)
            && redis["budget_left"].as_u64() > Some(0)
            && redis["connections"].as_u64() > Some(0)
            && job["last_outcome"] == "done"
            && job["next_in_seconds"].is_f64()
            && page["watchdog"]["problem"].is_null()
            && page["watchdog"]["looked_seconds_ago"].is_f64();
        holds.then_some(()).ok_or(format!("{code} {page:#}"))
    });
    let (code, text) = status(admin, &["--once"]);
    let line = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no {start} in {text}"))
            .to_owned()
    };
    assert_eq!(code, 0, "{text}");
    assert!(line("video ").contains(" OPEN "), "{text}");
    assert!(line("auth ").contains(" closed "), "{text}");
    assert!(line("sessions ").contains(" closed "), "{text}");
    assert!(line("auth_cleanup ").contains(" done "), "{text}");
    assert!(line("WATCHDOG").contains("polled "), "{text}");
    // Services are in the order of the screen: open breakers come first.
    assert!(text.find("\nvideo ") < text.find("\nauth "), "{text}");
    let (_, json) = status(admin, &["--json"]);
    for secret in [TOKEN, "postgres://"] {
        assert!(!text.contains(secret) && !json.contains(secret), "{secret}");
    }
    // Without a terminal it is printed once, with or without --once.
    let (code, piped) = status(admin, &[]);
    assert_eq!(code, 0);
    assert!(
        piped.contains("\nvideo ") && !piped.contains('\x1b'),
        "{piped:?}"
    );
    the_terminal_is_kept_up_to_date_and_left_as_it_was(admin);
}

/// On a terminal of its own, by `script`, which Debian always has.
fn the_terminal_is_kept_up_to_date_and_left_as_it_was(admin: SocketAddr) {
    let folder = tempfile::tempdir().expect("make a directory");
    let file = folder.path().join("typed");
    let inner = format!(
        "stty rows 40 cols 100; exec {} status --every 200ms --admin http://{admin}",
        built::levee().unwrap().display()
    );
    let mut command = Command::new("script");
    command
        .args(["-q", "-f", "-e", "-E", "never", "-c", &inner])
        .arg(&file)
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut script = Process::spawn(command, Signal::Kill).expect("run script");
    let typed = || {
        let mut text = Vec::new();
        if let Ok(mut file) = std::fs::File::open(&file) {
            let _ = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    eventually("three frames", || {
        let text = typed();
        let frames = text.matches("SERVICE ").count();
        (frames >= 3).then_some(()).ok_or(text)
    });
    let id = levee_below(script.id());
    // The shell's own `kill`: a bare Debian has no other.
    let killed = Command::new("sh")
        .args(["-c", &format!("kill -INT {id}")])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    let exit = script.wait(GENEROUS).expect("it ends at Ctrl-C");
    assert!(exit.success(), "{exit}");
    let text = typed();
    let (enter, leave) = ("\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l");
    assert!(text.contains(enter), "{text:?}");
    let after = text.rsplit_once(leave).map(|(_, after)| after);
    assert!(
        after.is_some_and(|after| !after.contains("SERVICE")),
        "the cursor and the screen are given back: {text:?}"
    );
    assert!(!text.contains("\x1b[2J"), "it is written over, not erased");
}

/// The process `levee` that a process has started.
fn levee_below(parent: u32) -> u32 {
    let children = |of: u32| -> Vec<u32> {
        let tasks = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"));
        let tasks = tasks.unwrap_or_default();
        tasks
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect()
    };
    let mut all = children(parent);
    let mut place = 0;
    while let Some(one) = all.get(place).copied() {
        let name = std::fs::read_to_string(format!("/proc/{one}/comm")).unwrap_or_default();
        if name.trim() == "levee" {
            return one;
        }
        all.extend(children(one));
        place += 1;
    }
    panic!("no levee below {parent}: {all:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_in_mode_shadow_is_not_shown_as_one_that_refuses() {
    let (video, chat) = (Backend::start().unwrap(), Backend::start().unwrap());
    let config = EnvoyConfig::gateway()
        .upstream("video", video.address())
        .upstream("chat", chat.address())
        .plugin_exactly(&json!({"services": {"video": {"breaker": {"mode": "shadow"}}}}));
    let envoy = Envoy::start(config).await.unwrap();
    let sidecar =
        Sidecar::start(&format!("envoy: {{admin: 'http://{}'}}\n", envoy.admin())).unwrap();
    for service in [&video, &chat] {
        service.always(Behaviour::status(502));
    }
    for _ in 0..5 {
        envoy.get("/v1/video/x").await.unwrap();
    }
    eventually(
        "the mode to be shown before anything would have been refused",
        || {
            let text = status(sidecar.admin, &["--once"]).1;
            let line = text.lines().find(|line| line.starts_with("video "));
            let holds = line.is_some_and(|line| line.contains(" open (shadow) "));
            holds.then_some(()).ok_or(text)
        },
    );
    for _ in 0..7 {
        assert_eq!(
            envoy.get("/v1/video/x").await.unwrap().status,
            502,
            "it is let pass"
        );
    }
    for _ in 0..12 {
        envoy.get("/v1/chat/x").await.unwrap();
    }
    assert_eq!((video.requests(), chat.requests()), (12, 5));
    eventually("both breakers to be shown", || {
        let (code, page) = json_of(sidecar.admin);
        let services = &page["services"];
        if services.as_array().is_none_or(|list| list.len() < 2) {
            return Err(page.to_string());
        }
        let (video, chat) = (named(services, "video"), named(services, "chat"));
        let holds = code == 0
            && video["state"] == "open"
            && video["mode"] == "shadow"
            && video["shadow_rejected"] == 7
            && video["requests"]["rejected"] == 0
            && chat["state"] == "open"
            && chat["mode"] == "enforce"
            && chat["shadow_rejected"] == 0
            && chat["requests"]["rejected"] == 7;
        holds.then_some(()).ok_or(format!("{code} {page:#}"))
    });
    let (code, text) = status(sidecar.admin, &["--once"]);
    assert_eq!(code, 0, "{text}");
    let line = |start: &str| text.lines().find(|line| line.starts_with(start));
    let holds = line("video ").is_some_and(|line| line.contains(" open (shadow) "))
        && line("video: ").is_some_and(|line| line.ends_with("would have refused 7 so far"))
        && line("chat ").is_some_and(|line| line.contains(" OPEN "))
        && line("chat: ").is_none()
        && text.find("\nchat ") < text.find("\nvideo ");
    assert!(holds, "{text}");
}

#[test]
fn a_sidecar_that_is_down_is_said_to_be() {
    let nobody = free_address().unwrap();
    let (code, page) = json_of(nobody);
    assert_eq!(code, 1);
    let problem = page["sidecar"]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("can't be reached"), "{page}");
    assert_eq!(page["services"], json!([]));
    let (code, text) = status(nobody, &["--once"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("sidecar: UNREADABLE, it can't be reached"),
        "{text}"
    );
    // Something else listens there.
    let redis = Redis::start().unwrap();
    let (code, text) = status(redis.address, &["--once"]);
    assert_eq!(code, 1);
    assert!(text.contains("UNREADABLE"), "{text}");
}

#[test]
fn an_envoy_that_is_down_is_said_to_be_and_all_else_is_shown() {
    let (redis, nobody) = (Redis::start().unwrap(), free_address().unwrap());
    let sidecar = Sidecar::start(&format!(
        "envoy: {{admin: 'http://{nobody}'}}\nredis:\n  - name: x\n    listen: 127.0.0.1:0\n    upstream: redis://{}\n",
        redis.address
    )).unwrap();
    let (code, page) = json_of(sidecar.admin);
    assert_eq!(code, 1);
    let problem = page["envoy"]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("can't be reached"), "{page}");
    assert_eq!(page["envoy"]["address"], format!("http://{nobody}"));
    assert_eq!(page["redis"][0]["state"], "closed");
    assert_eq!(page["database"]["configured"], false);
    let (code, text) = status(sidecar.admin, &["--once"]);
    assert_eq!(code, 1);
    assert!(text.contains("envoy:    UNREADABLE at"), "{text}");
    assert!(text.contains("database: not configured"), "{text}");
    assert!(
        text.contains("REDIS") && !text.contains("SERVICE"),
        "{text}"
    );
}

#[test]
fn a_part_that_is_not_configured_is_no_failure() {
    let sidecar = Sidecar::start("").unwrap();
    let (code, text) = status(sidecar.admin, &["--once"]);
    assert_eq!(code, 0, "{text}");
    for part in ["envoy:", "redis:", "database:"] {
        let line = text.lines().find(|line| line.starts_with(part));
        assert!(
            line.is_some_and(|line| line.contains("not configured")),
            "{text}"
        );
    }
}

#[test]
fn the_address_comes_from_the_configuration_without_its_secrets() {
    let sidecar = Sidecar::start("").unwrap();
    let folder = tempfile::tempdir().expect("make a directory");
    let file = folder.path().join("levee.yaml");
    let port = sidecar.admin.port();
    let yaml = format!("admin: {{listen: '0.0.0.0:{port}', token_env: LEVEE_NOT_SET_HERE}}\n");
    std::fs::write(&file, yaml).expect("write a configuration");
    let wanted = format!("at http://127.0.0.1:{port}");
    let (code, text) = status_in(folder.path(), &["--once"]);
    assert_eq!((code, text.contains(&wanted)), (0, true), "{text}");
    let elsewhere = tempfile::tempdir().expect("make a directory");
    let named = ["--once", "--config", file.to_str().expect("text")];
    let (code, text) = status_in(elsewhere.path(), &named);
    assert_eq!((code, text.contains(&wanted)), (0, true), "{text}");
    for arguments in [
        &["--config", "/nowhere/levee.yaml"][..],
        &["--admin", "https://127.0.0.1:1"],
        &["--admin", "http://127.0.0.1:1", "--config", "x"],
        &["--every", "1ms"],
        &["--every", "often"],
        &["--twice"],
    ] {
        let (code, text) = status_in(elsewhere.path(), arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
    }
    std::fs::write(&file, "admin: {listen: here}\n").expect("write a configuration");
    let (code, text) = status_in(folder.path(), &["--once"]);
    assert_eq!((code, text.contains("admin.listen")), (2, true), "{text}");
}
