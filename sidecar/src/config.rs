//! `levee.yaml`: what is written becomes [`Config`] here, or a list of errors.

pub mod database;

use crate::fetch::Origin;
use crate::logging::Format;
use crate::yaml::{self, Document};
use levee_config::LONGEST;
use levee_config::breaker::read_breaker;
use levee_config::reader::{Section, read};
use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::BreakerSettings;
use levee_policy::budget::BudgetSettings;
use levee_policy::ratio::Ratio;
use log::LevelFilter;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a valid configuration says.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the log looks.
    pub log: Log,
    /// How long a stop may take.
    pub stop_within: Duration,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// What a client of the admin interface must show before it may change something.
    pub token: Option<Secret>,
    /// Where Envoy's stats are read.
    pub envoy: Option<Envoy>,
    /// Redis upstreams.
    pub redis: Vec<Redis>,
    /// Where retry state is kept.
    pub state: Option<State>,
    /// The database.
    pub database: Option<database::Database>,
}

/// How the log looks.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// For people or for programs.
    pub format: Format,
    /// What is left out.
    pub level: LevelFilter,
}

/// Where Envoy's stats are read.
#[derive(Clone, Debug)]
pub struct Envoy {
    /// Envoy's admin interface, or what passes on `/stats/prometheus` of it.
    pub admin: Origin,
    /// The services that clusters belong to, as the filter's configuration has them.
    pub aliases: BTreeMap<String, String>,
}

/// One Redis upstream.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Its name in metrics and logs.
    pub name: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where Redis is, and how Levee's own connections log in.
    pub upstream: Address,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a command may take.
    pub deadline: Duration,
    /// How often a command is sent at most.
    pub attempts: u32,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Commands that may be repeated though they are not in the tables.
    pub also: Vec<String>,
    /// Commands that must not be repeated though they are in the tables.
    pub never: Vec<String>,
    /// What retries may cost.
    pub budget: BudgetSettings,
    /// The breaker.
    pub breaker: BreakerSettings,
    /// The most clients.
    pub connections: usize,
    /// The most bytes of a command's arguments.
    pub command_bytes: u64,
    /// The most bytes held for a client in each direction.
    pub buffered_bytes: usize,
    /// How long a client may do nothing.
    pub idle: Duration,
    /// How often Redis is asked whether it answers, while the breaker is open.
    pub health_every: Duration,
}

/// A Redis server, and how Levee's own connections log in.
#[derive(Clone, Debug)]
pub struct Address {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
    /// The database of Levee's own connections.
    pub database: i64,
    /// The user of Levee's own connections.
    pub username: Option<String>,
    /// The password of Levee's own connections.
    pub password: Option<Secret>,
    /// Certificates that are trusted in place of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// The client's key, PEM.
    pub key_file: Option<PathBuf>,
}

/// Where retry state is kept.
#[derive(Clone, Debug)]
pub struct State {
    /// In which Redis.
    pub upstream: Address,
    /// What keys begin with.
    pub prefix: String,
    /// How long they live.
    pub ttl: Duration,
}

/// A text that is not shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A mistake in `levee.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line of what is wrong, or of what lacks something. From 1.
    pub line: usize,
    /// `redis[0].listen`; empty for the whole file.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl From<yaml::Mistake> for Mistake {
    fn from(mistake: yaml::Mistake) -> Self {
        Self {
            line: mistake.line,
            path: String::new(),
            message: mistake.message,
        }
    }
}

/// `path: message`
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

impl Config {
    /// Reads a configuration. An empty one is valid.
    ///
    /// # Errors
    /// All mistakes.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let document = yaml::parse(text).map_err(|mistake| vec![mistake.into()])?;
        Self::read(&document)
    }

    /// Reads a configuration that was parsed.
    ///
    /// # Errors
    /// All mistakes, by line.
    pub fn read(document: &Document) -> Result<Self, Vec<Mistake>> {
        let tags = document.tags.iter().cloned().map(Mistake::from);
        let mut mistakes: Vec<Mistake> = tags.collect();
        let config = read(&document.root.value(), read_root);
        let errors = config.as_ref().err().into_iter().flatten();
        mistakes.extend(errors.map(|error| Mistake {
            line: document.root.line_of(&error.path),
            path: error.path.clone(),
            message: error.message.clone(),
        }));
        mistakes.sort_by_key(|mistake| mistake.line);
        match config {
            Ok(config) if mistakes.is_empty() => Ok(config),
            _ => Err(mistakes),
        }
    }
}

