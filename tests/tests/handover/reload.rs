//! Reading the configuration again.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use http::Method;
use levee_harness::address::free_address;
use levee_harness::built;
use levee_harness::client::Request;
use levee_harness::postgres::Postgres;
use levee_harness::process::{Process, Signal};
use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::{Config, Sidecar, Start};
use levee_harness::wait::{GENEROUS, until_blocking};
use tempfile::TempDir;

use super::{Seen, connect_each_time, upstream, wait_for_progress};

/// A sidecar whose configuration can be changed.
struct Reloadable {
    file: PathBuf,
    admin: SocketAddr,
    process: Process,
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Reloadable {
    fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[], Vec::new())
    }

    /// With further arguments and environment variables.
    fn start_with(yaml: &str, more: &[&str], variables: Vec<(&'static str, String)>) -> Self {
        let (folder, admin) = (tempfile::tempdir().unwrap(), free_address().unwrap());
        let mut this = Self {
            file: folder.path().join("levee.yaml"),
            admin,
            process: Process::spawn(Command::new("true"), Signal::Kill).unwrap(),
            folder,
            variables,
        };
        this.write(yaml);
        let mut command = this.levee(&[&["run"], more].concat());
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

    fn admin_section(&self) -> String {
        let admin = self.admin;
        format!("admin: {{listen: '{admin}', token_env: LEVEE_TOKEN}}\n")
    }

    fn write(&self, yaml: &str) {
        fs::write(&self.file, self.admin_section() + yaml).unwrap();
    }

    fn levee(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built::levee().unwrap());
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.file)
            .env("LEVEE_TOKEN", "secret")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Exit code and output of `levee reload` with this configuration.
    fn reload(&self, yaml: &str) -> (Option<i32>, String) {
        self.reload_text(&(self.admin_section() + yaml))
    }

    /// As [`Self::reload`], with the section `admin` in the text.
    fn reload_text(&self, text: &str) -> (Option<i32>, String) {
        fs::write(&self.file, text).unwrap();
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
    let elsewhere = free_address().unwrap();
    let other_redis = x.replace(&to.to_string(), &elsewhere.to_string());
    let (code, said) = sidecar.reload(&format!("redis:\n{other_redis}"));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("needs a restart: redis[0].upstream") && said.contains("redis/y (removed)"),
        "{said}"
    );
    sidecar.wait_for_log("redis[0].upstream has changed, which needs a restart");
    assert_eq!(client.ask("GET a").unwrap(), "$1\r\n1\r\n");
    // The upstream that is gone has its listener closed by now.
    let connected = TcpStream::connect(second);
    assert!(connected.is_err(), "it still listens");
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

/// A Redis whose key `name` has this value.
fn redis_named(name: &str) -> Redis {
    let redis = Redis::start().unwrap();
    redis
        .client()
        .unwrap()
        .ask(&format!("SET name {name}"))
        .unwrap();
    redis
}

/// What a new client there reads from the key `name`.
fn name_at(address: SocketAddr) -> String {
    let reply = Client::connect(address).unwrap().ask("GET name").unwrap();
    reply.lines().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_listener_is_handed_to_a_renamed_upstream_without_a_refused_connection() {
    let all = [redis_named("one"), redis_named("two")];
    let address = free_address().unwrap();
    let yaml = |name: &str, redis: &Redis| {
        upstream(address, redis).replace("name: x", &format!("name: {name}"))
    };
    let sidecar = Reloadable::start(&yaml("r0", &all[0]));
    let seen = Arc::<Seen>::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let seen = seen.clone();
            thread::spawn(move || connect_each_time(address, &seen))
        })
        .collect();
    wait_for_progress(&[&seen], 100);
    for round in 1..=10 {
        let redis = &all[round % 2];
        let (code, said) = sidecar.reload(&yaml(&format!("r{round}"), redis));
        assert_eq!(code, Some(0), "{said} {}", sidecar.log());
        for change in [
            format!("changed: redis/r{} (removed)\n", round - 1),
            format!("changed: redis/r{round} (new)\n"),
        ] {
            assert!(said.contains(&change), "{said}");
        }
        // Nobody reaches the former upstream after the reply.
        for _ in 0..20 {
            assert_eq!(name_at(address), ["one", "two"][round % 2]);
        }
        wait_for_progress(&[&seen], 50);
    }
    seen.over.store(true, Ordering::SeqCst);
    for client in clients {
        client
            .join()
            .expect("a client without a refused connection");
    }
}

