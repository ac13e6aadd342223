//! What is wrong with a `levee.yaml`: for `levee check`, and for each command that reads one.

use super::finding::{Checked, Finding, Severity};
use crate::config::Config;
use crate::yaml::{self, Document, Mistake};

/// A configuration without errors.
#[derive(Debug)]
pub struct Valid {
    pub config: Config,
    /// What it was read from.
    pub document: Document,
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
        Ok(config) => {
            let mut warnings = warnings;
            warnings.extend(open_listeners(&document, &config));
            warnings.sort_by_key(|finding| finding.line);
            Ok(Valid {
                config,
                document,
                warnings,
            })
        }
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

/// Listeners that any machine may reach. They have no TLS, and only changes through the admin interface need a token.
fn open_listeners(document: &Document, config: &Config) -> Vec<Finding> {
    let open = config
        .listeners()
        .into_iter()
        .filter(|listener| listener.is_open_to_all() && !listener.exposed);
    open.map(|listener| {
        let risk = if listener.path == "admin.listen" {
            "reads Levee's state and metrics"
        } else {
            "reaches this Redis"
        };
        let message = format!(
            "{} listens for all machines, without TLS and without a login of its own: whoever connects {risk}. Listen on \
             127.0.0.1, or set exposed: true if the network lets in only those who may",
            listener.address
        );
        Finding {
            line: document.root.line_of(&listener.path),
            path: listener.path,
            message,
            severity: Severity::Warning,
            trap: None,
        }
    })
    .collect()
}

/// What is wrong with a `levee.yaml`.
pub fn of_levee(text: &str) -> Checked {
    Checked {
        findings: read(text).map_or_else(|findings| findings, |valid| valid.warnings),
        ..Checked::default()
    }
}
