//! How a command fails, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// A test or a check found something, or a build failed.
    Check(String),
    /// The machine lacks something, or has an unusable version of it.
    Missing(String),
    /// Something could not be fetched or installed.
    Install(String),
}

impl Failure {
    /// Adds a hint to a failed installation.
    #[must_use]
    pub fn with_hint(self, hint: &str) -> Self {
        match self {
            Self::Install(message) => Self::Install(format!("{message}; {hint}")),
            other => other,
        }
    }

    /// The exit code, as `cargo xtask --help` lists it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Check(_) => ExitCode::from(1),
            Self::Missing(_) => ExitCode::from(3),
            Self::Install(_) => ExitCode::from(4),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(message) | Self::Missing(message) | Self::Install(message) => {
                f.write_str(message)
            }
        }
    }
}
