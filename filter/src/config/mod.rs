//! The plugin's configuration: JSON becomes a valid [`Config`], or a list of errors.
//!
//! Every field has a default; an empty configuration is valid. A service's own section overrides
//! the general one, key by key.

mod failures;
mod health_check;
mod protobuf;
mod scopes;

pub use failures::Failures;
pub use health_check::{HealthCheck, Question};
pub use levee_config::ConfigError;
use levee_config::LONGEST;
use levee_config::breaker::read_breaker_with_callers;
use levee_config::reader::{Section, is_header_name, read};
use levee_policy::breaker::BreakerSettings;
use levee_policy::timeout::{Class, Classes};
pub use scopes::{ScopeConfig, ScopeRule, Scopes};
use std::collections::HashMap;
use std::time::Duration;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// For services without a section of their own.
    pub general: ServiceConfig,
    /// By name.
    pub services: HashMap<String, ServiceConfig>,
    /// Names of services by names of clusters. For other clusters the two are the same.
    pub aliases: HashMap<String, String>,
    /// The most services that get a breaker; 1 to 10,000.
    pub max_services: usize,
    /// The request header in which trusted clients send a deadline.
    pub client_deadline: Option<ClientDeadline>,
}

/// The settings of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    pub breaker: BreakerSettings,
    /// How to ask it whether it is well, while its breaker is open.
    pub health_check: HealthCheck,
    pub failures: Failures,
    pub scopes: Scopes,
    pub timeouts: Timeouts,
    pub fallback: Fallback,
}

/// The time limits of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// The class of requests that match no rule.
    pub class: Class,
    /// The limit of the response's headers.
    pub response_header: Duration,
    pub classes: Classes,
    /// The first that matches determines the class.
    pub rules: Vec<Rule>,
}

/// Assigns a class to the requests that meet all of its conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub path_prefix: Option<String>,
    pub method: Option<String>,
    /// The name of the route in Envoy's configuration.
    pub route: Option<String>,
    pub class: Class,
}

/// Where trusted clients send a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientDeadline {
    /// In this header, as whole milliseconds.
    Millis(String),
    /// In `grpc-timeout` (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
    GrpcTimeout,
}

/// The answer to a refused request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fallback {
    /// 503 with a short JSON body that says why.
    Refusal,
    /// A fixed answer.
    Answer {
        /// 200 to 599.
        status: u16,
        /// Names, in lower case, and values.
        headers: Vec<(String, String)>,
        body: String,
    },
    /// Another route: the one that matches the request header `x-levee-fallback` with this value.
    Route(String),
}

/// The classes by their names.
pub const CLASSES: [(&str, Class); 5] = [
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
            breaker: BreakerSettings::default(),
            health_check: HealthCheck::default(),
            failures: Failures::default(),
            scopes: Scopes::default(),
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
    /// Reads a configuration as Envoy passes it: empty, JSON (from a `StringValue` or a
    /// `BytesValue`), or an encoded `Struct`.
    ///
    /// # Errors
    /// Every mistake, in the order in which they were found.
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
        read(&value, Self::read)
    }

    /// The service that a cluster belongs to.
    pub fn service_of<'a>(&'a self, cluster: &'a str) -> &'a str {
        self.aliases.get(cluster).map_or(cluster, String::as_str)
    }

    /// The clusters that may belong to `service`.
    pub fn clusters_of<'a>(&'a self, service: &'a str) -> Vec<&'a str> {
        let aliases = self.aliases.iter();
        let mut clusters: Vec<&str> = aliases
            .filter(|(_, name)| *name == service)
            .map(|(cluster, _)| cluster.as_str())
            .chain([service])
            .collect();
        clusters.sort_unstable();
        clusters.dedup();
        clusters
    }

    /// The settings of `service`.
    pub fn of_service(&self, service: &str) -> &ServiceConfig {
        self.services.get(service).unwrap_or(&self.general)
    }

    /// The settings of a breaker: a scope's, or the service's.
    pub fn of_breaker(&self, service: &str, scope: Option<&str>) -> ScopeConfig {
        let service = self.of_service(service);
        let own = scope.and_then(|scope| service.scopes.named.get(scope));
        own.copied().unwrap_or_else(|| match scope {
            Some(_) => ScopeConfig::inherited(service.breaker, service.failures),
            None => ScopeConfig {
                breaker: service.breaker,
                failures: service.failures,
            },
        })
    }

    /// All rules for failures.
    pub fn all_failures(&self) -> impl Iterator<Item = &Failures> {
        self.all_services().flat_map(|service| {
            let of_scopes = service.scopes.named.values().map(|scope| &scope.failures);
            of_scopes.chain([&service.failures])
        })
    }

    /// Whether any service's fallback is another route.
    pub fn has_fallback_routes(&self) -> bool {
        self.all_services()
            .any(|service| matches!(service.fallback, Fallback::Route(_)))
    }

    /// Whether any service is asked whether it is well.
    pub fn has_health_checks(&self) -> bool {
        self.all_services()
            .any(|service| service.health_check.question != Question::Off)
    }

    /// All settings of services, the general ones among them.
    pub fn all_services(&self) -> impl Iterator<Item = &ServiceConfig> {
        self.services.values().chain([&self.general])
    }

    fn read(root: &mut Section<'_>) -> Self {
        let default = Self::default();
        let mut health_check = HealthCheck::default();
        let general = ServiceConfig {
            breaker: root.section("breaker", |s| {
                health_check = s.section("health_check", |s| HealthCheck::read(s, &health_check));
                read_breaker_with_callers(s, default.general.breaker)
            }),
            health_check,
            failures: root.section("failures", |s| Failures::read(s, default.general.failures)),
            scopes: root.section("scopes", |s| Scopes::read(s, &default.general.scopes)),
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
        let services = root.entries("services", |s| read_service(s, &general));
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

/// Reads the section of a service. Keys that are absent keep their value from `general`.
fn read_service(section: &mut Section<'_>, general: &ServiceConfig) -> ServiceConfig {
    let mut health_check = general.health_check.clone();
    let breaker = section.section("breaker", |s| {
        health_check = s.section("health_check", |s| HealthCheck::read(s, &health_check));
        read_breaker_with_callers(s, general.breaker)
    });
    let failures = section.section("failures", |s| Failures::read(s, general.failures));
    let of_scope = ScopeConfig::inherited(breaker, failures);
    ServiceConfig {
        breaker,
        health_check,
        failures,
        scopes: section.section("scopes", |s| {
            Scopes::read_of_service(s, &general.scopes, &of_scope)
        }),
        timeouts: section.section("timeouts", |s| read_timeouts(s, &general.timeouts)),
        fallback: section.section("fallback", |s| read_fallback(s, &general.fallback)),
    }
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
                "has a character that a header cannot carry; use plain ASCII",
            );
        }
    }
    if let Some(route) = route {
        if status.is_some() || body.is_some() || !headers.is_empty() {
            section.error(
                "route",
                "cannot be combined with status, headers or body; choose one",
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
