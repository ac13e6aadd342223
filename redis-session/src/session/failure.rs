//! When the connection to the upstream is lost or can't be made, or time is up: what is sent again, and which errors the
//! other commands get.

use super::queue::Past;
use super::{Ending, Session, TOO_MANY_CLIENTS, error, text};
use crate::commands::{Effect, Work};
use crate::gate::Answer;
use levee_policy::budget::Withdrawal;
use levee_policy::time::Instant;
use std::fmt::Write;
use std::time::Duration;

/// Why commands fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure<'a> {
    pub what: &'a str,
    pub why: &'a str,
    pub answer: Answer,
}

impl<'a> Failure<'a> {
    /// There was no answer, or no connection.
    pub const fn unanswered(what: &'a str) -> Self {
        Self {
            what,
            why: "",
            answer: Answer::Failure,
        }
    }

    /// A connection was lost that had worked: perhaps since Redis did not like a command.
    pub const fn dropped(what: &'a str) -> Self {
        Self {
            what,
            why: "",
            answer: Answer::Provoked,
        }
    }
}

impl Session {
    pub(super) fn on_lost(&mut self, why: &str, now: Instant) {
        let at_the_door = self.outbox.holds(TOO_MANY_CLIENTS);
        if !at_the_door {
            self.release(now);
        }
        let has_answered = self.link.has_answered();
        self.disconnect();
        if self.outbox.streams() {
            // Part of a reply was passed on, and nothing can follow it.
            self.fail_all(Failure::dropped("connection lost"), now);
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
        self.blame(sent, has_answered, now);
        let failure = Failure {
            why,
            ..Failure::dropped("connection lost")
        };
        self.fail_cut(
            self.queue.cut(sent, self.settings.attempts),
            failure,
            sent,
            now,
        );
        if self.has_state() {
            self.fail_all(Failure::dropped("connection lost"), now);
            self.end(Ending::Now);
            return;
        }
        self.start_over(sent);
        if self.queue.is_empty() {
            return;
        }
        if !has_answered {
            // Something accepts connections for a Redis that is not there.
            self.note_obstacle(why, now);
            self.wait_for_turn(why, now);
            return;
        }
        let message = if at_the_door {
            String::new()
        } else {
            format!("connection lost ({why}), and not repeated")
        };
        self.try_again(&message, self.retries(sent), now);
    }

    /// What a lost connection says about the commands that were sent on it up to `sent`.
    fn blame(&mut self, sent: u64, has_answered: bool, now: Instant) {
        if !has_answered {
            self.queue.take_attempts_back(sent);
            return;
        }
        self.queue.need_another(now);
        if let Some(first) = self.queue.front_mut()
            && first.was_sent(sent)
        {
            first.drops = first.drops.saturating_add(1);
        }
    }

    /// What was sent up to `sent` and is not answered is sent again, with care.
    pub(super) fn start_over(&mut self, sent: u64) {
        self.queue.doubt(sent);
        if self.queue.has_doubts() {
            self.mark_overtaken(sent);
        }
        self.inbox.rewind();
    }

    /// How many retries are to be paid for if commands were sent up to `sent`: at least one.
    pub(super) fn retries(&self, sent: u64) -> u32 {
        u32::try_from(self.queue.sent(sent))
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// The first command's deadline has passed.
    pub(super) fn overdue(&mut self, now: Instant) {
        let client_is_slow = self.replies_are_full() || self.waits_for_the_rest();
        if client_is_slow && self.link.is_up() {
            // It doesn't take its replies or hasn't sent its command: not the upstream's fault.
            self.queue.extend(now.after(self.settings.deadline));
            return;
        }
        // Redis's own words, if it has said why.
        self.release(now);
        self.gate.waited_in_vain(now);
        let was_up = self.keeps_connection();
        self.disconnect();
        if self.queue.is_empty() {
            return;
        }
        if self.outbox.streams() {
            self.fail_all(Failure::unanswered("no answer"), now);
            self.end(Ending::Now);
            return;
        }
        if was_up {
            let (what, answer) = self.no_answer(now);
            self.gate.note(&what, now);
            let failure = Failure {
                what: &what,
                why: "",
                answer,
            };
            self.fail_overdue(failure, self.inbox.sent(), now);
        } else {
            let limit = text(self.settings.deadline);
            let what = format!("Redis can't be reached within {limit}");
            let obstacle = self.link.obstacle().to_owned();
            self.gate.note(&with_reason(&what, &obstacle), now);
            let failure = Failure {
                why: &obstacle,
                ..Failure::unanswered(&what)
            };
            self.fail_overdue(failure, self.inbox.base(), now);
        }
        self.parse(now);
    }

    /// Why the first command is overdue although there was a connection, and what that says about Redis.
    fn no_answer(&self, now: Instant) -> (String, Answer) {
        let sent = self.inbox.sent();
        let first = self.queue.front();
        let class = first
            .filter(|first| first.was_sent(sent))
            .map(|first| first.class);
        let limit = match (class, first) {
            (Some(class), _) => self.settings.limit(class),
            // What waits for a Redis that is held up has longer.
            (None, Some(first)) => tenths(now.since(first.needed)).max(self.settings.deadline),
            (None, None) => self.settings.deadline,
        };
        let mut what = format!("no answer from Redis within {}", text(limit));
        let (script, answer) = if class.is_some_and(|class| class.work == Work::Script) {
            ("the script may still run there", Answer::Provoked)
        } else if self.gate.is_held_up(now) {
            ("a script may run there", Answer::HeldUp)
        } else {
            return (what, Answer::Failure);
        };
        let _ = write!(
            what,
            ": {script} and hold up all other commands; SCRIPT KILL or FUNCTION KILL ends it if it has written nothing"
        );
        (what, answer)
    }

    /// Answers what is overdue with an error, and tries the rest again.
    fn fail_overdue(&mut self, failure: Failure<'_>, sent: u64, now: Instant) {
        let cut = self.queue.cut_overdue(sent, self.settings.attempts, now);
        self.fail_cut(cut, failure, sent, now);
        if self.has_state() {
            let failure = Failure { why: "", ..failure };
            self.fail_all(failure, now);
            self.end(Ending::Now);
        }
        self.start_over(sent);
        if !self.queue.is_empty() {
            self.try_again(failure.what, self.retries(sent), now);
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
                self.drop_first(Answer::Failure, now);
            }
        } else {
            let what = format!("the retry budget is spent; {message}");
            self.fail_all(Failure::unanswered(&what), now);
        }
        if self.has_state() {
            self.end(Ending::Now);
        }
    }

    /// The first `cut` commands fail. With a MULTI, its whole transaction may.
    fn fail_cut(&mut self, cut: usize, failure: Failure<'_>, sent: u64, now: Instant) {
        let end = self.queue.front_number() + cut as u64;
        while self.queue.front_number() < end && !self.queue.is_empty() {
            self.fail_first(failure, sent, now);
        }
    }

    pub(super) fn fail_all(&mut self, failure: Failure<'_>, now: Instant) {
        let sent = self.inbox.sent();
        while !self.queue.is_empty() {
            self.fail_first(failure, sent, now);
        }
    }

    /// Nobody knows whether the first command was executed, and it is not executed again.
    pub(super) fn fail_unsure(&mut self, why: &str, now: Instant) {
        let failure = Failure {
            why,
            ..Failure::dropped("its reply was lost")
        };
        self.fail_first(failure, self.inbox.sent(), now);
    }

    /// Answers the first command with an error, if commands were sent up to `sent`.
    fn fail_first(&mut self, failure: Failure<'_>, sent: u64, now: Instant) {
        let Some(entry) = self.queue.front().copied() else {
            return;
        };
        let may_be_executed = entry.past == Past::InDoubt || entry.was_sent(sent);
        if !may_be_executed && !self.outbox.streams() && self.say_words(Answer::Unavailable, now) {
            // Better than what Levee could say of it.
            return;
        }
        let mut message = with_reason(failure.what, failure.why);
        if may_be_executed && entry.class.changes_data() {
            message
                .push_str("; the command may or may not have been executed, and is not repeated");
        }
        if may_be_executed && entry.is_dropped() {
            message.push_str("; each connection was closed on which it was sent");
        } else if may_be_executed && entry.is_used_up(self.settings.attempts) {
            let _ = write!(message, "; {} attempts were made", entry.attempts);
        }
        if !self.outbox.streams() {
            self.outbox.say(&error(&message));
        }
        self.drop_first(failure.answer, now);
    }

    fn drop_first(&mut self, answer: Answer, now: Instant) {
        if self.link.was_retried() {
            self.gate.counts.retry_failed.inc();
        }
        let Some(entry) = self.queue.pop() else {
            return;
        };
        let took = now.since(entry.arrived);
        self.gate.counts.duration_failure.observe(took);
        self.tally.end(entry.permit, answer, &self.gate, now);
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

/// In whole tenths of a second.
fn tenths(duration: Duration) -> Duration {
    let tenths = duration.as_millis() / 100;
    Duration::from_millis(100 * u64::try_from(tenths).unwrap_or(u64::MAX / 100))
}

fn with_reason(what: &str, why: &str) -> String {
    if why.is_empty() {
        what.to_owned()
    } else {
        format!("{what} ({why})")
    }
}
