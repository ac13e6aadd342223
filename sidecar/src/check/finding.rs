//! Something that is wrong in a file.

use crate::yaml::Mistake;
use std::path::Path;

/// Errors come first.
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
    pub severity: Severity,
    /// The name of the [trap](super::traps), if it is one.
    pub trap: Option<&'static str>,
}

impl Finding {
    pub fn of_text(mistake: Mistake, severity: Severity) -> Self {
        Self {
            line: mistake.line,
            path: String::new(),
            message: mistake.message,
            severity,
            trap: None,
        }
    }

    /// `FILE:LINE: path: message`; a warning says that it is one, a trap its name. Control characters, which a key may
    /// have, are escaped: a terminal would obey them.
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
        let text = format!("{path}{warning}{message}{trap}");
        format!("{file}:{line}: {}", escape_controls(&text))
    }
}

fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            escaped.extend(char.escape_default());
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// What was found in a file.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What is wrong, by line.
    pub findings: Vec<Finding>,
    /// What the file does not have, and so was not checked.
    pub absent: Option<&'static str>,
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
        if let Some(absent) = self.absent {
            verdict.push_str(", but has no ");
            verdict.push_str(absent);
        }
        verdict
    }
}
