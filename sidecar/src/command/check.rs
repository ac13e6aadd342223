//! `levee check`

use super::{Exit, block_on, failed, print_all};
use crate::check::validation;
use crate::check::{Checked, Finding, Severity, database, levee, nesting, of_envoy_file, of_levee};
use crate::cli;
use crate::logging;
use crate::yaml::{self, NoText};
use std::path::{Path, PathBuf};

pub fn check(arguments: &cli::Check) -> Exit {
    let default = arguments
        .envoy
        .is_none()
        .then(|| PathBuf::from("levee.yaml"));
    let config = arguments.config.clone().or(default);
    let envoy = match envoy_program(arguments) {
        Ok(envoy) => envoy,
        Err(error) => {
            logging::print(format!("error: {error}"));
            return Exit::Failed;
        }
    };
    let look_at_levee = |text: &str| {
        if arguments.database {
            of_levee_and_database(text)
        } else {
            Ok(of_levee(text))
        }
    };
    let look_at_envoy = |file: &Path, text: &str| Ok(of_envoy_file(file, text, envoy.as_deref()));
    let looked = [
        config.map(|file| read(&file, look_at_levee)),
        arguments
            .envoy
            .as_ref()
            .map(|file| read(file, |text| look_at_envoy(file, text))),
    ];
    let mut checked = Vec::new();
    let mut is_unread = false;
    for found in looked.into_iter().flatten() {
        match found {
            Ok(found) => checked.push(found),
            Err(error) => {
                logging::print(format!("error: {error}"));
                is_unread = true;
            }
        }
    }
    if let [(levee, checked), (envoy, _)] = &mut checked[..] {
        checked.findings.extend(compare(levee, envoy));
        checked.findings.sort_by_key(|finding| finding.line);
    }
    if let Err(error) = print_all(report(&checked).as_bytes()) {
        return failed(&error);
    }
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

/// The Envoy to ask, if there is one.
fn envoy_program(arguments: &cli::Check) -> Result<Option<PathBuf>, String> {
    match &arguments.envoy_binary {
        Some(binary) if !validation::is_program(binary) => Err(format!(
            "{} is no program; give --envoy-binary an Envoy",
            binary.display()
        )),
        Some(binary) => Ok(Some(binary.clone())),
        None => Ok(validation::find()),
    }
}

/// Reads and checks a file.
fn read(
    file: &Path,
    look: impl FnOnce(&str) -> Result<Checked, String>,
) -> Result<(PathBuf, Checked), String> {
    let found = match yaml::read_file(file) {
        Ok(text) => look(&text),
        Err(NoText::Wrong(mistake)) => Ok(Checked::of(Finding::of_text(mistake, Severity::Error))),
        Err(unreadable) => Err(unreadable.to_string()),
    };
    match found {
        Ok(checked) => Ok((file.to_owned(), checked)),
        Err(error) => Err(format!("{} {error}", file.display())),
    }
}

/// Also asks the database, unless the configuration has errors.
fn of_levee_and_database(text: &str) -> Result<Checked, String> {
    let findings = match levee::read(text) {
        Ok(valid) => {
            let look = async { database::look(&valid).await.map_err(anyhow::Error::msg) };
            let unasked = |error| format!("can't be checked at its database: {error}");
            let found = block_on(look).map_err(unasked)?;
            let mut findings = [valid.warnings, found].concat();
            findings.sort_by_key(|finding| finding.line);
            findings
        }
        Err(findings) => findings,
    };
    Ok(Checked {
        findings,
        ..Checked::default()
    })
}

/// What is wrong with the files together. What is wrong with one of them is found without the other.
fn compare(levee: &Path, envoy: &Path) -> Vec<Finding> {
    let (Ok(text), Ok(envoy_text)) = (yaml::read_file(levee), yaml::read_file(envoy)) else {
        return Vec::new();
    };
    levee::read(&text).map_or_else(
        |_| Vec::new(),
        |valid| nesting::compare(&valid, envoy, &envoy_text),
    )
}

/// All findings, errors first, then a verdict for each file without errors.
fn report(checked: &[(PathBuf, Checked)]) -> String {
    let mut lines = Vec::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Remark] {
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
