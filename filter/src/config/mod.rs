//! The plugin's configuration: what is written becomes [`Config`] here, or a list of errors.
//!
//! Every field has a default; an empty configuration is valid. A service's own section is read on
//! top of the general one, so that it says only what differs.

mod protobuf;
mod reader;

use levee_policy::breaker::{FailureRate, MAX_PROBES, Mode, Settings, SlowCalls};
use levee_policy::timeout::{Class, Classes};
use reader::Section;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// What a valid configuration says.
#[derive(Clone, Debug)]
pub struct Config {
    /// What goes for services that are not named.
    pub general: ServiceConfig,
    /// What goes for those that are, by name.
    pub services: HashMap<String, ServiceConfig>,
    /// Names of services by names of clusters. A cluster that is not here is its own service.
    pub aliases: HashMap<String, String>,
    /// For how many services there may be breakers; 1 to 10,000.
    pub max_services: usize,
    /// The request header by which trusted clients say how long they will wait.
    pub client_deadline: Option<ClientDeadline>,
}

/// What goes for one service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    /// Its breaker.
    pub breaker: Settings,
    /// Its time limits.
    pub timeouts: Timeouts,
    /// What refused requests get.
    pub fallback: Fallback,
}

/// The time limits of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// The class of requests that no rule is about.
    pub class: Class,
    /// How long the response's headers may take.
    pub response_header: Duration,
    /// What the classes mean.
    pub classes: Classes,
    /// The first that matches gives the class.
    pub rules: Vec<Rule>,
}

/// Gives a class to some requests: those that meet all its conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The path begins so.
    pub path_prefix: Option<String>,
    /// The method is this.
    pub method: Option<String>,
    /// The route is called so in Envoy's configuration.
    pub route: Option<String>,
    /// The class.
    pub class: Class,
}

/// How trusted clients say how long they will wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientDeadline {
    /// In this header, as whole milliseconds.
    Millis(String),
    /// In `grpc-timeout` (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
    GrpcTimeout,
}

/// What a refused request gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Fallback {
    /// 503 and a short JSON body that says why.
    Refusal,
    /// A fixed answer.
    Answer {
        /// HTTP status, 200 to 599.
        status: u16,
        /// Header names in lower case, and values.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// Another route: the one that matches the request header `x-levee-fallback` with this value.
    Route(String),
}

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where: `services.auth.breaker.open_for`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}", self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// The longest time that any setting may name.
const LONGEST: Duration = Duration::from_hours(24);

/// The window has ten buckets, and time is told to a tenth of a second.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

const MODES: [(&str, Mode); 5] = [
    ("enforce", Mode::Enforce),
    ("shadow", Mode::Shadow),
    ("disabled", Mode::Disabled),
    ("forced_open", Mode::ForcedOpen),
    ("forced_closed", Mode::ForcedClosed),
];

const CLASSES: [(&str, Class); 5] = [
    ("short", Class::Short),
    ("medium", Class::Medium),
    ("default", Class::Default),
    ("long", Class::Long),
    ("very_long", Class::VeryLong),
];

impl Default for Config {
    fn default() -> Self {
        Self {
            general: ServiceConfig::default(),
            services: HashMap::new(),
            aliases: HashMap::new(),
            max_services: 1000,
            client_deadline: None,
        }
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            breaker: Settings::default(),
            timeouts: Timeouts {
                class: Class::Default,
                response_header: Duration::from_secs(10),
                classes: Classes::default(),
                rules: Vec::new(),
            },
            fallback: Fallback::Refusal,
        }
    }
}

