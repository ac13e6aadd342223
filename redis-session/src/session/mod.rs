//! One client's connection without its sockets: bytes and moments in, bytes and wishes out.
//!
//! ```text
//!   client ──bytes──▶ inbox ──────────────▶ to_upstream()        each command has an entry in the queue
//!                     (kept until answered)                      until it is answered
//!   client ◀── to_client() ◀────── outbox ◀──bytes── upstream
//! ```
//!
//! What always holds:
//!
//! * Each command gets one reply, in order, or the connection ends.
//! * A command that must not be repeated and may have been executed is never sent again. Neither is anything before it,
//!   which would be executed after it.
//! * It goes out only on a connection on which Redis has answered a moment ago.
//! * State that can't be replayed (WATCH, MULTI, subscriptions, tracking) ends with its connection.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | what the sockets may do, when to wake, and the few decisions that need several parts |
//! | `intake.rs` | from the client's bytes to the queue: where commands end, which are admitted |
//! | `replies.rs` | from the upstream's bytes to the client: whose reply it is, what it has changed |
//! | `failure.rs` | no connection or no time: what is sent again, which errors the others get |
//! | `caution.rs` | which commands wait until the connection has proven itself, or until it is known what became of them |
//! | `overtaken.rs` | reads that must not see what a later command of their pipeline has written |
//! | `silence.rs` | a connection without a word: another one is made beside it |
//! | `not_now.rs` | what Redis says in place of executing a command |
//! | `errand.rs`, `verification.rs` | Levee's own questions to Redis between the client's commands |
//! | `pipe.rs` | what is known of the bytes of a raw pipe, and so what ends it |
//! | `raw.rs` | where commands and replies don't pair up: bytes are only passed on |
//! | `inbox.rs`, `outbox.rs` | bytes and positions in them, in each direction |
//! | `buffer.rs` | how much memory of such a buffer is kept |
//! | `queue.rs` | commands that are not answered |
//! | `client.rs` | what the client has set on its connection |
//! | `link.rs` | the connection to the upstream |
//! | `tally.rs` | what is reported to the gate once per read |

mod buffer;
mod caution;
mod client;
mod errand;
mod failure;
mod inbox;
mod intake;
mod link;
mod not_now;
mod outbox;
mod overtaken;
mod pipe;
mod queue;
mod raw;
mod replies;
mod silence;
mod tally;
mod verification;

use crate::commands::{Class, Work};
use crate::gate::{Answer, Gate};
use crate::idempotency::Idempotency;
use crate::proof::Proof;
use crate::reach::SCRIPT_SILENCE;
use client::ClientState;
use errand::Errand;
use inbox::Inbox;
use levee_policy::backoff::Backoff;
use levee_policy::callers::Caller;
use levee_policy::time::Instant;
use link::{Link, LinkState};
use outbox::Outbox;
use pipe::Pipe;
use queue::{Bytes, Entry, Queue};
pub use silence::Choice;
use std::sync::Arc;
use std::time::Duration;
use tally::Tally;

/// Redis's own `maxclients` error. Client libraries recognise it.
pub const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";

#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The upstream's name.
    pub name: String,
    /// The most time for a command, with all attempts and waits.
    pub deadline: Duration,
    /// The same for scripts and functions, which are long on purpose.
    pub script_deadline: Duration,
    /// How often a command is sent at most.
    pub attempts: u32,
    /// After so much silence another connection is tried, and a connection that was silent for longer is proven before
    /// what must not be repeated.
    pub attempt_timeout: Duration,
    /// Waits between attempts.
    pub backoff: Backoff,
    pub idempotency: Idempotency,
    /// The most bytes of a command's arguments.
    pub command_bytes: u64,
    /// The most bytes held in each direction. A longer command is sent as it arrives, and not repeated.
    pub buffered_bytes: usize,
    /// The most time that a client may do nothing. `None`: as long as it likes.
    pub idle: Option<Duration>,
    pub raw: RawPolicy,
    pub connect_timeout: Duration,
}

/// What becomes of a client that asks for MONITOR, SYNC, CLIENT REPLY OFF or their like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawPolicy {
    /// Its session passes bytes on.
    Allow,
    /// It gets an error.
    Refuse,
}

