//! Texts that are never shown, from the environment or from a file.

use levee_config::reader::Section;
use std::fmt;

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads a secret from the environment variable or the file that one of these fields names.
pub(super) fn secret(
    s: &mut Section<'_>,
    in_environment: &'static str,
    in_file: &'static str,
) -> Option<Secret> {
    let (variable, file) = (s.text(in_environment), s.text(in_file));
    if variable.is_some() && file.is_some() {
        s.error(
            in_file,
            &format!("can't stand beside {in_environment}; choose one"),
        );
    }
    let (field, found) = match (variable, file) {
        (Some(variable), _) => (in_environment, from_environment(&variable)),
        (None, Some(file)) => (in_file, from_file(&file)),
        (None, None) => return None,
    };
    found.map_err(|wrong| s.error(field, &wrong)).ok()
}

/// The secret in an environment variable.
///
/// # Errors
/// There is none, in words that follow the key that names the variable.
pub fn from_environment(variable: &str) -> Result<Secret, String> {
    let value = std::env::var(variable).ok();
    value
        .filter(|value| !value.trim().is_empty())
        .map(Secret)
        .ok_or_else(|| format!("names {variable}, which the environment does not have"))
}

/// The secret in a file. Line ends behind it are not part of it.
///
/// # Errors
/// There is none, in words that follow the key that names the file.
pub fn from_file(file: &str) -> Result<Secret, String> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{file} can't be read: {error}"))?;
    if text.trim().is_empty() {
        return Err(format!("{file} is empty"));
    }
    Ok(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
}