#[test]
fn upstreams_exchange_their_addresses_and_keep_their_clients() {
    let (one, two) = (redis_named("one"), redis_named("two"));
    let (first, second, third) = (
        free_address().unwrap(),
        free_address().unwrap(),
        free_address().unwrap(),
    );
    let yaml = |places: &[(&str, SocketAddr, &Redis)]| {
        let lines = places.iter().map(|(name, listen, redis)| {
            let to = redis.address;
            format!("  - {{name: {name}, listen: '{listen}', upstream: 'redis://{to}'}}\n")
        });
        format!("redis:\n{}", lines.collect::<String>())
    };
    let sidecar = Reloadable::start(&yaml(&[("x", first, &one), ("y", second, &two)]));
    let mut client = Client::connect(first).unwrap();
    assert_eq!(client.ask("GET name").unwrap(), "$3\r\none\r\n");

    let (code, said) = sidecar.reload(&yaml(&[("x", second, &one), ("y", first, &two)]));
    assert_eq!(code, Some(0), "{said}");
    for change in [
        format!("changed: redis/x (now at {second})\n"),
        format!("changed: redis/y (now at {first})\n"),
    ] {
        assert!(said.contains(&change), "{said}");
    }
    assert_eq!([name_at(first), name_at(second)], ["two", "one"]);
    assert_eq!(client.ask("GET name").unwrap(), "$3\r\none\r\n");
    assert!(
        sidecar
            .page("/v1/redis")
            .contains(&format!("\"listen\":\"{second}\""))
    );

    // One moves away, and a new one gets its address.
    let (code, said) = sidecar.reload(&yaml(&[("x", third, &one), ("z", second, &two)]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!([name_at(second), name_at(third)], ["two", "one"]);
    assert!(TcpStream::connect(first).is_err());
    assert_eq!(client.ask("GET name").unwrap(), "$3\r\none\r\n");

    // An address that covers the former one.
    let wide = SocketAddr::from(([0, 0, 0, 0], third.port()));
    let (code, said) = sidecar.reload(&yaml(&[("x", wide, &one), ("z", second, &two)]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!([name_at(second), name_at(third)], ["two", "one"]);
    assert_eq!(client.ask("GET name").unwrap(), "$3\r\none\r\n");
}

#[test]
fn a_reload_that_fails_at_any_step_leaves_all_of_the_old_configuration_in_force() {
    let (one, two) = (redis_named("one"), redis_named("two"));
    let address = free_address().unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger_at = stranger.local_addr().unwrap();
    let old = upstream(address, &one) + "log: {level: info}\n";
    let mut sidecar = Reloadable::start(&old);
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.ask("GET name").unwrap(), "$3\r\none\r\n");
    // The state of the parts, and which series there are.
    let state = || {
        let metrics = sidecar.page("/metrics");
        let series = metrics.lines().filter_map(|line| line.split(' ').next());
        let of_upstreams = series.filter(|series| series.contains("upstream=\""));
        let of_upstreams: Vec<String> = of_upstreams.map(str::to_owned).collect();
        (sidecar.page("/readyz"), of_upstreams)
    };
    let before = state();

    let (moved, to) = (free_address().unwrap(), two.address);
    let from = one.address;
    let gone = sidecar.folder.path().join("gone.pem");
    let gone = gone.display();
    // `z` would take over the address, and all else would change too.
    let z = format!("  - {{name: z, listen: '{address}', upstream: 'redis://{to}'}}\n");
    let others = "log: {level: debug}\nstop_within: 3s\nenvoy: {admin: 'http://127.0.0.1:9'}\n";
    for (last, wanted) in [
        (
            format!("  - {{name: w, listen: '{stranger_at}', upstream: 'redis://{to}'}}\n"),
            format!("w can't listen on {stranger_at}"),
        ),
        (
            format!(
                "  - {{name: w, listen: '{moved}', upstream: 'rediss://{to}', tls: {{ca_file: '{gone}'}}}}\n"
            ),
            format!("redis, upstream w: {gone} can't be read"),
        ),
        // Its upstream can't change, so its address doesn't either.
        (
            format!("  - {{name: x, listen: '{moved}', upstream: 'redis://{to}'}}\n"),
            format!(
                "redis[0].listen ({address}) needs the port of redis[1].listen ({address}), which can't change before a \
                 restart"
            ),
        ),
    ] {
        let (code, said) = sidecar.reload(&format!("redis:\n{z}{last}{others}"));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&wanted), "{wanted}: {said}");
        assert!(!said.contains("changed:"), "{said}");
        sidecar.wait_for_log(&wanted);
        sidecar.wait_for_log("the old configuration stays in force");
        assert_eq!(client.ask("GET name").unwrap(), "$3\r\none\r\n");
        assert_eq!(name_at(address), "one");
        assert_eq!(state(), before);
        // Nothing that was prepared is left.
        TcpListener::bind(moved).unwrap();
    }
    // The admin interface can't move, either.
    let admin = sidecar.admin;
    let text = format!(
        "admin: {{listen: '{moved}'}}\nredis:\n{z}  - {{name: w, listen: '{admin}', upstream: 'redis://{from}'}}\n{others}"
    );
    fs::write(&sidecar.file, text).unwrap();
    sidecar.process.signal(Signal::HangUp);
    sidecar.wait_for_log(&format!(
        "redis[1].listen ({admin}) needs the port of admin.listen ({admin}), which can't change before a restart"
    ));
    assert_eq!(name_at(address), "one");
    let failed = "levee_config_reloads_total{outcome=\"failed\"} 4\n";
    until_blocking(failed, GENEROUS, || {
        let metrics = sidecar.page("/metrics");
        metrics.contains(failed).then_some(()).ok_or(metrics)
    })
    .unwrap();
    let (code, said) = sidecar.reload(&old);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn a_reload_notices_another_instance_also_after_a_take_over() {
    let redis = Redis::start().unwrap();
    let (own, taken) = (free_address().unwrap(), free_address().unwrap());
    let sidecar = Reloadable::start_with(&upstream(own, &redis), &["--take-over"], Vec::new());
    let _other =
        Sidecar::start_with(&Config::new(upstream(taken, &redis)), &Start::default()).unwrap();
    let to = redis.address;
    let (code, said) = sidecar.reload(&format!(
        "redis:\n  - {{name: x, listen: '{own}', upstream: 'redis://{to}'}}\n  - {{name: y, listen: '{taken}', upstream: \
         'redis://{to}'}}\n"
    ));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("y can't listen on {taken}")),
        "{said}"
    );
}