impl SessionSettings {
    /// The most time for a command that does not block, with all attempts and waits.
    fn limit(&self, class: Class) -> Duration {
        if class.work.takes_long() {
            self.script_deadline
        } else {
            self.deadline
        }
    }
}

/// Whether the process has enough memory for the buffers of all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Ample,
    /// A client that doesn't take its replies gets few of them from Redis, and sends little.
    Scarce,
}

/// How many bytes of replies may wait for a client, and of commands behind others, while memory is scarce.
const SCARCE_BYTES: usize = 32 * 1024;

/// The reply to a client whose connection is closed by [`Session::give_up_memory`].
const OUT_OF_MEMORY: &[u8] =
    b"-ERR levee: out of memory: the buffers of this connection are too large\r\n";

/// When there is nothing to wake for.
const A_YEAR: Duration = Duration::from_hours(365 * 24);

/// When the client's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// Once what is in flight is answered.
    AfterReplies,
    /// Once the client has what it may have.
    Now,
}

#[derive(Debug)]
enum Turn {
    /// It is answered by Levee.
    Reply(Vec<u8>),
    /// It enters the queue.
    Command,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Session {
    settings: Arc<SessionSettings>,
    gate: Arc<Gate>,
    tally: Tally,
    inbox: Inbox,
    queue: Queue,
    outbox: Outbox,
    client: ClientState,
    link: Link,
    /// What becomes of the command scanned last, when all before it are answered.
    turn: Option<Turn>,
    /// Bytes are only passed on.
    pipe: Option<Pipe>,
    ending: Ending,
    /// The process stops: commands that block are not waited for.
    stopping: bool,
    /// How many bytes may wait: `buffered_bytes`, or less while memory is scarce.
    room: usize,
    /// Commands from this position of the client's stream on do not go out yet.
    limit: u64,
    /// When bytes last moved.
    active: Instant,
}

impl Session {
    /// A client that has just connected.
    pub fn new(settings: Arc<SessionSettings>, gate: Arc<Gate>, now: Instant) -> Self {
        Self {
            room: settings.buffered_bytes,
            limit: u64::MAX,
            settings,
            gate,
            tally: Tally::default(),
            inbox: Inbox::default(),
            queue: Queue::default(),
            outbox: Outbox::default(),
            client: ClientState::default(),
            link: Link::default(),
            turn: None,
            pipe: None,
            ending: Ending::No,
            stopping: false,
            active: now,
        }
    }

    /// This is who calls. Without it, nobody is told apart.
    #[must_use]
    pub const fn called_by(mut self, caller: Caller) -> Self {
        self.tally.caller = caller;
        self
    }

    // ---- the client's side

    /// Whether to read from the client. Also while a command waits for its turn: only a read notices that the client
    /// has left.
    pub fn wants_client(&self) -> bool {
        self.ending == Ending::No
            && !self.replies_are_full()
            && (self.inbox.len() < self.room || self.may_exceed_room())
    }

    /// While memory is scarce, a command that arrives alone still gets the room that it needs.
    fn may_exceed_room(&self) -> bool {
        self.queue.is_empty() && self.inbox.len() < self.settings.buffered_bytes
    }

    /// The client does not take its replies.
    fn replies_are_full(&self) -> bool {
        self.outbox.backlog() >= self.room
    }

    /// Where the client's bytes go. Then call [`client_sent`](Self::client_sent).
    pub const fn inbox(&mut self) -> &mut Vec<u8> {
        self.inbox.buffer()
    }

    /// There are more bytes in the inbox.
    pub fn client_sent(&mut self, now: Instant) {
        self.active = now;
        self.parse(now);
    }

    /// What the client has sent is about what others subscribe to. Clients don't wait for the reply to SUBSCRIBE before they
    /// publish on another connection, so what others have sent before is to go out first.
    pub fn lets_others_go_first(&self) -> bool {
        let sent = self.inbox.sent();
        self.queue
            .back()
            .is_some_and(|last| last.class.work == Work::Subscribers && !last.was_sent(sent))
    }

    /// The client sends nothing more.
    pub fn client_ended(&mut self) {
        let cut_short = self.pipe.is_none()
            && (self.inbox.is_within_command()
                || self.client.is_subscribed()
                || self.queue.iter().any(Entry::blocks));
        self.end(if cut_short {
            Ending::Now
        } else {
            Ending::AfterReplies
        });
    }