impl Config {
    /// Reads a configuration as Envoy hands it over: nothing, JSON (from a `StringValue` or a
    /// `BytesValue`), or a `Struct` as protobuf has it.
    ///
    /// # Errors
    /// All mistakes, in the order in which they were met.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<ConfigError>> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let value = serde_json::from_slice(bytes)
            .or_else(|error| protobuf::decode(bytes).ok_or(error))
            .map_err(|error| {
                let message = format!("not valid JSON: {error}");
                vec![ConfigError {
                    path: String::new(),
                    message,
                }]
            })?;
        reader::read(&value, Self::read)
    }

    /// The service that a cluster belongs to.
    pub fn service_of<'a>(&'a self, cluster: &'a str) -> &'a str {
        self.aliases.get(cluster).map_or(cluster, String::as_str)
    }

    /// What goes for `service`.
    pub fn of_service(&self, service: &str) -> &ServiceConfig {
        self.services.get(service).unwrap_or(&self.general)
    }

    /// Whether any service's fallback is another route.
    pub fn has_fallback_routes(&self) -> bool {
        self.services
            .values()
            .chain([&self.general])
            .any(|service| matches!(service.fallback, Fallback::Route(_)))
    }

    fn read(root: &mut Section<'_>) -> Self {
        let default = Self::default();
        let general = ServiceConfig {
            breaker: root.section("breaker", |s| read_breaker(s, default.general.breaker)),
            timeouts: Timeouts::clone(&default.general.timeouts),
            fallback: root.section("fallback", |s| read_fallback(s, &Fallback::Refusal)),
        };
        let mut client_deadline = None;
        let timeouts = root.section("timeouts", |s| {
            client_deadline = s.header_name("client_deadline_header").map(|name| {
                if name == "grpc-timeout" {
                    ClientDeadline::GrpcTimeout
                } else {
                    ClientDeadline::Millis(name)
                }
            });
            read_timeouts(s, &general.timeouts)
        });
        let general = ServiceConfig {
            timeouts,
            ..general
        };
        let services = root.entries("services", |s| ServiceConfig {
            breaker: s.section("breaker", |s| read_breaker(s, general.breaker)),
            timeouts: s.section("timeouts", |s| read_timeouts(s, &general.timeouts)),
            fallback: s.section("fallback", |s| read_fallback(s, &general.fallback)),
        });
        Self {
            services,
            aliases: root.texts("aliases").into_iter().collect(),
            max_services: root
                .size("max_services", 1..=10_000)
                .unwrap_or(default.max_services),
            client_deadline,
            general,
        }
    }
}

fn read_breaker(section: &mut Section<'_>, base: Settings) -> Settings {
    let mut settings = base;
    if let Some(mode) = section.choice("mode", &MODES) {
        settings.mode = mode;
    }
    if let Some(limit) = section.integer("consecutive_failures", 0..=1_000_000) {
        settings.consecutive_failures = (limit > 0).then_some(limit);
    }
    section.section("failure_rate", |s| {
        let base = settings.failure_rate.or(Settings::default().failure_rate);
        let (ratio, minimum) = (
            s.ratio("ratio"),
            s.integer("minimum_requests", 1..=1_000_000),
        );
        if let Some(window) = s.duration("window", SHORTEST_WINDOW..=LONGEST) {
            settings.window = window;
        }
        if let Some(mut rule) = base
            && (ratio.is_some() || minimum.is_some())
        {
            rule.ratio = ratio.unwrap_or(rule.ratio);
            rule.minimum_requests = minimum.unwrap_or(rule.minimum_requests);
            settings.failure_rate = is_on(rule.ratio).then_some(FailureRate { ..rule });
        }
    });
    section.section("slow_calls", |s| {
        let longer_than = s.duration("longer_than", Duration::from_millis(1)..=LONGEST);
        let (ratio, minimum) = (
            s.ratio("ratio"),
            s.integer("minimum_requests", 1..=1_000_000),
        );
        let base = settings.slow_calls.or_else(|| {
            longer_than.map(|longer_than| SlowCalls {
                longer_than,
                ratio: levee_policy::ratio::Ratio::percent(50),
                minimum_requests: 20,
            })
        });
        match base {
            Some(rule) => {
                let rule = SlowCalls {
                    longer_than: longer_than.unwrap_or(rule.longer_than),
                    ratio: ratio.unwrap_or(rule.ratio),
                    minimum_requests: minimum.unwrap_or(rule.minimum_requests),
                };
                settings.slow_calls = is_on(rule.ratio).then_some(rule);
            }
            None if ratio.is_some_and(is_on) || minimum.is_some() => s.error(
                "longer_than",
                "is missing: how long a slow call takes, a duration such as \"2s\"",
            ),
            None => {}
        }
    });
    let moment = Duration::from_millis(10);
    if let Some(base) = section.duration("open_for", moment..=LONGEST) {
        settings.open.base = base;
        settings.open.max = settings.open.max.max(base);
    }
    if let Some(max) = section.duration("open_for_max", moment..=LONGEST) {
        if max < settings.open.base {
            section.error(
                "open_for_max",
                &format!(
                    "is less than open_for ({}); it must be as long or longer",
                    humantime::format_duration(settings.open.base)
                ),
            );
        }
        settings.open.max = max;
    }
    section.section("half_open", |s| {
        let most = u32::try_from(MAX_PROBES).unwrap_or(u32::MAX);
        if let Some(max) = s.integer("max_in_flight", 1..=most) {
            settings.half_open.max_in_flight = u8::try_from(max).unwrap_or(u8::MAX);
        }
        if let Some(successes) = s.integer("successes_to_close", 1..=1_000_000) {
            settings.half_open.successes_to_close = successes;
        }
        if let Some(lease) = s.duration("lease", Duration::from_millis(100)..=LONGEST) {
            settings.half_open.lease = lease;
        }
    });
    if settings.mode.learns()
        && settings.consecutive_failures.is_none()
        && settings.failure_rate.is_none()
        && settings.slow_calls.is_none()
    {
        section.error(
            "",
            "all rules are off, so it would never open; set one, or set mode to \"disabled\"",
        );
    }
    settings
}

