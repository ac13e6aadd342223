//! The upstream's bytes, until the client has taken them.

use super::buffer::{CONSUMED, shrink};
use crate::resp::{ProtocolError, ReplyScanner};

/// An incomplete reply is held back up to this length, so that it can be dropped and requested again. A longer one is
/// passed on as it arrives.
const HELD_BACK: usize = 64 * 1024;

/// ```text
///   delivered        ready          frame          scanned      end
///      │ for the client │ held replies │ current reply │ unscanned │
/// ```
///
/// While the current reply streams, `ready` is ahead of `frame`.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    delivered: usize,
    ready: usize,
    frame: usize,
    scanned: usize,
    scanner: ReplyScanner,
    /// Part of the current reply was passed on.
    streams: bool,
    /// Replies at the front that say "not executed" and are held back.
    held: usize,
}

impl Outbox {
    /// Where arriving bytes go.
    pub const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Bytes for the client.
    pub fn deliverable(&self) -> &[u8] {
        self.bytes
            .get(self.delivered..self.ready)
            .unwrap_or_default()
    }

    pub const fn has_deliverable(&self) -> bool {
        self.ready > self.delivered
    }

    /// Bytes that the client has not taken.
    pub const fn backlog(&self) -> usize {
        self.ready - self.delivered
    }

    pub const fn streams(&self) -> bool {
        self.streams
    }

    pub const fn held(&self) -> usize {
        self.held
    }

    /// The replies that are held back begin with `reply`.
    pub fn holds(&self, reply: &[u8]) -> bool {
        let held = self.bytes.get(self.ready..).unwrap_or_default();
        self.held > 0 && held.starts_with(reply)
    }

    pub const fn is_push(&self) -> bool {
        self.scanner.kind() == b'>'
    }

    pub const fn is_error(&self) -> bool {
        matches!(self.scanner.kind(), b'-' | b'!')
    }

    /// The current reply.
    pub fn reply(&self) -> &[u8] {
        self.bytes.get(self.frame..self.scanned).unwrap_or_default()
    }

    pub fn took(&mut self, bytes: usize) {
        self.delivered += bytes;
        if self.delivered == self.bytes.len() {
            self.bytes.clear();
            (self.delivered, self.ready, self.frame, self.scanned) = (0, 0, 0, 0);
            shrink(&mut self.bytes);
        } else if self.delivered > CONSUMED {
            self.bytes.drain(..self.delivered);
            self.ready -= self.delivered;
            self.frame = self.frame.saturating_sub(self.delivered);
            self.scanned -= self.delivered;
            self.delivered = 0;
        }
        self.check();
    }

    /// Scans up to the end of the next reply. Returns whether it has come.
    pub fn scan(&mut self) -> Result<bool, ProtocolError> {
        let unscanned = self.bytes.get(self.scanned..).unwrap_or_default();
        let progress = self.scanner.advance(unscanned)?;
        self.scanned += progress.consumed;
        Ok(progress.complete)
    }

    /// Puts a reply of Levee's behind what is ready.
    pub fn say(&mut self, reply: &[u8]) {
        debug_assert!(!self.streams, "inside another reply");
        let at = self.ready;
        self.bytes.splice(at..at, reply.iter().copied());
        self.ready += reply.len();
        self.frame += reply.len();
        self.scanned += reply.len();
        self.check();
    }

    /// The client may have the current reply.
    pub fn pass(&mut self) {
        self.ready = self.scanned;
        self.frame = self.scanned;
        self.streams = false;
        self.check();
    }

    /// The client may have all that has come, whether replies end there or not.
    pub fn pass_all(&mut self) {
        self.scanned = self.bytes.len();
        self.pass();
    }

    /// The current reply is not the first command's: the client may have it unless others before it are held back.
    pub fn pass_push(&mut self) {
        if self.held == 0 {
            self.pass();
        } else {
            self.frame = self.scanned;
        }
        self.check();
    }

    /// Holds the current reply back.
    pub fn hold(&mut self) {
        self.held += 1;
        self.frame = self.scanned;
        self.check();
    }

    /// The client may have what was held back. Returns how many replies that are.
    pub fn release(&mut self) -> usize {
        if self.held > 0 {
            self.ready = self.frame;
        }
        self.check();
        std::mem::take(&mut self.held)
    }

    /// The current reply is longer than may be held back.
    pub const fn is_long(&self) -> bool {
        self.bytes.len() - self.frame > HELD_BACK
    }

    /// The client may have what has come of the current reply. Call it when nothing is held back.
    pub fn stream(&mut self) {
        debug_assert_eq!(self.held, 0);
        self.streams = true;
        self.ready = self.scanned;
        self.check();
    }

    /// Removes the current reply: it was not for the client.
    pub fn remove_reply(&mut self) {
        self.bytes.drain(self.frame..self.scanned);
        self.scanned = self.frame;
        self.check();
    }

    /// The connection is gone: removes what is held back or incomplete.
    pub fn disconnect(&mut self) {
        self.held = 0;
        self.bytes.truncate(self.ready);
        (self.frame, self.scanned) = (self.ready, self.ready);
        self.scanner = ReplyScanner::default();
        self.check();
    }

    /// The client takes nothing more.
    pub const fn discard(&mut self) {
        self.ready = self.delivered;
    }

    fn check(&self) {
        debug_assert!(self.delivered <= self.ready && self.ready <= self.scanned);
        debug_assert!(self.streams || self.ready <= self.frame);
        debug_assert!(self.frame <= self.scanned && self.scanned <= self.bytes.len());
        debug_assert!(!self.streams || self.held == 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn held_replies_go_out_only_when_released() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend(b"-LOADING x\r\n+OK\r\n");
        assert!(outbox.scan().unwrap() && outbox.is_error());
        outbox.hold();
        assert!(outbox.holds(b"-LOADING") && !outbox.has_deliverable());
        assert_eq!(outbox.release(), 1);
        assert_eq!(outbox.deliverable(), b"-LOADING x\r\n");
        assert!(outbox.scan().unwrap());
        outbox.pass();
        outbox.say(b"+mine\r\n");
        assert_eq!(outbox.deliverable(), b"-LOADING x\r\n+OK\r\n+mine\r\n");
        outbox.took(outbox.backlog());
        assert_eq!(outbox.backlog(), 0);
    }

    #[test]
    fn a_lost_connection_takes_what_is_held_or_incomplete_with_it() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend(b"+OK\r\n-LOADING x\r\n$5\r\nha");
        assert!(outbox.scan().unwrap());
        outbox.pass();
        assert!(outbox.scan().unwrap());
        outbox.hold();
        assert!(!outbox.scan().unwrap());
        outbox.disconnect();
        assert_eq!((outbox.held(), outbox.deliverable()), (0, &b"+OK\r\n"[..]));
        outbox.buffer().extend(b"+NEXT\r\n");
        assert!(outbox.scan().unwrap());
        assert_eq!(outbox.reply(), b"+NEXT\r\n");
    }
}
