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
    if let Some(variable) = variable {
        let value = std::env::var(&variable)
            .ok()
            .filter(|value| !value.is_empty());
        if value.is_none() {
            s.error(
                in_environment,
                &format!("names {variable}, which the environment does not have"),
            );
        }
        return value.map(Secret);
    }
    let file = file?;
    match std::fs::read_to_string(&file) {
        Ok(text) if text.trim().is_empty() => {
            s.error(in_file, &format!("{file} is empty"));
            None
        }
        Ok(text) => Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => {
            s.error(in_file, &format!("{file} can't be read: {error}"));
            None
        }
    }
}