    /// Other settings take force, for commands that are not answered too.
    pub fn configure(&mut self, settings: Arc<SessionSettings>) {
        self.settings = settings;
    }

    /// The process stops: what is in flight is answered, nothing more is accepted. Commands that block end at once.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.end(Ending::AfterReplies);
    }

    /// Bytes for the client.
    pub fn to_client(&self) -> &[u8] {
        self.outbox.deliverable()
    }

    /// The client took the first `bytes` of them.
    pub fn client_took(&mut self, bytes: usize, now: Instant) {
        self.active = now;
        let were_full = self.replies_are_full();
        self.outbox.took(bytes);
        if were_full && !self.replies_are_full() {
            self.parse(now);
            // Nothing was read of Redis meanwhile.
            self.link.may_be_silent();
            self.measure_silence(now);
        }
    }

    /// Whether to close the client's connection now.
    pub fn is_over(&self) -> bool {
        let has_taken_all = !self.outbox.has_deliverable();
        match self.ending {
            Ending::No => false,
            Ending::AfterReplies => {
                let owes_nothing =
                    self.queue.is_empty() && self.turn.is_none() && self.pipe.is_none();
                (owes_nothing || (self.hangs_up() && !self.keeps_connection())) && has_taken_all
            }
            Ending::Now => has_taken_all,
        }
    }

    /// The client has left or is made to leave: nobody waits for what is in flight.
    pub fn abandon(&mut self, now: Instant) {
        while let Some(entry) = self.queue.pop() {
            self.tally
                .end(entry.permit, Answer::Abandoned, &self.gate, now);
        }
        self.tally.flush(&self.gate, now);
        self.disconnect();
    }

    // ---- the upstream's side

    /// Whether to connect to the upstream.
    pub const fn wants_connection(&self) -> bool {
        matches!(self.link.state(), LinkState::Connecting(_))
    }

    /// Whether to keep the connection to the upstream.
    pub const fn keeps_connection(&self) -> bool {
        self.link.is_connected()
    }

    /// The wanted connection was made; `proof` says whether Redis has answered on it.
    pub fn connected(&mut self, proof: Proof, now: Instant) {
        let errand = self.first_errand(proof);
        self.link.connected(errand, proof);
        self.inbox.rewind();
        if let Proof::Answered { at } = proof {
            self.gate.reachable(at);
        }
        self.hold_back(now);
    }

    /// What is asked first on a connection that was made.
    fn first_errand(&self, proof: Proof) -> Option<Errand> {
        let preamble = self.client.preamble();
        if preamble.commands > 0 {
            return Some(Errand::replay(preamble));
        }
        // The last one has failed, so this one has to answer before it counts.
        let is_doubtful = proof == Proof::None && self.link.was_retried();
        is_doubtful.then(Errand::proof)
    }

    /// The wanted connection could not be made.
    pub fn not_connected(&mut self, why: &str, now: Instant) {
        self.note_obstacle(why, now);
        self.wait_for_turn(why, now);
        self.parse(now);
    }

    /// Redis can't be reached since this connection was begun, as far as is known.
    fn wait_for_turn(&mut self, why: &str, now: Instant) {
        let (backoff, since) = (&self.settings.backoff, self.link.began());
        let next = self.gate.unreachable(backoff, why, since, now);
        self.link.not_connected(next);
    }

    /// Whether to read from the upstream.
    pub fn wants_upstream(&self) -> bool {
        self.keeps_connection() && !self.replies_are_full()
    }

    /// Whether to send the upstream nothing more, not even what is there, and to say so. It then closes the connection, after
    /// all replies that it has given: nothing that was popped for the client is lost.
    pub fn hangs_up(&self) -> bool {
        (self.stopping && self.queue.front().is_some_and(Entry::blocks)) || self.pipe_is_drained()
    }

    /// Where the upstream's bytes go. Then call [`upstream_sent`](Self::upstream_sent).
    pub const fn replies(&mut self) -> &mut Vec<u8> {
        self.outbox.buffer()
    }

