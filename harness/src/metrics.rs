//! The Prometheus text format, read strictly: a line that isn't understood is an error.
//!
//! The sidecar has a reader of its own (`levee::envoy::text`), which skips such lines. Tests check what the sidecar writes
//! and what it makes of Envoy's page, so they must not use the code that they test.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};

/// One reading of a metrics page.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    series: Vec<Series>,
    kinds: BTreeMap<String, String>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value; may be NaN or infinite.
    pub value: f64,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        write!(f, "{}{{{}}} {}", self.name, labels.join(","), self.value)
    }
}

impl Metrics {
    /// Reads a page. The error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut metrics = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end();
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.split_whitespace();
                if let (Some("TYPE"), Some(name), Some(kind)) =
                    (words.next(), words.next(), words.next())
                {
                    metrics.kinds.insert(name.to_string(), kind.to_string());
                }
            } else if !line.is_empty() {
                let series = parse_line(line).map_err(|what| {
                    Error::new(format!("line {number} of the metrics: {what}: {line}"))
                })?;
                metrics.series.push(series);
            }
        }
        Ok(metrics)
    }

    /// The value of the one series with this name and these labels, no more and no fewer.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.named(name)
            .find(|series| {
                series.labels.len() == labels.len()
                    && labels
                        .iter()
                        .all(|(label, value)| series.labels.get(*label).is_some_and(|v| v == value))
            })
            .map(|series| series.value)
    }

    /// The sum over all series with this name and at least these labels; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.named(name)
            .filter(|series| {
                labels
                    .iter()
                    .all(|(label, value)| series.labels.get(*label).is_some_and(|v| v == value))
            })
            .map(|series| series.value)
            .sum()
    }

    /// All series with this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.name == name)
    }

    /// All series.
    pub fn all(&self) -> &[Series] {
        &self.series
    }

    /// The declared type, such as `counter`.
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.kinds.get(name).map(String::as_str)
    }

    /// The series whose names begin with `prefix`, one per line, for messages.
    pub fn show(&self, prefix: &str) -> String {
        let lines: Vec<String> = self
            .series
            .iter()
            .filter(|series| series.name.starts_with(prefix))
            .map(ToString::to_string)
            .collect();
        if lines.is_empty() {
            format!("no series that begins with {prefix}")
        } else {
            lines.join("\n")
        }
    }
}

fn parse_line(line: &str) -> std::result::Result<Series, &'static str> {
    let name_end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(name_end);
    if !is_name(name) {
        return Err("not a metric name");
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = parse_labels(inside, &mut labels)?;
    }
    let mut words = rest.split_whitespace();
    let value = match words.next().ok_or("no value")? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().map_err(|_| "not a number")?,
    };
    // A timestamp may follow, and nothing after it.
    if words
        .next()
        .is_some_and(|stamp| stamp.parse::<i64>().is_err())
        || words.next().is_some()
    {
        return Err("something follows the value");
    }
    Ok(Series {
        name: name.to_string(),
        labels,
        value,
    })
}

/// Reads `a="x",b="y"}` and returns the rest.
fn parse_labels<'a>(
    mut rest: &'a str,
    labels: &mut BTreeMap<String, String>,
) -> std::result::Result<&'a str, &'static str> {
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(label) {
            return Err("not a label name");
        }
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().ok_or("a label value that doesn't end")? {
                (at, '"') => break at,
                (_, '\\') => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => return Err("an unknown escape in a label value"),
                },
                (_, plain) => value.push(plain),
            }
        };
        if labels.insert(label.to_string(), value).is_some() {
            return Err("a label twice");
        }
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_' || first == b':')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn names_labels_and_values_are_read() {
        let page = "# TYPE a_total counter\na_total{service=\"x\\\"\\\\y\",kind=\"z\"} 3\nplain 1.5\nb_bucket{le=\"+Inf\"} +Inf 17\n\n";
        let metrics = Metrics::parse(page).unwrap();
        assert_eq!(
            metrics.get("a_total", &[("kind", "z"), ("service", "x\"\\y")]),
            Some(3.0)
        );
        assert_eq!(
            metrics.get("a_total", &[("kind", "z")]),
            None,
            "labels must match exactly"
        );
        assert!((metrics.sum("a_total", &[("kind", "z")]) - 3.0).abs() < 1e-9);
        assert_eq!(metrics.get("plain", &[]), Some(1.5));
        assert_eq!(
            metrics.get("b_bucket", &[("le", "+Inf")]),
            Some(f64::INFINITY)
        );
        assert_eq!(metrics.kind("a_total"), Some("counter"));
    }

    #[test]
    fn what_is_not_the_format_is_refused_with_its_line() {
        for bad in [
            "a{b=\"c} 1",
            "a{b=c} 1",
            "1a 1",
            "a",
            "a{} x",
            "a 1 2 3",
            "a{b=\"1\",b=\"2\"} 1",
        ] {
            let error = Metrics::parse(&format!("ok 1\n{bad}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2 "), "{error}");
        }
    }
}
