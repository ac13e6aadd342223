//! Which commands wait until the connection has proven itself, or until it is known what became of them.

use super::Session;
use super::errand::Errand;
use super::queue::{Entry, Past};
use super::verification::{LONGEST, Verification};
use levee_policy::time::Instant;

/// Why a command does not go out yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It must not be repeated, and nobody knows whether Redis still hears.
    NoProof,
    /// It may have been executed before.
    InDoubt,
    /// What it reads may have been changed by a later one since.
    Overtaken,
}

impl Session {
    /// Sets the limit up to which commands may go out. Where the first one must wait, what it waits for is asked.
    pub(super) fn hold_back(&mut self, now: Instant) {
        self.limit = u64::MAX;
        if self.queue.is_empty() || !self.link.is_up() || self.pipe.is_some() {
            return;
        }
        while let Some((begin, reason)) = self.first_that_waits(now) {
            if begin > self.inbox.base() || self.outbox.streams() {
                // Something before it is to be answered first, or to end that the client has a part of.
                self.limit = begin;
                return;
            }
            match reason {
                Reason::NoProof => self.link.begin(Errand::proof()),
                Reason::Overtaken => {
                    self.fail_unsure("a later command may have changed what it reads", now);
                    continue;
                }
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
        let first_unsent = self.inbox.sent();
        for (begin, entry) in self.queue.placed(self.inbox.base()) {
            if begin < first_unsent {
                continue;
            }
            if entry.past == Past::Overtaken {
                return Some((begin, Reason::Overtaken));
            }
            if entry.needs_verification() {
                return Some((begin, Reason::InDoubt));
            }
            if may_ask && entry.needs_proof() && !self.is_within(entry) {
                return Some((begin, Reason::NoProof));
            }
        }
        None
    }

    /// The command belongs to a transaction that has begun on this connection: a question would become part of it.
    fn is_within(&self, entry: &Entry) -> bool {
        let first = self.queue.front_number();
        entry.bound_to.is_some_and(|number| number < first)
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
        let (verification, question) =
            Verification::of(command).ok_or("its key and value can't be told")?;
        Ok(Errand::verification(verification, question))
    }
}
