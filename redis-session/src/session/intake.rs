//! From the client's bytes to the queue: where commands end, what they mean, and which are not let in.

use super::{Ending, Entry, Link, Session};
use crate::commands::{Class, Effect};
use crate::resp::{ProtocolError, encode, inline_line, split_inline};
use levee_policy::breaker::{Permit, Verdict};
use levee_policy::time::Instant;
use std::fmt::Write;
use std::time::Duration;

/// For so many bytes that may be held for a client, one more command may be unanswered: so that what is
/// known of very small commands takes no more memory than the commands themselves.
const BYTES_PER_COMMAND: usize = 128;

impl Session {
    pub(super) fn parse(&mut self, now: Instant) {
        self.tell_gate(now);
        self.take_commands(now);
        self.tell_gate(now);
        if self.link == Link::Down && !self.queue.is_empty() {
            self.link = Link::Connecting(now.after(self.settings.connect_timeout));
        }
    }

    fn take_commands(&mut self, now: Instant) {
        loop {
            if self.own_reply.is_some() {
                if !self.queue.is_empty() {
                    break;
                }
                self.answer_ourselves();
            }
            if self.ending == Ending::Now
                || self.replies_are_full()
                || self.index(self.scanned) == self.inbox.len()
                || self.queue.len() >= self.settings.buffered_bytes.div_ceil(BYTES_PER_COMMAND)
            {
                break;
            }
            match self.scan(now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.gate.counts.refused_protocol.inc();
                    self.own_reply = Some(format!("-ERR Protocol error: {error}\r\n").into_bytes());
                    self.ending = Ending::AfterReplies;
                    self.scanned = self.end_of_inbox();
                }
            }
        }
    }

    /// Goes on to the end of the next command. False: it has not come yet.
    fn scan(&mut self, now: Instant) -> Result<bool, ProtocolError> {
        let at = self.index(self.scanned);
        if !self.scanner.is_within() && self.inbox[at] != b'*' {
            return self.rewrite_inline(at);
        }
        let progress = self.scanner.advance(&self.inbox[at..])?;
        self.scanned += progress.consumed as u64;
        if self.scanner.announced() > self.settings.command_bytes {
            let limit = self.settings.command_bytes;
            self.own_reply = Some(
                format!("-ERR levee: the command is larger than command_bytes ({limit})\r\n")
                    .into_bytes(),
            );
            if self.streaming {
                self.fail_all("the command is larger than command_bytes", now);
                self.own_reply = None;
            }
            self.ending = Ending::AfterReplies;
            self.scanned = self.end_of_inbox();
            return Ok(true);
        }
        if progress.complete {
            self.on_command(now);
        } else if !self.streaming
            && self.scanned - self.begun >= self.settings.buffered_bytes as u64 / 2
        {
            self.stream_command(now);
        }
        Ok(progress.complete)
    }

    /// Puts inline commands into the form of all others: as many as there are, so that what stands behind
    /// them is moved once. False: the line has not ended yet.
    fn rewrite_inline(&mut self, at: usize) -> Result<bool, ProtocolError> {
        let mut commands = Vec::new();
        let mut until = at;
        while self.inbox.get(until).is_some_and(|byte| *byte != b'*') {
            let line = inline_line(&self.inbox[until..]).and_then(|found| {
                found
                    .map(|line| Ok((split_inline(line.text)?, line.rest.len())))
                    .transpose()
            });
            match line {
                Ok(Some((words, rest))) => {
                    if !words.is_empty() {
                        commands.extend(encode(&words));
                    }
                    until = self.inbox.len() - rest;
                }
                // What stands before a wrong line comes first.
                Err(error) if until == at => return Err(error),
                Ok(None) | Err(_) => break,
            }
        }
        if until == at {
            return if self.wants_client() {
                Ok(false)
            } else {
                Err(ProtocolError::LongLine)
            };
        }
        self.inbox.splice(at..until, commands);
        Ok(true)
    }

    fn on_command(&mut self, now: Instant) {
        if self.streaming {
            self.streaming = false;
            self.begun = self.scanned;
            if let Some(entry) = self.queue.back_mut() {
                entry.end = self.scanned;
                entry.deadline = Some(now.after(self.settings.deadline));
            }
            return;
        }
        let command = &self.inbox[self.index(self.begun)..self.index(self.scanned)];
        if command.len() < b"*1\r\n$0\r\n\r\n".len() {
            // No arguments: Redis does not answer that either.
            let empty = self.index(self.begun)..self.index(self.scanned);
            self.inbox.drain(empty);
            self.scanned = self.begun;
            return;
        }
        let class = Class::of(command, &self.settings.idempotency);
        if class.effect == Effect::Http {
            self.gate.counts.refused_protocol.inc();
            self.end(Ending::Now);
            return;
        }
        if let Effect::Refused(why) = class.effect {
            self.own_reply = Some(format!("-ERR levee: {why}\r\n").into_bytes());
            if self.multi.is_some() {
                // Redis would not execute a transaction one of whose commands it refuses.
                self.take_no_more();
            }
            return;
        }
        let wait = match class.effect {
            Effect::Blocks(wait) if self.multi.is_none() => {
                wait.map(|wait| wait.saturating_add(self.settings.deadline))
            }
            _ => Some(self.settings.deadline),
        };
        self.enter(class, self.scanned, wait.map(|wait| now.after(wait)), now);
    }

    /// A command that is too long to be kept: it goes out as it comes.
    fn stream_command(&mut self, now: Instant) {
        let deadline = now.after(self.settings.deadline);
        let before = self.queue.len();
        self.enter(Class::UNKNOWN, u64::MAX, Some(deadline), now);
        if self.queue.len() > before {
            self.streaming = true;
        } else {
            // Refused: the rest of it is not waited for.
            self.take_no_more();
        }
    }

    /// Nothing that the client sends from here on is executed.
    fn take_no_more(&mut self) {
        self.end(Ending::AfterReplies);
        self.scanned = self.end_of_inbox();
    }

    fn enter(&mut self, class: Class, end: u64, deadline: Option<Instant>, now: Instant) {
        // What belongs to something that has begun goes with it; refusing it would change its meaning.
        let is_bound = self.multi.is_some() || self.subscribed;
        if self.multi_refused && class.effect != Effect::Reset {
            self.multi_refused = !matches!(class.effect, Effect::Exec | Effect::Discard);
            self.own_reply = Some(self.refusal("the transaction was refused", None));
            return;
        }
        self.multi_refused = false;
        let permit = if is_bound {
            Permit::UNTRACKED
        } else if let Some(permit) = self.pass {
            permit
        } else {
            match self.gate.admit(now) {
                Verdict::Admit(permit) => {
                    // Each probe needs a permit of its own.
                    self.pass = (!permit.is_probe()).then_some(permit);
                    permit
                }
                Verdict::WouldRefuse => Permit::UNTRACKED,
                Verdict::Refuse { retry_after } => {
                    self.own_reply = Some(self.refusal("circuit open", Some(retry_after)));
                    if class.effect == Effect::Multi {
                        self.multi_refused = true;
                    } else if class.effect.sets_state() {
                        // What comes after it relies on it: another database, another identity.
                        self.take_no_more();
                    }
                    return;
                }
            }
        };
        self.entered += 1;
        let number = self.next_number;
        self.next_number += 1;
        // What a transaction queues is executed by EXEC alone.
        let ends_it = matches!(class.effect, Effect::Exec | Effect::Discard | Effect::Reset);
        let queued = self.multi.is_some() && !ends_it;
        let effect = if queued {
            self.effect_when_queued(class.effect)
        } else {
            class.effect
        };
        self.queue.push_back(Entry {
            end,
            streamed: end == u64::MAX,
            effect,
            repeatable: class.repeatable,
            reads: class.only_reads,
            scripted: class.scripted,
            bound_to: self.watch.or(self.multi),
            number,
            permit,
            attempts: 0,
            arrived: now,
            deadline,
        });
        if end != u64::MAX {
            self.begun = end;
        }
        match class.effect {
            Effect::Multi => self.multi = self.multi.or(Some(number)),
            Effect::Watch if !queued => self.watch = self.watch.or(Some(number)),
            Effect::Unwatch if !queued => self.watch = None,
            // Outside of a transaction these are errors, and change nothing.
            Effect::Exec | Effect::Discard if self.multi.is_some() => {
                (self.multi, self.watch) = (None, None);
            }
            Effect::Reset => (self.multi, self.watch) = (None, None),
            Effect::Subscribe => self.subscribed = true,
            Effect::Attach => self.attached = true,
            Effect::Quit => {
                // What stands behind it is not executed.
                let behind = self.index(end);
                self.inbox.truncate(behind);
                self.ending = Ending::AfterReplies;
            }
            _ => {}
        }
    }

    /// State that is set inside a transaction is set when it is executed, if it is: that is not followed.
    fn effect_when_queued(&mut self, effect: Effect) -> Effect {
        if matches!(
            effect,
            Effect::Select | Effect::Auth | Effect::Hello | Effect::ClientSetting
        ) {
            self.attached = true;
        }
        Effect::None
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
            self.say(&reply);
        }
        self.begun = self.scanned;
        self.let_go(self.begun);
    }
}
