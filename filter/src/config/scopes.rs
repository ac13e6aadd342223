//! Which parts of a service have a breaker of their own: the section `scopes`.

use levee_config::reader::Section;

/// Which parts of a service have a breaker of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// Whether each of Envoy's routes is one, by its name.
    pub by_route: bool,
    /// The most that a service has; 1 to 256.
    pub max: usize,
    /// The first that matches names the scope, before the route does.
    pub rules: Vec<ScopeRule>,
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
            max: 32,
            rules: Vec::new(),
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
        Self {
            by_route: section.flag("by_route").unwrap_or(base.by_route),
            max: section.size("max", 1..=256).unwrap_or(base.max),
            rules,
        }
    }
}
