//! `levee.yaml` and the command line.
#![allow(missing_docs)]

use levee::config::Config;
use levee_policy::ratio::Ratio;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

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
        ("{admin: 9901}", "envoy.admin", "must be a string"),
        (
            "{admin: 'http://e:1', aliases: {a: 1}}",
            "envoy.aliases.a",
            "must be a string",
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
fn memory_is_a_size_with_its_unit() {
    let memory = |size: &str| Config::parse(&format!("limits: {{memory: {size}}}"));
    assert_eq!(Config::parse("").unwrap().memory, 256 << 20);
    for (size, bytes) in [
        ("16MiB", 16 << 20),
        ("65536KiB", 64 << 20),
        ("2GiB", 2 << 30),
    ] {
        assert_eq!(memory(size).unwrap().memory, bytes, "{size}");
    }
    for size in [
        "64",
        "64MB",
        "-1MiB",
        "1.5GiB",
        "+64MiB",
        "99999999999999999999GiB",
        "''",
    ] {
        let errors = memory(size).unwrap_err();
        assert_eq!(errors[0].path, "limits.memory");
        let right = "\"512KiB\", \"64MiB\" or \"2GiB\"";
        assert!(errors[0].message.contains(right), "{errors:?}");
    }
    let errors = memory("1KiB").unwrap_err();
    let range = "\"1KiB\" is out of range; it must be from 16MiB to 1024GiB";
    assert_eq!(errors[0].message, range);
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_paths() {
    let errors = errors(
        "admin: {listen: here}\nbogus: 1\nredis:\n  - {name: A B, listen: '127.0.0.1:1', upstream: 'http://x', deadline: 3}\n  \
         - {name: x, listen: '127.0.0.1:1', upstream: 'redis://h', retry: {attempts: 0, base: 2s, max: 1s}}\n  \
         - {breaker: {open_for: soon}, limits: {connections: many, idle: often}, keepalive: {redis: 5, clients: 1s}}\n  \
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
        ("redis[2].limits.idle", "\"1h\", or \"off\""),
        ("redis[2].keepalive.redis", "\"1h\", or \"off\""),
        ("redis[2].keepalive.clients", "must be from 3s to 8h"),
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
fn keepalive_and_the_limit_on_idle_clients_can_be_off() {
    let redis = |keys: &str| {
        let yaml =
            format!("redis: [{{name: x, listen: '127.0.0.1:1', upstream: 'redis://h', {keys}}}]");
        Config::parse(&yaml).unwrap().redis.remove(0)
    };
    let off = redis("keepalive: {redis: off, clients: off}, limits: {idle: off}");
    assert_eq!((off.keepalive.redis, off.keepalive.clients), (None, None));
    assert_eq!(off.idle, None);
    let on = redis("keepalive: {redis: 3s}, limits: {idle: 10m}");
    assert_eq!(on.keepalive.redis, Some(Duration::from_secs(3)));
    assert_eq!(on.idle, Some(Duration::from_mins(10)));
}

#[test]
fn a_host_that_cannot_be_one_is_refused() {
    for (host, is_valid) in [
        ("redis", true),
        ("my_redis-1.internal.", true),
        ("10.0.0.1:7000", true),
        ("[::1]:7000", true),
        ("${NOPE}", false),
        ("$NOPE:6379", false),
        ("{{ host }}", false),
        ("a,b", false),
    ] {
        let yaml =
            format!("redis: [{{name: x, listen: '127.0.0.1:1', upstream: 'redis://{host}'}}]");
        let found = Config::parse(&yaml);
        assert_eq!(found.is_ok(), is_valid, "{host}: {found:?}");
    }
    let expanded = errors("redis: [{name: x, listen: '127.0.0.1:1', upstream: 'redis://${NOPE}'}]");
    assert!(
        expanded[0].contains("${NAME} are not replaced"),
        "{expanded:?}"
    );
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
fn all_mistakes_about_a_database_are_reported_at_once() {
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
        ("database.jobs.e.set.a", "must be a string"),
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

/// The exit code and all output of `levee` with these arguments.
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

/// Configurations, each with the lines that report its mistakes.
const MISTAKES: &[(&str, &[(usize, &str)])] = &[
    (
        "log:\n  level: loud\nredis: 5\n",
        &[(2, "log.level: is \"loud\""), (3, "redis: is 5")],
    ),
    // Unknown keys.
    (
        "bogus: 1\r\nadmin:\r\n  port: 1\r\n",
        &[
            (1, "bogus: is not known here"),
            (3, "admin.port: is not known here"),
        ],
    ),
    (
        "\u{feff}# a byte order mark\nbogus: 1\n",
        &[(2, "bogus: is not known here")],
    ),
    ("<<: {log: 1}\n", &[(1, "<<: is not known here")]),
    // A duplicate key is a warning, and errors come first.
    (
        "log: {level: info}\nlog: 5\nbogus: 1\n",
        &[
            (2, "log: is 5"),
            (3, "bogus: is not known here"),
            (2, "warning: \"log\" is there twice, first in line 1"),
        ],
    ),
    // An alias has the line of its anchor.
    (
        "redis:\n- &it\n  name: a\n  listen: 127.0.0.1:1\n  upstream: redis://h\n  deadline: soon\n- *it\n",
        &[
            (3, "redis[1].name: is used twice"),
            (4, "redis[1].listen: is used twice"),
            (6, "redis[0].deadline: \"soon\""),
            (6, "redis[1].deadline: \"soon\""),
        ],
    ),
    (
        "log: *nothing\n",
        &[(
            1,
            "not valid YAML: while parsing node, found unknown anchor",
        )],
    ),
    ("log: &a [*a]\n", &[(1, "an alias within its own anchor")]),
    (
        "log:\n\tlevel: info\n",
        &[(2, "not valid YAML: tabs disallowed")],
    ),
    ("log: {\tlevel: loud}\n", &[(1, "log.level: is \"loud\"")]),
    (
        "log: {}\n---\nlog: {}\n",
        &[(2, "a second document; there must be one")],
    ),
    ("log: [\n", &[(2, "not valid YAML")]),
    ("5\n", &[(1, "is 5; it must be an object")]),
    // Keys are texts.
    ("1: a\n", &[(1, "1: is not known here")]),
    (
        "log: {}\n[a]: 1\n",
        &[(2, "a key that is a list or an object")],
    ),
    (
        "log: {}\n? {a: 1}\n: 1\n",
        &[(2, "a key that is a list or an object")],
    ),
    // Scalars of YAML 1.2: octal in the style of 1.1 is text.
    ("redis: 010\n", &[(1, "redis: is \"010\"")]),
    ("redis: 0o14\n", &[(1, "redis: is 12")]),
    ("redis: 0x1F\n", &[(1, "redis: is 31")]),
    ("redis: yes\n", &[(1, "redis: is \"yes\"")]),
    ("redis: True\n", &[(1, "redis: is true")]),
    ("redis: .inf\n", &[(1, "redis: is \".inf\"")]),
    ("redis: '5'\n", &[(1, "redis: is \"5\"")]),
    ("redis: !!str 5\n", &[(1, "redis: is \"5\"")]),
    (
        "redis: 18446744073709551615\n",
        &[(1, "redis: is 18446744073709551615")],
    ),
    (
        "log:\n  level: !mine info\n",
        &[(2, "the tag !mine has no meaning here")],
    ),
    (
        "stop_within: 5\n",
        &[(1, "stop_within: is 5; it must be a duration")],
    ),
];

/// The lines that report mistakes, without the file's name.
fn named(said: &str, file: &str) -> Vec<String> {
    said.lines()
        .map(|line| {
            line.strip_prefix(&format!("{file}:"))
                .expect(said)
                .to_owned()
        })
        .collect()
}

#[test]
fn each_command_names_the_same_lines_as_check() {
    let folder = std::env::temp_dir().join(format!("levee-lines-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("levee.yaml");
    let file = path.to_str().unwrap();
    let deep = format!("log: {}\n", "[".repeat(5000));
    let deep_block = format!("log:\n  {}5\n", "- ".repeat(200));
    let mut bomb = "a0: &a0 [5, 5, 5, 5, 5, 5, 5, 5, 5, 5]\n".to_owned();
    for n in 1..10 {
        let before = format!("*a{}, ", n - 1).repeat(10);
        writeln!(bomb, "a{n}: &a{n} [{before}]").unwrap();
    }
    let limit = "more than 1000000 values, or deeper than 100";
    let limits: [(&str, &[(usize, &str)]); 3] = [
        (&deep, &[(1, "not valid YAML: recursion limit exceeded")]),
        (&deep_block, &[(2, limit)]),
        (&bomb, &[(6, limit)]),
    ];
    for (text, wanted) in MISTAKES.iter().copied().chain(limits) {
        fs::write(&path, text).unwrap();
        let start = &text[..text.len().min(100)];
        let (code, said) = levee(&["check", "--config", file]);
        let lines = named(&said, file);
        assert_eq!((code, lines.len()), (2, wanted.len()), "{start:?}: {said}");
        for (line, (number, message)) in lines.iter().zip(wanted) {
            assert!(
                line.starts_with(&format!("{number}: {message}")),
                "{start:?}: {said}"
            );
        }
        for command in [
            &["run"][..],
            &["job", "list"],
            &["job", "run", "any"],
            &["db", "limits"],
        ] {
            let arguments = [command, &["--config", file]].concat();
            assert_eq!(
                levee(&arguments),
                (2, said.clone()),
                "{arguments:?}: {start:?}"
            );
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_key_that_is_there_twice_is_logged_by_commands_that_go_on() {
    let file = std::env::temp_dir().join(format!("levee-twice-{}.yaml", std::process::id()));
    fs::write(
        &file,
        "log: {level: error}\nlog: {level: warn, format: json}\n",
    )
    .unwrap();
    let (code, said) = levee(&["job", "list", "--config", file.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    assert_eq!(code, 2, "there is no database: {said}");
    let line: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["line"], 2);
    assert_eq!(
        line["message"],
        "\"log\" is there twice, first in line 1; keep one"
    );
}

#[test]
fn numbers_and_texts_are_distinguished() {
    let redis = |keys: &str| {
        format!("redis: [{{name: a, listen: '127.0.0.1:1', upstream: 'redis://h', {keys}}}]")
    };
    let attempts = |number: &str| {
        let config = Config::parse(&redis(&format!("retry: {{attempts: {number}}}")));
        config.ok().map(|config| config.redis[0].attempts)
    };
    for (written, read) in [
        ("5", Some(5)),
        ("+5", Some(5)),
        ("5.0", Some(5)),
        ("1e1", Some(10)),
        ("0x10", Some(16)),
        ("0o17", Some(15)),
        ("017", None),
        ("'5'", None),
        ("!!str 5", None),
        ("1_0", None),
        ("yes", None),
    ] {
        assert_eq!(attempts(written), read, "{written}");
    }
    assert_eq!(
        Config::parse(&redis("budget: {ratio: '0.5'}"))
            .unwrap()
            .redis[0]
            .budget
            .ratio,
        Ratio::percent(50)
    );
    let aliases = "envoy: {admin: 'http://e:1', aliases: {8080: auth, true: video}}";
    let aliases = Config::parse(aliases).unwrap().envoy.unwrap().aliases;
    assert_eq!(aliases.keys().collect::<Vec<_>>(), ["8080", "true"]);
}
