//! From the upstream's bytes to the client: whose reply it is, whether it may go out, and what it has changed.

use super::errand::{Kind, Replayed};
use super::failure::Failure;
use super::link::LinkState;
use super::not_now::{says_busy, says_not_executed, says_unavailable, wants_login, words};
use super::pipe::Pipe;
use super::queue::{Bytes, Entry, Past};
use super::verification::Progress;
use super::{Ending, Session};
use crate::commands::{Class, Effect, Raw, Work};
use crate::gate::Answer;
use levee_policy::budget::Withdrawal;
use levee_policy::time::Instant;

impl Session {
    pub(super) fn take_replies(&mut self, now: Instant) {
        while !self.pipes_bytes() {
            match self.outbox.scan() {
                Ok(false) => break,
                Ok(true) if self.pipe.is_some() => self.on_piped_reply(),
                Err(_) if self.pipe.is_some() => self.pipe = Some(Pipe::Bytes),
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
        if self.link.errand().is_some() {
            self.on_errand(now);
            return;
        }
        let Some(first) = self.first_in_flight() else {
            // A message of a subscription, in RESP2.
            self.outbox.pass();
            return;
        };
        if self.outbox.is_push() && first.class.effect != Effect::Subscribe {
            self.outbox.pass_push();
            return;
        }
        let is_error = self.outbox.is_error();
        if is_error
            && !self.outbox.streams()
            && says_not_executed(self.outbox.reply())
            && self.may_hold()
        {
            self.hold(now);
            return;
        }
        if self.link.is_up() && !self.client.has_logged_in() {
            self.learn_login(first.class, is_error);
        }
        let answer = if !is_error {
            Answer::Reply
        } else if says_unavailable(self.outbox.reply()) {
            Answer::Unavailable
        } else {
            Answer::Error
        };
        self.release(now);
        self.outbox.pass();
        self.link.forget_words();
        self.settle_first(answer, now);
        if self.link.state() == LinkState::Bare {
            self.leave_bare(now);
        }
    }

    /// The first command, if Redis has any of it.
    fn first_in_flight(&self) -> Option<&Entry> {
        let first = self.queue.front()?;
        let has_begun = first.bytes != Bytes::Kept || self.inbox.sent() > self.inbox.base();
        has_begun.then_some(first)
    }

    /// A client that has not logged in has its answer.
    fn learn_login(&self, class: Class, is_error: bool) {
        let reply = self.outbox.reply();
        if is_error && wants_login(reply) {
            // A script could say so, too, where nobody has to log in.
            if !matches!(class.work, Work::Script | Work::Module) {
                self.gate.set_wants_login(true);
            }
        } else if self.gate.wants_login()
            && !class.effect.needs_no_login()
            && (!is_error || reply.starts_with(b"-NOPERM"))
        {
            self.gate.set_wants_login(false);
        }
    }

    /// Holds back a reply that says that its command was not executed, so that it can be tried again.
    fn hold(&mut self, now: Instant) {
        if says_unavailable(self.outbox.reply())
            && let Some(entry) = self.queue.get_mut(self.outbox.held())
        {
            // Like a connection that can't be made, it isn't an attempt.
            entry.attempts = entry.attempts.saturating_sub(1);
        }
        let number = self.queue.front_number() + self.outbox.held() as u64;
        self.link.note_words(self.outbox.reply(), number);
        self.outbox.hold();
        if self.outbox.held() >= self.queue.sent(self.inbox.sent()) {
            self.repeat_held(now);
        }
    }

    /// A reply to a question of Levee's own.
    fn on_errand(&mut self, now: Instant) {
        if self.outbox.is_push() {
            self.outbox.pass_push();
            return;
        }
        let reply = self.outbox.reply().to_vec();
        self.outbox.remove_reply();
        let Some(errand) = self.link.errand_mut() else {
            return;
        };
        match errand.kind() {
            Kind::Proof | Kind::Replay(_) if says_not_executed(&reply) => {
                self.not_now(&reply, now);
            }
            Kind::Proof => self.link.finish_errand(),
            Kind::Replay(replaying) => {
                let is_busy = says_busy(&reply);
                if !is_busy && reply.starts_with(b"-") {
                    self.not_replayed(&reply, now);
                    return;
                }
                let replayed = if is_busy {
                    replaying.none()
                } else {
                    replaying.one()
                };
                if is_busy {
                    self.link.note_words(&reply, u64::MAX);
                }
                self.on_replayed(replayed, now);
            }
            Kind::Verification(verification) => {
                let Some(first) = self.queue.front() else {
                    return;
                };
                let command = self.inbox.front_command(first.end);
                let progress = verification.on_reply(&reply, command);
                self.on_verified(progress, now);
            }
        }
    }

    fn on_replayed(&mut self, replayed: Replayed, now: Instant) {
        match replayed {
            Replayed::NotYet => {}
            Replayed::Whole => self.link.finish_errand(),
            Replayed::Identity => {
                self.link.stay_bare();
                self.answer_busy(now);
            }
            Replayed::Nothing => {
                self.disconnect();
                self.answer_busy(now);
            }
        }
    }

    /// Redis is too busy for the client's state. Commands that need it get Redis' words, as on a connection that has the
    /// state; the first that needs none goes out. The next command tries again on a new connection.
    fn answer_busy(&mut self, now: Instant) {
        let is_bare = self.link.state() == LinkState::Bare;
        while let Some(first) = self.queue.front() {
            if is_bare && first.needs_no_state() {
                return;
            }
            if first.past == Past::InDoubt {
                self.fail_unsure("Redis is busy", now);
                continue;
            }
            if !self.say_words(Answer::Error, now) {
                break;
            }
        }
        self.disconnect();
        self.parse(now);
    }

    /// Answers the first command by what Redis said last to it. Returns whether there was anything.
    pub(super) fn say_words(&mut self, answer: Answer, now: Instant) -> bool {
        let first = self.queue.front();
        let Some(words) = first.and_then(|first| self.link.words(first.number)) else {
            return false;
        };
        let begins = first.is_some_and(|first| first.class.effect == Effect::Multi);
        if begins {
            let words = words.to_vec();
            self.refuse_transaction(&words, answer, now);
        } else {
            self.outbox.say(words);
            self.settle_first(answer, now);
        }
        true
    }

    /// Answers a MULTI and all that belongs to it by `words`: nothing of it is executed.
    fn refuse_transaction(&mut self, words: &[u8], answer: Answer, now: Instant) {
        let is_open = self.client.in_transaction();
        while let Some(first) = self.queue.front() {
            if first.class.effect == Effect::Reset {
                return;
            }
            let ends = matches!(first.class.effect, Effect::Exec | Effect::Discard);
            self.outbox.say(words);
            self.settle_first(answer, now);
            if ends {
                return;
            }
        }
        if is_open {
            self.client.refuse_transaction();
        }
    }

    /// Redis has answered on a connection without the client's state.
    fn leave_bare(&mut self, now: Instant) {
        if self.queue.front().is_none_or(|next| !next.needs_no_state()) {
            self.disconnect();
            self.parse(now);
        }
    }

    fn on_verified(&mut self, progress: Progress, now: Instant) {
        match progress {
            Progress::Wait => {}
            Progress::Ask(question) => {
                if let Some(errand) = self.link.errand_mut() {
                    errand.ask(question);
                }
            }
            Progress::Executed(reply) => {
                self.link.finish_errand();
                self.link.forget_words();
                self.outbox.say(&reply);
                self.settle_first(Answer::Reply, now);
            }
            // The attempts bound how often.
            Progress::Again => self.link.finish_errand(),
            Progress::NotNow(reply) => self.not_now(&reply, now),
            Progress::Unsure(why) => {
                self.link.finish_errand();
                self.fail_unsure(&why, now);
            }
            Progress::Unclean(why) => {
                self.link.finish_errand();
                self.fail_unsure(&why, now);
                self.disconnect();
                self.parse(now);
            }
        }
    }

    /// Redis serves nobody at the moment.
    fn not_now(&mut self, reply: &[u8], now: Instant) {
        self.disconnect();
        self.link.note_words(reply, u64::MAX);
        let message = self.note_obstacle(&words(reply), now);
        self.try_again(&message, 1, now);
        self.parse(now);
    }

    /// Without its state the connection isn't the client's: another identity, another database.
    fn not_replayed(&mut self, reply: &[u8], now: Instant) {
        let what = format!(
            "the connection's state could not be set again: {}",
            words(reply)
        );
        self.link.forget_words();
        self.fail_all(Failure::unanswered(&what), now);
        self.disconnect();
        self.end(Ending::Now);
    }

    /// Whether the reply may be held back: it is Redis's own, and the command can be tried again on another connection.
    fn may_hold(&self) -> bool {
        let entry = self.queue.get(self.outbox.held());
        let is_free = entry.is_some_and(|entry| {
            entry.bound_to.is_none() && !matches!(entry.class.work, Work::Script | Work::Module)
        });
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

    /// A script is answered.
    fn script_ended(&mut self, now: Instant) {
        let sent = self.inbox.sent();
        let is_another = |entry: &Entry| entry.runs_script() && entry.was_sent(sent);
        if !self.link.has_scripts() {
            return;
        }
        if self.queue.iter().any(is_another) {
            self.gate.script_answered(now);
        } else {
            self.link.set_scripts(false);
            self.gate.scripts_ended(now);
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
                Effect::Raw(Raw::Monitor) => {
                    self.gate.counts.raw.inc();
                    self.pipe = Some(Pipe::Replies);
                }
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
        if entry.runs_script() {
            self.script_ended(now);
        }
        self.forget(&entry);
        if entry.is_arriving() {
            // It was refused before it was complete, and its rest would be taken for commands.
            self.end(Ending::AfterReplies);
        }
        self.let_go_of_streamed(now);
        self.link.progressed();
        if entry.holds_up_others() {
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
