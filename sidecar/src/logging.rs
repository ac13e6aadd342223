//! The log: a line on standard error for each event, for people or for programs.

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Record};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2026-01-01T00:00:00Z INFO ready part=admin`
    Text,
    /// A JSON object.
    Json,
}

static HAS_PROGRESS_BAR: AtomicBool = AtomicBool::new(false);

/// If the terminal's last line has a progress bar, log lines overwrite it, and it redraws itself below them.
pub fn set_progress_bar(has_bar: bool) {
    HAS_PROGRESS_BAR.store(has_bar, Ordering::Relaxed);
}

/// Call once in a process.
pub fn start(format: Format, level: LevelFilter) {
    env_logger::Builder::new()
        .filter_module("levee", level)
        .filter_level(level.min(LevelFilter::Warn))
        .target(env_logger::Target::Stderr)
        .format(move |out, record| {
            let line = match format {
                Format::Text => text(record),
                Format::Json => json(record),
            };
            let clear = if HAS_PROGRESS_BAR.load(Ordering::Relaxed) {
                "\r\x1b[2K"
            } else {
                ""
            };
            writeln!(out, "{clear}{line}")
        })
        .init();
}

#[derive(Default)]
struct Pairs(serde_json::Map<String, serde_json::Value>);

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

fn pairs(record: &Record<'_>) -> Pairs {
    let mut pairs = Pairs::default();
    // `visit_pair` never fails.
    let _ = record.key_values().visit(&mut pairs);
    pairs
}

fn time() -> String {
    humantime::format_rfc3339_millis(crate::clock::wall()).to_string()
}

fn text(record: &Record<'_>) -> String {
    let mut line = format!("{} {:<5} {}", time(), record.level(), record.args());
    for (key, value) in pairs(record).0 {
        let _ = match value.as_str() {
            Some(text) => write!(line, " {key}={text}"),
            None => write!(line, " {key}={value}"),
        };
    }
    // Text from outside must not look like a line of its own.
    line.replace(['\r', '\n'], " ")
}

fn json(record: &Record<'_>) -> String {
    let mut object = pairs(record).0;
    object.insert("time".to_owned(), time().into());
    object.insert("level".to_owned(), record.level().to_string().into());
    object.insert("message".to_owned(), record.args().to_string().into());
    serde_json::Value::Object(object).to_string()
}
