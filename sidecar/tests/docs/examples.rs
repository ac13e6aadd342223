//! Configurations that pages show.

use crate::{FILTER, Folder, URL, levee, printed};
use levee::config::Config;
use levee::jobs::pace::Rest;
use levee::redis::keepalive::Keepalive;
use levee_pages::{Example, Page};
use levee_policy::ratio::Ratio;
use regex::Regex;
use serde_norway::{Mapping, Value};
use std::collections::BTreeSet;
use std::time::Duration;

const MINIMAL: &str = include_str!("../../../envoy/minimal.yaml");

/// The configuration that an example in YAML belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Levee,
    /// The top level of Envoy's configuration.
    Bootstrap,
    ConnectionManager,
    Filter,
    /// Only parsed as YAML here; `alerts.rs` of the end-to-end tests has promtool read it.
    Prometheus,
}

const KINDS: [(Kind, &[&str]); 5] = [
    (Kind::Bootstrap, &["static_resources", "stats_config"]),
    (Kind::ConnectionManager, &["http_filters"]),
    (Kind::Filter, &["configuration"]),
    (
        Kind::Prometheus,
        &["scrape_configs", "metric_relabel_configs"],
    ),
    (
        Kind::Levee,
        &["admin", "envoy", "redis", "database", "state"],
    ),
];

/// `envoy/minimal.yaml` with an example in its place.
fn envoy_with(kind: Kind, example: &Mapping) -> String {
    let mut whole: Value = serde_norway::from_str(MINIMAL).unwrap();
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let filter = format!("{manager}/http_filters/0/typed_config/config");
    let place = match kind {
        Kind::Bootstrap => "",
        Kind::ConnectionManager => manager,
        _ => &filter,
    };
    // Longer than any class, as the pages say where a class is long.
    if kind == Kind::Filter {
        at(&mut whole, manager).insert("stream_idle_timeout".into(), "310s".into());
    }
    at(&mut whole, place).extend(example.clone());
    serde_norway::to_string(&whole).unwrap()
}

fn at<'a>(value: &'a mut Value, path: &str) -> &'a mut Mapping {
    let steps = path.split('/').filter(|step| !step.is_empty());
    let found = steps.fold(value, |value, step| match step.parse::<usize>() {
        Ok(place) => &mut value[place],
        Err(_) => &mut value[step],
    });
    found.as_mapping_mut().expect("keys")
}

fn kind_of(example: &Example) -> (Kind, Mapping) {
    let at = &example.at;
    let keys: Mapping =
        serde_norway::from_str(&example.text).unwrap_or_else(|error| panic!("{at}: {error}"));
    let known = KINDS
        .iter()
        .find(|(_, names)| names.iter().any(|name| keys.contains_key(*name)));
    let (kind, _) = *known.unwrap_or_else(|| panic!("{at}: what is it part of?"));
    (kind, keys)
}

#[test]
fn levee_check_accepts_each_configuration_without_a_warning() {
    let folder = Folder::new("examples");
    let variable = Regex::new(r"_env: ?([A-Z_]+)").unwrap();
    let mut seen = BTreeSet::new();
    let pages = Page::all();
    for example in pages.iter().flat_map(|page| page.examples("yaml")) {
        let (kind, keys) = kind_of(&example);
        seen.insert(kind);
        let (flag, text) = match kind {
            Kind::Prometheus => continue,
            Kind::Levee => ("--config", example.text),
            _ => ("--envoy", envoy_with(kind, &keys)),
        };
        let variables = variable.captures_iter(&text);
        let variables: Vec<String> = variables.map(|found| found[1].to_owned()).collect();
        let file = folder.file("example.yaml", &text);
        let output = levee(&["check", flag, &file], &variables);
        let printed = printed(&output);
        assert!(output.status.success(), "{}:\n{printed}", example.at);
        // Names of services in an example are the reader's.
        let is_trap =
            |line: &&str| line.contains(": warning: ") && !line.ends_with("[unknown-name]");
        let traps: Vec<&str> = printed.lines().filter(is_trap).collect();
        assert!(traps.is_empty(), "{}:\n{traps:#?}", example.at);
    }
    assert_eq!(seen.len(), KINDS.len(), "{seen:?}");
}

#[test]
fn the_filter_accepts_each_configuration_in_json() {
    let mut count = 0;
    for page in Page::all() {
        for example in page.examples("json") {
            filter_accepts(&example.at, &example.text);
            count += 1;
        }
        let inline = page.quoted().into_iter();
        for code in inline.filter(|code| code.starts_with("{\"") && !code.contains("...")) {
            filter_accepts(&page.name, &code);
            count += 1;
        }
    }
    assert!(count > 0, "no examples in JSON");
}

fn filter_accepts(at: &str, json: &str) {
    if let Err(errors) = levee_filter::config::Config::parse(json.as_bytes()) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{at}: {json}\n{}", errors.join("\n"));
    }
}

#[test]
fn the_example_of_the_filter_names_a_service() {
    let example = Page::read(FILTER).example("json");
    let config = levee_filter::config::Config::parse(example.text.as_bytes()).unwrap();
    assert!(config.services.contains_key("auth"));
}

#[test]
fn the_example_for_redis_has_the_documented_defaults() {
    let example = Page::read("docs/how-to/redis.md").example("yaml");
    let config = Config::parse(&example.text).unwrap();
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
        (redis.buffered_bytes, redis.idle, redis.keepalive),
        (
            1_048_576,
            None,
            Keepalive {
                redis: Some(Duration::from_secs(30)),
                clients: Some(Duration::from_mins(1)),
            }
        )
    );
}

#[test]
fn the_example_for_envoys_metrics_is_valid() {
    let example = Page::read("docs/how-to/one-metrics-page.md").example("yaml");
    assert!(Config::parse(&example.text).unwrap().envoy.is_some());
}

#[test]
fn the_example_for_a_database_has_the_documented_defaults() {
    let folder = Folder::new("database");
    let url = folder.file("url", &URL.replace(":x@", ":hidden@"));
    let example = Page::read("docs/how-to/database.md").example("yaml").text;
    let example = example
        .replace("url_env: DATABASE_URL", &format!("url_file: '{url}'"))
        .replace("token_env: LEVEE_TOKEN", "");
    let config = Config::parse(&example).unwrap();
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
    assert_eq!(settings.pace.batch, 10_000);
    assert_eq!(settings.pace.aim, Duration::from_millis(250));
    let rest = Rest::Beside {
        pause: Duration::ZERO,
        share: Ratio::percent(2),
    };
    assert_eq!(settings.pace.rest, rest);
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
    assert_eq!(database.limits.lock_timeout, Duration::from_secs(2));
}
