//! The connection to the upstream, as far as a session knows of it.

use crate::replay::Preamble;
use levee_policy::time::Instant;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LinkState {
    /// There is none, and none is needed.
    #[default]
    Down,
    /// The next attempt is due then.
    Waiting(Instant),
    /// It is being made and must be there by then.
    Connecting(Instant),
    /// This many replies to the preamble are still to come.
    Replaying(u32),
    /// Commands go out.
    Up,
}

#[derive(Debug, Default)]
pub(super) struct Link {
    state: LinkState,
    /// What is left to send of the client's state.
    preamble: Vec<u8>,
    /// Attempts in a row that did not get the first command any further.
    failures: u32,
    /// The first command is being tried again.
    retried: bool,
    /// Why the last connection could not be made.
    obstacle: String,
}

impl Link {
    pub const fn state(&self) -> LinkState {
        self.state
    }

    pub fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }

    pub fn is_down(&self) -> bool {
        self.state == LinkState::Down
    }

    pub const fn is_connected(&self) -> bool {
        matches!(self.state, LinkState::Up | LinkState::Replaying(_))
    }

    pub const fn failures(&self) -> u32 {
        self.failures
    }

    pub const fn was_retried(&self) -> bool {
        self.retried
    }

    pub fn preamble(&self) -> &[u8] {
        &self.preamble
    }

    pub fn obstacle(&self) -> &str {
        &self.obstacle
    }

    pub fn connect(&mut self, until: Instant) {
        debug_assert!(!self.is_connected());
        self.state = LinkState::Connecting(until);
    }

    pub fn connected(&mut self, preamble: Preamble) {
        self.state = if preamble.commands > 0 {
            LinkState::Replaying(preamble.commands)
        } else {
            LinkState::Up
        };
        self.preamble = preamble.bytes;
    }

    pub fn took_preamble(&mut self, bytes: usize) {
        self.preamble.drain(..bytes);
    }

    /// One command of the preamble was answered well; `left` was the number before.
    pub const fn replayed(&mut self, left: u32) {
        self.state = if left > 1 {
            LinkState::Replaying(left - 1)
        } else {
            LinkState::Up
        };
    }

    pub fn disconnect(&mut self) {
        self.state = LinkState::Down;
        self.preamble.clear();
    }

    /// No connection could be made; the next attempt is due then.
    pub const fn not_connected(&mut self, next: Instant) {
        self.retried = true;
        self.state = LinkState::Waiting(next);
    }

    /// It is not this session's turn yet.
    pub const fn wait(&mut self, next: Instant) {
        self.state = LinkState::Waiting(next);
    }

    /// The first command is tried again then.
    pub fn retry(&mut self, at: Instant) {
        debug_assert!(!self.is_connected());
        self.failures += 1;
        self.retried = true;
        self.state = LinkState::Waiting(at);
    }

    /// The first command would be tried again, but can't be.
    pub fn give_up(&mut self) {
        self.retried = true;
        self.disconnect();
    }

    /// The first command is answered.
    pub const fn progressed(&mut self) {
        (self.failures, self.retried) = (0, false);
    }

    pub fn note_obstacle(&mut self, why: &str) {
        why.clone_into(&mut self.obstacle);
    }
}
