//! From the client's bytes to the queue: where commands end, what they mean, and which are admitted.

use super::inbox::Scan;
use super::queue::{Bytes, Entry, STILL_ARRIVING};
use super::{Ending, Session};
use crate::commands::{Class, Effect};
use crate::resp::ProtocolError;
use levee_policy::breaker::{Permit, Verdict};
use levee_policy::time::Instant;
use std::fmt::Write;
use std::time::Duration;

/// One outstanding command per this many bytes of buffer limit, so bookkeeping never outweighs the commands.
const BYTES_PER_COMMAND: usize = 128;

/// Anything shorter has no arguments.
const SHORTEST_COMMAND: &[u8] = b"*1\r\n$0\r\n\r\n";

impl Session {
    pub(super) fn parse(&mut self, now: Instant) {
        self.tally.flush(&self.gate, now);
        self.take_commands(now);
        self.tally.flush(&self.gate, now);
        if self.link.is_down() && !self.queue.is_empty() {
            self.link.connect(now.after(self.settings.connect_timeout));
        }
    }

    fn take_commands(&mut self, now: Instant) {
        let most = self.settings.buffered_bytes.div_ceil(BYTES_PER_COMMAND);
        loop {
            if self.own_reply.is_some() {
                // Not inside a push that is passed on as it arrives.
                if !self.queue.is_empty() || self.outbox.streams() {
                    break;
                }
                self.answer_ourselves();
            }
            if self.ending == Ending::Now
                || self.replies_are_full()
                || self.inbox.is_scanned()
                || self.queue.len() >= most
            {
                break;
            }
            match self.scan(now) {
                Ok(Scan::Complete | Scan::Rewritten) => {}
                Ok(Scan::Incomplete) => break,
                Err(error) => {
                    self.gate.counts.refused_protocol.inc();
                    self.own_reply = Some(format!("-ERR Protocol error: {error}\r\n").into_bytes());
                    self.ending = Ending::AfterReplies;
                    self.inbox.skip_rest();
                }
            }
        }
    }

    fn scan(&mut self, now: Instant) -> Result<Scan, ProtocolError> {
        let scan = self.inbox.scan(self.has_room())?;
        if scan == Scan::Rewritten {
            return Ok(scan);
        }
        if self.inbox.announced() > self.settings.command_bytes {
            if self.inbox.argument_is_too_long() && !self.inbox.is_streaming() {
                return Err(ProtocolError::BulkLength);
            }
            self.refuse_size(now);
            return Ok(Scan::Complete);
        }
        if scan == Scan::Complete {
            self.on_command(now);
        } else if !self.inbox.is_streaming()
            && self.inbox.command().len() >= self.settings.buffered_bytes / 2
        {
            self.stream_command(now);
        }
        Ok(scan)
    }

    /// Whether an incomplete line may still end: there is room for more of it, or there will be once others are
    /// answered. When the connection ends, it is dropped without a word.
    fn has_room(&self) -> bool {
        self.ending != Ending::No
            || !self.queue.is_empty()
            || self.inbox.len() < self.settings.buffered_bytes
    }

    fn refuse_size(&mut self, now: Instant) {
        if self.inbox.is_streaming() {
            self.fail_all("the command is larger than command_bytes", now);
        } else {
            let limit = self.settings.command_bytes;
            let reply =
                format!("-ERR levee: the command is larger than command_bytes ({limit})\r\n");
            self.own_reply = Some(reply.into_bytes());
        }
        self.ending = Ending::AfterReplies;
        self.inbox.skip_rest();
    }

