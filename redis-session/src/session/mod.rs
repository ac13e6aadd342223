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
//!
//! | file | what is decided there |
//! |---|---|
//! | `mod.rs` | nothing but what the sockets may do, and when to wake; what others share |
//! | `intake.rs` | from the client's bytes to the queue: where commands end, which are let in |
//! | `replies.rs` | from the upstream's bytes to the client: whose reply is it, what has it changed |
//! | `failure.rs` | no connection, or no time: what is sent again, what the others are told |

mod failure;
mod intake;
mod replies;

use crate::commands::Effect;
use crate::gate::{Answer, Gate};
use crate::idempotency::Idempotency;
use crate::replay::Replay;
use crate::resp::{CommandScanner, ReplyScanner};
use levee_policy::backoff::Backoff;
use levee_policy::breaker::Permit;
use levee_policy::time::Instant;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What Redis says, word for word, to clients for whom it has no place: they know it.
pub const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";

/// An incomplete reply is kept back up to this length, so that it can be dropped and asked for
/// again. A longer one is passed on as it comes.
const KEPT_BACK: usize = 64 * 1024;

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The upstream's name.
    pub name: String,
    /// How long a command may take, with all its attempts and waits.
    pub deadline: Duration,
    /// How often a command is sent at most.
    pub attempts: u32,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Which commands may be sent again.
    pub idempotency: Idempotency,
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
    effect: Effect,
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
    settings: Arc<SessionSettings>,
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
    pub fn new(settings: Arc<SessionSettings>, gate: Arc<Gate>, now: Instant) -> Self {
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
        let waits = |entry: &Entry| matches!(entry.effect, Effect::Blocks(_));
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
        let preamble = self.replay.preamble();
        self.preamble = preamble.bytes;
        self.sent = self.front();
        self.reply_scanner = ReplyScanner::default();
        self.link = if preamble.commands > 0 {
            Link::Replaying(preamble.commands)
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
        self.gate.counts.bytes_from.add(bytes as u64);
        self.take_replies(now);
        self.tell_gate(now);
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
        self.gate.counts.bytes_to.add(bytes as u64);
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
                if matches!(entry.effect, Effect::Blocks(_)) && entry.permit.is_probe() {
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
        if matches!(first.effect, Effect::Blocks(_)) && self.link != Link::Up {
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
            self.gate.counts.refused_idle.inc();
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

    fn forget(&mut self, entry: &Entry) {
        if entry.end == u64::MAX {
            self.streaming = false;
            (self.begun, self.scanned) = (self.end_of_inbox(), self.end_of_inbox());
        }
        self.let_go(entry.end.min(self.end_of_inbox()));
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
            self.gate.entered(entered, now);
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
