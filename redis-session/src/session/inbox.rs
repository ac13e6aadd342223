//! The client's bytes, from arrival until their commands are answered, so that sending them again copies nothing.

use super::buffer::{CONSUMED, shrink};
use crate::resp::{CommandScanner, Limits, ProtocolError, encode, inline_line, split_inline};

/// Bytes by their position in the client's stream:
///
/// ```text
///   base          sent           begun        scanned       end
///    │ unanswered  │  to be sent   │ incomplete  │ unscanned  │
/// ```
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Where in `bytes` the position `base` is.
    first: usize,
    base: u64,
    sent: u64,
    begun: u64,
    scanned: u64,
    scanner: CommandScanner,
    /// A command that is still arriving is being sent already, up to `scanned`.
    streaming: bool,
}

/// Where scanning got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A command ends there.
    Complete,
    /// The command needs more bytes.
    Incomplete,
    /// Inline commands became arrays, which are scanned next.
    Rewritten,
}

impl Inbox {
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

    /// Bytes held, answered ones excluded.
    pub const fn len(&self) -> usize {
        self.bytes.len() - self.first
    }

    pub const fn base(&self) -> u64 {
        self.base
    }

    pub const fn sent(&self) -> u64 {
        self.sent
    }

    pub const fn scanned(&self) -> u64 {
        self.scanned
    }

    pub const fn is_scanned(&self) -> bool {
        self.scanned == self.end()
    }

    /// A command has begun and not ended.
    pub const fn is_within_command(&self) -> bool {
        self.scanner.is_within()
    }

    pub const fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Part of the command that is sent as it arrives was sent.
    pub const fn has_begun_stream(&self) -> bool {
        self.streaming && self.sent > self.begun
    }

    /// Bytes of the current command's arguments, as far as announced.
    pub const fn announced(&self) -> u64 {
        self.scanner.announced()
    }

    /// The command that was scanned last, or its beginning.
    pub fn command(&self) -> &[u8] {
        self.slice(self.begun, self.scanned)
    }

    /// The answered command at the front, which ends at `end`.
    pub fn front_command(&self, end: u64) -> &[u8] {
        self.kept_command(self.base, end)
    }

    /// The command between these positions, which is not answered.
    pub fn kept_command(&self, begin: u64, end: u64) -> &[u8] {
        self.slice(begin, end.min(self.end()))
    }

    /// Bytes for the upstream, up to `limit`.
    pub fn unsent(&self, limit: u64) -> &[u8] {
        self.slice(self.sent, self.sendable().min(limit).max(self.sent))
    }

    /// Scans up to the end of the next command. Without `has_room`, a line that has not ended is too long.
    pub fn scan(&mut self, has_room: bool, limits: Limits) -> Result<Scan, ProtocolError> {
        let rest = self.slice(self.scanned, self.end());
        if !self.scanner.is_within() && rest.first().is_some_and(|byte| *byte != b'*') {
            return self.rewrite_inline(has_room);
        }
        self.scanner.limit(limits);
        loop {
            let at = self.index(self.scanned);
            let progress = self
                .scanner
                .advance(self.bytes.get(at..).unwrap_or_default())?;
            self.scanned += progress.consumed as u64;
            self.check();
            if progress.complete {
                return Ok(Scan::Complete);
            }
            if progress.consumed == 0 || limits != Limits::Unauthenticated {
                return Ok(Scan::Incomplete);
            }
        }
    }

    /// Rewrites consecutive inline commands as arrays in one pass, so trailing bytes move once.
    fn rewrite_inline(&mut self, has_room: bool) -> Result<Scan, ProtocolError> {
        let at = self.index(self.scanned);
        let unscanned = self.bytes.get(at..).unwrap_or_default();
        let (mut commands, mut rest) = (Vec::new(), unscanned);
        while rest.first().is_some_and(|byte| *byte != b'*') {
            let words = inline_line(rest).and_then(|found| {
                found
                    .map(|line| Ok((split_inline(line.text)?, line.rest)))
                    .transpose()
            });
            match words {
                Ok(Some((words, after))) => {
                    if !words.is_empty() {
                        commands.extend(encode(&words));
                    }
                    rest = after;
                }
                // The lines before a wrong one come first.
                Err(error) if rest.len() == unscanned.len() => return Err(error),
                Ok(None) | Err(_) => break,
            }
        }
        let until = self.bytes.len() - rest.len();
        if until == at {
            return if has_room {
                Ok(Scan::Incomplete)
            } else {
                Err(ProtocolError::LongLine)
            };
        }
        self.bytes.splice(at..until, commands);
        self.check();
        Ok(Scan::Rewritten)
    }

    /// The scanned command may be sent.
    pub fn accept(&mut self) {
        self.begun = self.scanned;
        self.check();
    }

    /// The command that has begun may be sent as it arrives.
    pub fn begin_stream(&mut self) {
        self.streaming = true;
        self.check();
    }

