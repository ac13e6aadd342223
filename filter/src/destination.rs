//! Where a request goes: its cluster, and the part of the service that is a scope. One host call asks
//! for both.

use crate::config::{Config, ScopeRule};
use crate::host::{Host, property};

/// The question, as one compiled CEL expression. `None` asks for the cluster only, by its property:
/// there are no scopes, or Envoy was built without CEL.
///
/// The value of the expression is a list: cluster, route, and, if there are rules, the name that they
/// give. Envoy's CEL joins no texts (`enable_string_concat` is off), but Envoy encodes lists.
#[derive(Clone, Copy, Debug)]
pub struct Lookup(Option<Compiled>);

#[derive(Clone, Copy, Debug)]
struct Compiled {
    expression: u32,
    has_rules: bool,
}

/// An answer in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub cluster: String,
    /// Empty if it has none.
    pub route: String,
    /// What a rule calls the scope. Empty if none matches.
    pub by_rule: String,
}

impl Lookup {
    /// What this configuration wants to know.
    pub fn compile<H: Host>(host: &H, config: &Config) -> Self {
        let wants_route = config.all_services().any(|service| service.scopes.by_route);
        let rules = rules(config);
        if !wants_route && rules.is_none() {
            return Self(None);
        }
        let (has_rules, by_rule) = match rules {
            Some(rules) => (true, format!(", {rules}")),
            None => (false, String::new()),
        };
        let question = format!("[xds.cluster_name, xds.route_name{by_rule}]");
        let expression = host.compile_value(&question);
        if expression.is_none() {
            log::warn!(
                "services have no scopes: this Envoy does not take the expression {question}"
            );
        }
        Self(expression.map(|expression| Compiled {
            expression,
            has_rules,
        }))
    }

    /// Passes the answer for the current request to `read`. It is the same for all requests that go to
    /// the same place. `None` if there is no cluster.
    #[inline]
    pub fn ask<H: Host, T>(self, host: &H, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.0 {
            Some(compiled) => host.with_value(compiled.expression, read),
            None => host.with_property(property::CLUSTER, read),
        }
    }

    /// The cluster of an answer.
    pub fn cluster(self, answer: &[u8]) -> String {
        match self.0 {
            Some(_) => list(answer).next().unwrap_or_default(),
            None => String::from_utf8_lossy(answer).into_owned(),
        }
    }

    /// Parses an answer.
    pub fn names(self, answer: &[u8]) -> Names {
        if self.0.is_none() {
            return Names {
                cluster: self.cluster(answer),
                ..Names::default()
            };
        }
        let mut texts = list(answer);
        let mut next = || texts.next().unwrap_or_default();
        Names {
            cluster: next(),
            route: next(),
            by_rule: next(),
        }
    }

    /// Whether the answer at a request's end says as much as at its beginning. Envoy's router may have
    /// rewritten the path, which rules ask for.
    pub fn lasts(self) -> bool {
        self.0.is_none_or(|compiled| !compiled.has_rules)
    }
}

/// The texts of a list as Envoy encodes it: as the names of pairs whose values are empty. First the number
/// of pairs, then the lengths of each name and value (32 bits little-endian), then all names and values,
/// each with a zero at its end.
fn list(encoded: &[u8]) -> impl Iterator<Item = String> {
    let number = |place: usize| {
        let bytes = encoded.get(4 * place..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let pairs = number(0).unwrap_or(0);
    let mut rest = pairs
        .checked_mul(8)
        .and_then(|lengths| encoded.get(4 + lengths..))
        .unwrap_or_default();
    (0..pairs).map_while(move |pair| {
        let (name, after) = rest.split_at_checked(number(1 + 2 * pair)?)?;
        let value = number(2 + 2 * pair)?;
        rest = after.get(value.checked_add(2)?..)?;
        Some(String::from_utf8_lossy(name).into_owned())
    })
}

/// The name that the rules give, as an expression. `None` without rules.
fn rules(config: &Config) -> Option<String> {
    let general = &config.general.scopes.rules;
    let mut expression = "''".to_owned();
    let mut is_empty = true;
    let mut before = |condition: String, name: &str| {
        expression = format!("({condition}) ? {} : ({expression})", quoted(name));
        is_empty = false;
    };
    for rule in general.iter().rev() {
        before(condition(rule), &rule.name);
    }
    for (service, settings) in &config.services {
        let rules = &settings.scopes.rules;
        let own = rules.get(..rules.len().saturating_sub(general.len()));
        let clusters = config.clusters_of(service).into_iter().map(quoted);
        let clusters = clusters.collect::<Vec<_>>().join(", ");
        for rule in own.unwrap_or_default().iter().rev() {
            let condition = condition(rule);
            before(
                format!("xds.cluster_name in [{clusters}] && {condition}"),
                &rule.name,
            );
        }
    }
    (!is_empty).then_some(expression)
}

fn condition(rule: &ScopeRule) -> String {
    let prefix = rule.path_prefix.as_ref();
    let prefix = prefix.map(|prefix| {
        format!(
            "has(request.path) && request.path.startsWith({})",
            quoted(prefix)
        )
    });
    let method = rule.method.as_ref();
    let method = method.map(|method| format!("request.method == {}", quoted(method)));
    let conditions: Vec<String> = prefix.into_iter().chain(method).collect();
    conditions.join(" && ")
}

/// A text of CEL. Its escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Envoy 1.40 encodes it.
    fn encoded(texts: &[&str]) -> Vec<u8> {
        let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        let mut bytes = number(texts.len()).to_vec();
        for text in texts {
            bytes.extend([number(text.len()), number(0)].concat());
        }
        for text in texts {
            bytes.extend([text.as_bytes(), &[0, 0]].concat());
        }
        bytes
    }

    #[test]
    fn an_answer_is_taken_apart_as_envoy_encodes_it() {
        let lookup = Lookup(Some(Compiled {
            expression: 1,
            has_rules: true,
        }));
        let answer = encoded(&["auth", "login", ""]);
        assert_eq!(
            answer,
            b"\x03\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0auth\0\0login\0\0\0\0"
        );
        let names = lookup.names(&answer);
        assert_eq!(
            (names.cluster.as_str(), names.route.as_str()),
            ("auth", "login")
        );
        assert_eq!(names.by_rule, "");
        for end in 0..answer.len() {
            let names = lookup.names(&answer[..end]);
            assert!(["", "auth"].contains(&names.cluster.as_str()), "{names:?}");
        }
        assert_eq!(lookup.names(&[0xff; 40]), Names::default());
        assert_eq!(Lookup(None).names(b"auth").cluster, "auth");
    }

    #[test]
    fn a_services_own_rules_come_first_and_ask_for_its_clusters() {
        let config = Config::parse(
            br#"{"aliases": {"auth-v2": "auth"},
                "scopes": {"rules": [{"name": "get", "method": "GET"}]},
                "services": {"auth": {"scopes": {"rules": [
                    {"name": "a", "path_prefix": "/\"a", "method": "PUT"},
                    {"name": "b", "path_prefix": "/b"}]}}}}"#,
        )
        .expect("it is valid");
        let expected = concat!(
            r#"(xds.cluster_name in ["auth", "auth-v2"] && has(request.path) && request.path.startsWith("/\"a") && request.method == "PUT") ? "a" : "#,
            r#"((xds.cluster_name in ["auth", "auth-v2"] && has(request.path) && request.path.startsWith("/b")) ? "b" : "#,
            r#"((request.method == "GET") ? "get" : ('')))"#,
        );
        assert_eq!(rules(&config).as_deref(), Some(expected));
        assert_eq!(rules(&Config::default()), None);
    }
}
