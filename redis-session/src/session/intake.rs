//! From the client's bytes to the queue: where commands end, what they mean, and which are admitted.

use super::failure::Failure;
use super::inbox::Scan;
use super::queue::{Bytes, Entry, Past, STILL_ARRIVING};
use super::{Ending, RawPolicy, Session, Turn, error};
use crate::commands::{Class, Effect, Raw, Work};
use crate::gate::Answer;
use crate::resp::{Limits, ProtocolError};
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
            self.link.connect(now, self.settings.connect_timeout);
        }
        self.hold_back(now);
    }

    fn take_commands(&mut self, now: Instant) {
        let most = self.settings.buffered_bytes.div_ceil(BYTES_PER_COMMAND);
        loop {
            if self.pipe.is_some() {
                self.pipe_commands();
                break;
            }
            if self.turn.is_some() {
                // Not inside a push that is passed on as it arrives.
                if !self.queue.is_empty() || self.outbox.streams() {
                    break;
                }
                self.take_turn(now);
            }
            if self.ending == Ending::Now
                || self.replies_are_full()
                || self.inbox.is_scanned()
                || self.queue.len() >= most
                || self.queue.raw().is_some()
            {
                break;
            }
            match self.scan(now) {
                Ok(Scan::Complete | Scan::Rewritten) => {}
                Ok(Scan::Incomplete) => break,
                Err(error) => {
                    self.gate.counts.refused_protocol.inc();
                    self.turn = Some(Turn::Reply(error.reply()));
                    self.ending = Ending::AfterReplies;
                    self.inbox.skip_rest();
                }
            }
        }
    }

    fn scan(&mut self, now: Instant) -> Result<Scan, ProtocolError> {
        let limits = self.limits();
        let scan = match self.inbox.scan(self.has_room(), limits) {
            // The answer decides.
            Err(error) if error.is_for_lack_of_login() && self.queue.logs_in() => {
                return Ok(Scan::Incomplete);
            }
            scan => scan?,
        };
        if scan == Scan::Rewritten {
            return Ok(scan);
        }
        if self.inbox.announced() > self.settings.command_bytes {
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

    /// What is accepted of the client.
    fn limits(&self) -> Limits {
        if !self.client.has_logged_in() && self.gate.wants_login() {
            Limits::Unauthenticated
        } else {
            Limits::at_least(self.settings.command_bytes)
        }
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
            let failure = Failure::unanswered("the command is larger than command_bytes");
            self.fail_all(failure, now);
        } else {
            let limit = self.settings.command_bytes;
            let why = format!("the command is larger than command_bytes ({limit})");
            self.turn = Some(Turn::Reply(error(&why)));
        }
        self.ending = Ending::AfterReplies;
        self.inbox.skip_rest();
    }

    fn on_command(&mut self, now: Instant) {
        if self.inbox.is_streaming() {
            self.inbox.end_stream();
            if let Some(entry) = self.queue.back_mut() {
                entry.end = self.inbox.scanned();
                entry.deadline = Some(now.after(self.settings.limit(entry.class)));
            }
            return;
        }
        let command = self.inbox.command();
        if command.len() < SHORTEST_COMMAND.len() {
            // Redis doesn't answer it either.
            self.inbox.remove_command();
            return;
        }
        let mut class = Class::of(command, &self.settings.idempotency);
        match class.effect {
            Effect::Http => {
                self.gate.counts.refused_protocol.inc();
                self.end(Ending::Now);
                return;
            }
            Effect::Raw(raw) if self.settings.raw == RawPolicy::Refuse => {
                self.turn = Some(Turn::Reply(error(raw.refusal())));
                if self.client.in_transaction() {
                    // Redis would not execute a transaction if it refuses one of its commands.
                    self.accept_no_more();
                }
                return;
            }
            Effect::Raw(Raw::Replconf) => class.effect = Effect::Attach,
            Effect::Exec if self.client.calls_scripts() => class.work = Work::Script,
            Effect::Raw(_) if !self.queue.is_empty() => {
                self.turn = Some(Turn::Command);
                return;
            }
            _ => {}
        }
        let time = match class.effect {
            Effect::Blocks(wait) if !self.client.in_transaction() => {
                wait.map(|wait| wait.saturating_add(self.settings.deadline))
            }
            _ => Some(self.settings.limit(class)),
        };
        let deadline = time.map(|time| now.after(time));
        if let Some(permit) = self.admit(class, now) {
            self.enter(class, Bytes::Kept, permit, deadline, now);
        }
    }

    /// The command is too long to be kept: it is sent as it arrives.
    fn stream_command(&mut self, now: Instant) {
        let class = Class::of_beginning(self.inbox.command());
        let Some(permit) = self.admit(class, now) else {
            // The rest of it isn't waited for.
            self.accept_no_more();
            return;
        };
        let deadline = now.after(self.settings.limit(class));
        self.enter(class, Bytes::Streamed, permit, Some(deadline), now);
    }

    /// Nothing that the client sends from here on is executed.
    fn accept_no_more(&mut self) {
        self.end(Ending::AfterReplies);
        self.inbox.skip_rest();
    }

    /// Whether a command may go out. Otherwise Levee's reply to it is set.
    fn admit(&mut self, class: Class, now: Instant) -> Option<Permit> {
        let effect = class.effect;
        if self.client.is_refused(effect) {
            self.turn = Some(Turn::Reply(
                self.refusal("the transaction was refused", None),
            ));
            return None;
        }
        if self.client.is_bound() || class.work == Work::Rescue {
            return Some(Permit::UNTRACKED);
        }
        if let Some(permit) = self.tally.shared_permit() {
            return Some(permit);
        }
        let permit = match self.gate.admit(now) {
            Verdict::Admit(permit) => permit,
            Verdict::WouldRefuse => Permit::UNTRACKED,
            Verdict::Refuse { retry_after } => {
                self.refuse(effect, "circuit open", Some(retry_after));
                return None;
            }
        };
        if self.link.is_connected() {
            self.tally.share(permit);
        } else if let Some(gone) = self.gate.gone(self.settings.deadline, now) {
            // Waiting would be in vain.
            let (why, seconds) = (gone.why, gone.lasted.as_secs());
            let why = format!("Redis can't be reached since {seconds}s ({why})");
            self.refuse(effect, &why, None);
            self.tally.enter();
            self.tally.end(permit, Answer::Failure, &self.gate, now);
            return None;
        }
        Some(permit)
    }

    /// A command with this effect does not go out.
    fn refuse(&mut self, effect: Effect, why: &str, retry_after: Option<Duration>) {
        self.turn = Some(Turn::Reply(self.refusal(why, retry_after)));
        if effect == Effect::Multi {
            self.client.refuse_transaction();
        } else if effect.sets_state() {
            // What follows relies on it: another database, another identity.
            self.accept_no_more();
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
        let in_transaction = self.client.in_transaction();
        let effect = self.client.begin(class, number);
        let past = if in_transaction && effect == Effect::None {
            Past::Queued
        } else {
            Past::Clear
        };
        let end = match bytes {
            Bytes::Kept => self.inbox.scanned(),
            Bytes::Streamed | Bytes::Begun => STILL_ARRIVING,
        };
        self.queue.push(Entry {
            end,
            bytes,
            class: Class { effect, ..class },
            bound_to,
            number,
            permit,
            attempts: 0,
            past,
            drops: 0,
            arrived: now,
            needed: now,
            deadline,
        });
        match bytes {
            Bytes::Kept => self.inbox.accept(),
            Bytes::Streamed | Bytes::Begun => self.inbox.begin_stream(),
        }
        if class.effect == Effect::Quit {
            // Nothing behind it is executed.
            self.inbox.remove_rest();
            self.ending = Ending::AfterReplies;
        }
    }

    fn refusal(&self, why: &str, retry_after: Option<Duration>) -> Vec<u8> {
        let mut message = format!("{why} for {}", self.settings.name);
        if let Some(wait) = retry_after {
            let _ = write!(message, ", try again in {}ms", wait.as_millis().max(1));
        }
        error(&message)
    }

    fn take_turn(&mut self, now: Instant) {
        match self.turn.take() {
            Some(Turn::Reply(reply)) => {
                self.outbox.say(&reply);
                self.inbox.let_go_of_scanned();
            }
            Some(Turn::Command) => self.on_command(now),
            None => {}
        }
    }
}
