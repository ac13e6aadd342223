//! One client's connection, without its sockets: bytes and moments come in, bytes and wishes go out.
//!
//! ```text
//!   client ──bytes──▶ inbox ──────────────▶ to_upstream()        each command has an entry in `queue`
//!                     (kept until answered)                      until its reply has come
//!   client ◀── to_client() ◀────── replies ◀──bytes── upstream
//! ```
//!
//! Commands stay in the inbox until they are answered, so sending them again copies nothing. What
//! always holds:
//!
//! * Each command gets one reply, in the order of the commands, or the connection ends.
//! * A command that must not be repeated, and that may have been executed, is never sent again; and
//!   nothing before it is, since it would be executed after it.
//! * State that can't be made anew (WATCH, MULTI, subscriptions, tracking) ends with its connection.

use super::commands::{Class, Kind, Repeatable};
use super::gate::{Answer, Gate};
use super::replay::Replay;
use super::resp::{CommandScanner, ProtocolError, ReplyScanner, encode, inline_line, split_inline};
use levee_policy::backoff::Backoff;
use levee_policy::breaker::{Permit, Verdict};
use levee_policy::time::Instant;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// What Redis says, word for word, to clients for whom it has no place: they know it.
pub const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";

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

/// An incomplete reply is kept back up to this length, so that it can be dropped and asked for
/// again. A longer one is passed on as it comes.
const KEPT_BACK: usize = 64 * 1024;

/// For so many bytes that may be held for a client, one more command may be unanswered: so that what is
/// known of very small commands takes no more memory than the commands themselves.
const BYTES_PER_COMMAND: usize = 128;

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The upstream's name.
    pub name: String,
    /// How long a command may take, with all its attempts and waits.
    pub deadline: Duration,
    /// How often a command is sent at most.
    pub attempts: u32,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Which commands may be sent again.
    pub repeatable: Repeatable,
    /// The most bytes of a command's arguments.
    pub command_bytes: u64,
    /// The most bytes that are held in each direction. A command that is longer is passed on as it
    /// comes, and not repeated.
    pub buffered_bytes: usize,
    /// How long a client may do nothing.
    pub idle: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// Where the connection to the upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// There is none, and none is needed.
    Down,
    /// There will be another attempt then.
    Waiting(Instant),
    /// It is being made; it must be there by then.
    Connecting(Instant),
    /// So many replies to what is replayed are to come.
    Replaying(u32),
    /// Commands go out.
    Up,
}

/// A command that has not been answered.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says one thing of the command, and they do not exclude each other"
)]
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where it ends in the stream of the client's bytes. [`u64::MAX`]: it is still coming.
    end: u64,
    /// It is passed on as it comes: its beginning is not kept, so it can't be sent again.
    streamed: bool,
    kind: Kind,
    repeatable: bool,
    reads: bool,
    scripted: bool,
    /// Sent as part of a state (WATCH, MULTI) that began with the command of this number.
    bound_to: Option<u64>,
    number: u64,
    permit: Permit,
    attempts: u32,
    arrived: Instant,
    deadline: Option<Instant>,
}

impl Entry {
    /// Whether Redis may have executed it, when commands were sent as far as `sent`.
    const fn was_sent(&self, sent: u64) -> bool {
        self.streamed || self.end <= sent
    }
}

/// Why the connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// What is in flight is answered first.
    AfterReplies,
    /// As soon as what is to be said is said.
    Now,
}

