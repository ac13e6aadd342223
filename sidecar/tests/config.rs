//! `levee.yaml` and the command line.
#![allow(missing_docs)]

use levee::config::Config;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

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
