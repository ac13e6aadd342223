//! A record as a line of text or JSON.

use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use std::fmt::Write as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2026-01-01T00:00:00Z INFO ready part=admin`
    Text,
    /// A JSON object.
    Json,
}

impl Format {
    pub(super) fn line(self, record: &Record<'_>, pairs: Pairs) -> String {
        match self {
            Self::Text => text(record, pairs),
            Self::Json => json(record, pairs),
        }
    }
}

/// The keys and values of a record.
#[derive(Default)]
pub(super) struct Pairs(serde_json::Map<String, serde_json::Value>);

impl Pairs {
    pub fn of(record: &Record<'_>) -> Self {
        let mut pairs = Self::default();
        // `visit_pair` never fails.
        let _ = record.key_values().visit(&mut pairs);
        pairs
    }

    /// It says what Levee has done to somebody's session or statement.
    pub fn is_audit(&self) -> bool {
        self.0.get("audit").and_then(serde_json::Value::as_bool) == Some(true)
    }
}

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let number = value
            .to_u64()
            .map(serde_json::Value::from)
            .or_else(|| value.to_f64().map(serde_json::Value::from))
            .or_else(|| value.to_bool().map(serde_json::Value::from));
        let value = number.unwrap_or_else(|| value.to_string().into());
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}

fn time() -> String {
    humantime::format_rfc3339_millis(crate::clock::wall()).to_string()
}

fn text(record: &Record<'_>, pairs: Pairs) -> String {
    let mut line = format!("{} {:<5} {}", time(), record.level(), record.args());
    for (key, value) in pairs.0 {
        let _ = match value.as_str() {
            Some(text) => write!(line, " {key}={text}"),
            None => write!(line, " {key}={value}"),
        };
    }
    // Text from outside must not look like a line of its own.
    line.replace(['\r', '\n'], " ")
}

fn json(record: &Record<'_>, pairs: Pairs) -> String {
    let mut object = pairs.0;
    object.insert("time".to_owned(), time().into());
    object.insert("level".to_owned(), record.level().to_string().into());
    object.insert("message".to_owned(), record.args().to_string().into());
    serde_json::Value::Object(object).to_string()
}