    /// There are more of the upstream's bytes: this many.
    pub fn upstream_sent(&mut self, bytes: usize, now: Instant) {
        self.active = now;
        self.gate.counts.bytes_from.add(bytes as u64);
        if self.link.heard(now) {
            self.gate.reachable(now);
        }
        self.take_replies(now);
        self.measure_silence(now);
        self.tally.flush(&self.gate, now);
    }

    /// Whether a raw pipe begins with these bytes. Redis refuses SYNC and PSYNC on a connection to which it still owes a reply.
    pub fn begins_pipe(&self) -> bool {
        self.queue.raw().is_some_and(|raw| !raw.is_answered())
    }

    /// Bytes for the upstream.
    pub fn to_upstream(&self) -> &[u8] {
        if let Some(errand) = self.link.errand() {
            return errand.unsent();
        }
        if self.outbox.held() > 0 {
            return &[];
        }
        match (self.link.state(), self.queue.front()) {
            (LinkState::Connected, _) => self.inbox.unsent(self.limit),
            (LinkState::Bare, Some(first)) => self.inbox.unsent(first.end),
            _ => &[],
        }
    }

    /// The upstream took the first `bytes` of them.
    pub fn upstream_took(&mut self, bytes: usize, now: Instant) {
        self.gate.counts.bytes_to.add(bytes as u64);
        self.link.asked(now);
        if let Some(errand) = self.link.errand_mut() {
            errand.took(bytes);
            return;
        }
        let before = self.inbox.sent();
        self.inbox.took(bytes);
        if self.pipe.is_some() {
            self.pipe_took(now);
            return;
        }
        if let Some(raw) = self.queue.raw()
            && !raw.is_answered()
        {
            self.begin_pipe(raw, now);
            return;
        }
        let sent = self.inbox.sent();
        let mut sends_script = false;
        for entry in self.queue.iter_mut().rev() {
            if entry.end <= before {
                break;
            }
            if entry.end <= sent {
                entry.attempts += 1;
                sends_script |= entry.runs_script();
            }
        }
        if sends_script && !self.link.has_scripts() {
            self.link.set_scripts(true);
            self.gate.script_sent(now);
        }
        self.let_go_of_streamed(now);
    }

    /// What is sent as it arrives is not kept once all before it is answered.
    fn let_go_of_streamed(&mut self, now: Instant) {
        if self.inbox.is_streaming() && self.queue.len() == 1 {
            let has_begun = self.inbox.has_begun_stream();
            self.inbox.let_go_of_sent();
            if let Some(entry) = self.queue.back_mut() {
                if has_begun {
                    entry.bytes = Bytes::Begun;
                }
                entry.deadline = Some(now.after(self.settings.limit(entry.class)));
            }
        }
    }

    /// The connection to the upstream has ended.
    pub fn lost(&mut self, why: &str, now: Instant) {
        if self.pipe.is_some() {
            self.pipe_lost();
            return;
        }
        if self.hangs_up() {
            self.disconnect();
            self.end(Ending::Now);
            return;
        }
        self.on_lost(why, now);
        self.parse(now);
    }

    // ---- memory

