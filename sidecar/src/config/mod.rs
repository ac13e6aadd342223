//! `levee.yaml`: the text becomes a [`Config`], or a list of mistakes.

mod address;
pub mod database;
mod jobs;
pub mod listeners;
mod redis;
pub mod secret;
mod watchdog;

pub use address::Address;
pub use redis::{Redis, State};
pub use secret::Secret;

use crate::fetch::Origin;
use crate::logging::Format;
use crate::yaml::{self, Document};
use address::listen_address;
use levee_config::LONGEST;
use levee_config::reader::{Section, read};
use listeners::{Listener, Target};
use log::LevelFilter;
use redis::{read_redis, read_state};
use secret::secret;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
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
    /// Other machines are meant to reach the admin interface.
    pub admin_exposed: bool,
    /// What a client of the admin interface must show before it may change something.
    pub token: Option<Secret>,
    /// Where Envoy's stats are read.
    pub envoy: Option<Envoy>,
    /// The most bytes that buffers of Redis clients may take together, beyond a little of each.
    pub memory: usize,
    /// Redis upstreams.
    pub redis: Vec<Redis>,
    /// Where retry state is kept.
    pub state: Option<State>,
    /// The database.
    pub database: Option<database::Database>,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for programs.
    pub format: Format,
    /// What is left out.
    pub level: LevelFilter,
}

/// Where Envoy's stats are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envoy {
    /// Envoy's admin interface, or what passes on `/stats/prometheus` of it.
    pub admin: Origin,
    /// The services that clusters belong to, as the filter's configuration has them.
    pub aliases: BTreeMap<String, String>,
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

impl Config {
    /// Reads a configuration. An empty one is valid.
    ///
    /// # Errors
    /// All mistakes.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let document = yaml::parse(text).map_err(|mistake| vec![mistake.into()])?;
        Self::read(&document)
    }

    pub fn listeners(&self) -> Vec<Listener> {
        listeners::listeners(self.admin, self.admin_exposed, &self.redis)
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
    let (admin, admin_exposed, token) = root.section("admin", |s| {
        (
            listen_address(s, "listen"),
            s.flag("exposed").unwrap_or(false),
            secret(s, "token_env", "token_file"),
        )
    });
    let config = Config {
        log,
        stop_within: root
            .duration("stop_within", Duration::from_millis(1)..=LONGEST)
            .unwrap_or(Duration::from_secs(10)),
        admin: admin.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9464))),
        admin_exposed,
        token,
        envoy: read_envoy(root),
        memory: root.section("limits", read_memory),
        redis: root.list("redis", read_redis),
        state: read_state(root),
        database: database::read(root),
    };
    listeners::check(root, &config.listeners(), &config.redis, &targets(&config));
    config
}

/// What Levee connects to and could be itself.
fn targets(config: &Config) -> Vec<Target<'_>> {
    fn redis(path: String, address: &Address) -> Target<'_> {
        Target {
            path,
            host: &address.host,
            port: address.port,
        }
    }
    let upstreams = config.redis.iter().enumerate();
    let mut targets: Vec<Target<'_>> = upstreams
        .map(|(place, upstream)| redis(format!("redis[{place}].upstream"), &upstream.upstream))
        .collect();
    let state = config.state.as_ref();
    targets.extend(state.map(|state| redis("state.upstream".to_owned(), &state.upstream)));
    targets.extend(config.envoy.as_ref().map(|envoy| Target {
        path: "envoy.admin".to_owned(),
        host: envoy.admin.host(),
        port: envoy.admin.port(),
    }));
    targets
}

fn read_memory(s: &mut Section<'_>) -> usize {
    const MIB: u64 = 1 << 20;
    let bytes = s.bytes("memory", 16 * MIB..=1 << 40);
    usize::try_from(bytes.unwrap_or(256 * MIB)).unwrap_or(usize::MAX)
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