/// See the [module](self).
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct Session {
    settings: Arc<Settings>,
    gate: Arc<Gate>,
    link: Link,
    ending: Ending,

    /// Bytes of the client; the one at `first` has the position `base` in the client's stream.
    inbox: Vec<u8>,
    first: usize,
    base: u64,
    /// Where the command begins that is being scanned.
    begun: u64,
    scanned: u64,
    /// How far commands were sent on the current connection.
    sent: u64,
    scanner: CommandScanner,
    /// A command that is still coming is being sent already.
    streaming: bool,
    /// Levee's own reply to the command that ends at `scanned`, for when all before it are answered.
    own_reply: Option<Vec<u8>>,
    queue: VecDeque<Entry>,
    next_number: u64,
    /// Commands that were taken on, and the permit they have if all have the same, since the gate was
    /// told: it is asked and told once for each read, not for each command.
    entered: u32,
    pass: Option<Permit>,
    /// Commands that ended since the gate was told: all with this permit, in this way.
    ended: Option<(Permit, Answer, u32)>,

    /// Bytes for the client: up to `ready` they may go.
    replies: Vec<u8>,
    delivered: usize,
    ready: usize,
    frame: usize,
    reply_scanned: usize,
    reply_scanner: ReplyScanner,
    /// Part of the first reply was passed on.
    reply_streams: bool,
    /// How many replies at the front say "not executed", and are kept back.
    held: usize,

    /// What the upstream must be told before the rest.
    preamble: Vec<u8>,
    replay: Replay,
    multi: Option<u64>,
    watch: Option<u64>,
    /// A transaction that the breaker refused goes on: none of it may be executed.
    multi_refused: bool,
    /// What sets the connection's state was answered by Levee: what comes after it can't be executed.
    state_failed: bool,
    subscribed: bool,
    attached: bool,
    /// Attempts in a row that did not bring the first command further.
    failures: u32,
    retried: bool,
    /// Why the last connection could not be made.
    obstacle: String,
    active: Instant,
}

impl Session {
    /// A client that has just connected.
    pub fn new(settings: Arc<Settings>, gate: Arc<Gate>, now: Instant) -> Self {
        Self {
            settings,
            gate,
            link: Link::Down,
            ending: Ending::No,
            inbox: Vec::new(),
            first: 0,
            base: 0,
            begun: 0,
            scanned: 0,
            sent: 0,
            scanner: CommandScanner::default(),
            streaming: false,
            own_reply: None,
            queue: VecDeque::new(),
            next_number: 0,
            entered: 0,
            pass: None,
            ended: None,
            replies: Vec::new(),
            delivered: 0,
            ready: 0,
            frame: 0,
            reply_scanned: 0,
            reply_scanner: ReplyScanner::default(),
            reply_streams: false,
            held: 0,
            preamble: Vec::new(),
            replay: Replay::default(),
            multi: None,
            watch: None,
            multi_refused: false,
            state_failed: false,
            subscribed: false,
            attached: false,
            failures: 0,
            retried: false,
            obstacle: String::new(),
            active: now,
        }
    }

    // ---- the client's side

    /// Whether more of the client's bytes are wanted. Also while a command waits for its turn, since it
    /// is by reading alone that a client's end is noticed.
    pub fn wants_client(&self) -> bool {
        self.ending == Ending::No
            && !self.replies_are_full()
            && self.inbox.len() - self.first < self.settings.buffered_bytes
    }

    /// The client does not take its replies.
    fn replies_are_full(&self) -> bool {
        self.ready - self.delivered >= self.settings.buffered_bytes
    }

    /// Where the client's bytes go; then call [`client_sent`](Self::client_sent).
    pub const fn inbox(&mut self) -> &mut Vec<u8> {
        &mut self.inbox
    }

    /// The inbox has more bytes.
    pub fn client_sent(&mut self, now: Instant) {
        self.active = now;
        self.parse(now);
    }

    /// The client sends no more.
    pub fn client_ended(&mut self) {
        let waits = |entry: &Entry| matches!(entry.kind, Kind::Blocking(_));
        let cut_short = self.scanner.is_within() || self.subscribed || self.queue.iter().any(waits);
        self.end(if cut_short {
            Ending::Now
        } else {
            Ending::AfterReplies
        });
    }

    /// The process is to stop: what is in flight is answered, no more is taken.
    pub fn stop(&mut self) {
        self.end(Ending::AfterReplies);
    }

    /// Bytes for the client.
    pub fn to_client(&self) -> &[u8] {
        &self.replies[self.delivered..self.ready]
    }

    /// So many of them went.
    pub fn client_took(&mut self, bytes: usize, now: Instant) {
        self.active = now;
        let were_full = self.replies_are_full();
        self.delivered += bytes;
        if self.delivered == self.replies.len() {
            self.replies.clear();
            (self.delivered, self.ready, self.frame, self.reply_scanned) = (0, 0, 0, 0);
            shrink(&mut self.replies);
        } else if self.delivered > KEPT_BACK {
            self.replies.drain(..self.delivered);
            self.ready -= self.delivered;
            self.frame = self.frame.saturating_sub(self.delivered);
            self.reply_scanned -= self.delivered;
            self.delivered = 0;
        }
        if were_full && !self.replies_are_full() {
            self.parse(now);
        }
    }

