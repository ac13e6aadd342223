//! What Levee asks Redis on a client's connection before it goes on with the client's commands.
//!
//! Nothing of the client's is in flight meanwhile.

use super::verification::Verification;
use crate::proof;
use crate::replay::Preamble;

/// A question whose replies are not the client's.
#[derive(Debug)]
pub(super) struct Errand {
    kind: Kind,
    /// What is left to send.
    unsent: Vec<u8>,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Whether the connection works. Any answer will do.
    Proof,
    /// Setting the client's state again.
    Replay(Replaying),
    /// Whether the first command may be executed again, and if so, its execution.
    Verification(Verification),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Replaying {
    /// So many replies are still to come.
    left: u32,
    /// As many of them come after those about who the client is.
    after_identity: u32,
    /// Redis was too busy for part of it.
    is_incomplete: bool,
}

/// How far the client's state has been set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    NotYet,
    Whole,
    /// Who the client is, and not all of the rest.
    Identity,
    /// Not even who the client is.
    Nothing,
}

impl Replaying {
    /// One command was answered well.
    pub const fn one(&mut self) -> Replayed {
        self.left = self.left.saturating_sub(1);
        match (self.left, self.is_incomplete) {
            (0, false) => Replayed::Whole,
            (0, true) => Replayed::Identity,
            _ => Replayed::NotYet,
        }
    }

    /// Redis was too busy for one command.
    pub const fn none(&mut self) -> Replayed {
        if self.left > self.after_identity {
            return Replayed::Nothing;
        }
        self.is_incomplete = true;
        self.one()
    }
}

impl Errand {
    pub fn proof() -> Self {
        Self {
            kind: Kind::Proof,
            unsent: proof::QUESTION.to_vec(),
        }
    }

    pub fn replay(preamble: Preamble) -> Self {
        Self {
            kind: Kind::Replay(Replaying {
                left: preamble.commands,
                after_identity: preamble.commands.saturating_sub(preamble.identity),
                is_incomplete: false,
            }),
            unsent: preamble.bytes,
        }
    }

    /// `question` is what `verification` begins with.
    pub const fn verification(verification: Verification, question: Vec<u8>) -> Self {
        Self {
            kind: Kind::Verification(verification),
            unsent: question,
        }
    }

    pub const fn kind(&mut self) -> &mut Kind {
        &mut self.kind
    }

    pub fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// What it holds, in bytes.
    pub fn held_bytes(&self) -> usize {
        let verification = match &self.kind {
            Kind::Verification(verification) => verification.held_bytes(),
            Kind::Proof | Kind::Replay(_) => 0,
        };
        self.unsent.capacity() + verification
    }

    pub fn took(&mut self, bytes: usize) {
        self.unsent.drain(..bytes);
    }

    /// The next question of the same errand.
    pub fn ask(&mut self, question: Vec<u8>) {
        self.unsent = question;
    }
}