    /// The command that was sent as it arrived is complete.
    pub fn end_stream(&mut self) {
        self.streaming = false;
        self.accept();
    }

    /// Everything may be sent, whatever it is.
    pub fn accept_all(&mut self) {
        self.streaming = false;
        self.scanned = self.end();
        self.accept();
    }

    /// Removes the scanned command: nobody answers it.
    pub fn remove_command(&mut self) {
        let command = self.index(self.begun)..self.index(self.scanned);
        self.bytes.drain(command);
        self.scanned = self.begun;
        self.check();
    }

    /// Nothing behind the scanned command is used.
    pub fn skip_rest(&mut self) {
        self.scanned = self.end();
        self.check();
    }

    /// Removes everything behind the scanned command.
    pub fn remove_rest(&mut self) {
        let at = self.index(self.scanned);
        self.bytes.truncate(at);
        self.check();
    }

    pub fn took(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.check();
    }

    /// A new connection gets everything that is not answered.
    pub fn rewind(&mut self) {
        self.sent = self.base;
        self.check();
    }

    /// The command at the front, which ends at `end`, is answered.
    pub fn let_go_of_front(&mut self, end: u64) {
        self.let_go(end.min(self.end()));
    }

    /// The command that is still arriving is answered: what has arrived of it goes, and scanning ends.
    pub fn let_go_of_stream(&mut self) {
        self.streaming = false;
        self.scanned = self.end();
        self.begun = self.scanned;
        self.let_go(self.scanned);
    }

    /// What is sent of a command that is sent as it arrives won't be needed again.
    pub fn let_go_of_sent(&mut self) {
        self.let_go(self.sent);
    }

    /// Levee has answered everything scanned.
    pub fn let_go_of_scanned(&mut self) {
        self.begun = self.scanned;
        self.let_go(self.begun);
    }

    fn let_go(&mut self, position: u64) {
        self.first = self.index(position);
        self.base = position;
        self.sent = self.sent.max(position);
        if self.first == self.bytes.len() {
            self.bytes.clear();
            self.first = 0;
            shrink(&mut self.bytes);
        } else if self.first > CONSUMED && self.first > self.bytes.len() / 2 {
            // So each byte is moved once at most, however long the pipeline.
            self.bytes.drain(..self.first);
            self.first = 0;
        }
        self.check();
    }

    const fn end(&self) -> u64 {
        self.base + self.len() as u64
    }

    /// Up to where bytes may be sent.
    const fn sendable(&self) -> u64 {
        if self.streaming {
            self.scanned
        } else {
            self.begun
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the inbox is in memory")]
    const fn index(&self, position: u64) -> usize {
        self.first + (position - self.base) as usize
    }

    fn slice(&self, from: u64, to: u64) -> &[u8] {
        let found = self.bytes.get(self.index(from)..self.index(to));
        debug_assert!(found.is_some(), "{from}..{to} of {self:?}");
        found.unwrap_or_default()
    }

    fn check(&self) {
        debug_assert!(self.first <= self.bytes.len());
        debug_assert!(self.base <= self.sent && self.sent <= self.sendable().max(self.base));
        debug_assert!(self.begun <= self.scanned && self.scanned <= self.end());
        debug_assert!(self.streaming || self.base <= self.begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_until_their_command_is_answered() {
        let mut inbox = Inbox::default();
        let (first, second) = (encode(&["GET", "a"]), encode(&["GET", "b"]));
        inbox.buffer().extend([&first[..], &second[..]].concat());
        for _ in 0..2 {
            assert_eq!(inbox.scan(true, Limits::default()), Ok(Scan::Complete));
            inbox.accept();
        }
        inbox.took(first.len() + second.len());
        assert!(inbox.unsent(u64::MAX).is_empty());
        inbox.let_go_of_front(first.len() as u64);
        inbox.rewind();
        assert_eq!(inbox.unsent(u64::MAX), second);
        inbox.let_go_of_scanned();
        assert_eq!((inbox.len(), inbox.base()), (0, inbox.scanned()));
    }

    #[test]
    fn a_command_is_sent_only_when_it_is_accepted_or_streamed() {
        let mut inbox = Inbox::default();
        inbox.buffer().extend(b"*2\r\n$3\r\nGET\r\n$100\r\nhalf");
        assert_eq!(inbox.scan(true, Limits::default()), Ok(Scan::Incomplete));
        assert!(inbox.unsent(u64::MAX).is_empty() && inbox.is_within_command());
        inbox.begin_stream();
        assert!(inbox.unsent(u64::MAX).ends_with(b"half"));
        inbox.took(inbox.unsent(u64::MAX).len());
        inbox.let_go_of_sent();
        assert_eq!(inbox.len(), 0);
        inbox.let_go_of_stream();
        assert!(!inbox.is_streaming() && inbox.is_scanned());
    }
}