    fn on_command(&mut self, now: Instant) {
        if self.inbox.is_streaming() {
            self.inbox.end_stream();
            if let Some(entry) = self.queue.back_mut() {
                entry.end = self.inbox.scanned();
                entry.deadline = Some(now.after(self.settings.deadline));
            }
            return;
        }
        let command = self.inbox.command();
        if command.len() < SHORTEST_COMMAND.len() {
            // Redis doesn't answer it either.
            self.inbox.remove_command();
            return;
        }
        let class = Class::of(command, &self.settings.idempotency);
        match class.effect {
            Effect::Http => {
                self.gate.counts.refused_protocol.inc();
                self.end(Ending::Now);
                return;
            }
            Effect::Refused(why) => {
                self.own_reply = Some(format!("-ERR levee: {why}\r\n").into_bytes());
                if self.client.in_transaction() {
                    // Redis would not execute a transaction if it refuses one of its commands.
                    self.accept_no_more();
                }
                return;
            }
            _ => {}
        }
        let time = match class.effect {
            Effect::Blocks(wait) if !self.client.in_transaction() => {
                wait.map(|wait| wait.saturating_add(self.settings.deadline))
            }
            _ => Some(self.settings.deadline),
        };
        let deadline = time.map(|time| now.after(time));
        if let Some(permit) = self.admit(class.effect, now) {
            self.enter(class, Bytes::Kept, permit, deadline, now);
        }
    }

    /// The command is too long to be kept: it is sent as it arrives.
    fn stream_command(&mut self, now: Instant) {
        let class = Class::UNKNOWN;
        let Some(permit) = self.admit(class.effect, now) else {
            // The rest of it isn't waited for.
            self.accept_no_more();
            return;
        };
        let deadline = now.after(self.settings.deadline);
        self.enter(class, Bytes::Streamed, permit, Some(deadline), now);
    }

    /// Nothing that the client sends from here on is executed.
    fn accept_no_more(&mut self) {
        self.end(Ending::AfterReplies);
        self.inbox.skip_rest();
    }

    /// Whether a command with this effect may go out. Otherwise Levee's reply to it is set.
    fn admit(&mut self, effect: Effect, now: Instant) -> Option<Permit> {
        if self.client.is_refused(effect) {
            self.own_reply = Some(self.refusal("the transaction was refused", None));
            return None;
        }
        if self.client.is_bound() {
            return Some(Permit::UNTRACKED);
        }
        if let Some(permit) = self.tally.shared_permit() {
            return Some(permit);
        }
        match self.gate.admit(now) {
            Verdict::Admit(permit) => {
                self.tally.share(permit);
                Some(permit)
            }
            Verdict::WouldRefuse => Some(Permit::UNTRACKED),
            Verdict::Refuse { retry_after } => {
                self.own_reply = Some(self.refusal("circuit open", Some(retry_after)));
                if effect == Effect::Multi {
                    self.client.refuse_transaction();
                } else if effect.sets_state() {
                    // What follows relies on it: another database, another identity.
                    self.accept_no_more();
                }
                None
            }
        }
    }

    fn enter(
        &mut self,
        class: Class,
        bytes: Bytes,
        permit: Permit,
        deadline: Option<Instant>,
        now: Instant,
    ) {
        self.tally.enter();
        let number = self.queue.next_number();
        let bound_to = self.client.binding();
        let effect = self.client.begin(class.effect, number);
        let end = match bytes {
            Bytes::Kept => self.inbox.scanned(),
            Bytes::Streamed => STILL_ARRIVING,
        };
        self.queue.push(Entry {
            end,
            bytes,
            class: Class { effect, ..class },
            bound_to,
            number,
            permit,
            attempts: 0,
            arrived: now,
            deadline,
        });
        match bytes {
            Bytes::Kept => self.inbox.accept(),
            Bytes::Streamed => self.inbox.begin_stream(),
        }
        if class.effect == Effect::Quit {
            // Nothing behind it is executed.
            self.inbox.remove_rest();
            self.ending = Ending::AfterReplies;
        }
    }

    fn refusal(&self, why: &str, retry_after: Option<Duration>) -> Vec<u8> {
        let mut reply = format!("-ERR levee: {why} for {}", self.settings.name);
        if let Some(wait) = retry_after {
            let _ = write!(reply, ", try again in {}ms", wait.as_millis().max(1));
        }
        (reply + "\r\n").into_bytes()
    }

    fn answer_ourselves(&mut self) {
        if let Some(reply) = self.own_reply.take() {
            self.outbox.say(&reply);
        }
        self.inbox.let_go_of_scanned();
    }
}
