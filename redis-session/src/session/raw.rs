//! A session that only passes bytes on: replies and commands don't pair up any more, or what comes are no replies at all.
//! Nothing is repeated and there is no deadline. It ends with the connection, or where Redis begins anew with the client.
//!
//! | asked for by | begins | until |
//! |---|---|---|
//! | MONITOR | with its `+OK` | RESET is answered |
//! | CLIENT REPLY OFF | when it is sent | RESET or CLIENT REPLY ON is answered |
//! | CLIENT REPLY SKIP | when it is sent | the next command is sent, or a later RESET is answered |
//! | REPLCONF ACK | when it is sent | RESET is answered |
//! | SYNC, PSYNC | when it is sent | the connection ends |

use super::client::ClientState;
use super::inbox::Scan;
use super::pipe::Pipe;
use super::{Ending, Session};
use crate::commands::Raw;
use crate::gate::Answer;
use crate::resp::Limits;
use levee_policy::time::Instant;

impl Session {
    /// Redis has got the beginning of what makes a raw pipe of the session, or has answered it.
    pub(super) fn begin_pipe(&mut self, raw: Raw, now: Instant) {
        self.gate.counts.raw.inc();
        self.pipe = Some(Pipe::of(raw, &self.client));
        if let Some(entry) = self.queue.pop() {
            // Redis won't answer, and nobody can tell whether it is well.
            self.tally
                .end(entry.permit, Answer::Abandoned, &self.gate, now);
        }
        self.link.progressed();
        self.pipe_took(now);
    }

    /// Accepts what the client has sent.
    pub(super) fn pipe_commands(&mut self) {
        while let Some(pipe) = self.pipe {
            match pipe {
                Pipe::Bytes => {
                    self.inbox.accept_all();
                    return;
                }
                Pipe::Reset | Pipe::Skipped => return,
                _ if self.inbox.is_scanned() || self.ending == Ending::Now => return,
                _ => {}
            }
            let has_room = self.inbox.len() < self.settings.buffered_bytes;
            match self.inbox.scan(has_room, Limits::default()) {
                Ok(Scan::Rewritten) => {}
                Ok(Scan::Complete) if self.inbox.is_streaming() => {
                    self.inbox.end_stream();
                    self.pipe = Some(pipe.after_long());
                }
                Ok(Scan::Complete) => {
                    self.pipe = Some(pipe.after(self.inbox.command()));
                    self.inbox.accept();
                }
                Ok(Scan::Incomplete) => {
                    // The beginning of one that is sent as it arrives is gone.
                    let is_long = !self.inbox.is_streaming()
                        && self.inbox.command().len() >= self.settings.buffered_bytes / 2;
                    if is_long {
                        if pipe == Pipe::Speaking {
                            self.pipe = Some(Pipe::Replies);
                        }
                        self.inbox.begin_stream();
                    }
                    return;
                }
                // Redis answers it.
                Err(_) => self.pipe = Some(Pipe::Bytes),
            }
        }
    }

    /// Redis has got what was sent.
    pub(super) fn pipe_took(&mut self, now: Instant) {
        self.inbox.let_go_of_sent();
        if self.pipe == Some(Pipe::Skipped) && self.inbox.unsent(u64::MAX).is_empty() {
            self.pipe = None;
        }
        self.parse(now);
    }

    /// There are more bytes of Redis. Returns whether replies are to be looked for in them.
    pub(super) fn pipes_bytes(&mut self) -> bool {
        if self.pipe == Some(Pipe::Bytes) {
            self.outbox.pass_all();
        }
        self.pipe == Some(Pipe::Bytes)
    }

    /// A reply has come through the pipe.
    pub(super) fn on_piped_reply(&mut self) {
        let reply = if self.outbox.streams() {
            // Its beginning is gone. It is a long one.
            &[]
        } else {
            self.outbox.reply()
        };
        let after = match self.pipe {
            Some(Pipe::Reset) if reply == b"+RESET\r\n" => None,
            Some(Pipe::Speaking) if reply == b"+OK\r\n" => None,
            Some(Pipe::Silent | Pipe::Speaking) if !self.outbox.is_push() => Some(Pipe::Replies),
            unchanged => unchanged,
        };
        if self.pipe == Some(Pipe::Reset) && after.is_none() {
            self.client = ClientState::default();
        }
        self.pipe = after;
        self.outbox.pass();
    }

    /// Redis or the network has ended the pipe: what has come is the client's.
    pub(super) fn pipe_lost(&mut self) {
        self.outbox.pass_all();
        self.disconnect();
        self.end(Ending::Now);
    }

    /// The client sends nothing more, and Redis has all that it sent.
    pub(super) fn pipe_is_drained(&self) -> bool {
        let is_open = self.pipe.is_some_and(|pipe| pipe != Pipe::Reset);
        is_open && self.ending == Ending::AfterReplies && self.inbox.unsent(u64::MAX).is_empty()
    }

    /// When a pipe that is to end is cut off.
    pub(super) fn pipe_due(&self) -> Option<Instant> {
        let ends = self.pipe.is_some() && self.ending == Ending::AfterReplies;
        ends.then(|| self.active.after(self.settings.deadline))
    }
}
