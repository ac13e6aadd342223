//! `levee check`: all that is wrong with `levee.yaml` and with an Envoy configuration, each with its line.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`located`] | YAML with the line of everything in it |
//! | [`envoy`] | the parts of an Envoy configuration that Levee has to do with |
//! | [`traps`] | settings that Envoy takes and that make Levee work less or not at all |
//! | `stats` | those of them that are about metrics |

pub mod envoy;
pub mod located;
mod stats;
pub mod traps;

use crate::config::Config;
use envoy::Envoy;
use levee_config::ConfigError;
use located::{At, Document, Mistake};
use std::path::Path;

/// How bad it is. Errors come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It will not work.
    Error,
    /// It will work, and one day it will not.
    Warning,
}

/// Something that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there: `redis[0].listen`. Empty for the whole file.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
    /// The name of the [trap](traps::TRAPS), if it is one.
    pub trap: Option<&'static str>,
}

/// What was found in a file.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What is wrong, by line.
    pub findings: Vec<Finding>,
    /// What was not to be found in it, and so not checked. Empty if nothing.
    pub absent: &'static str,
}

impl Checked {
    /// Whether there is a finding of this severity.
    pub fn has(&self, severity: Severity) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.severity == severity)
    }

    /// `valid, with 2 warnings`
    pub fn verdict(&self) -> String {
        let mut verdict = match self.findings.len() {
            0 => "valid".to_owned(),
            1 => "valid, with a warning".to_owned(),
            more => format!("valid, with {more} warnings"),
        };
        if !self.absent.is_empty() {
            verdict.push_str(", but has no ");
            verdict.push_str(self.absent);
        }
        verdict
    }
}

/// What is wrong with a `levee.yaml`.
pub fn of_levee(text: &str) -> Checked {
    by_line(text, |document| {
        let errors = Config::parse(text).err().unwrap_or_default();
        let finding = |error: ConfigError| Finding {
            line: document.root.line_of(&error.path),
            path: error.path,
            message: error.message,
            severity: Severity::Error,
            trap: None,
        };
        Checked {
            findings: errors.into_iter().map(finding).collect(),
            absent: "",
        }
    })
}

/// What is wrong with an Envoy configuration.
pub fn of_envoy(text: &str) -> Checked {
    by_line(text, |document| {
        let envoy = Envoy::new(At::root(&document.root));
        let has_listeners = !envoy.managers.is_empty();
        Checked {
            findings: traps::look(&envoy),
            absent: if has_listeners { "" } else { "HTTP listener" },
        }
    })
}

fn by_line(text: &str, look: impl FnOnce(&Document) -> Checked) -> Checked {
    let of_text = |mistake: Mistake, severity| Finding {
        line: mistake.line,
        path: String::new(),
        message: mistake.message,
        severity,
        trap: None,
    };
    let document = match located::parse(text) {
        Ok(document) => document,
        Err(mistake) => {
            return Checked {
                findings: vec![of_text(mistake, Severity::Error)],
                absent: "",
            };
        }
    };
    let mut checked = look(&document);
    let repeated = document.repeated.into_iter();
    let repeated = repeated.map(|mistake| of_text(mistake, Severity::Warning));
    checked.findings.extend(repeated);
    checked.findings.sort_by_key(|finding| finding.line);
    checked
}

impl Finding {
    /// `FILE:LINE: path: message`; a warning says that it is one, a trap its name.
    pub fn show(&self, file: &Path) -> String {
        let path = match self.path.as_str() {
            "" => String::new(),
            path => format!("{path}: "),
        };
        let warning = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        let trap = self
            .trap
            .map_or_else(String::new, |trap| format!(" [{trap}]"));
        let (file, line, message) = (file.display(), self.line, &self.message);
        format!("{file}:{line}: {path}{warning}{message}{trap}")
    }
}