#[test]
fn a_reload_changes_the_level_of_the_log() {
    let redis = Redis::start().unwrap();
    let yaml = upstream(free_address().unwrap(), &redis);
    let level = |level: &str| yaml.clone() + &format!("log: {{level: {level}}}\n");
    let mut sidecar = Reloadable::start(&level("info"));
    let (code, said) = sidecar.reload(&level("error"));
    assert_eq!((code, said.as_str()), (Some(0), "changed: log.level\n"));
    // A line of the level info that is left out, and then one that is there.
    let lines = |sidecar: &Reloadable| sidecar.log().matches("was read again").count();
    let before = lines(&sidecar);
    let (code, _) = sidecar.reload(&(level("error") + "stop_within: 3s\n"));
    assert_eq!(code, Some(0));
    let (code, _) = sidecar.reload(&level("info"));
    assert_eq!(code, Some(0));
    sidecar.wait_for_log("changed: log.level, stop_within");
    assert_eq!(lines(&sidecar), before + 1);
    sidecar.process.end();
}

#[test]
fn a_reload_reads_its_token_as_the_sidecar_does() {
    let redis = Redis::start().unwrap();
    let sidecar = Reloadable::start(&upstream(free_address().unwrap(), &redis));
    for empty in ["", " "] {
        let mut reload = sidecar.levee(&["reload"]);
        let output = reload.env("LEVEE_TOKEN", empty).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let wanted = "admin.token_env: names LEVEE_TOKEN, which the environment does not have";
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn a_reload_puts_another_token_into_force() {
    let redis = Redis::start().unwrap();
    let yaml = upstream(free_address().unwrap(), &redis);
    let mut sidecar = Reloadable::start(&yaml);
    let file = sidecar.folder.path().join("token");
    let text = format!(
        "admin: {{listen: '{}', token_file: '{}'}}\n{yaml}",
        sidecar.admin,
        file.display()
    );
    let admin = sidecar.admin;
    let status = |token: &str| {
        let request = Request::new(Method::POST, "/v1/reload");
        let request = request.header("authorization", format!("Bearer {token}"));
        request.send_blocking(admin).unwrap().status
    };
    fs::write(&file, "first\n").unwrap();
    fs::write(&sidecar.file, &text).unwrap();
    assert_eq!(status("secret"), 200);
    assert_eq!([status("secret"), status("first")], [401, 200]);

    // `levee reload` reads the new token, which the sidecar doesn't know yet.
    fs::write(&file, "second\n").unwrap();
    let (code, said) = sidecar.reload_text(&text);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("SIGHUP"), "{said}");
    sidecar.process.signal(Signal::HangUp);
    until_blocking("the new token", GENEROUS, || {
        let status = status("second");
        (status == 200).then_some(()).ok_or(status)
    })
    .unwrap();
    assert_eq!(status("first"), 401);

    // A token that is none changes nothing.
    fs::write(&file, "\n").unwrap();
    let (code, said) = sidecar.reload_text(&text);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is empty"), "{said}");
    sidecar.process.signal(Signal::HangUp);
    sidecar.wait_for_log("is empty");
    assert_eq!(status("second"), 422);
}

#[test]
fn a_reload_puts_other_settings_of_the_watchdog_into_force() {
    let postgres = Postgres::with_tables().unwrap();
    let yaml = |limit: &str| {
        format!(
            "database:\n  url_env: DATABASE_URL\n  watchdog: {{roles: [app], classes: {{query: {limit}}}, every: 100ms}}\n"
        )
    };
    let url = postgres.url_of("levee");
    let sidecar = Reloadable::start_with(&yaml("10m"), &[], vec![("DATABASE_URL", url)]);
    let mut client = postgres.client_as("app").unwrap();
    let statement = thread::spawn(move || client.batch_execute("SELECT pg_sleep(600)"));
    let wait_for_page = |text: &str| {
        until_blocking(text, GENEROUS, || {
            let page = sidecar.page("/v1/watchdog");
            page.contains(text).then_some(()).ok_or(page)
        })
        .unwrap();
    };
    wait_for_page("\"watched\":1");
    assert!(sidecar.page("/v1/watchdog").contains("\"query\":600.0"));
    let (code, said) = sidecar.reload(&yaml("200ms"));
    assert_eq!((code, said.as_str()), (Some(0), "changed: database\n"));
    assert!(sidecar.page("/v1/watchdog").contains("\"query\":0.2"));
    let ended = statement.join().unwrap().unwrap_err();
    let code = ended.code().map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("57014"), "{ended}");
    let counted = "db_query_timeout_total{class=\"query\",database=\"app\"} 1\n";
    until_blocking(counted, GENEROUS, || {
        let metrics = sidecar.page("/metrics");
        metrics.contains(counted).then_some(()).ok_or(metrics)
    })
    .unwrap();
}
