//! The harness' error: what failed, and what was seen last.

use std::fmt::{self, Debug, Display};

/// A message for people. `Debug` shows it as it is, so that `unwrap` in a test reads well.
#[derive(Clone)]
pub struct Error(String);

/// What starters return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// The error becomes `what: error`.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Error(format!("{what}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_message_as_it_is() {
        let error = Err::<(), _>("refused")
            .context("connect to \"a\"")
            .unwrap_err();
        assert_eq!(format!("{error:?}"), "connect to \"a\": refused");
    }
}
