//! `examples/`: each configuration does what its README says. Only addresses and secrets are replaced.
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour};
use levee_harness::client::Request;
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::postgres::Postgres;
use levee_harness::redis::Redis;
use levee_harness::sidecar::{Config, Sidecar, Start};
use levee_harness::wait;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The configuration `name` of the sidecar, with each of these texts replaced; each must be in it.
fn levee_yaml(name: &str, texts: &[(&str, String)]) -> String {
    let admin = ("listen: 127.0.0.1:9464", "listen: 127.0.0.1:0".to_owned());
    let mut yaml = read(name);
    for (old, new) in texts.iter().chain([&admin]) {
        assert!(yaml.contains(old), "{name} has no {old}");
        yaml = yaml.replace(old, new);
    }
    yaml
}

#[test]
fn each_example_has_a_readme_and_is_tested_here() {
    let mut names: Vec<String> = fs::read_dir(file(""))
        .expect("the folder of examples")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("a name in UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names, ["breaker-only", "database", "redis"]);
    for name in names {
        let readme = read(&format!("{name}/README.md"));
        let lines = readme.lines().count();
        assert!((20..=60).contains(&lines), "{name}: {lines} lines");
    }
}

#[tokio::test]
async fn breaker_only_opens_after_five_failures_and_closes_after_three_successes() {
    let orders = Backend::start().unwrap();
    orders.always(Behaviour::status(501));
    let config = EnvoyConfig::parse(&read("breaker-only/envoy.yaml"));
    let envoy = Envoy::start(config.upstream("orders", orders.address()))
        .await
        .unwrap();
    let opened = Stopwatch::start();
    for _ in 0..5 {
        assert_eq!(envoy.get("/").await.unwrap().status, 501);
    }
    orders.always(Behaviour::status(200));
    for _ in 0..2 {
        let refused = envoy.get("/").await.unwrap();
        assert_eq!(
            (refused.status, refused.header("x-levee-reason")),
            (503, "circuit_open")
        );
        assert_ne!(refused.header("retry-after"), "");
    }
    assert_eq!(orders.requests(), 5);
    let seen = orders.last_request().unwrap();
    assert_eq!(
        seen.header("x-envoy-expected-rq-timeout-ms"),
        Some(&b"10000"[..])
    );
    envoy.first_let_through("/", wait::GENEROUS).await.unwrap();
    let open_for = opened.elapsed();
    assert!(open_for > Duration::from_millis(4900), "{open_for:?}");
    for _ in 0..2 {
        assert_eq!(envoy.get("/").await.unwrap().status, 200);
    }
    let of = [("service", "orders")];
    envoy
        .wait_for_metric(
            "circuit_breaker_transitions_total",
            &[of[0], ("to", "closed")],
            1.0,
        )
        .await
        .unwrap();
    envoy
        .wait_for_metric("circuit_breaker_state", &of, 0.0)
        .await
        .unwrap();
    envoy
        .wait_for_metric("circuit_breaker_failures_total", &of, 5.0)
        .await
        .unwrap();
}

#[test]
fn redis_survives_a_restart_and_fails_at_once_while_redis_is_gone() {
    let mut redis = Redis::start().unwrap();
    let sidecar = Sidecar::start(&levee_yaml(
        "redis/levee.yaml",
        &[
            ("listen: 127.0.0.1:6380", "listen: 127.0.0.1:0".to_owned()),
            ("127.0.0.1:6379", redis.address.to_string()),
        ],
    ))
    .unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("SET greeting hello").unwrap(), "+OK\r\n");

    redis.stop();
    client.command("GET greeting");
    redis.start_again().unwrap();
    assert_eq!(
        client.reply().unwrap().as_deref(),
        Some("$-1\r\n"),
        "no error"
    );

    redis.stop();
    let took = Stopwatch::start();
    let error = client.ask("GET greeting").unwrap();
    assert!(error.contains("can't be reached within 1s"), "{error}");
    assert!(took.elapsed() > Duration::from_millis(900), "{error}");
    let took = Stopwatch::start();
    let error = client.ask("GET greeting").unwrap();
    assert!(error.contains("can't be reached since 1s"), "{error}");
    let took = took.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    let waited = Stopwatch::start();
    while !client
        .ask("GET greeting")
        .unwrap()
        .starts_with("-ERR levee: circuit open for sessions")
    {
        assert!(waited.elapsed() < wait::GENEROUS);
        thread::sleep(Duration::from_millis(50));
    }

    redis.start_again().unwrap();
    let waited = Stopwatch::start();
    sidecar
        .wait_for("Redis to be found again", |sidecar| {
            sidecar.client().unwrap().ask("GET greeting").unwrap() == "$-1\r\n"
        })
        .unwrap();
    let waited = waited.elapsed();
    assert!(
        waited < Duration::from_secs(5),
        "before `open_for`: {waited:?}"
    );
}

#[test]
fn database_deletes_what_expired_and_cancels_what_hangs() {
    let postgres = Postgres::start().unwrap();
    postgres.execute(&read("database/schema.sql")).unwrap();
    let config = Config::new(levee_yaml("database/levee.yaml", &[]))
        .variable("DATABASE_URL", postgres.url_of("levee"));
    let sidecar = Sidecar::start_with(&config, &Start::default()).unwrap();
    let sessions = || postgres.number("SELECT count(*) FROM sessions").unwrap();

    let run = "/v1/jobs/sessions/run";
    let (status, dry) = sidecar.post(&format!("{run}?dry_run=true")).unwrap();
    assert_eq!((status, &dry["rows"]), (200, &500.into()), "{dry}");
    assert_eq!(sidecar.request(&Request::post(run, "")).unwrap().0, 401);
    assert_eq!(sessions(), 510);
    let (status, report) = sidecar.post(run).unwrap();
    assert_eq!((status, &report["rows"]), (200, &500.into()), "{report}");
    assert_eq!(sessions(), 10);

    let tokens = sidecar.post("/v1/jobs/auth_cleanup/run").unwrap();
    assert_eq!(
        (tokens.0, &tokens.1["rows"]),
        (200, &1000.into()),
        "{}",
        tokens.1
    );
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM email_verification_tokens")
            .unwrap(),
        10
    );

    let mut service = postgres.client_as("app").unwrap();
    let took = Stopwatch::start();
    let error = service.batch_execute("SELECT pg_sleep(60)").unwrap_err();
    assert_eq!(
        error.code().map(postgres::error::SqlState::code),
        Some("57014"),
        "{error}"
    );
    assert!(took.elapsed() > Duration::from_millis(1900));
    service
        .batch_execute("SELECT 1")
        .expect("the connection is kept");
    service
        .batch_execute("/* levee: long_query */ SELECT pg_sleep(3)")
        .expect("long queries may take 30 s");
    sidecar
        .wait_for_metric(
            "db_query_timeout_total{class=\"query\",database=\"app\"}",
            |value| value == 1,
        )
        .unwrap();
}
