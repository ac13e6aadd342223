//! Redis and `PostgreSQL`, started by their command lines.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::file::{command, health_check, root, services};
use crate::process::healthy;
use levee_harness::address::free_address;
use levee_harness::postgres;
use levee_harness::postgres::Postgres;
use levee_harness::process::output_of;
use levee_harness::redis::Redis;

#[test]
fn redis_starts_by_its_command_line_and_is_healthy() {
    let command = command("redis");
    assert_eq!(command[0], "redis-server");
    assert!(
        command.windows(2).any(|pair| pair == ["--port", "6379"]),
        "{command:?}"
    );
    let own = ["--bind", "--port", "--dir"];
    let options: Vec<&str> = command[1..]
        .chunks(2)
        .filter(|pair| !own.contains(&pair[0].as_str()))
        .flatten()
        .map(String::as_str)
        .collect();
    let redis = Redis::start_with(&options).unwrap();
    let policy = redis
        .client()
        .unwrap()
        .ask("CONFIG GET maxmemory-policy")
        .unwrap();
    assert!(policy.contains("noeviction"), "{policy}");
    let check = health_check(&services()["redis"]);
    assert!(healthy(&check, 6379, redis.address));
    assert!(
        !healthy(&check, 6379, free_address().unwrap()),
        "nobody is there"
    );
}

/// A database initialized by the mounted script, with the command line's settings.
pub fn database() -> Postgres {
    let command = command("postgres");
    assert_eq!(command[0], "postgres");
    let settings: Vec<&str> = command[1..]
        .chunks(2)
        .map(|pair| pair[1].as_str())
        .filter(|setting| !setting.starts_with("listen_addresses"))
        .collect();
    let database = Postgres::start_with(&settings).unwrap();
    let check = health_check(&services()["postgres"]);
    assert!(healthy(
        &check,
        5432,
        ([127, 0, 0, 1], database.port()).into()
    ));
    assert!(
        !healthy(&check, 5432, free_address().unwrap()),
        "nobody is there"
    );
    let path = [
        postgres::programs().unwrap().into(),
        PathBuf::from(env::var_os("PATH").unwrap_or_default()),
    ];
    let mut script = Command::new(root().join("compose/postgres-init.sh"));
    script
        .env(
            "PATH",
            env::join_paths(path.iter().flat_map(env::split_paths)).expect("a path"),
        )
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", database.port().to_string())
        .env("APP_PASSWORD", "it's")
        .env("LEVEE_PASSWORD", "secret");
    output_of(&mut script).unwrap_or_else(|said| panic!("postgres-init.sh: {said}"));
    assert_eq!(
        database.number("SELECT count(*) FROM pg_authid WHERE rolname IN ('app', 'levee') AND rolpassword LIKE 'SCRAM%'").unwrap(),
        2
    );
    database
}
