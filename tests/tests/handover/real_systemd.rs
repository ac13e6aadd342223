//! The units of `packaging/` under systemd itself, where it is installed and namespaces can be made. Its manager of a user
//! runs them: that needs no boot, but some settings of a container can't be had.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::process::{Process, Signal};
use levee_harness::redis::Redis;
use levee_harness::sidecar::Config;
use levee_harness::wait::{GENEROUS, until_blocking};

use super::{Seen, connect_each_time, upstream, wait_for_progress};

const SCRIPT: &str = include_str!("real_systemd.sh");

/// Its exit code where the manager does not come up.
const NO_MANAGER: i32 = 77;

const MANAGER: &str = "/lib/systemd/systemd";

const NAMESPACES: [&str; 5] = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// What needs mounts that a container doesn't allow, and another user, who doesn't reach a user's manager. And a watchdog
/// that takes less of a test's time.
const OVERRIDES: &str = "\
[Service]
DynamicUser=no
ProtectSystem=no
ProtectHome=no
PrivateTmp=no
PrivateDevices=no
ProtectControlGroups=no
ProtectHostname=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectProc=default
WatchdogSec=1
TimeoutAbortSec=100ms
RestartSec=100ms
";

fn packaged(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    fs::read_to_string(file.join(name)).unwrap()
}

/// Writes both units, for the program that was built and this folder's configuration.
fn write_units(folder: &Path, sockets: [String; 2]) {
    let place = |text: &str| {
        let levee = built::levee().unwrap().display().to_string();
        text.replace("/usr/bin/levee", &levee)
            .replace("/etc/levee", &folder.display().to_string())
    };
    fs::write(
        folder.join("levee.service"),
        place(&packaged("levee.service")),
    )
    .unwrap();
    let [redis, admin] = sockets;
    let socket = packaged("levee.socket")
        .replace("127.0.0.1:6380", &redis)
        .replace("127.0.0.1:9464", &admin);
    fs::write(folder.join("levee.socket"), socket).unwrap();
    let more = folder.join("levee.service.d");
    fs::create_dir(&more).unwrap();
    let log = folder.join("levee.log");
    let overrides = format!("{OVERRIDES}StandardError=append:{}\n", log.display());
    fs::write(more.join("test.conf"), overrides).unwrap();
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().unwrap();
    write_units(
        folder.path(),
        ["127.0.0.1:6380", "127.0.0.1:9464"].map(str::to_owned),
    );
    let files = ["levee.service", "levee.socket"].map(|name| folder.path().join(name));
    let verify = Command::new("systemd-analyze")
        .arg("verify")
        .args(files)
        .output();
    let Ok(output) = verify else {
        println!("not run: systemd-analyze is not installed");
        return;
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

fn can_run() -> bool {
    let probe = Command::new("unshare")
        .args(NAMESPACES)
        .arg("true")
        .output();
    probe.is_ok_and(|output| output.status.success()) && Path::new(MANAGER).exists()
}

fn run_script(folder: &Path, log: &Path) -> Process {
    let append = || {
        let mut options = fs::File::options();
        options.create(true).append(true).open(log).unwrap()
    };
    let mut command = Command::new("unshare");
    command
        .args(NAMESPACES)
        .args(["bash", "-c", SCRIPT, "bash"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(append())
        .stderr(append());
    Process::spawn(command, Signal::Kill).unwrap()
}

#[test]
fn systemd_starts_restarts_reloads_and_revives_it_and_no_client_is_refused() {
    if !can_run() {
        println!("not run: it needs {MANAGER}, and the right to make namespaces");
        return;
    }
    let redis = Redis::start().unwrap();
    let (listen, admin) = (free_address().unwrap(), free_address().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_units(folder, [listen, admin].map(|address| address.to_string()));
    let yaml = upstream(listen, &redis) + &format!("admin: {{listen: '{admin}'}}\n");
    Config::new(yaml).write(folder).unwrap();
    let log = folder.join("log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let mut process = run_script(folder, &log);
    // The exit code, if the script has ended without that file.
    let mut wait_for = |file: &str| {
        until_blocking(file, GENEROUS, || match process.exit_status() {
            _ if folder.join(file).exists() => Ok(None),
            Some(status) => Ok(status.code()),
            None => Err(said()),
        })
        .unwrap()
    };
    if wait_for("started") == Some(NO_MANAGER) {
        println!("not run: the manager did not come up: {}", said());
        return;
    }
    let seen = Arc::<Seen>::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let seen = seen.clone();
            thread::spawn(move || connect_each_time(listen, &seen))
        })
        .collect();
    assert_eq!(wait_for("restarted"), None, "{}", said());
    wait_for_progress(&[&seen], 50);
    seen.over.store(true, Ordering::SeqCst);
    for client in clients {
        client
            .join()
            .expect("a client without a refused connection");
    }
    fs::write(folder.join("clients-left"), "").unwrap();
    let ended = process.wait(GENEROUS).and_then(|status| status.code());
    let said = said();
    assert_eq!(ended, Some(0), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let restart = "restart: active, ready";
    assert_eq!(
        lines,
        [
            "start: inactive, ",
            "start: active, ready",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            restart,
            restart,
            restart,
            "reload: ready; the last reload: applied",
            "after a hang: ready",
            "stop: inactive",
        ]
    );
}
