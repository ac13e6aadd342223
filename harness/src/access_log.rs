//! Reads Envoy's JSON access log while Envoy writes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Context, Result};
use crate::wait;

/// A log file with one JSON object per line.
#[derive(Debug, Clone)]
pub struct AccessLog {
    path: PathBuf,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line(pub Value);

impl Line {
    /// A field as text; empty where it is absent or null.
    pub fn text(&self, field: &str) -> &str {
        self.0
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A field as a number.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.0
            .get(field)
            .and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()))
    }
}

impl AccessLog {
    /// The log in this file, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All complete lines so far.
    pub fn lines(&self) -> Result<Vec<Line>> {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let complete = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        String::from_utf8_lossy(&bytes[..complete])
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .map(Line)
                    .context(format!("a line of the access log is not JSON: {line}"))
            })
            .collect()
    }

    /// Waits for the first line that `fits`.
    pub async fn wait_for(
        &self,
        what: &str,
        bound: Duration,
        fits: impl Fn(&Line) -> bool,
    ) -> Result<Line> {
        wait::until_now(&format!("a log line {what}"), bound, || {
            let mut lines = self.lines().map_err(|error| error.to_string())?;
            match lines.iter().position(&fits) {
                Some(at) => Ok(lines.swap_remove(at)),
                None => Err(format!(
                    "{} lines, the last: {:?}",
                    lines.len(),
                    lines.last().map(|line| &line.0)
                )),
            }
        })
        .await
    }

    /// Waits for the line of the request with this id (`x-request-id`, which Envoy sends back to the client).
    pub async fn of_request(&self, id: &str) -> Result<Line> {
        self.wait_for(&format!("of request {id}"), wait::GENEROUS, |line| {
            line.text("request_id") == id
        })
        .await
    }

    /// Waits for the first line with this path (without the query).
    pub async fn of_path(&self, path: &str) -> Result<Line> {
        self.wait_for(&format!("of path {path}"), wait::GENEROUS, |line| {
            line.text("path") == path
        })
        .await
    }
}
