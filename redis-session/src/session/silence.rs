//! A connection without a word: its host is gone, or something on the way has forgotten it. Or Redis is busy, which looks
//! the same. So another connection is made beside it, and has to answer. Redis answers the one that was asked first,
//! unless that is dead.

use super::Session;
use super::link::Second;
use super::queue::Entry;
use super::text;
use crate::gate::Check;
use crate::proof::Proof;
use levee_policy::budget::Withdrawal;
use levee_policy::time::Instant;

/// Which connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    First,
    /// The second one takes the first one's place.
    Second,
}

impl Session {
    /// Whether to make another connection beside the one that is there, on which Redis must answer.
    pub fn wants_second(&self) -> bool {
        self.link.second != Second::None
    }

    /// By when the wanted one must have answered. A later time is that of yet another one: the one before is given up.
    pub const fn second_until(&self) -> Option<Instant> {
        match self.link.second {
            Second::Wanted { until, .. } => Some(until),
            Second::None => None,
        }
    }

    /// Redis has answered on another connection.
    pub fn second_connected(&mut self, now: Instant) -> Choice {
        self.link.second = Second::None;
        if !self.may_be_replaced() {
            return Choice::First;
        }
        let sent = self.inbox.sent();
        if self.gate.pay(self.retries(sent), now) == Withdrawal::Refused {
            return Choice::First;
        }
        let limit = text(self.settings.attempt_timeout);
        let note = format!("no answer from Redis within {limit}, but on another connection");
        self.gate.note(&note, now);
        self.start_over(sent);
        self.disconnect();
        self.link.replaced();
        self.connected(Proof::Answered { at: now }, now);
        Choice::Second
    }

    /// Another connection could not be made, or Redis has not answered on it, or serves nobody.
    pub fn second_failed(&mut self, check: Check<'_>, now: Instant) {
        let second = std::mem::take(&mut self.link.second);
        let Second::Wanted { since, .. } = second else {
            return;
        };
        let why = match check {
            Check::Answered | Check::Refused => return,
            Check::Silent { .. } if self.gate.is_held_up(now) => return,
            Check::Silent { why } | Check::Failed { why } => why,
        };
        self.note_obstacle(why, now);
        let backoff = &self.settings.backoff;
        self.gate.unreachable(backoff, why, since, now);
    }

    /// When the connection has been silent for too long, or another one has.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        match self.link.second {
            Second::Wanted { until, .. } => Some(until),
            Second::None => {
                let asked = self.link.asked_at()?;
                Some(asked.after(self.settings.attempt_timeout))
            }
        }
    }

    pub(super) fn notice_silence(&mut self, now: Instant) {
        if self.silent_at().is_none_or(|at| now < at) {
            return;
        }
        let since = self.link.asked_at().unwrap_or(now);
        if self.wants_second() {
            let limit = text(self.settings.attempt_timeout);
            let why = format!("no answer on a new connection within {limit}");
            self.second_failed(Check::Silent { why: &why }, now);
        }
        self.link.may_be_silent();
        if !self.awaits_answer() {
            return;
        }
        // Measured anew, whatever comes of it.
        self.link.asked(now);
        if self.may_be_replaced() {
            let limit = self
                .settings
                .connect_timeout
                .max(self.settings.attempt_timeout);
            self.link.second = Second::Wanted {
                since,
                until: now.after(limit),
            };
        }
    }

    /// Silence counts from here on, if Redis has to answer.
    pub(super) fn measure_silence(&mut self, now: Instant) {
        if self.awaits_answer() {
            self.link.asked(now);
        }
    }

    /// Whether anything was sent that Redis has not answered, as far as its answers are read.
    fn awaits_answer(&self) -> bool {
        let waits_on_purpose = self.queue.front().is_some_and(Entry::blocks);
        let has_commands = self.inbox.sent() > self.inbox.base() && !waits_on_purpose;
        self.wants_upstream() && (self.link.errand().is_some() || has_commands)
    }

    /// Everything that was sent may be sent again on another connection.
    fn may_be_replaced(&self) -> bool {
        let sent = self.inbox.sent();
        let holds_up = |entry: &Entry| entry.was_sent(sent) && entry.holds_up_others();
        self.awaits_answer()
            && !self.hangs_up()
            && !self.outbox.streams()
            && self.outbox.held() == 0
            && !self.inbox.is_streaming()
            && !self.has_state()
            && !self.queue.iter().any(holds_up)
            && self.queue.cut(sent, self.settings.attempts) == 0
    }
}