fn is_on(ratio: levee_policy::ratio::Ratio) -> bool {
    ratio > levee_policy::ratio::Ratio::ZERO
}

fn read_timeouts(section: &mut Section<'_>, base: &Timeouts) -> Timeouts {
    let limits = Duration::from_millis(1)..=LONGEST;
    let mut classes = base.classes;
    section.section("classes", |s| {
        for (name, limit) in [
            ("short", &mut classes.short),
            ("medium", &mut classes.medium),
            ("default", &mut classes.default),
            ("long", &mut classes.long),
            ("very_long", &mut classes.very_long),
        ] {
            if let Some(value) = s.duration(name, limits.clone()) {
                *limit = value;
            }
        }
    });
    let mut rules = section.list("rules", |s| {
        let rule = Rule {
            path_prefix: s.text("path_prefix"),
            method: s.text("method"),
            route: s.text("route"),
            class: s.choice("class", &CLASSES).unwrap_or_else(|| {
                s.require("class", "which class these requests get");
                Class::Default
            }),
        };
        if rule.path_prefix.is_none() && rule.method.is_none() && rule.route.is_none() {
            s.error("", "has no condition; give it path_prefix, method or route");
        }
        rule
    });
    // A service's own rules go before the general ones.
    rules.extend(base.rules.iter().cloned());
    Timeouts {
        class: section.choice("class", &CLASSES).unwrap_or(base.class),
        response_header: section
            .duration("response_header", limits)
            .unwrap_or(base.response_header),
        classes,
        rules,
    }
}

fn read_fallback(section: &mut Section<'_>, base: &Fallback) -> Fallback {
    if section.is_absent() {
        return base.clone();
    }
    let route = section.text("route");
    let status = section.integer("status", 200..=599);
    let headers = section.texts("headers");
    let body = section.text_or_empty("body");
    for (name, value) in &headers {
        let path = format!("headers.{name}");
        if !is_header_name(name) {
            section.error(
                &path,
                "is not a header name: use lower-case letters, digits and '-'",
            );
        } else if !value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        {
            section.error(
                &path,
                "has a character that a header can't carry; use plain ASCII",
            );
        }
    }
    if let Some(route) = route {
        if status.is_some() || body.is_some() || !headers.is_empty() {
            section.error(
                "route",
                "can't stand beside status, headers or body; choose one",
            );
        }
        if !route.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
            section.error(
                "route",
                "is sent as a header's value: use plain ASCII without spaces",
            );
        }
        return Fallback::Route(route);
    }
    Fallback::Answer {
        status: status
            .and_then(|status| u16::try_from(status).ok())
            .unwrap_or(503),
        headers,
        body: body.unwrap_or_default(),
    }
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}
