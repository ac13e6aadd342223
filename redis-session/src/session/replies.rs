//! From the upstream's bytes to the client: whose reply is it, may it go out, and what has it changed.

use super::{Ending, KEPT_BACK, Link, Session};
use crate::commands::Effect;
use crate::gate::Answer;
use crate::replay::Replay;
use crate::resp::ReplyScanner;
use levee_policy::budget::Withdrawal;
use levee_policy::time::Instant;

/// Replies that begin so say that the command was not executed.
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
            match self
                .reply_scanner
                .advance(&self.replies[self.reply_scanned..])
            {
                Ok(progress) => {
                    self.reply_scanned += progress.consumed;
                    if !progress.complete {
                        break;
                    }
                    self.on_reply(now);
                    if !self.keeps_connection() {
                        return;
                    }
                }
                Err(error) => {
                    self.lost(
                        &format!("what Redis sent is not its protocol: {error}"),
                        now,
                    );
                    return;
                }
            }
        }
        let is_long = self.replies.len() - self.frame > KEPT_BACK;
        if self.link == Link::Up && (self.reply_streams || is_long) {
            // What was kept back before it can't be kept any longer.
            self.release(now);
            self.reply_streams = true;
            self.ready = self.reply_scanned;
            let deadline = now.after(self.settings.deadline);
            if let Some(first) = self.queue.front_mut() {
                first.deadline = Some(deadline);
            }
        }
        self.parse(now);
    }

    fn on_reply(&mut self, now: Instant) {
        let is_push = self.reply_scanner.kind() == b'>';
        let is_error = matches!(self.reply_scanner.kind(), b'-' | b'!');
        if let Link::Replaying(left) = self.link {
            self.on_replayed(left, is_push, is_error, now);
            return;
        }
        let Some(first) = self.queue.front().copied() else {
            self.pass_reply();
            return;
        };
        if is_push && first.effect != Effect::Subscribe {
            self.pass_if_free();
            return;
        }
        if is_error && !self.reply_streams && self.says_not_executed() && self.may_hold() {
            if self.says_unavailable()
                && let Some(entry) = self.queue.get_mut(self.held)
            {
                // Like a connection that can't be made: that is not an attempt.
                entry.attempts = entry.attempts.saturating_sub(1);
            }
            self.held += 1;
            self.frame = self.reply_scanned;
            let outstanding = self
                .queue
                .iter()
                .filter(|entry| entry.end <= self.sent)
                .count();
            if self.held >= outstanding {
                self.repeat_held(now);
            }
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
        self.pass_reply();
        self.settle_first(answer, now);
    }

    fn on_replayed(&mut self, left: u32, is_push: bool, is_error: bool, now: Instant) {
        let said = String::from_utf8_lossy(&self.replies[self.frame..self.reply_scanned])
            .trim_end()
            .to_owned();
        let refused = is_error && self.says_not_executed();
        self.replies.drain(self.frame..self.reply_scanned);
        self.reply_scanned = self.frame;
        if is_push {
            return;
        }
        if refused {
            self.disconnect();
            let message = self.note_obstacle(&said, now);
            self.try_again(&message, 1, now);
            self.parse(now);
        } else if is_error {
            // Without its state the connection is not the client's: somebody else's identity, another database.
            self.fail_all(
                &format!("the connection's state could not be set again: {said}"),
                now,
            );
            self.disconnect();
            self.end(Ending::Now);
        } else {
            self.link = if left > 1 {
                Link::Replaying(left - 1)
            } else {
                Link::Up
            };
        }
    }

    fn says_not_executed(&self) -> bool {
        let reply = &self.replies[self.frame..self.reply_scanned];
        NOT_EXECUTED.iter().any(|start| reply.starts_with(start))
    }

    /// Whether the reply says that Redis serves nobody at the moment.
    fn says_unavailable(&self) -> bool {
        let reply = &self.replies[self.frame..self.reply_scanned];
        UNAVAILABLE.iter().any(|start| reply.starts_with(start))
    }

    fn may_hold(&self) -> bool {
        let is_to_be_believed = self
            .queue
            .get(self.held)
            .is_some_and(|entry| entry.bound_to.is_none() && !entry.scripted);
        is_to_be_believed && !self.has_state() && !self.streaming && self.held < self.queue.len()
    }

    /// All that is in flight was refused: it is tried again on a new connection.
    fn repeat_held(&mut self, now: Instant) {
        let count = u32::try_from(self.held).unwrap_or(u32::MAX);
        let wait = self
            .settings
            .backoff
            .wait(self.failures, self.gate.random());
        let at = now.after(wait);
        let in_time = self
            .queue
            .front()
            .and_then(|entry| entry.deadline)
            .is_none_or(|deadline| at < deadline);
        let attempts = self.settings.attempts;
        let used_up = self
            .queue
            .iter()
            .take(self.held)
            .any(|entry| entry.attempts >= attempts);
        if used_up || !in_time || self.gate.pay(count, now) == Withdrawal::Refused {
            self.release(now);
            return;
        }
        self.disconnect();
        self.failures += 1;
        self.retried = true;
        self.sent = self.front();
        self.link = Link::Waiting(at);
    }

    /// What was held back goes to the client as it came.
    pub(super) fn release(&mut self, now: Instant) {
        if self.held == 0 {
            return;
        }
        self.ready = self.frame;
        for _ in 0..std::mem::take(&mut self.held) {
            self.settle_first(Answer::Unavailable, now);
        }
    }

    fn pass_if_free(&mut self) {
        if self.held == 0 {
            self.pass_reply();
        } else {
            self.frame = self.reply_scanned;
        }
    }

    fn pass_reply(&mut self) {
        self.ready = self.reply_scanned;
        self.frame = self.reply_scanned;
        self.reply_streams = false;
    }

    pub(super) fn drop_incomplete_reply(&mut self) {
        self.replies.truncate(self.ready);
        (self.frame, self.reply_scanned) = (self.ready, self.ready);
        self.reply_scanner = ReplyScanner::default();
    }

    /// The first command has its reply.
    fn settle_first(&mut self, answer: Answer, now: Instant) {
        let Some(entry) = self.queue.pop_front() else {
            return;
        };
        if answer == Answer::Reply {
            let command = self.first..self.index(entry.end.min(self.end_of_inbox()));
            match entry.effect {
                Effect::Auth | Effect::Hello | Effect::Select | Effect::ClientSetting => {
                    let kept = self.replay.adopt(entry.effect, &self.inbox[command]);
                    self.attached |= kept.is_err();
                }
                Effect::Reset => {
                    self.replay = Replay::default();
                    let is_ahead =
                        |effect: Effect| self.queue.iter().any(|entry| entry.effect == effect);
                    (self.subscribed, self.attached) =
                        (is_ahead(Effect::Subscribe), is_ahead(Effect::Attach));
                }
                _ => {}
            }
        }
        if answer != Answer::Reply && matches!(entry.effect, Effect::Multi | Effect::Watch) {
            self.did_not_begin(entry.number);
        }
        self.forget(&entry);
        if entry.end == u64::MAX {
            // It was refused before it was complete, and the rest of it would be taken for commands.
            self.end(Ending::AfterReplies);
        }
        self.let_go_of_streamed(now);
        (self.failures, self.retried) = (0, false);
        if matches!(entry.effect, Effect::Blocks(_)) {
            // What waited behind it could not be served before.
            let limit = now.after(self.settings.deadline);
            for waiting in &mut self.queue {
                waiting.deadline = waiting.deadline.map(|deadline| deadline.max(limit));
            }
        }
        let took = now.since(entry.arrived);
        match answer {
            Answer::Reply => self.gate.counts.duration_success.observe(took),
            _ => self.gate.counts.duration_error.observe(took),
        }
        self.note_end(entry.permit, answer, now);
    }

    /// The MULTI or WATCH of this number was refused: nothing depends on it.
    fn did_not_begin(&mut self, number: u64) {
        for state in [&mut self.multi, &mut self.watch] {
            *state = state.filter(|began| *began != number);
        }
        for entry in &mut self.queue {
            entry.bound_to = entry.bound_to.filter(|began| *began != number);
        }
    }
}
