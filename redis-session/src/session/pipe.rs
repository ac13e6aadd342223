//! What is known of the bytes of a raw pipe.

use super::client::ClientState;
use crate::commands::{self, Effect, Raw, Silence};

/// What is known of the bytes in both directions, and so what can end the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pipe {
    /// They are no commands and replies, or not ones that can be followed. Only the connection's end.
    Bytes,
    /// They are commands and replies. RESET.
    Replies,
    /// RESET was passed on. Nothing behind it is until it is answered.
    Reset,
    /// Redis is silent. RESET, or CLIENT REPLY ON.
    Silent,
    /// CLIENT REPLY ON was passed on to a Redis that was silent, and nothing behind it.
    Speaking,
    /// Redis will be silent about the next command. RESET, or that command.
    Skipping,
    /// That command was accepted. Nothing behind it is before it is sent.
    Skipped,
}

impl Pipe {
    pub const fn of(raw: Raw, client: &ClientState) -> Self {
        match raw {
            Raw::Replication => Self::Bytes,
            // EXEC will announce replies that it doesn't give.
            Raw::Silence(_) if client.in_transaction() => Self::Bytes,
            // Messages come in spite of it.
            Raw::Silence(_) if client.is_subscribed() => Self::Replies,
            Raw::Silence(Silence::Lasting) => Self::Silent,
            Raw::Silence(Silence::Once) => Self::Skipping,
            Raw::Monitor | Raw::Silence(Silence::Now) | Raw::Replconf => Self::Replies,
        }
    }

    /// The client sends a complete `command`.
    pub fn after(self, command: &[u8]) -> Self {
        let effect = commands::effect_of(command);
        match (self, effect) {
            (Self::Bytes | Self::Reset | Self::Skipped, _) => self,
            // Redis doesn't answer even this.
            (Self::Skipping, Effect::Reset) => Self::Replies,
            (_, Effect::Reset) if commands::is_bare(command) => Self::Reset,
            // Silence may begin in a transaction here, see above.
            (_, Effect::Raw(Raw::Replication)) | (Self::Replies, Effect::Raw(Raw::Silence(_))) => {
                Self::Bytes
            }
            (Self::Silent, Effect::None) if commands::ends_silence(command) => Self::Speaking,
            (Self::Silent, Effect::None | Effect::Raw(Raw::Silence(_)))
            | (Self::Skipping, Effect::Raw(Raw::Silence(Silence::Lasting))) => Self::Silent,
            (Self::Skipping, Effect::None) => Self::Skipped,
            (Self::Skipping, Effect::Raw(Raw::Silence(Silence::Once))) => Self::Skipping,
            // What it changes is not followed.
            _ => Self::Replies,
        }
    }

    /// The client sends a command that is too long to be looked at.
    pub const fn after_long(self) -> Self {
        match self {
            Self::Skipping => Self::Skipped,
            Self::Speaking => Self::Replies,
            _ => self,
        }
    }
}
