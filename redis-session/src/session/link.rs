//! The connection to the upstream, as far as a session knows of it.

use super::errand::Errand;
use crate::proof::Proof;
use levee_policy::time::Instant;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LinkState {
    /// There is none, and none is needed.
    #[default]
    Down,
    /// The next attempt is due then.
    Waiting(Instant),
    /// It is being made and must be there by then.
    Connecting(Instant),
    /// It is there. Commands go out unless there is an errand.
    Connected,
    /// Redis is busy and has set no more than who the client is. Only what needs no more goes out.
    Bare,
}

/// Another connection, which is made while the first one is silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Second {
    #[default]
    None,
    Wanted {
        /// When the first one became silent.
        since: Instant,
        /// It must have answered by then.
        until: Instant,
    },
}

/// An error reply that says that commands were not executed.
#[derive(Debug)]
struct Words {
    reply: Vec<u8>,
    /// The last command that it is an answer to.
    last: u64,
}

#[derive(Debug, Default)]
pub(super) struct Link {
    state: LinkState,
    errand: Option<Errand>,
    pub second: Second,
    /// When the attempt to make it began.
    began: Instant,
    /// When it answered last.
    answered: Option<Instant>,
    /// Scripts went out on it that are not answered.
    has_scripts: bool,
    /// Since when an answer is awaited.
    asked: Option<Instant>,
    /// What Redis said last to commands that it did not execute.
    words: Option<Words>,
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

    /// Commands go out.
    pub fn is_up(&self) -> bool {
        self.state == LinkState::Connected && self.errand.is_none()
    }

    pub fn is_down(&self) -> bool {
        self.state == LinkState::Down
    }

    pub const fn is_connected(&self) -> bool {
        matches!(self.state, LinkState::Connected | LinkState::Bare)
    }

    pub const fn failures(&self) -> u32 {
        self.failures
    }

    pub const fn was_retried(&self) -> bool {
        self.retried
    }

    pub const fn began(&self) -> Instant {
        self.began
    }

    pub fn obstacle(&self) -> &str {
        &self.obstacle
    }

    pub fn connect(&mut self, now: Instant, limit: Duration) {
        debug_assert!(!self.is_connected());
        self.began = now;
        self.state = LinkState::Connecting(now.after(limit));
    }

    pub fn connected(&mut self, errand: Option<Errand>, proof: Proof) {
        self.state = LinkState::Connected;
        self.errand = errand;
        self.second = Second::None;
        self.asked = None;
        self.answered = match proof {
            Proof::Answered { at } => Some(at),
            Proof::None => None,
        };
    }

    // ---- errands

    pub const fn errand(&self) -> Option<&Errand> {
        self.errand.as_ref()
    }

    pub const fn errand_mut(&mut self) -> Option<&mut Errand> {
        self.errand.as_mut()
    }

    pub fn begin(&mut self, errand: Errand) {
        debug_assert!(self.is_up());
        self.errand = Some(errand);
    }

    pub fn finish_errand(&mut self) {
        self.errand = None;
    }

    /// The client's state could not be set.
    pub fn stay_bare(&mut self) {
        self.errand = None;
        self.state = LinkState::Bare;
    }

    /// What it holds, in bytes.
    pub fn held_bytes(&self) -> usize {
        let errand = self.errand.as_ref().map_or(0, Errand::held_bytes);
        let words = self.words.as_ref();
        errand + words.map_or(0, |words| words.reply.capacity())
    }

    // ---- silence

    pub const fn has_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// It has answered a moment ago: what goes out now arrives, as far as anybody can know.
    pub fn is_proven(&self, now: Instant, within: Duration) -> bool {
        self.answered.is_some_and(|at| now.since(at) <= within)
    }

    /// Something that is to be answered was sent.
    pub fn asked(&mut self, now: Instant) {
        self.asked = self.asked.or(Some(now));
    }

    /// It has answered. Returns whether that was the first time.
    pub const fn heard(&mut self, now: Instant) -> bool {
        let is_first = self.answered.is_none();
        self.answered = Some(now);
        self.asked = None;
        self.second = Second::None;
        is_first
    }

    pub const fn asked_at(&self) -> Option<Instant> {
        self.asked
    }

    /// Silence is not measured until more is sent.
    pub const fn may_be_silent(&mut self) {
        self.asked = None;
    }

    // ---- scripts

    /// Whether scripts went out on it that are not answered.
    pub const fn has_scripts(&self) -> bool {
        self.has_scripts
    }

    pub const fn set_scripts(&mut self, there_are: bool) {
        self.has_scripts = there_are;
    }

    // ---- its end

    pub fn disconnect(&mut self) {
        self.state = LinkState::Down;
        self.errand = None;
        self.second = Second::None;
        self.asked = None;
        self.answered = None;
        self.has_scripts = false;
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
        self.replaced();
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

    /// All is sent again on another connection.
    pub const fn replaced(&mut self) {
        self.failures += 1;
        self.retried = true;
    }

    /// Redis has said `reply` to the commands up to the number `last`, which it did not execute.
    pub fn note_words(&mut self, reply: &[u8], last: u64) {
        self.words = Some(Words {
            reply: reply.to_vec(),
            last,
        });
    }

    /// Redis has executed a command.
    pub fn forget_words(&mut self) {
        self.words = None;
    }

    /// What Redis said last to the command `number`, which it did not execute.
    pub fn words(&self, number: u64) -> Option<&[u8]> {
        let words = self.words.as_ref()?;
        (number <= words.last).then_some(&*words.reply)
    }

    pub fn note_obstacle(&mut self, why: &str) {
        why.clone_into(&mut self.obstacle);
    }
}
