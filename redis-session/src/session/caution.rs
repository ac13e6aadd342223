//! Which commands wait until the connection has proven itself, or until it is known what became of them.

use super::Session;
use super::errand::Errand;
use super::queue::{Entry, Past};
use super::verification::{LONGEST, Verification, written_value};
use crate::idempotency::Repeat;
use levee_policy::time::Instant;

/// Why a command does not go out yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It must not be repeated, and nobody knows whether Redis still hears.
    NoProof,
    /// It may have been executed before.
    InDoubt,
}

impl Session {
    /// Sets the limit up to which commands may go out. Where the first one must wait, what it waits for is asked.
    pub(super) fn hold_back(&mut self, now: Instant) {
        self.limit = u64::MAX;
        if self.queue.is_empty() || !self.link.is_up() || self.pipe.is_some() {
            return;
        }
        while let Some((begin, reason)) = self.first_that_waits(now) {
            if begin > self.inbox.base() {
                // Something before it is to be answered first.
                self.limit = begin;
                return;
            }
            match reason {
                Reason::NoProof => self.link.begin(Errand::proof()),
                Reason::InDoubt => match self.verification() {
                    Ok(errand) => self.link.begin(errand),
                    Err(why) => {
                        self.fail_unsure(&why, now);
                        continue;
                    }
                },
            }
            return;
        }
    }

    /// The first command that is not sent and has to wait: where it begins, and why.
    fn first_that_waits(&self, now: Instant) -> Option<(u64, Reason)> {
        let is_proven = self.link.is_proven(now, self.settings.attempt_timeout);
        if is_proven && !self.queue.has_doubts() {
            return None;
        }
        let may_ask = !is_proven && !self.client.is_subscribed();
        let mut begin = self.inbox.base();
        for entry in self.queue.iter() {
            if begin >= self.inbox.sent() {
                if entry.needs_verification() {
                    return Some((begin, Reason::InDoubt));
                }
                if may_ask && entry.needs_proof() && !self.is_within(entry) {
                    return Some((begin, Reason::NoProof));
                }
            }
            begin = entry.end;
        }
        None
    }

    /// The command belongs to a transaction that has begun on this connection: a question would become part of it.
    fn is_within(&self, entry: &Entry) -> bool {
        let first = self.queue.front_number();
        entry.bound_to.is_some_and(|number| number < first)
    }

    /// The first command reads what a later one of the same pipeline may have changed before, and `reply` to it may show
    /// just that.
    pub(super) fn sees_a_later_write(&self, reply: &[u8]) -> bool {
        let Some(first) = self.queue.front() else {
            return false;
        };
        if first.past != Past::Overtaken {
            return false;
        }
        let mut begin = first.end;
        for entry in self.queue.iter().skip(1) {
            if entry.past == Past::InDoubt && !entry.class.effect.sets_state() {
                let command = self.inbox.kept_command(begin, entry.end);
                let is_seen = match entry.class.repeat {
                    Repeat::Verified => {
                        written_value(command).is_none_or(|value| contains(reply, value))
                    }
                    // What it writes is not known.
                    Repeat::Always | Repeat::Never => true,
                };
                if is_seen {
                    return true;
                }
            }
            begin = entry.end;
        }
        false
    }

    /// How the first command is verified, or why it can't be.
    fn verification(&mut self) -> Result<Errand, String> {
        let attempts = self.settings.attempts;
        let Some(first) = self.queue.front_mut() else {
            return Err(String::new());
        };
        if first.is_used_up(attempts) {
            return Err(String::new());
        }
        if first.bound_to.is_some() {
            return Err("looking at its key would end the client's WATCH".to_owned());
        }
        first.attempts += 1;
        let command = self.inbox.front_command(first.end);
        if command.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        let (verification, question) = Verification::of(command, self.verified.as_ref())
            .ok_or("its key and value can't be told")?;
        Ok(Errand::verification(verification, question))
    }
}

fn contains(reply: &[u8], value: &[u8]) -> bool {
    value.is_empty() || reply.windows(value.len()).any(|part| part == value)
}
