//! Reading JSON field by field, so that one mistake does not hide the next.
//!
//! A [`Section`] returns its fields by name and type. A field of the wrong type or out of range is
//! recorded as a mistake and treated as absent; unknown fields are recorded at the end.

use crate::ConfigError;
use levee_policy::ratio::Ratio;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest string that a field may have, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// What a duration looks like, for messages.
const DURATION: &str = "a duration with its unit such as \"250ms\", \"5s\" or \"1h\"";

/// Reads `value` with `read`. Returns the result, or all mistakes if there were any.
pub fn read<T>(
    value: &Value,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> Result<T, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let result = visit(Some(value), String::new(), &mut errors, read);
    if errors.is_empty() {
        Ok(result)
    } else {
        Err(errors)
    }
}

fn visit<T>(
    value: Option<&Value>,
    path: String,
    errors: &mut Vec<ConfigError>,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> T {
    let nothing = Map::new();
    let fields = match value {
        None | Some(Value::Null) => None,
        Some(Value::Object(fields)) => Some(fields),
        Some(other) => {
            let message = format!("is {}; it must be an object {{...}}", describe(other));
            errors.push(ConfigError {
                path: path.clone(),
                message,
            });
            None
        }
    };
    let mut section = Section {
        path,
        is_absent: fields.is_none(),
        fields: fields.unwrap_or(&nothing),
        asked: Vec::new(),
        errors,
    };
    let result = read(&mut section);
    section.finish();
    result
}

/// An object of the configuration.
pub struct Section<'a> {
    path: String,
    is_absent: bool,
    fields: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    errors: &'a mut Vec<ConfigError>,
}

