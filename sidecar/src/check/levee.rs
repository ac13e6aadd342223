//! What is wrong with a `levee.yaml`: for `levee check`, and for each command that reads one.

use super::finding::{Checked, Finding, Severity};
use crate::config::Config;
use crate::yaml::{self, Mistake};

/// A configuration without errors.
#[derive(Clone, Debug)]
pub struct Valid {
    pub config: Config,
    pub warnings: Vec<Finding>,
}

/// Reads a configuration.
///
/// # Errors
/// All findings, by line; at least one of them is an error.
pub fn read(text: &str) -> Result<Valid, Vec<Finding>> {
    let document =
        yaml::parse(text).map_err(|mistake| vec![Finding::of_text(mistake, Severity::Error)])?;
    let warning = |mistake: &Mistake| Finding::of_text(mistake.clone(), Severity::Warning);
    let warnings: Vec<Finding> = document.repeated.iter().map(warning).collect();
    match Config::read(&document) {
        Ok(config) => Ok(Valid { config, warnings }),
        Err(errors) => {
            let errors = errors.into_iter().map(|error| Finding {
                line: error.line,
                path: error.path,
                message: error.message,
                severity: Severity::Error,
                trap: None,
            });
            let mut findings: Vec<Finding> = errors.chain(warnings).collect();
            findings.sort_by_key(|finding| finding.line);
            Err(findings)
        }
    }
}

/// What is wrong with a `levee.yaml`.
pub fn of_levee(text: &str) -> Checked {
    let mut findings = match read(text) {
        Ok(valid) => valid.warnings,
        Err(findings) => findings,
    };
    findings.sort_by_key(|finding| finding.line);
    Checked {
        findings,
        absent: None,
    }
}
