//! `levee.yaml` and the command line, and that the README says what is so.
#![allow(missing_docs)]

use levee::config::Config;
use levee::envoy::translate::Gateway;
use levee::metrics::{Metrics, Preset};
use levee_policy::ratio::Ratio;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

/// Of Envoy, the one metric that the README's section on the sidecar has: the others are in the filter's.
const ENVOY: &str = "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a\",le=\"+Inf\"} 1\n\
    envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"a\"} 1\n\
    envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"a\"} 1\n";

const README: &str = include_str!("../../README.md");

/// The part of the README that is about the sidecar.
fn section() -> &'static str {
    let (_, section) = README
        .split_once("## The sidecar: Redis")
        .expect("it is there");
    // There the filter's metrics are named again.
    section
        .split_once("## What shows it")
        .map_or(section, |(before, _)| before)
}

fn errors(yaml: &str) -> Vec<String> {
    let errors = Config::parse(yaml).expect_err(yaml);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_configuration_is_valid() {
    for text in ["", "# nothing\n", "{}"] {
        let config = Config::parse(text).unwrap();
        assert!(config.redis.is_empty() && config.state.is_none());
        assert!(config.admin.ip().is_loopback());
    }
}

#[test]
fn the_readmes_example_is_valid_and_has_the_defaults_that_it_says() {
    let (_, example) = section().split_once("```yaml").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let config = Config::parse(example).unwrap();
    let redis = &config.redis[0];
    assert_eq!(
        (redis.attempts, redis.deadline),
        (3, Duration::from_secs(3))
    );
    assert_eq!(redis.backoff.base, Duration::from_millis(100));
    assert_eq!(redis.backoff.max, Duration::from_secs(1));
    assert_eq!(
        (redis.budget.ratio, redis.budget.per_second),
        (Ratio::percent(20), 10)
    );
    assert_eq!(redis.breaker.open.base, Duration::from_secs(5));
    assert_eq!(redis.breaker.open.max, Duration::from_secs(30));
    assert_eq!(
        (redis.connections, redis.command_bytes),
        (1000, 536_870_912)
    );
    assert_eq!(
        (redis.buffered_bytes, redis.idle),
        (1_048_576, Duration::from_mins(10))
    );
}

#[test]
fn each_metric_is_in_the_readme_and_each_of_the_readme_is_there() {
    let metrics = Metrics::new();
    let _ = metrics.redis("x");
    let _ = metrics.job("x", Some(Preset::ExpiredTokens));
    let _ = metrics.job("y", Some(Preset::StaleCalls));
    let _ = metrics.watchdog("x");
    let _ = metrics.envoy();
    let text = metrics.text_with(&Gateway::read(ENVOY, &BTreeMap::new()));
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    for name in &names {
        assert!(section().contains(&format!("| `{name}` |")), "{name}");
    }
    let documented = section()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| {
            [
                "redis_",
                "circuit_",
                "proxy_",
                "levee_",
                "job_",
                "db_",
                "auth_cleanup_",
                "video_cleanup_",
            ]
            .iter()
            .any(|start| name.starts_with(start))
        });
    for name in documented {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn envoys_address_is_a_host_and_a_port_and_aliases_are_names() {
    let yaml = "envoy: {admin: 'http://127.0.0.1:9901', aliases: {'a|b': auth}}";
    let envoy = Config::parse(yaml).unwrap().envoy.unwrap();
    assert_eq!(envoy.admin.to_string(), "http://127.0.0.1:9901");
    assert_eq!(envoy.aliases["a|b"], "auth");
    assert!(Config::parse("").unwrap().envoy.is_none());
    for (yaml, path, text) in [
        ("{}", "envoy.admin", "is missing"),
        ("{admin: 'https://e:1'}", "envoy.admin", "http://host:port"),
        (
            "{admin: 'http://u:hidden@e:1'}",
            "envoy.admin",
            "names a user",
        ),
        (
            "{admin: 'http://e:1/stats'}",
            "envoy.admin",
            "after the port",
        ),
        ("{admin: 9901}", "envoy.admin", "must be a text"),
        (
            "{admin: 'http://e:1', aliases: {a: 1}}",
            "envoy.aliases.a",
            "must be a text",
        ),
        (
            "{admin: 'http://e:1', every: 1s}",
            "envoy.every",
            "is not known here",
        ),
    ] {
        let errors = errors(&format!("envoy: {yaml}"));
        let is_it =
            |error: &String| error.starts_with(&format!("{path}: ")) && error.contains(text);
        assert!(errors.len() == 1 && is_it(&errors[0]), "{yaml}: {errors:?}");
        assert!(!errors[0].contains("hidden"), "{errors:?}");
    }
}

#[test]
fn the_readmes_example_for_envoy_is_valid() {
    let (_, part) = README
        .split_once("## All metrics at one place")
        .expect("it is there");
    let example = part
        .split("```")
        .nth(1)
        .and_then(|text| text.strip_prefix("yaml"));
    assert!(
        Config::parse(example.expect("an example"))
            .unwrap()
            .envoy
            .is_some()
    );
}

#[test]
fn all_mistakes_are_told_at_once_with_their_paths() {
    let errors = errors(
        "admin: {listen: here}\nbogus: 1\nredis:\n  - {name: A B, listen: '127.0.0.1:1', upstream: 'http://x', deadline: 3}\n  \
         - {name: x, listen: '127.0.0.1:1', upstream: 'redis://h', retry: {attempts: 0, base: 2s, max: 1s}}\n  \
         - {breaker: {open_for: soon}, limits: {connections: many}}\n  \
         - {name: y, listen: '127.0.0.1:2', upstream: 'redis://h/5', tls: {ca_file: ca.pem}}\n",
    );
    for (path, text) in [
        ("admin.listen", "is not an address with a port"),
        ("bogus", "is not known here"),
        ("redis[0].name", "lower-case"),
        ("redis[0].upstream", "redis://host:port"),
        ("redis[0].deadline", "a duration with its unit"),
        ("redis[1].listen", "is used twice"),
        ("redis[1].retry.attempts", "from 1 to 100"),
        ("redis[1].retry.max", "less than base"),
        ("redis[2].name", "is missing"),
        ("redis[2].listen", "is missing"),
        ("redis[2].upstream", "is missing"),
        ("redis[2].breaker.open_for", "duration"),
        ("redis[2].limits.connections", "a whole number"),
        ("redis[3].upstream", "names a database"),
        ("redis[3].tls", "redis:// is without TLS"),
    ] {
        let found = errors
            .iter()
            .any(|error| error.starts_with(&format!("{path}: ")) && error.contains(text));
        assert!(found, "{path}: {text}\n{}", errors.join("\n"));
    }
}

#[test]
fn no_secret_is_shown() {
    let in_url =
        errors("redis: [{name: x, listen: '127.0.0.1:1', upstream: 'redis://u:hidden@h'}]");
    assert!(in_url[0].contains("password_env"), "{in_url:?}");
    assert!(!in_url.join("").contains("hidden"), "{in_url:?}");
    let file = std::env::temp_dir().join(format!("levee-config-{}", std::process::id()));
    fs::write(&file, "hidden\n").unwrap();
    let yaml = format!(
        "redis: [{{name: x, listen: '127.0.0.1:1', upstream: 'redis://h', password_file: '{}'}}]",
        file.display()
    );
    let config = Config::parse(&yaml).unwrap();
    fs::remove_file(file).unwrap();
    assert_eq!(
        config.redis[0].upstream.password.as_ref().unwrap().reveal(),
        "hidden"
    );
    assert!(!format!("{config:?}").contains("hidden"));
    let missing = errors(
        "redis: [{name: x, listen: '127.0.0.1:1', upstream: 'redis://h', password_env: LEVEE_NOT_SET}]",
    );
    assert!(missing[0].contains("LEVEE_NOT_SET"), "{missing:?}");
}

fn config(yaml: &str, url: &str) -> Result<Config, Vec<String>> {
    let mut file = std::env::temp_dir();
    file.push(format!("levee-url-{}-{}", std::process::id(), url.len()));
    fs::write(&file, url).unwrap();
    let yaml = yaml.replace("{url}", file.to_str().unwrap());
    Config::parse(&yaml).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

const URL: &str = "postgres://levee:hidden@db:5433/app";

#[test]
fn the_readmes_example_of_a_database_is_valid_and_has_the_defaults_that_it_says() {
    let (_, example) = README
        .split_once("## The sidecar: the database")
        .and_then(|(_, section)| section.split_once("```yaml"))
        .expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let example = example
        .replace("url_env: DATABASE_URL", "url_file: '{url}'")
        .replace("token_env: LEVEE_TOKEN", "");
    let config = config(&example, URL).unwrap();
    let database = config.database.as_ref().unwrap();
    assert_eq!((database.name.as_str(), database.connections), ("app", 4));
    assert_eq!(database.statement_timeout, Duration::from_secs(30));
    assert!(!format!("{config:?}").contains("hidden"));
    let names: Vec<&str> = database.jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["auth_cleanup", "sessions", "video_cleanup"]);
    let settings = database.jobs[0].settings;
    assert_eq!(settings.every, Some(Duration::from_hours(1)));
    assert_eq!(
        (settings.max_rows, settings.max_time),
        (10_000_000, Duration::from_mins(30))
    );
    assert_eq!(settings.pace.batch, 50);
    assert_eq!(settings.pace.aim, Duration::from_millis(250));
    assert_eq!(settings.pace.pause, Duration::from_millis(50));
    assert_eq!(settings.pace.max_lag, Duration::from_secs(10));
    let watchdog = database.watchdog.as_ref().unwrap();
    assert_eq!(watchdog.every, Duration::from_secs(1));
    assert_eq!(watchdog.settings.query, Duration::from_secs(5));
    assert_eq!(watchdog.settings.long_query, Duration::from_secs(30));
    assert_eq!(
        watchdog.settings.idle_in_transaction,
        Duration::from_mins(1)
    );
    assert_eq!(watchdog.settings.terminate_after, None);
    assert_eq!(database.lock_timeout, Duration::from_secs(2));
}

#[test]
fn all_mistakes_about_a_database_are_told_at_once() {
    let errors = config(
        "database:\n  url_file: '{url}'\n  dialect: oracle\n  jobs:\n    a: {preset: expired_tokens, batch: 0}\n    \
         b: {preset: expired_tokens}\n    c: {table: t}\n    \
         d: {table: t, key: '', where: {column: x}, action: set}\n    \
         g: {table: t, key: k, where: {column: x, in: [1, true, a]}, action: set, set: {y: {ago: 0s}}}\n    \
         f: {table: t, key: k, where: [], action: delete}\n    \
         e: {table: t, key: k, where: [{column: x, before: 1h, in: [a]}], action: delete, set: {a: [1], b: 1}}\n  \
         watchdog: {every: 31s, classes: {query: fast}, rules: [{class: slow}]}\n  drop: 1\n",
        "mysql://u:hidden@h",
    )
    .unwrap_err();
    let all = errors.join("\n");
    for (path, text) in [
        ("database.url_file", "postgres://"),
        ("database.dialect", "\"postgres\", \"cockroach\""),
        ("database.jobs.a.batch", "from 1 to"),
        ("database.jobs.b.preset", "is used twice"),
        ("database.jobs.c.key", "is missing"),
        ("database.jobs.c.where", "is missing"),
        ("database.jobs.c.action", "is missing"),
        ("database.jobs.d.key", "is empty"),
        ("database.jobs.d.where", "just one of"),
        ("database.jobs.d.set", "is missing"),
        ("database.jobs.e.where[0]", "just one of"),
        ("database.jobs.e.set.a", "must be a text"),
        ("database.jobs.e.set", "has no meaning"),
        ("database.jobs.f.where", "is empty"),
        ("database.jobs.g.set", "again and again"),
        ("database.watchdog.roles", "is missing"),
        (
            "database.watchdog.classes.query",
            "a duration with its unit",
        ),
        ("database.watchdog.every", "at most 5s, the shortest"),
        ("database.watchdog.rules[0]", "must name a role"),
        ("database.watchdog.rules[0].class", "query"),
        ("database.drop", "is not known here"),
    ] {
        let found = errors
            .iter()
            .any(|error| error.starts_with(&format!("{path}: ")) && error.contains(text));
        assert!(found, "{path}: {text}\n{all}");
    }
    assert!(!all.contains("hidden"), "{all}");
    assert!(!all.contains("jobs.g.where"), "{all}");
    let cockroach = "database: {url_file: '{url}', dialect: cockroach, watchdog: {roles: [a], terminate_after: 1s, rules: [{role: b, class: query}]}}";
    let errors = config(cockroach, &format!("{URL}2"))
        .unwrap_err()
        .join("\n");
    assert!(
        errors.contains("terminate_after: is for dialect postgres only"),
        "{errors}"
    );
    assert!(
        errors.contains("rules[0].role: is not one of those that are watched"),
        "{errors}"
    );
    let misspelt = config(
        "database: {url_file: '{url}'}",
        &format!("{URL}?sslmode=require&ssl_mode=hidden"),
    );
    let errors = misspelt.unwrap_err().join("\n");
    assert!(
        errors.contains("database.url_file: the URL has a parameter \"ssl_mode\""),
        "{errors}"
    );
    assert!(!errors.contains("hidden"), "{errors}");
    let missing = config("database: {dialect: postgres}", URL).unwrap_err();
    assert!(missing[0].contains("DATABASE_URL"), "{missing:?}");
}

#[test]
fn a_job_that_would_set_the_same_rows_again_and_again_is_refused() {
    for (place, (condition, set, ends)) in [
        ("before: 24h", "{x: {ago: 0s}}", true),
        ("before: 24h", "{x: {ago: 24h}}", false),
        ("before: 24h", "{x: {ago: 48h}}", false),
        ("before: 0s", "{x: {ago: 0s}}", false),
        ("is_null: true", "{x: {ago: 0s}}", true),
        ("is_null: false", "{x: {ago: 0s}}", false),
        ("is_null: false", "{x: {ago: 0s}, done: true}", true),
        ("is_null: true", "{x: {seconds_since: y}}", true),
        ("in: [1]", "{x: {seconds_since: y}}", false),
    ]
    .into_iter()
    .enumerate()
    {
        let yaml = format!(
            "database: {{url_file: '{{url}}', jobs: {{own: {{table: t, key: k, where: {{column: x, {condition}}}, action: set, set: {set}}}}}}}"
        );
        let read = config(&yaml, &format!("{URL}{place:010}"));
        assert_eq!(read.is_ok(), ends, "{condition} {set}: {read:?}");
    }
}

/// What `levee` with these arguments says and how it exits.
fn levee(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_levee"))
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

#[test]
fn the_command_line_says_what_is_wrong_by_its_exit_code() {
    let folder = std::env::temp_dir().join(format!("levee-check-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (code, said) = levee(&["check", "--config", &file("good.yaml", "")]);
    assert_eq!((code, said.contains("valid")), (0, true), "{said}");
    let bad = file("bad.yaml", "a: 1\nb: 2\n");
    for command in ["check", "run"] {
        let (code, said) = levee(&[command, "--config", &bad]);
        assert_eq!((code, said.lines().count()), (2, 2), "{said}");
    }
    assert_eq!(levee(&["check", "--config", &file("no.yaml", "a: [")]).0, 2);
    assert_eq!(levee(&["run", "--config", "/nowhere/levee.yaml"]).0, 2);
    assert_eq!(levee(&["fly"]).0, 2);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let busy = file("busy.yaml", &format!("admin: {{listen: '{address}'}}\n"));
    let (code, said) = levee(&["run", "--config", &busy]);
    assert_eq!(
        (code, said.contains(&address.to_string())),
        (5, true),
        "{said}"
    );
    fs::remove_dir_all(folder).unwrap();
}