fn read_root(root: &mut Section<'_>) -> Config {
    let log = root.section("log", |s| Log {
        format: s
            .choice("format", &[("text", Format::Text), ("json", Format::Json)])
            .unwrap_or(Format::Text),
        level: s
            .choice(
                "level",
                &[
                    ("error", LevelFilter::Error),
                    ("warn", LevelFilter::Warn),
                    ("info", LevelFilter::Info),
                    ("debug", LevelFilter::Debug),
                ],
            )
            .unwrap_or(LevelFilter::Info),
    });
    let (admin, token) = root.section("admin", |s| {
        (address(s, "listen"), secret(s, "token_env", "token_file"))
    });
    let redis = root.list("redis", read_redis);
    for field in ["name", "listen"] {
        let key = |upstream: &Redis| match field {
            "name" => upstream.name.clone(),
            _ => upstream.listen.to_string(),
        };
        for (place, upstream) in redis.iter().enumerate() {
            let is_shared = redis[..place]
                .iter()
                .any(|other| key(other) == key(upstream));
            if is_shared && !(field == "listen" && upstream.listen.port() == 0) {
                root.error(
                    &format!("redis[{place}].{field}"),
                    "is used twice; each needs its own",
                );
            }
        }
    }
    Config {
        log,
        stop_within: root
            .duration("stop_within", MILLISECOND..=LONGEST)
            .unwrap_or(Duration::from_secs(10)),
        admin: admin.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9464))),
        token,
        envoy: read_envoy(root),
        redis,
        state: read_state(root),
        database: database::read(root),
    }
}

fn read_envoy(root: &mut Section<'_>) -> Option<Envoy> {
    root.section("envoy", |s| {
        if s.is_absent() {
            return None;
        }
        s.require(
            "admin",
            "where Envoy's admin interface is, such as \"http://127.0.0.1:9901\"",
        );
        let aliases = s.texts("aliases").into_iter().collect();
        let admin = match Origin::parse(&s.text("admin")?) {
            Ok(admin) => admin,
            Err(wrong) => {
                s.error("admin", &wrong);
                return None;
            }
        };
        Some(Envoy { admin, aliases })
    })
}

fn read_redis(s: &mut Section<'_>) -> Redis {
    for (field, what) in [
        (
            "name",
            "what this upstream is called in metrics, such as \"sessions\"",
        ),
        (
            "listen",
            "the address that services connect to, such as \"127.0.0.1:6380\"",
        ),
        (
            "upstream",
            "where Redis is, such as \"redis://127.0.0.1:6379\"",
        ),
    ] {
        s.require(field, what);
    }
    let name = s.text("name").unwrap_or_default();
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    if !name.bytes().all(is_plain) || name.len() > 64 {
        s.error(
            "name",
            "must be at most 64 lower-case letters, digits, '-' and '_'",
        );
    }
    let mut backoff = Backoff {
        base: Duration::from_millis(100),
        max: Duration::from_secs(1),
        factor: 2,
        jitter: Jitter::shorter(Ratio::percent(50)),
    };
    let (mut attempts, mut also, mut never) = (3, Vec::new(), Vec::new());
    s.section("retry", |s| {
        attempts = s.integer("attempts", 1..=100).unwrap_or(attempts);
        backoff.base = s
            .duration("base", MILLISECOND..=LONGEST)
            .unwrap_or(backoff.base);
        backoff.max = s
            .duration("max", MILLISECOND..=LONGEST)
            .unwrap_or(backoff.max.max(backoff.base));
        if backoff.max < backoff.base {
            s.error("max", "is less than base; it must be as long or longer");
        }
        also = s.words("also");
        never = s.words("never");
    });
    let mut budget = BudgetSettings::default();
    s.section("budget", |s| {
        budget.ratio = s.ratio("ratio").unwrap_or(budget.ratio);
        budget.per_second = s
            .integer("per_second", 0..=1_000_000)
            .unwrap_or(budget.per_second);
    });
    let mut base = BreakerSettings::default();
    base.open.base = Duration::from_secs(5);
    base.open.max = Duration::from_secs(30);
    let breaker = s.section("breaker", |s| read_breaker(s, base));
    let health_every = s.section("health", |s| {
        s.duration("every", Duration::from_millis(10)..=LONGEST)
    });
    let mut redis = Redis {
        name,
        listen: address(s, "listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
        upstream: read_upstream(s),
        connect_timeout: s
            .duration("connect_timeout", MILLISECOND..=LONGEST)
            .unwrap_or(Duration::from_secs(1)),
        deadline: s
            .duration("deadline", MILLISECOND..=LONGEST)
            .unwrap_or(Duration::from_secs(3)),
        attempts,
        backoff,
        also,
        never,
        budget,
        breaker,
        connections: 1000,
        command_bytes: 512 * 1024 * 1024,
        buffered_bytes: 1024 * 1024,
        idle: Duration::from_mins(10),
        health_every: health_every.unwrap_or(Duration::from_millis(500)),
    };
    s.section("limits", |s| {
        if let Some(connections) = s.size("connections", 1..=1_000_000) {
            redis.connections = connections;
        }
        if let Some(bytes) = s.integer("command_bytes", 1024..=u32::MAX) {
            redis.command_bytes = u64::from(bytes);
        }
        if let Some(bytes) = s.size("buffered_bytes", 4096..=1 << 30) {
            redis.buffered_bytes = bytes;
        }
        if let Some(idle) = s.duration("idle", Duration::from_millis(100)..=LONGEST) {
            redis.idle = idle;
        }
    });
    redis
}

fn read_state(root: &mut Section<'_>) -> Option<State> {
    root.section("state", |s| {
        if s.is_absent() {
            return None;
        }
        s.require(
            "upstream",
            "where the state is kept, such as \"redis://127.0.0.1:6379\"",
        );
        let instance = s
            .text("instance")
            .unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned());
        let prefix = s.text("prefix").unwrap_or_else(|| "levee:".to_owned());
        Some(State {
            upstream: read_address(s, "upstream"),
            prefix: format!("{prefix}{instance}:"),
            ttl: s
                .duration("ttl", Duration::from_secs(3)..=LONGEST)
                .unwrap_or(Duration::from_mins(10)),
        })
    })
}

