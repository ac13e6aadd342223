//! Something that is wrong in a file.

use super::at::At;
use crate::yaml::Mistake;
use std::path::Path;

/// Errors come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It will not work.
    Error,
    /// It will work, and one day it will not.
    Warning,
    /// It works; good to know.
    Remark,
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

    /// What can't be read, or Envoy would refuse.
    pub fn of_reading(at: &At<'_>, message: &str) -> Self {
        Self {
            line: at.line,
            path: at.path.clone(),
            message: message.to_owned(),
            severity: Severity::Error,
            trap: None,
        }
    }

    /// `FILE:LINE: path: message`; a warning or a remark says that it is one, a trap its name. Control characters, which a key may
    /// have, are escaped: a terminal would obey them.
    pub fn show(&self, file: &Path) -> String {
        let path = match self.path.as_str() {
            "" => String::new(),
            path => format!("{path}: "),
        };
        let severity = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
            Severity::Remark => "remark: ",
        };
        let trap = self
            .trap
            .map_or_else(String::new, |trap| format!(" [{trap}]"));
        let (file, line, message) = (file.display(), self.line, &self.message);
        let text = format!("{path}{severity}{message}{trap}");
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
    /// Why Envoy itself did not validate a file that is for Envoy. Such a file is not called valid.
    pub unvalidated: Option<String>,
}

impl Checked {
    /// A file in which nothing else could be looked for.
    pub fn of(finding: Finding) -> Self {
        Self {
            findings: vec![finding],
            ..Self::default()
        }
    }

    /// Whether there is a finding of this severity.
    pub fn has(&self, severity: Severity) -> bool {
        self.count(severity) > 0
    }

    fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.severity == severity)
            .count()
    }

    /// What to say of a file without errors: `valid, with 2 warnings and a remark`
    pub fn verdict(&self) -> String {
        let mut verdict = match self.unvalidated {
            None => "valid",
            Some(_) => "no error found",
        }
        .to_owned();
        let counts: Vec<String> = [(Severity::Warning, "warning"), (Severity::Remark, "remark")]
            .into_iter()
            .filter_map(|(severity, name)| match self.count(severity) {
                0 => None,
                1 => Some(format!("a {name}")),
                more => Some(format!("{more} {name}s")),
            })
            .collect();
        if !counts.is_empty() {
            verdict.push_str(", with ");
            verdict.push_str(&counts.join(" and "));
        }
        if let Some(absent) = self.absent {
            verdict.push_str(", but has no ");
            verdict.push_str(absent);
        }
        if let Some(reason) = &self.unvalidated {
            verdict.push_str("; Envoy did not validate it: ");
            verdict.push_str(reason);
        }
        verdict
    }
}