impl Section<'_> {
    /// Whether the section is missing from the configuration.
    pub const fn is_absent(&self) -> bool {
        self.is_absent
    }

    /// Records a mistake at `field`, or in the section itself if `field` is empty.
    pub fn error(&mut self, field: &str, message: &str) {
        let path = if field.is_empty() {
            self.path.clone()
        } else {
            self.path_of(field)
        };
        self.errors.push(ConfigError {
            path,
            message: message.to_owned(),
        });
    }

    /// Whether `field` has a value, valid or not.
    pub fn has(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(|value| !value.is_null())
    }

    /// Whether `field` is a list.
    pub fn is_list(&self, field: &str) -> bool {
        matches!(self.fields.get(field), Some(Value::Array(_)))
    }

    /// Records a mistake if `field` is missing.
    pub fn require(&mut self, field: &str, what: &str) {
        if !self.fields.contains_key(field) {
            self.error(field, &format!("is missing: {what}"));
        }
    }

    /// A nested object. `read` is called even if it is missing.
    pub fn section<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        self.asked.push(field);
        let path = self.path_of(field);
        visit(self.fields.get(field), path, self.errors, read)
    }

    /// An object whose keys are names and whose values are objects.
    pub fn entries<T>(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> HashMap<String, T> {
        let Some(entries) = self.object(field) else {
            return HashMap::new();
        };
        let path = self.path_of(field);
        entries
            .iter()
            .map(|(name, value)| {
                let path = format!("{path}.{name}");
                (
                    name.clone(),
                    visit(Some(value), path, self.errors, &mut read),
                )
            })
            .collect()
    }

    /// A list of objects.
    pub fn list<T>(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> Vec<T> {
        let items = self.items(field);
        let path = self.path_of(field);
        items
            .iter()
            .enumerate()
            .map(|(place, item)| {
                visit(
                    Some(item),
                    format!("{path}[{place}]"),
                    self.errors,
                    &mut read,
                )
            })
            .collect()
    }

    /// An object, or a list of them.
    pub fn objects<T>(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> Vec<T> {
        if matches!(self.fields.get(field), Some(Value::Object(_))) {
            return vec![self.section(field, read)];
        }
        self.list(field, &mut read)
    }

    /// An object with values of any type, which the caller checks.
    pub fn values(&mut self, field: &'static str) -> Vec<(String, Value)> {
        let entries = self.object(field).into_iter().flatten();
        entries
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    pub fn flag(&mut self, field: &'static str) -> Option<bool> {
        let value = self.get(field)?;
        if value.as_bool().is_none() {
            self.wrong(field, value, "true or false");
        }
        value.as_bool()
    }

    /// An object whose values are strings.
    pub fn texts(&mut self, field: &'static str) -> Vec<(String, String)> {
        let Some(entries) = self.object(field) else {
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            if let Some(text) = self.check_text(&format!("{field}.{name}"), value) {
                texts.push((name.clone(), text));
            }
        }
        texts
    }

    /// A list of strings.
    pub fn words(&mut self, field: &'static str) -> Vec<String> {
        let items = self.items(field);
        let check = |(place, item)| self.check_text(&format!("{field}[{place}]"), item);
        items.iter().enumerate().filter_map(check).collect()
    }

    /// A string, or a list of them.
    pub fn word_or_words(&mut self, field: &'static str) -> Vec<String> {
        if self.is_list(field) {
            return self.words(field);
        }
        self.text(field).into_iter().collect()
    }

    /// A list of strings, numbers and booleans, as strings.
    pub fn scalars(&mut self, field: &'static str) -> Vec<String> {
        let items = self.items(field);
        let check = |(place, item): (usize, &Value)| match item {
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            other => self.check_text(&format!("{field}[{place}]"), other),
        };
        items.iter().enumerate().filter_map(check).collect()
    }

    /// Passes the items of a list, strings and numbers, to `take`, which returns what is wrong with one.
    /// Envoy turns every number into floating point, so 5.0 is passed as 5.
    pub fn each(&mut self, field: &'static str, mut take: impl FnMut(&str) -> Result<(), String>) {
        for (place, item) in self.items(field).iter().enumerate() {
            let path = format!("{field}[{place}]");
            let text = match item {
                Value::Number(number) => Some(
                    number
                        .as_f64()
                        .map_or_else(|| number.to_string(), |number| number.to_string()),
                ),
                other => self.check_text(&path, other),
            };
            if let Some(Err(message)) = text.map(|text| take(&text)) {
                self.error(&path, &message);
            }
        }
    }

    /// A string that is not empty.
    pub fn text(&mut self, field: &'static str) -> Option<String> {
        let value = self.get(field)?;
        self.check_text(field, value)
    }

    /// A string that may be empty.
    pub fn text_or_empty(&mut self, field: &'static str) -> Option<String> {
        match self.get(field)? {
            Value::String(text) if text.is_empty() => Some(String::new()),
            value => self.check_text(field, value),
        }
    }

    /// The name of a header, in lower case.
    pub fn header_name(&mut self, field: &'static str) -> Option<String> {
        let name = self.text(field)?.to_ascii_lowercase();
        if is_header_name(&name) {
            return Some(name);
        }
        self.error(
            field,
            &format!("{name:?} is not a header name: use letters, digits and '-'"),
        );
        None
    }

    /// A duration with its unit.
    pub fn duration(
        &mut self,
        field: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.read_duration(field, range, DURATION)
    }

    fn read_duration(
        &mut self,
        field: &'static str,
        range: RangeInclusive<Duration>,
        right: &str,
    ) -> Option<Duration> {
        let value = self.get(field)?;
        let Value::String(text) = value else {
            self.wrong(field, value, right);
            return None;
        };
        let Ok(duration) = humantime::parse_duration(text) else {
            self.error(field, &format!("{text:?} is not {right}"));
            return None;
        };
        if range.contains(&duration) {
            return Some(duration);
        }
        let (least, most) = (range.start(), range.end());
        let message = format!(
            "{text:?} is out of range; it must be from {} to {}",
            humantime::format_duration(*least),
            humantime::format_duration(*most)
        );
        self.error(field, &message);
        None
    }

    /// A duration with its unit, or the word `off`, which is `None`.
    pub fn duration_or_off(
        &mut self,
        field: &'static str,
        range: RangeInclusive<Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let value = self.get(field);
        if value.is_some_and(|value| value.as_str() == Some("off")) {
            return None;
        }
        let read = self.read_duration(field, range, &format!("{DURATION}, or \"off\""));
        read.or(default)
    }

    /// A whole number. Envoy turns every number into floating point, so 5.0 is accepted as 5.
    pub fn integer(&mut self, field: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.get(field)?;
        let right = format!("a whole number from {} to {}", range.start(), range.end());
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked to be one
        let number = match value {
            Value::Number(number) => number
                .as_f64()
                .filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n))
                .map(|n| n as u32),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(field, value, &right);
        }
        number
    }

    pub fn size(&mut self, field: &'static str, range: RangeInclusive<u32>) -> Option<usize> {
        self.integer(field, range)
            .and_then(|number| usize::try_from(number).ok())
    }

    /// A number of bytes, as text with its unit.
    pub fn bytes(&mut self, field: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        const RIGHT: &str = "a size with its unit such as \"512KiB\", \"64MiB\" or \"2GiB\"";
        let value = self.get(field)?;
        let Value::String(text) = value else {
            self.wrong(field, value, RIGHT);
            return None;
        };
        let Some(bytes) = parse_bytes(text) else {
            self.error(field, &format!("{text:?} is not {RIGHT}"));
            return None;
        };
        if range.contains(&bytes) {
            return Some(bytes);
        }
        let (least, most) = (show_bytes(*range.start()), show_bytes(*range.end()));
        let message = format!("{text:?} is out of range; it must be from {least} to {most}");
        self.error(field, &message);
        None
    }

    /// A ratio. Envoy turns a fraction in YAML into a string, so "0.5" is accepted as 0.5.
    pub fn ratio(&mut self, field: &'static str) -> Option<Ratio> {
        let value = self.get(field)?;
        let number = value
            .as_str()
            .map_or_else(|| value.as_f64(), |text| text.parse().ok());
        let ratio = number.and_then(Ratio::new);
        if ratio.is_none() {
            self.wrong(field, value, "a number from 0 (off) to 1, such as 0.5");
        }
        ratio
    }

    /// One of the given words.
    pub fn choice<T: Copy>(&mut self, field: &'static str, words: &[(&str, T)]) -> Option<T> {
        let value = self.get(field)?;
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong(field, value, &format!("one of {}", all.join(", ")));
        }
        found.map(|(_, meaning)| *meaning)
    }

    fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        }
    }

    fn wrong(&mut self, field: &str, value: &Value, right: &str) {
        self.error(
            field,
            &format!("is {}; it must be {right}", describe(value)),
        );
    }

    fn check_text(&mut self, field: &str, value: &Value) -> Option<String> {
        match value {
            Value::String(text) if !text.is_empty() && text.len() <= MAX_TEXT => Some(text.clone()),
            Value::String(text) if text.is_empty() => {
                self.error(field, "is empty");
                None
            }
            Value::String(_) => {
                self.error(field, &format!("is longer than {MAX_TEXT} bytes"));
                None
            }
            other => {
                self.wrong(field, other, "a string \"...\"");
                None
            }
        }
    }

    fn finish(self) {
        for field in self.fields.keys() {
            if self.asked.iter().any(|asked| asked == field) {
                continue;
            }
            let mut known = self.asked.clone();
            known.sort_unstable();
            let message = format!("is not known here; known are: {}", known.join(", "));
            let path = self.path_of(field);
            self.errors.push(ConfigError { path, message });
        }
    }
}

impl<'a> Section<'a> {
    fn get(&mut self, field: &'static str) -> Option<&'a Value> {
        self.asked.push(field);
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The items of a list, empty if it is missing.
    fn items(&mut self, field: &'static str) -> &'a [Value] {
        match self.get(field) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong(field, other, "a list [...]");
                &[]
            }
        }
    }

    fn object(&mut self, field: &'static str) -> Option<&'a Map<String, Value>> {
        match self.get(field)? {
            Value::Object(entries) => Some(entries),
            other => {
                self.wrong(field, other, "an object {...}");
                None
            }
        }
    }
}

/// A value for an error message, shortened if it is long.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > 40 => {
            format!("{:?}...", text.chars().take(40).collect::<String>())
        }
        other => other.to_string(),
    }
}

const UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number)?;
    number.checked_mul(*unit)
}

/// In the largest unit that divides it.
fn show_bytes(bytes: u64) -> String {
    let whole = UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit));
    whole.map_or_else(String::new, |(name, unit)| {
        format!("{}{name}", bytes / unit)
    })
}

/// Whether `name` can be a header's name, in lower case.
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}
