//! Levee's filter in an Envoy configuration. Its own part is read by the filter's own reader.

use super::at::At;
use super::http_filter::HttpFilter;
use super::message::is_a;
use crate::yaml::{self, Document};
use levee_config::ConfigError;
use levee_filter::config::Config;

const STRUCT: &str = "google.protobuf.Struct";
const STRING: &str = "google.protobuf.StringValue";
const BYTES: &str = "google.protobuf.BytesValue";

/// Levee's filter.
#[derive(Debug)]
pub struct LeveeFilter<'a> {
    /// Its entry in the list of filters.
    pub entry: At<'a>,
    /// Its `PluginConfig`: virtual machine, failure policy, configuration. `None`: it comes by discovery, and is not in the
    /// file.
    pub plugin: Option<At<'a>>,
    pub order: Order,
    /// Its own configuration, if it is there and valid.
    pub config: Option<Config>,
    /// What is wrong with its configuration.
    pub errors: Vec<Wrong>,
    text: Text<'a>,
}

/// Where the filter is among the filters of its connection manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Also if there is no router.
    BeforeRouter,
    AfterRouter,
}

/// Something wrong in the filter's own configuration.
#[derive(Clone, Debug)]
pub struct Wrong {
    pub place: Place,
    pub message: String,
}

/// A line of the file, and the path to what is written there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub path: String,
}

/// Where the filter's own configuration is.
#[derive(Debug)]
enum Text<'a> {
    /// Absent, or in a form without lines.
    None(At<'a>),
    /// A `Struct`, in the file's own YAML.
    Struct(At<'a>),
    /// A string, with its lines if it is valid YAML.
    String(At<'a>, Option<Document>),
}

impl<'a> LeveeFilter<'a> {
    pub(super) fn new(filter: &HttpFilter<'a>, order: Order) -> Self {
        let entry = filter.entry.clone();
        let message = filter.config.as_ref();
        let plugin = message.map(|message| {
            let plugin = message.at.get("config");
            plugin.unwrap_or_else(|| entry.clone())
        });
        let mut filter = Self {
            text: Text::None(plugin.clone().unwrap_or_else(|| entry.clone())),
            entry,
            plugin,
            order,
            config: None,
            errors: Vec::new(),
        };
        filter.read();
        filter
    }

    /// Where it is switched off for all requests for which no route switches it on.
    pub fn disabled(&self) -> Option<At<'a>> {
        let at = self.entry.get("disabled");
        at.filter(|at| at.text() == Some("true"))
    }

    /// Reads the filter's configuration by the filter's own reader.
    fn read(&mut self) {
        let Some(plugin) = &self.plugin else {
            return;
        };
        let Some(any) = plugin.get("configuration") else {
            self.config = Some(Config::default());
            return;
        };
        self.text = Text::None(any.clone());
        if is_a(&any, BYTES) {
            return;
        }
        let value = any.get("value");
        let written = match value {
            _ if !is_a(&any, STRUCT) && !is_a(&any, STRING) => {
                let message = format!(
                    "must have \"@type\": type.googleapis.com/{STRUCT} (or {STRING}), and the configuration in `value`"
                );
                let place = Place {
                    line: any.line,
                    path: any.path,
                };
                self.errors.push(Wrong { place, message });
                return;
            }
            None => String::new(),
            Some(value) if is_a(&any, STRUCT) => {
                let written = value.node().value().to_string();
                self.text = Text::Struct(value);
                written
            }
            Some(value) => {
                let text = value.text().unwrap_or_default();
                self.text = Text::String(value, yaml::parse(text).ok());
                text.to_owned()
            }
        };
        match Config::parse(written.as_bytes()) {
            Ok(config) => self.config = Some(config),
            Err(errors) => {
                let wrong = |error: ConfigError| Wrong {
                    place: self.locate(&error.path),
                    message: error.message,
                };
                self.errors = errors.into_iter().map(wrong).collect();
            }
        }
    }

    /// The line and the full path of a value of the filter's own configuration.
    pub fn locate(&self, path: &str) -> Place {
        let (at, line) = match &self.text {
            Text::Struct(at) => (at, at.line_of(path)),
            Text::String(at, Some(document)) if at.node().is_literal() => {
                (at, at.line + document.root.line_of(path))
            }
            Text::None(at) | Text::String(at, _) => (at, at.line),
        };
        let separator = if path.is_empty() { "" } else { "." };
        Place {
            line,
            path: format!("{}{separator}{path}", at.path),
        }
    }
}
