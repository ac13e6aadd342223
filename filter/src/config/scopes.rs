//! Which parts of a service have a breaker of their own: the section `scopes`.

use super::Failures;
use levee_config::breaker::read_breaker_with_callers;
use levee_config::reader::Section;
use levee_policy::backoff::Backoff;
use levee_policy::breaker::BreakerSettings;
use std::collections::HashMap;

/// Envoy tries the rules one after the other, and an expression may not be nested too deeply.
const MOST_RULES: usize = 32;

/// Settings for the parts of a service that have a breaker of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// Whether each of Envoy's routes is one, by its name.
    pub by_route: bool,
    /// The most that a service has; 1 to 1024.
    pub max: usize,
    /// The first that matches names the scope, before the route does.
    pub rules: Vec<ScopeRule>,
    /// Those with settings of their own.
    pub named: HashMap<String, ScopeConfig>,
}

/// What a scope can have differently from its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeConfig {
    pub breaker: BreakerSettings,
    pub failures: Failures,
}

/// Names the scope of the requests that meet all of its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRule {
    pub name: String,
    pub path_prefix: Option<String>,
    pub method: Option<String>,
}

impl Default for Scopes {
    fn default() -> Self {
        Self {
            by_route: true,
            max: 256,
            rules: Vec::new(),
            named: HashMap::new(),
        }
    }
}

impl ScopeConfig {
    /// Those of a scope whose service has these. The service is up, so it costs little to ask a part of it
    /// again: soon at first, and later as often as a service whose breaker has just opened.
    pub fn inherited(service: BreakerSettings, failures: Failures) -> Self {
        let open = Backoff {
            base: service.open_unreachable.base.min(service.open.base),
            max: service.open.base,
            ..service.open
        };
        Self {
            breaker: BreakerSettings { open, ..service },
            failures,
        }
    }
}

impl Scopes {
    /// Whether there can be any.
    pub const fn is_on(&self) -> bool {
        self.by_route || !self.rules.is_empty()
    }

    /// Reads a section. Keys that are absent keep their value from `base`, and the rules go before its.
    pub(super) fn read(section: &mut Section<'_>, base: &Self) -> Self {
        let mut rules = section.list("rules", |s| {
            let rule = ScopeRule {
                name: s.text("name").unwrap_or_else(|| {
                    s.require("name", "the name of the scope");
                    String::new()
                }),
                path_prefix: s.text("path_prefix"),
                method: s.text("method"),
            };
            if rule.path_prefix.is_none() && rule.method.is_none() {
                s.error("", "has no condition; give it path_prefix or method");
            }
            rule
        });
        rules.extend(base.rules.iter().cloned());
        if rules.len() > MOST_RULES {
            let count = rules.len();
            section.error(
                "rules",
                &format!("has {count} entries, with the general ones; {MOST_RULES} are allowed"),
            );
        }
        Self {
            by_route: section.flag("by_route").unwrap_or(base.by_route),
            max: section.size("max", 1..=1024).unwrap_or(base.max),
            rules,
            named: HashMap::new(),
        }
    }

    /// The same for a service, whose scopes may have settings of their own.
    pub(super) fn read_of_service(
        section: &mut Section<'_>,
        base: &Self,
        scope: &ScopeConfig,
    ) -> Self {
        let named = section.entries("named", |s| ScopeConfig {
            breaker: s.section("breaker", |s| read_breaker_with_callers(s, scope.breaker)),
            failures: s.section("failures", |s| Failures::read(s, scope.failures)),
        });
        Self {
            named,
            ..Self::read(section, base)
        }
    }
}
