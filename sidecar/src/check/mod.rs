//! `levee check`: all that is wrong with `levee.yaml` and with an Envoy configuration, each with its line.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`levee`] | what is wrong with a `levee.yaml` |
//! | [`at`] | a cursor into a document that knows its path |
//! | [`envoy`] | the parts of an Envoy configuration that Levee has to do with |
//! | [`traps`] | settings that Envoy takes and that make Levee work less or not at all |
//! | `stats` | those of them that are about metrics |

pub mod at;
pub mod envoy;
pub mod levee;
mod stats;
pub mod traps;

pub use levee::of_levee;

use crate::yaml::{self, Mistake};
use at::At;
use envoy::Envoy;
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

/// What is wrong with an Envoy configuration.
pub fn of_envoy(text: &str) -> Checked {
    let document = match yaml::parse(text) {
        Ok(document) => document,
        Err(mistake) => {
            return Checked {
                findings: vec![Finding::of_text(mistake, Severity::Error)],
                absent: "",
            };
        }
    };
    let envoy = Envoy::new(At::root(&document.root));
    let mut findings = traps::look(&envoy);
    let repeated = document.repeated.into_iter();
    findings.extend(repeated.map(|mistake| Finding::of_text(mistake, Severity::Warning)));
    findings.sort_by_key(|finding| finding.line);
    Checked {
        findings,
        absent: if envoy.managers.is_empty() {
            "HTTP listener"
        } else {
            ""
        },
    }
}

impl Finding {
    fn of_text(mistake: Mistake, severity: Severity) -> Self {
        Self {
            line: mistake.line,
            path: String::new(),
            message: mistake.message,
            severity,
            trap: None,
        }
    }

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
