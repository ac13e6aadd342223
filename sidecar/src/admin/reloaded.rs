//! The result of a reload.

use serde::Serialize;
use tokio::sync::oneshot;

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    pub outcome: Outcome,
    /// Parts whose new settings are in force.
    pub changed: Vec<String>,
    /// Keys whose new values need a restart; the old ones stay in force.
    pub kept: Vec<String>,
    /// Why nothing was changed.
    pub errors: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    Applied,
    /// The configuration has mistakes.
    Invalid,
    /// It is valid, but could not be put into force.
    Failed,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Applied, Self::Invalid, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// Where the result goes.
pub type ReloadRequest = oneshot::Sender<Reloaded>;