    /// Whether the connection is to be closed now.
    pub fn is_over(&self) -> bool {
        match self.ending {
            Ending::No => false,
            Ending::AfterReplies => {
                self.queue.is_empty() && self.own_reply.is_none() && self.to_client().is_empty()
            }
            Ending::Now => self.to_client().is_empty(),
        }
    }

    /// The client has gone, or is to go: nobody waits for what is in flight.
    pub fn abandon(&mut self, now: Instant) {
        while let Some(entry) = self.queue.pop_front() {
            self.note_end(entry.permit, Answer::Abandoned, now);
        }
        self.tell_gate(now);
        self.link = Link::Down;
    }

    // ---- the upstream's side

    /// Whether a connection is to be made.
    pub const fn wants_connection(&self) -> bool {
        matches!(self.link, Link::Connecting(_))
    }

    /// Whether the connection that there is is to be kept.
    pub const fn keeps_connection(&self) -> bool {
        matches!(self.link, Link::Up | Link::Replaying(_))
    }

    /// It has been made.
    pub fn connected(&mut self) {
        let (commands, count) = self.replay.commands();
        self.preamble = commands;
        self.sent = self.front();
        self.reply_scanner = ReplyScanner::default();
        self.link = if count > 0 {
            Link::Replaying(count)
        } else {
            Link::Up
        };
        self.gate.reachable();
    }

    /// It could not be made.
    pub fn not_connected(&mut self, why: &str, now: Instant) {
        self.note_obstacle(why, now);
        self.retried = true;
        self.link = Link::Waiting(self.gate.unreachable(&self.settings.backoff, now));
        self.parse(now);
    }

    fn note_obstacle(&mut self, why: &str, now: Instant) -> String {
        let message = format!("Redis can't be reached: {why}");
        self.gate.note(&message, now);
        why.clone_into(&mut self.obstacle);
        message
    }

    /// Whether more of the upstream's bytes are wanted.
    pub fn wants_upstream(&self) -> bool {
        self.keeps_connection() && !self.replies_are_full()
    }

    /// Where the upstream's bytes go; then call [`upstream_sent`](Self::upstream_sent).
    pub const fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// There are more of the upstream's bytes: so many.
    pub fn upstream_sent(&mut self, bytes: usize, now: Instant) {
        self.active = now;
        self.gate.metrics.bytes_from.inc_by(bytes as u64);
        self.take_replies(now);
        self.tell_gate(now);
    }