/// An address to listen on.
fn address(s: &mut Section<'_>, field: &'static str) -> Option<SocketAddr> {
    let text = s.text(field)?;
    let address = text.parse().ok();
    if address.is_none() {
        s.error(
            field,
            &format!("{text:?} is not an address with a port such as \"127.0.0.1:6380\""),
        );
    }
    address
}

/// Where services' commands go.
fn read_upstream(s: &mut Section<'_>) -> Address {
    let upstream = read_address(s, "upstream");
    if upstream.database != 0 {
        s.error(
            "upstream",
            "names a database; services choose theirs by SELECT, so leave it out",
        );
    }
    upstream
}

/// `redis://[user@]host[:port][/database]`, and the keys beside it.
fn read_address(s: &mut Section<'_>, field: &'static str) -> Address {
    const RIGHT: &str = "redis://host:port or rediss://host:port";
    let mut address = Address {
        host: String::new(),
        port: 6379,
        tls: false,
        database: 0,
        username: s.text("username"),
        password: secret(s, "password_env", "password_file"),
        ca_file: None,
        cert_file: None,
        key_file: None,
    };
    s.section("tls", |s| {
        address.ca_file = s.text("ca_file").map(PathBuf::from);
        address.cert_file = s.text("cert_file").map(PathBuf::from);
        address.key_file = s.text("key_file").map(PathBuf::from);
        if address.cert_file.is_some() != address.key_file.is_some() {
            s.error(
                "",
                "cert_file and key_file belong together; give both or none",
            );
        }
    });
    let Some(text) = s.text(field) else {
        return address;
    };
    let Ok(url) = url::Url::parse(&text) else {
        // Not shown: it may hold a password.
        s.error(field, &format!("is not a URL; it must be {RIGHT}"));
        return address;
    };
    match url.scheme() {
        "redis" => {}
        "rediss" => address.tls = true,
        other => s.error(field, &format!("begins with {other:?}; it must be {RIGHT}")),
    }
    let has_files = address.ca_file.is_some() || address.cert_file.is_some();
    if has_files && url.scheme() == "redis" {
        s.error(
            "tls",
            "is set, but redis:// is without TLS; write rediss://, or leave it out",
        );
    }
    if url.password().is_some() {
        s.error(
            field,
            "holds a password; name it by password_env or password_file",
        );
    }
    match url.host() {
        Some(url::Host::Ipv6(ip)) => address.host = ip.to_string(),
        Some(host) => address.host = host.to_string(),
        None => s.error(field, &format!("names no host; it must be {RIGHT}")),
    }
    address.port = url.port().unwrap_or(6379);
    if !url.username().is_empty() {
        address.username = Some(url.username().to_owned());
    }
    let path = url.path().trim_matches('/');
    if !path.is_empty() {
        match path.parse() {
            Ok(database) => address.database = database,
            Err(_) => s.error(field, "has a path that is not the number of a database"),
        }
    }
    if url.query().is_some() || url.fragment().is_some() {
        s.error(
            field,
            &format!("has a query or fragment; it must be {RIGHT}"),
        );
    }
    address
}

/// A secret from the environment, or from a file.
fn secret(
    s: &mut Section<'_>,
    in_environment: &'static str,
    in_file: &'static str,
) -> Option<Secret> {
    let (variable, file) = (s.text(in_environment), s.text(in_file));
    if variable.is_some() && file.is_some() {
        s.error(
            in_file,
            &format!("can't stand beside {in_environment}; choose one"),
        );
    }
    if let Some(variable) = variable {
        let value = std::env::var(&variable)
            .ok()
            .filter(|value| !value.is_empty());
        if value.is_none() {
            s.error(
                in_environment,
                &format!("names {variable}, which the environment does not have"),
            );
        }
        return value.map(Secret);
    }
    let file = file?;
    match std::fs::read_to_string(&file) {
        Ok(text) if text.trim().is_empty() => {
            s.error(in_file, &format!("{file} is empty"));
            None
        }
        Ok(text) => Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => {
            s.error(in_file, &format!("{file} can't be read: {error}"));
            None
        }
    }
}
