//! What the configurations of Levee's parts share.
//!
//! | module | what it is |
//! |---|---|
//! | [`reader`] | reading a configuration field by field, so that one mistake does not hide the next |
//! | [`breaker`] | the keys of a circuit breaker, the same in all parts |

pub mod breaker;
pub mod reader;

use std::fmt;
use std::time::Duration;

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, such as `services.auth.breaker.open_for`. Empty for the whole configuration.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}", self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// The longest duration of any setting.
pub const LONGEST: Duration = Duration::from_hours(24);
