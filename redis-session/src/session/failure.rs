//! When the connection to the upstream is lost or can't be made, or time is up: what is sent again, and which errors the
//! other commands get.

use super::{Ending, Session, TOO_MANY_CLIENTS, text};
use crate::commands::Effect;
use crate::gate::Answer;
use levee_policy::budget::Withdrawal;
use levee_policy::time::Instant;
use std::fmt::Write;

impl Session {
    pub(super) fn on_lost(&mut self, why: &str, now: Instant) {
        let at_the_door = self.outbox.holds(TOO_MANY_CLIENTS);
        if !at_the_door {
            self.release(now);
        }
        self.disconnect();
        if self.outbox.streams() {
            // Part of a reply was passed on, and nothing can follow it.
            self.fail_all("connection lost", now);
            self.end(Ending::Now);
            return;
        }
        if self.queue.is_empty() {
            if self.has_state() {
                self.end(Ending::Now);
            }
            return;
        }
        self.gate
            .note(&format!("connection to Redis lost: {why}"), now);
        let sent = if at_the_door {
            self.inbox.base()
        } else {
            self.inbox.sent()
        };
        for _ in 0..self.queue.cut(sent, self.settings.attempts) {
            self.fail_first("connection lost", why, sent, now);
        }
        if self.has_state() {
            self.fail_all("connection lost", now);
            self.end(Ending::Now);
            return;
        }
        self.inbox.rewind();
        if self.queue.is_empty() {
            return;
        }
        let message = if at_the_door {
            String::new()
        } else {
            format!("connection lost ({why}), and not repeated")
        };
        self.try_again(&message, self.retries(sent), now);
    }

    /// How many retries are to be paid for if commands were sent up to `sent`: at least one.
    fn retries(&self, sent: u64) -> u32 {
        u32::try_from(self.queue.sent(sent))
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// The first command's deadline has passed.
    pub(super) fn overdue(&mut self, now: Instant) {
        let client_is_slow = self.replies_are_full() || self.waits_for_the_rest();
        if client_is_slow && self.link.is_up() {
            // It doesn't take its replies or hasn't sent its command: not the upstream's fault.
            self.queue.postpone(now.after(self.settings.deadline));
            return;
        }
        // Redis's own words, if it has said why.
        self.release(now);
        let was_up = self.keeps_connection();
        self.disconnect();
        if self.queue.is_empty() {
            return;
        }
        if self.outbox.streams() {
            self.fail_all("no answer", now);
            self.end(Ending::Now);
            return;
        }
        let limit = text(self.settings.deadline);
        let (why, obstacle, sent) = if was_up {
            let why = format!("no answer from Redis within {limit}");
            (why, String::new(), self.inbox.sent())
        } else {
            let why = format!("Redis can't be reached within {limit}");
            (why, self.link.obstacle().to_owned(), self.inbox.base())
        };
        let note = with_reason(&why, &obstacle);
        self.gate.note(&note, now);
        self.fail_overdue(&why, &obstacle, sent, now);
        self.parse(now);
    }

    /// Answers what is overdue with an error, and tries the rest again.
    fn fail_overdue(&mut self, why: &str, obstacle: &str, sent: u64, now: Instant) {
        for _ in 0..self.queue.cut_overdue(sent, self.settings.attempts, now) {
            self.fail_first(why, obstacle, sent, now);
        }
        if self.has_state() {
            self.fail_all(why, now);
            self.end(Ending::Now);
        }
        self.inbox.rewind();
        if !self.queue.is_empty() {
            self.try_again(why, self.retries(sent), now);
        }
    }

    pub(super) fn next_attempt(&self, now: Instant) -> Instant {
        let random = self.gate.random();
        now.after(self.settings.backoff.wait(self.link.failures(), random))
    }

    /// Another attempt, if the budget allows it. Otherwise all commands get an error with `message`, or Redis's own
    /// words if that is empty.
    pub(super) fn try_again(&mut self, message: &str, retries: u32, now: Instant) {
        let at = self.next_attempt(now);
        if self.gate.pay(retries, now) == Withdrawal::Paid {
            self.link.retry(at);
            return;
        }
        self.link.give_up();
        if message.is_empty() {
            while !self.queue.is_empty() {
                self.outbox.say(TOO_MANY_CLIENTS);
                self.drop_first(now);
            }
        } else {
            self.fail_all(&format!("the retry budget is spent; {message}"), now);
        }
        if self.has_state() {
            self.end(Ending::Now);
        }
    }

    pub(super) fn fail_all(&mut self, what: &str, now: Instant) {
        let sent = self.inbox.sent();
        while !self.queue.is_empty() {
            self.fail_first(what, "", sent, now);
        }
    }

    /// Answers the first command with an error, if commands were sent up to `sent`.
    fn fail_first(&mut self, what: &str, why: &str, sent: u64, now: Instant) {
        let Some(entry) = self.queue.front() else {
            return;
        };
        let was_sent = entry.was_sent(sent);
        let mut message = format!("-ERR levee: {}", with_reason(what, why));
        if was_sent && !entry.class.only_reads {
            message
                .push_str("; the command may or may not have been executed, and is not repeated");
        }
        if was_sent && entry.is_used_up(self.settings.attempts) {
            let _ = write!(message, "; {} attempts were made", entry.attempts);
        }
        let message = message.replace(['\r', '\n'], " ") + "\r\n";
        if !self.outbox.streams() {
            self.outbox.say(message.as_bytes());
        }
        self.drop_first(now);
    }

    fn drop_first(&mut self, now: Instant) {
        if self.link.was_retried() {
            self.gate.counts.retry_failed.inc();
        }
        let Some(entry) = self.queue.pop() else {
            return;
        };
        let took = now.since(entry.arrived);
        self.gate.counts.duration_failure.observe(took);
        self.tally
            .end(entry.permit, Answer::Failure, &self.gate, now);
        if entry.is_arriving() {
            // Its rest would be taken for commands.
            self.end(Ending::Now);
        }
        let effect = entry.class.effect;
        // A transaction has failed as a whole if its EXEC has; has_state knows about the others.
        if effect.sets_state() && !matches!(effect, Effect::Multi | Effect::Watch) {
            self.client.fail();
            self.end(Ending::Now);
        }
        self.forget(&entry);
        if self.queue.is_empty() {
            self.link.progressed();
        }
    }
}

fn with_reason(what: &str, why: &str) -> String {
    if why.is_empty() {
        what.to_owned()
    } else {
        format!("{what} ({why})")
    }
}
