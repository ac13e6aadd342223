//! `levee check`

use super::{Exit, print_all};
use crate::check::{Checked, Severity, of_envoy, of_levee};
use crate::cli;
use crate::yaml;
use std::path::PathBuf;

pub fn check(arguments: &cli::Check) -> Exit {
    let default = arguments
        .envoy
        .is_none()
        .then(|| PathBuf::from("levee.yaml"));
    let levee = arguments.config.clone().or(default);
    let files = [
        (levee, of_levee as fn(&str) -> Checked),
        (arguments.envoy.clone(), of_envoy),
    ];
    let mut checked = Vec::new();
    let mut is_unread = false;
    for (file, look) in files {
        let Some(file) = file else {
            continue;
        };
        match yaml::read_file(&file) {
            Ok(text) => checked.push((file, look(&text))),
            Err(error) => {
                eprintln!("error: {} can't be read: {error}", file.display());
                is_unread = true;
            }
        }
    }
    print_all(report(&checked).as_bytes());
    let has = |severity| checked.iter().any(|(_, checked)| checked.has(severity));
    if is_unread {
        Exit::Failed
    } else if has(Severity::Error) {
        Exit::Invalid
    } else if arguments.strict && has(Severity::Warning) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

/// All findings, errors first, then a verdict for each file without errors.
fn report(checked: &[(PathBuf, Checked)]) -> String {
    let mut lines = Vec::new();
    for severity in [Severity::Error, Severity::Warning] {
        for (file, checked) in checked {
            let findings = checked.findings.iter();
            let findings = findings.filter(|finding| finding.severity == severity);
            lines.extend(findings.map(|finding| finding.show(file)));
        }
    }
    for (file, checked) in checked {
        if !checked.has(Severity::Error) {
            lines.push(format!("{}: {}", file.display(), checked.verdict()));
        }
    }
    lines
        .iter()
        .fold(String::new(), |text, line| text + line + "\n")
}
