//! From the upstream's bytes to the client: whose reply it is, whether it may go out, and what it has changed.

use super::link::LinkState;
use super::{Ending, Session};
use crate::commands::Effect;
use crate::gate::Answer;
use levee_policy::budget::Withdrawal;
use levee_policy::time::Instant;

/// Replies that begin like this say that the command was not executed.
const NOT_EXECUTED: [&[u8]; 6] = [
    b"-LOADING",
    b"-TRYAGAIN",
    b"-CLUSTERDOWN",
    b"-MASTERDOWN",
    b"-READONLY",
    b"-ERR max number of clients reached",
];

/// Those of them that say that Redis serves nobody at the moment.
const UNAVAILABLE: [&[u8]; 3] = [b"-LOADING", b"-CLUSTERDOWN", b"-MASTERDOWN"];

impl Session {
    pub(super) fn take_replies(&mut self, now: Instant) {
        loop {
            match self.outbox.scan() {
                Ok(false) => break,
                Ok(true) => {
                    self.on_reply(now);
                    if !self.keeps_connection() {
                        return;
                    }
                }
                Err(error) => {
                    let why = format!("what Redis sent is not its protocol: {error}");
                    self.lost(&why, now);
                    return;
                }
            }
        }
        if self.link.is_up() && (self.outbox.streams() || self.outbox.is_long()) {
            // Replies before it can't be held back any longer.
            self.release(now);
            self.outbox.stream();
            let deadline = now.after(self.settings.deadline);
            if let Some(first) = self.queue.front_mut() {
                first.deadline = Some(deadline);
            }
        }
        self.parse(now);
    }

    fn on_reply(&mut self, now: Instant) {
        if let LinkState::Replaying(left) = self.link.state() {
            self.on_replayed(left, now);
            return;
        }
        let Some(first) = self.queue.front() else {
            self.outbox.pass();
            return;
        };
        if self.outbox.is_push() && first.class.effect != Effect::Subscribe {
            self.outbox.pass_push();
            return;
        }
        let is_error = self.outbox.is_error();
        if is_error && !self.outbox.streams() && self.says_not_executed() && self.may_hold() {
            self.hold(now);
            return;
        }
        let answer = if !is_error {
            Answer::Reply
        } else if self.says_unavailable() {
            Answer::Unavailable
        } else {
            Answer::Error
        };
        self.release(now);
        self.outbox.pass();
        self.settle_first(answer, now);
    }

    /// Holds back a reply that says that its command was not executed, so that it can be tried again.
    fn hold(&mut self, now: Instant) {
        if self.says_unavailable()
            && let Some(entry) = self.queue.get_mut(self.outbox.held())
        {
            // Like a connection that can't be made, it isn't an attempt.
            entry.attempts = entry.attempts.saturating_sub(1);
        }
        self.outbox.hold();
        if self.outbox.held() >= self.queue.sent(self.inbox.sent()) {
            self.repeat_held(now);
        }
    }

    /// A reply to the preamble.
    fn on_replayed(&mut self, left: u32, now: Instant) {
        let (is_push, is_error) = (self.outbox.is_push(), self.outbox.is_error());
        let reply = String::from_utf8_lossy(self.outbox.reply())
            .trim_end()
            .to_owned();
        let refused = is_error && self.says_not_executed();
        self.outbox.remove_reply();
        if is_push {
            return;
        }
        if refused {
            self.disconnect();
            let message = self.note_obstacle(&reply, now);
            self.try_again(&message, 1, now);
            self.parse(now);
        } else if is_error {
            // Without its state the connection isn't the client's: another identity, another database.
            let what = format!("the connection's state could not be set again: {reply}");
            self.fail_all(&what, now);
            self.disconnect();
            self.end(Ending::Now);
        } else {
            self.link.replayed(left);
        }
    }

    fn says_not_executed(&self) -> bool {
        let reply = self.outbox.reply();
        NOT_EXECUTED.iter().any(|start| reply.starts_with(start))
    }

    fn says_unavailable(&self) -> bool {
        let reply = self.outbox.reply();
        UNAVAILABLE.iter().any(|start| reply.starts_with(start))
    }

    /// Whether the reply may be held back: it is Redis's own, and the command can be tried again on another connection.
    fn may_hold(&self) -> bool {
        let entry = self.queue.get(self.outbox.held());
        let is_free = entry.is_some_and(|entry| entry.bound_to.is_none() && !entry.class.scripted);
        is_free && !self.has_state() && !self.inbox.is_streaming()
    }

    /// Everything in flight was refused: it is tried again on a new connection.
    fn repeat_held(&mut self, now: Instant) {
        let held = self.outbox.held();
        let at = self.next_attempt(now);
        let deadline = self.queue.front().and_then(|entry| entry.deadline);
        let in_time = deadline.is_none_or(|deadline| at < deadline);
        let attempts = self.settings.attempts;
        let used_up = self
            .queue
            .iter()
            .take(held)
            .any(|entry| entry.attempts >= attempts);
        let retries = u32::try_from(held).unwrap_or(u32::MAX);
        if used_up || !in_time || self.gate.pay(retries, now) == Withdrawal::Refused {
            self.release(now);
            return;
        }
        self.disconnect();
        self.inbox.rewind();
        self.link.retry(at);
    }

    /// The client gets what was held back.
    pub(super) fn release(&mut self, now: Instant) {
        for _ in 0..self.outbox.release() {
            self.settle_first(Answer::Unavailable, now);
        }
    }

    /// The first command has its reply.
    fn settle_first(&mut self, answer: Answer, now: Instant) {
        let Some(entry) = self.queue.pop() else {
            return;
        };
        let effect = entry.class.effect;
        if answer == Answer::Reply {
            match effect {
                Effect::Auth | Effect::Hello | Effect::Select | Effect::ClientSetting => {
                    let command = self.inbox.front_command(entry.end);
                    self.client.adopt(effect, command);
                }
                Effect::Reset => self.client.reset(
                    self.queue.has(Effect::Subscribe),
                    self.queue.has(Effect::Attach),
                ),
                _ => {}
            }
        } else if matches!(effect, Effect::Multi | Effect::Watch) {
            self.client.did_not_begin(entry.number);
            self.queue.unbind(entry.number);
        }
        self.forget(&entry);
        if entry.is_arriving() {
            // It was refused before it was complete, and its rest would be taken for commands.
            self.end(Ending::AfterReplies);
        }
        self.let_go_of_streamed(now);
        self.link.progressed();
        if entry.blocks() {
            // What waited behind it could not be served before.
            self.queue.extend(now.after(self.settings.deadline));
        }
        let counts = &self.gate.counts;
        let durations = match answer {
            Answer::Reply => &counts.duration_success,
            _ => &counts.duration_error,
        };
        durations.observe(now.since(entry.arrived));
        self.tally.end(entry.permit, answer, &self.gate, now);
    }
}