    fn take_replies(&mut self, now: Instant) {
        loop {
            match self
                .reply_scanner
                .advance(&self.replies[self.reply_scanned..])
            {
                Ok((consumed, ended)) => {
                    self.reply_scanned += consumed;
                    if !ended {
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

    /// Bytes for the upstream.
    pub fn to_upstream(&self) -> &[u8] {
        if !self.preamble.is_empty() {
            return &self.preamble;
        }
        if self.link != Link::Up || self.held > 0 {
            return &[];
        }
        let until = if self.streaming {
            self.scanned
        } else {
            self.begun
        };
        &self.inbox[self.index(self.sent)..self.index(until)]
    }

    /// So many of them went.
    pub fn upstream_took(&mut self, bytes: usize, now: Instant) {
        self.gate.metrics.bytes_to.inc_by(bytes as u64);
        if !self.preamble.is_empty() {
            self.preamble.drain(..bytes);
            return;
        }
        let before = self.sent;
        self.sent += bytes as u64;
        for entry in self.queue.iter_mut().rev() {
            if entry.end <= before {
                break;
            }
            if entry.end <= self.sent {
                entry.attempts += 1;
                if matches!(entry.kind, Kind::Blocking(_)) && entry.permit.is_probe() {
                    // It may wait for long where Redis is well; others must be able to find that out.
                    self.gate.give_back(entry.permit, now);
                    entry.permit = Permit::UNTRACKED;
                }
            }
        }
        self.let_go_of_streamed(now);
    }

    /// What is passed on as it comes is not kept, once all before it is answered.
    fn let_go_of_streamed(&mut self, now: Instant) {
        if self.streaming && self.queue.len() == 1 {
            self.let_go(self.sent);
            if let Some(entry) = self.queue.back_mut() {
                entry.deadline = Some(now.after(self.settings.deadline));
            }
        }
    }

    /// The connection to the upstream has ended.
    pub fn lost(&mut self, why: &str, now: Instant) {
        self.on_lost(why, now);
        self.parse(now);
    }

    fn on_lost(&mut self, why: &str, now: Instant) {
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
    fn disconnect(&mut self) {
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

    // ---- time

    /// When [`wake`](Self::wake) must be called at the latest.
    pub fn wake_at(&self) -> Instant {
        let mut at = self.active.after(self.settings.idle);
        if let Link::Waiting(until) | Link::Connecting(until) = self.link {
            at = at.min(until);
        }
        if let Some(due) = self.due() {
            at = at.min(due);
        }
        at
    }

    /// When the first command must have its reply. What stands behind it has to wait for it anyway.
    fn due(&self) -> Option<Instant> {
        let first = self.queue.front()?;
        if matches!(first.kind, Kind::Blocking(_)) && self.link != Link::Up {
            // It does not block yet.
            return Some(first.arrived.after(self.settings.deadline));
        }
        first.deadline
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.overdue(now);
        }
        match self.link {
            Link::Waiting(until) if until <= now => {
                self.link = match self.gate.turn(&self.settings.backoff, now) {
                    Ok(()) => Link::Connecting(now.after(self.settings.connect_timeout)),
                    Err(later) => Link::Waiting(later),
                };
            }
            Link::Connecting(until) if until <= now => {
                let message = format!(
                    "no connection within {}",
                    text(self.settings.connect_timeout)
                );
                self.link = Link::Down;
                self.not_connected(&message, now);
            }
            _ => {}
        }
        let is_idle = self.queue.is_empty() && !self.subscribed && self.to_client().is_empty();
        let is_stuck = !self.to_client().is_empty() || self.waits_for_the_rest();
        if (is_idle || is_stuck) && self.active.after(self.settings.idle) <= now {
            self.gate.metrics.refused_idle.inc();
            self.ready = self.delivered;
            self.disconnect();
            self.end(Ending::Now);
        } else if self.active.after(self.settings.idle) <= now {
            self.active = now;
        }
    }

    /// Redis has all that the client has sent of a command that is passed on as it comes.
    fn waits_for_the_rest(&self) -> bool {
        self.streaming && self.queue.len() == 1 && self.to_upstream().is_empty()
    }

    fn overdue(&mut self, now: Instant) {
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

    // ---- commands

    fn parse(&mut self, now: Instant) {
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
                    self.gate.metrics.refused_protocol.inc();
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
        let (consumed, ended) = self.scanner.advance(&self.inbox[at..])?;
        self.scanned += consumed as u64;
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
        if ended {
            self.on_command(now);
        } else if !self.streaming
            && self.scanned - self.begun >= self.settings.buffered_bytes as u64 / 2
        {
            self.stream_command(now);
        }
        Ok(ended)
    }

    /// Puts inline commands into the form of all others: as many as there are, so that what stands behind
    /// them is moved once. False: the line has not ended yet.
    fn rewrite_inline(&mut self, at: usize) -> Result<bool, ProtocolError> {
        let mut commands = Vec::new();
        let mut until = at;
        while self.inbox.get(until).is_some_and(|byte| *byte != b'*') {
            let line = inline_line(&self.inbox[until..]).and_then(|found| {
                found
                    .map(|(line, next)| Ok((split_inline(&self.inbox[until..][line])?, next)))
                    .transpose()
            });
            match line {
                Ok(Some((words, next))) => {
                    if !words.is_empty() {
                        commands.extend(encode(&words));
                    }
                    until += next;
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
        let class = self.settings.repeatable.classify(command);
        if class.kind == Kind::Http {
            self.gate.metrics.refused_protocol.inc();
            self.end(Ending::Now);
            return;
        }
        if let Kind::Refused(why) = class.kind {
            self.own_reply = Some(format!("-ERR levee: {why}\r\n").into_bytes());
            if self.multi.is_some() {
                // Redis would not execute a transaction one of whose commands it refuses.
                self.take_no_more();
            }
            return;
        }
        let wait = match class.kind {
            Kind::Blocking(wait) if self.multi.is_none() => {
                wait.map(|wait| wait.saturating_add(self.settings.deadline))
            }
            _ => Some(self.settings.deadline),
        };
        self.enter(class, self.scanned, wait.map(|wait| now.after(wait)), now);
    }

    /// A command that is too long to be kept: it goes out as it comes.
    fn stream_command(&mut self, now: Instant) {
        let class = Class {
            repeatable: false,
            reads: false,
            scripted: false,
            kind: Kind::Plain,
        };
        let deadline = now.after(self.settings.deadline);
        let before = self.queue.len();
        self.enter(class, u64::MAX, Some(deadline), now);
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
        if self.multi_refused && class.kind != Kind::Reset {
            self.multi_refused = !matches!(class.kind, Kind::Exec | Kind::Discard);
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
                    if class.kind == Kind::Multi {
                        self.multi_refused = true;
                    } else if class.kind.sets_state() {
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
        let ends_it = matches!(class.kind, Kind::Exec | Kind::Discard | Kind::Reset);
        let queued = self.multi.is_some() && !ends_it;
        let kind = if queued {
            self.kind_when_queued(class.kind)
        } else {
            class.kind
        };
        self.queue.push_back(Entry {
            end,
            streamed: end == u64::MAX,
            kind,
            repeatable: class.repeatable,
            reads: class.reads,
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
        match class.kind {
            Kind::Multi => self.multi = self.multi.or(Some(number)),
            Kind::Watch if !queued => self.watch = self.watch.or(Some(number)),
            Kind::Unwatch if !queued => self.watch = None,
            // Outside of a transaction these are errors, and change nothing.
            Kind::Exec | Kind::Discard if self.multi.is_some() => {
                (self.multi, self.watch) = (None, None);
            }
            Kind::Reset => (self.multi, self.watch) = (None, None),
            Kind::Subscribe => self.subscribed = true,
            Kind::Attach => self.attached = true,
            Kind::Quit => {
                // What stands behind it is not executed.
                let behind = self.index(end);
                self.inbox.truncate(behind);
                self.ending = Ending::AfterReplies;
            }
            _ => {}
        }
    }

    /// State that is set inside a transaction is set when it is executed, if it is: that is not followed.
    fn kind_when_queued(&mut self, kind: Kind) -> Kind {
        if matches!(
            kind,
            Kind::Select | Kind::Auth | Kind::Hello | Kind::ClientSetting
        ) {
            self.attached = true;
        }
        Kind::Plain
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

    // ---- replies

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
        if is_push && first.kind != Kind::Subscribe {
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
        if used_up || !in_time || !self.gate.pay(count, now) {
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
    fn release(&mut self, now: Instant) {
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

    fn drop_incomplete_reply(&mut self) {
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
            match entry.kind {
                Kind::Auth | Kind::Hello | Kind::Select | Kind::ClientSetting => {
                    let is_kept = self.replay.adopt(entry.kind, &self.inbox[command]);
                    self.attached |= !is_kept;
                }
                Kind::Reset => {
                    self.replay = Replay::default();
                    let is_ahead = |kind: Kind| self.queue.iter().any(|entry| entry.kind == kind);
                    (self.subscribed, self.attached) =
                        (is_ahead(Kind::Subscribe), is_ahead(Kind::Attach));
                }
                _ => {}
            }
        }
        if answer != Answer::Reply && matches!(entry.kind, Kind::Multi | Kind::Watch) {
            self.did_not_begin(entry.number);
        }
        self.forget(&entry);
        if entry.end == u64::MAX {
            // It was refused before it was complete, and the rest of it would be taken for commands.
            self.end(Ending::AfterReplies);
        }
        self.let_go_of_streamed(now);
        (self.failures, self.retried) = (0, false);
        if matches!(entry.kind, Kind::Blocking(_)) {
            // What waited behind it could not be served before.
            let limit = now.after(self.settings.deadline);
            for waiting in &mut self.queue {
                waiting.deadline = waiting.deadline.map(|deadline| deadline.max(limit));
            }
        }
        let seconds = now.since(entry.arrived).as_secs_f64();
        match answer {
            Answer::Reply => self.gate.metrics.duration_success.observe(seconds),
            _ => self.gate.metrics.duration_error.observe(seconds),
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

    fn forget(&mut self, entry: &Entry) {
        if entry.end == u64::MAX {
            self.streaming = false;
            (self.begun, self.scanned) = (self.end_of_inbox(), self.end_of_inbox());
        }
        self.let_go(entry.end.min(self.end_of_inbox()));
    }

    // ---- failure

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
    fn has_state(&self) -> bool {
        let first = self
            .queue
            .front()
            .map_or(self.next_number, |entry| entry.number);
        let lost = |began: Option<u64>| began.is_some_and(|number| number < first);
        let is_lost = lost(self.multi) || lost(self.watch);
        is_lost || self.subscribed || self.attached || self.state_failed
    }

    /// There will be another attempt, if that can be paid for and is in time.
    fn try_again(&mut self, message: &str, retries: u32, now: Instant) {
        let wait = self
            .settings
            .backoff
            .wait(self.failures, self.gate.random());
        let at = now.after(wait);
        if self.gate.pay(retries, now) {
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

    fn fail_all(&mut self, what: &str, now: Instant) {
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
            self.gate.metrics.retry_failed.inc();
        }
        let Some(entry) = self.queue.pop_front() else {
            return;
        };
        self.gate
            .metrics
            .duration_failure
            .observe(now.since(entry.arrived).as_secs_f64());
        self.note_end(entry.permit, Answer::Failure, now);
        if entry.end == u64::MAX {
            // The rest of it would be taken for commands.
            self.end(Ending::Now);
        }
        // A transaction has failed as a whole where its EXEC has; has_state knows about the others.
        if entry.kind.sets_state() && !matches!(entry.kind, Kind::Multi | Kind::Watch) {
            self.state_failed = true;
            self.end(Ending::Now);
        }
        self.forget(&entry);
        if self.queue.is_empty() {
            (self.failures, self.retried) = (0, false);
        }
    }

    // ---- the gate

    /// A command ended.
    fn note_end(&mut self, permit: Permit, answer: Answer, now: Instant) {
        match &mut self.ended {
            Some((last_permit, last_answer, count))
                if (*last_permit, *last_answer) == (permit, answer) =>
            {
                *count += 1;
            }
            _ => {
                self.tell_gate(now);
                self.ended = Some((permit, answer, 1));
            }
        }
    }

    /// Tells the gate what happened since the last time.
    fn tell_gate(&mut self, now: Instant) {
        self.pass = None;
        let entered = std::mem::take(&mut self.entered);
        if entered > 0 {
            self.gate.taken(entered, now);
        }
        if let Some((permit, answer, count)) = self.ended.take() {
            self.gate.record(permit, answer, count, now);
        }
    }

    // ---- small things

    /// Puts a reply of our own behind what is ready.
    fn say(&mut self, reply: &[u8]) {
        let at = self.ready;
        self.replies.splice(at..at, reply.iter().copied());
        self.ready += reply.len();
        self.frame += reply.len();
        self.reply_scanned += reply.len();
    }

    fn end(&mut self, ending: Ending) {
        if self.ending != Ending::Now {
            self.ending = ending;
        }
    }

    /// Where the first command that is not answered begins.
    const fn front(&self) -> u64 {
        self.base
    }

    #[allow(clippy::cast_possible_truncation, reason = "the inbox is in memory")]
    const fn index(&self, position: u64) -> usize {
        self.first + (position - self.base) as usize
    }

    const fn end_of_inbox(&self) -> u64 {
        self.base + (self.inbox.len() - self.first) as u64
    }

    /// What stands before `position` in the client's stream is not needed any more.
    fn let_go(&mut self, position: u64) {
        self.first = self.index(position);
        self.base = position;
        self.sent = self.sent.max(position);
        if self.first == self.inbox.len() {
            self.inbox.clear();
            self.first = 0;
            shrink(&mut self.inbox);
        } else if self.first > KEPT_BACK && self.first > self.inbox.len() / 2 {
            // So each byte is moved once at most, however long the pipeline.
            self.inbox.drain(..self.first);
            self.first = 0;
        }
    }
}

/// Gives back what a burst has taken.
fn shrink(buffer: &mut Vec<u8>) {
    if buffer.capacity() > 2 * KEPT_BACK {
        *buffer = Vec::new();
    }
}

fn text(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
