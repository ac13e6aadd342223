//! When the connection to the upstream is lost, can't be made, or time is up: what is sent again, and what
//! each of the others is told.

use super::{Ending, Link, Session, TOO_MANY_CLIENTS, text};
use crate::commands::Effect;
use crate::gate::Answer;
use levee_policy::budget::Withdrawal;
use levee_policy::time::Instant;
use std::fmt::Write;

impl Session {
    pub(super) fn on_lost(&mut self, why: &str, now: Instant) {
        let at_the_door = self.held > 0 && self.replies[self.ready..].starts_with(TOO_MANY_CLIENTS);
        if !at_the_door {
            self.release(now);
        }
        self.disconnect();
        if self.reply_streams {
            // Half of a reply has been passed on; nothing can be put after it.
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
        let sent = if at_the_door { self.front() } else { self.sent };
        let cut = self.cut(sent);
        for _ in 0..cut {
            self.fail_first("connection lost", why, sent, now);
        }
        if self.has_state() {
            self.fail_all("connection lost", now);
            self.end(Ending::Now);
            return;
        }
        self.sent = self.front();
        if self.queue.is_empty() {
            return;
        }
        let again = self.sent_before(sent);
        let message = if at_the_door {
            String::new()
        } else {
            format!("connection lost ({why}), and not repeated")
        };
        self.try_again(&message, again, now);
    }

    /// There is no connection any more, and what it left half said is dropped.
    pub(super) fn disconnect(&mut self) {
        self.link = Link::Down;
        self.preamble.clear();
        self.held = 0;
        self.drop_incomplete_reply();
    }

    /// How many of those that are not answered went out, when commands were sent as far as `sent`: so
    /// many retries are to be paid for, and one at least.
    fn sent_before(&self, sent: u64) -> u32 {
        let again = self.queue.iter().filter(|entry| entry.end <= sent).count();
        u32::try_from(again).unwrap_or(u32::MAX).max(1)
    }

    pub(super) fn overdue(&mut self, now: Instant) {
        let client_is_slow = self.replies_are_full() || self.waits_for_the_rest();
        if client_is_slow && self.link == Link::Up {
            // It does not take its replies, or has not sent its command: not the upstream's fault.
            let later = now.after(self.settings.deadline);
            for entry in &mut self.queue {
                entry.deadline = entry.deadline.map(|_| later);
            }
            return;
        }
        // Redis' own words, where it has said why.
        self.release(now);
        let limit = text(self.settings.deadline);
        let was_up = self.keeps_connection();
        let (sent, streams) = (self.sent, self.reply_streams);
        self.disconnect();
        if self.queue.is_empty() {
            return;
        }
        if streams {
            self.fail_all("no answer", now);
            self.end(Ending::Now);
            return;
        }
        let why = if was_up {
            format!("no answer from Redis within {limit}")
        } else {
            format!("Redis can't be reached within {limit}")
        };
        let obstacle = if was_up {
            String::new()
        } else {
            self.obstacle.clone()
        };
        if obstacle.is_empty() {
            self.gate.note(&why, now);
        } else {
            self.gate.note(&format!("{why} ({obstacle})"), now);
        }
        let sent = if was_up { sent } else { self.front() };
        let mut cut = self.cut(sent);
        let first = self.queue.front().map_or(0, |entry| entry.number);
        for (place, entry) in self.queue.iter().enumerate() {
            let is_overdue = entry.deadline.is_some_and(|deadline| deadline <= now);
            let lost_state = entry
                .bound_to
                .is_some_and(|number| number < first + cut as u64);
            if place == 0 || is_overdue || lost_state {
                cut = cut.max(place + 1);
            }
        }
        for _ in 0..cut {
            self.fail_first(&why, &obstacle, sent, now);
        }
        if self.has_state() {
            self.fail_all(&why, now);
            self.end(Ending::Now);
        }
        self.sent = self.front();
        if !self.queue.is_empty() {
            let again = self.sent_before(sent);
            self.try_again(&why, again, now);
        }
        self.parse(now);
    }

    /// How many commands at the front can't be repeated: all up to the last one that may have been
    /// executed and must not be twice, or that has lost the state it was sent in.
    fn cut(&self, sent: u64) -> usize {
        let mut cut = 0;
        let first = self.queue.front().map_or(0, |entry| entry.number);
        for (place, entry) in self.queue.iter().enumerate() {
            let was_sent = entry.was_sent(sent);
            let lost_state = entry
                .bound_to
                .is_some_and(|number| number < first + cut as u64);
            let used_up = was_sent && entry.attempts >= self.settings.attempts;
            if (was_sent && !entry.repeatable) || lost_state || used_up {
                cut = place + 1;
            }
        }
        cut
    }

    /// Whether the client relies on something that the next connection can't have.
    pub(super) fn has_state(&self) -> bool {
        let first = self
            .queue
            .front()
            .map_or(self.next_number, |entry| entry.number);
        let lost = |began: Option<u64>| began.is_some_and(|number| number < first);
        let is_lost = lost(self.multi) || lost(self.watch);
        is_lost || self.subscribed || self.attached || self.state_failed
    }

    /// There will be another attempt, if that can be paid for and is in time.
    pub(super) fn try_again(&mut self, message: &str, retries: u32, now: Instant) {
        let wait = self
            .settings
            .backoff
            .wait(self.failures, self.gate.random());
        let at = now.after(wait);
        if self.gate.pay(retries, now) == Withdrawal::Paid {
            self.failures += 1;
            self.retried = true;
            self.link = Link::Waiting(at);
            return;
        }
        self.link = Link::Down;
        self.retried = true;
        if message.is_empty() {
            while !self.queue.is_empty() {
                self.say(TOO_MANY_CLIENTS);
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
        let sent = self.sent;
        while !self.queue.is_empty() {
            self.fail_first(what, "", sent, now);
        }
    }

    /// Answers the first command by an error.
    fn fail_first(&mut self, what: &str, why: &str, sent: u64, now: Instant) {
        let Some(entry) = self.queue.front() else {
            return;
        };
        let was_sent = entry.was_sent(sent);
        let mut message = format!("-ERR levee: {what}");
        if !why.is_empty() {
            let _ = write!(message, " ({why})");
        }
        if was_sent && !entry.reads {
            message
                .push_str("; the command may or may not have been executed, and is not repeated");
        }
        if was_sent && entry.repeatable && entry.attempts >= self.settings.attempts {
            let _ = write!(message, "; {} attempts were made", entry.attempts);
        }
        let message = message.replace(['\r', '\n'], " ") + "\r\n";
        if !self.reply_streams {
            self.say(message.as_bytes());
        }
        self.drop_first(now);
    }

    fn drop_first(&mut self, now: Instant) {
        if self.retried {
            self.gate.counts.retry_failed.inc();
        }
        let Some(entry) = self.queue.pop_front() else {
            return;
        };
        self.gate
            .counts
            .duration_failure
            .observe(now.since(entry.arrived));
        self.note_end(entry.permit, Answer::Failure, now);
        if entry.end == u64::MAX {
            // The rest of it would be taken for commands.
            self.end(Ending::Now);
        }
        // A transaction has failed as a whole where its EXEC has; has_state knows about the others.
        if entry.effect.sets_state() && !matches!(entry.effect, Effect::Multi | Effect::Watch) {
            self.state_failed = true;
            self.end(Ending::Now);
        }
        self.forget(&entry);
        if self.queue.is_empty() {
            (self.failures, self.retried) = (0, false);
        }
    }
}