    /// What the buffers take, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.inbox.capacity()
            + self.outbox.capacity()
            + self.queue.capacity_bytes()
            + self.link.held_bytes()
    }

    /// Bounds what waits by what memory there is. Returns whether the bound has changed.
    pub fn set_memory(&mut self, memory: Memory, now: Instant) -> bool {
        let most = self.settings.buffered_bytes;
        let room = match memory {
            Memory::Ample => most,
            Memory::Scarce => most.min(SCARCE_BYTES),
        };
        if room == self.room {
            return false;
        }
        self.room = room;
        if memory == Memory::Ample {
            // Commands may have waited for room.
            self.parse(now);
        }
        true
    }

    /// Releases memory that the buffers don't use at the moment.
    pub fn shrink(&mut self) {
        self.inbox.shrink();
        self.outbox.shrink();
        self.queue.shrink();
    }

    /// Releases all memory and ends the connection. A client that has taken all of its replies gets an error.
    pub fn give_up_memory(&mut self, now: Instant) {
        self.gate.counts.refused_memory.inc();
        let may_speak =
            !self.outbox.streams() && !self.outbox.has_deliverable() && self.pipe.is_none();
        self.abandon(now);
        self.inbox = Inbox::default();
        self.outbox = Outbox::default();
        self.link.forget_words();
        self.turn = None;
        if may_speak {
            self.outbox.say(OUT_OF_MEMORY);
        }
        self.end(Ending::Now);
        self.shrink();
    }

    // ---- time

    /// When to call [`wake`](Self::wake) at the latest.
    pub fn wake_at(&self) -> Instant {
        let mut at = self.active.after(self.settings.idle.unwrap_or(A_YEAR));
        if let LinkState::Waiting(until) | LinkState::Connecting(until) = self.link.state() {
            at = at.min(until);
        }
        for due in [self.due(), self.pipe_due()].into_iter().flatten() {
            at = at.min(due);
        }
        if let Some(silent) = self.silent_at() {
            at = at.min(silent);
        }
        at
    }

    /// When the first command must have its reply. Those behind it have to wait for it anyway.
    fn due(&self) -> Option<Instant> {
        let first = self.queue.front()?;
        if first.holds_up_others() && !self.link.is_up() {
            // It does not run yet.
            let mut limit = first.needed.after(self.settings.deadline);
            if first.class.work == Work::Rescue && self.link.is_connected() {
                // A script of which Levee knows nothing may be why Redis is silent.
                limit = limit.after(SCRIPT_SILENCE);
            }
            let limit = self.gate.held_up_until().unwrap_or(limit).max(limit);
            return Some(first.deadline.map_or(limit, |deadline| deadline.min(limit)));
        }
        first.deadline
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.overdue(now);
        }
        if self.pipe_due().is_some_and(|due| due <= now) {
            self.pipe_lost();
        }
        match self.link.state() {
            LinkState::Waiting(until) if until <= now => {
                match self.gate.turn(&self.settings.backoff, now) {
                    Ok(()) => self.link.connect(now, self.settings.connect_timeout),
                    Err(later) => self.link.wait(later),
                }
            }
            LinkState::Connecting(until) if until <= now => {
                let limit = text(self.settings.connect_timeout);
                self.link.disconnect();
                self.not_connected(&format!("no connection within {limit}"), now);
            }
            _ => {}
        }
        self.notice_silence(now);
        self.close_idle(now);
    }

    fn close_idle(&mut self, now: Instant) {
        let Some(limit) = self.settings.idle else {
            self.active = now;
            return;
        };
        if self.active.after(limit) > now {
            return;
        }
        let has_taken_all = !self.outbox.has_deliverable();
        let listens = self.client.is_subscribed() || self.pipe.is_some();
        let is_idle = self.queue.is_empty() && !listens && has_taken_all;
        if is_idle || !has_taken_all || self.waits_for_the_rest() {
            self.gate.counts.refused_idle.inc();
            self.outbox.discard();
            self.disconnect();
            self.end(Ending::Now);
        } else {
            self.active = now;
        }
    }

    /// Redis has everything that the client has sent of a command that is sent as it arrives.
    fn waits_for_the_rest(&self) -> bool {
        self.inbox.is_streaming() && self.queue.len() == 1 && self.to_upstream().is_empty()
    }

    // ---- decisions that need several parts

    /// There is no connection any more. What it left incomplete is dropped.
    fn disconnect(&mut self) {
        if self.link.has_scripts() {
            self.gate.scripts_left();
        }
        self.link.disconnect();
        self.outbox.disconnect();
    }

    /// The client relies on state that the next connection can't have.
    fn has_state(&self) -> bool {
        self.client.is_lost(self.queue.front_number())
    }

    fn note_obstacle(&mut self, why: &str, now: Instant) -> String {
        let message = format!("Redis can't be reached: {why}");
        self.gate.note(&message, now);
        self.link.note_obstacle(why);
        message
    }

    /// `entry` is answered, so its bytes are not needed any more.
    fn forget(&mut self, entry: &Entry) {
        if entry.is_arriving() {
            self.inbox.let_go_of_stream();
        } else {
            self.inbox.let_go_of_front(entry.end);
        }
    }

    fn end(&mut self, ending: Ending) {
        if self.ending != Ending::Now {
            self.ending = ending;
        }
    }
}

/// An error reply of Levee's own. It has one line, whatever the message quotes.
fn error(message: &str) -> Vec<u8> {
    let line = message.replace(['\r', '\n'], " ");
    format!("-ERR levee: {line}\r\n").into_bytes()
}

fn text(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
