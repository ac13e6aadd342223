//! The commands that are not answered, in order.

use crate::commands::{Class, Effect, Raw, Work};
use crate::idempotency::Repeat;
use levee_policy::breaker::Permit;
use levee_policy::time::Instant;
use std::collections::VecDeque;

/// Where a command ends that is still arriving.
pub(super) const STILL_ARRIVING: u64 = u64::MAX;

/// Whether a command can be sent again from the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    Kept,
    /// It is sent as it arrives.
    Streamed,
    /// The same; its beginning was sent and is not kept any more.
    Begun,
}

/// What is known of a command's execution on connections that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// It was not executed.
    Clear,
    /// It may have been executed, and changes data.
    InDoubt,
    /// It reads what a later command may have changed since.
    Overtaken,
    /// It was not: it is part of a transaction, which its EXEC executes.
    Queued,
}

/// So many connections may be lost while a command is the first without a reply. If Redis closes the second one as well,
/// that is its answer.
const MOST_DROPS: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Where it ends in the client's stream, or [`STILL_ARRIVING`].
    pub end: u64,
    pub bytes: Bytes,
    pub class: Class,
    /// It relies on state (WATCH, MULTI) that began with the command of this number.
    pub bound_to: Option<u64>,
    pub number: u64,
    pub permit: Permit,
    pub attempts: u32,
    pub past: Past,
    /// How many connections Redis has closed while this command was the first without a reply.
    pub drops: u8,
    pub arrived: Instant,
    /// Since when it has needed a connection on which it can go out.
    pub needed: Instant,
    pub deadline: Option<Instant>,
}

impl Entry {
    /// Redis may have executed it, if commands were sent up to `sent`.
    pub fn was_sent(&self, sent: u64) -> bool {
        self.bytes != Bytes::Kept || self.end <= sent
    }

    pub const fn is_arriving(&self) -> bool {
        self.end == STILL_ARRIVING
    }

    pub const fn blocks(&self) -> bool {
        matches!(self.class.effect, Effect::Blocks(_))
    }

    /// What waits behind it could not be served before.
    pub const fn holds_up_others(&self) -> bool {
        self.blocks() || self.class.work.takes_long()
    }

    /// Redis executes it while it is busy with a script, whatever state the connection has.
    pub fn needs_no_state(&self) -> bool {
        let Class { work, effect, .. } = self.class;
        !self.is_arriving() && (work == Work::Rescue || effect.needs_no_state())
    }

    /// Redis does nothing else while it executes it.
    pub fn runs_script(&self) -> bool {
        self.class.work == Work::Script && self.past != Past::Queued
    }

    /// It may be sent again, and has been as often as it may.
    pub fn is_used_up(&self, attempts: u32) -> bool {
        self.class.repeat != Repeat::Never && self.attempts >= attempts
    }

    /// Redis closes each connection on which it is sent.
    pub const fn is_dropped(&self) -> bool {
        self.drops >= MOST_DROPS
    }

    /// It must not be sent again once it may have been executed.
    fn is_final(&self, attempts: u32) -> bool {
        self.class.repeat == Repeat::Never || self.attempts >= attempts || self.is_dropped()
    }

    /// It goes out only on a connection that works: should it be lost, nobody could repeat it. A subscription can be
    /// lost, since its client hears of it. And nothing can be asked in the middle of a command.
    pub fn needs_proof(&self) -> bool {
        self.class.repeat == Repeat::Never
            && self.class.effect != Effect::Subscribe
            && self.bytes != Bytes::Begun
    }

    /// Whether it may be executed again must be found out first.
    pub fn needs_verification(&self) -> bool {
        self.past == Past::InDoubt && self.class.repeat == Repeat::Verified
    }

    pub fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    next_number: u64,
    /// No command from this number on is in doubt.
    clear_from: u64,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn capacity_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// The number that the next command gets.
    pub const fn next_number(&self) -> u64 {
        self.next_number
    }

    pub fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.number, self.next_number);
        debug_assert!(self.entries.back().is_none_or(|last| last.end < entry.end));
        self.next_number += 1;
        self.entries.push_back(entry);
    }

    pub fn pop(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }

    pub fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub fn front_mut(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut()
    }

    pub fn back(&self) -> Option<&Entry> {
        self.entries.back()
    }

    pub fn back_mut(&mut self) -> Option<&mut Entry> {
        self.entries.back_mut()
    }

    pub fn get(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    pub fn get_mut(&mut self, place: usize) -> Option<&mut Entry> {
        self.entries.get_mut(place)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Each command, and where it begins in the client's stream if the first one begins at `base`.
    pub fn placed(&self, base: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().scan(base, |end, entry| {
            let begin = std::mem::replace(end, entry.end);
            Some((begin, entry))
        })
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// The one command there is changes what bytes mean: what stands behind it can't be read yet.
    pub fn raw(&self) -> Option<Raw> {
        match self.front()?.class.effect {
            Effect::Raw(raw) => Some(raw),
            _ => None,
        }
    }

    /// A client that has not logged in may be doing so.
    pub fn logs_in(&self) -> bool {
        self.has(Effect::Auth) || self.has(Effect::Hello)
    }

    /// The number of the first command that is not answered.
    pub fn front_number(&self) -> u64 {
        self.front().map_or(self.next_number, |entry| entry.number)
    }

    pub fn has(&self, effect: Effect) -> bool {
        self.iter().any(|entry| entry.class.effect == effect)
    }

    /// Commands that were sent whole, when commands were sent up to `sent`.
    pub fn sent(&self, sent: u64) -> usize {
        self.iter().filter(|entry| entry.end <= sent).count()
    }

    /// How many commands at the front can't be sent again: all up to the last one that may have been executed and must
    /// not be twice, that was sent `attempts` times, or that has lost the state it relies on.
    pub fn cut(&self, sent: u64, attempts: u32) -> usize {
        let mut cut = 0;
        for (place, entry) in self.entries.iter().enumerate() {
            let may_be_executed = entry.was_sent(sent) || entry.past == Past::InDoubt;
            if (may_be_executed && entry.is_final(attempts)) || self.loses_state(entry, cut) {
                cut = place + 1;
            }
        }
        cut
    }

    /// The connection is gone on which commands were sent up to `sent`.
    pub fn doubt(&mut self, sent: u64) {
        for entry in &mut self.entries {
            let is_executed = entry.was_sent(sent) && entry.past != Past::Queued;
            if is_executed && entry.class.changes_data() {
                entry.past = Past::InDoubt;
                self.clear_from = self.clear_from.max(entry.number + 1);
            }
        }
    }

    /// The command at this place reads what a later one may have changed.
    pub fn overtake(&mut self, place: usize) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.past = Past::Overtaken;
            self.clear_from = self.clear_from.max(entry.number + 1);
        }
    }

    /// Whether a command may be in doubt, or overtaken.
    pub fn has_doubts(&self) -> bool {
        self.front_number() < self.clear_from
    }

    /// The connection never answered: what was sent up to `sent` was not an attempt.
    pub fn take_attempts_back(&mut self, sent: u64) {
        for entry in self.entries.iter_mut().filter(|entry| entry.end <= sent) {
            entry.attempts = entry.attempts.saturating_sub(1);
        }
    }

    /// Like [`cut`](Self::cut), with the first command and all that are overdue.
    pub fn cut_overdue(&self, sent: u64, attempts: u32, now: Instant) -> usize {
        let mut cut = self.cut(sent, attempts);
        for (place, entry) in self.entries.iter().enumerate() {
            if place == 0 || entry.is_overdue(now) || self.loses_state(entry, cut) {
                cut = cut.max(place + 1);
            }
        }
        cut
    }

    /// `entry` relies on state that began with one of the first `cut` commands, or before.
    fn loses_state(&self, entry: &Entry, cut: usize) -> bool {
        let first = self.front_number() + cut as u64;
        entry.bound_to.is_some_and(|number| number < first)
    }

    /// Nothing relies on the state that would have begun with the command `number`.
    pub fn unbind(&mut self, number: u64) {
        for entry in &mut self.entries {
            if entry.bound_to == Some(number) {
                entry.bound_to = None;
                if entry.past == Past::Queued {
                    entry.past = Past::Clear;
                }
            }
        }
    }

    /// A connection that worked is lost: all commands need another one from now on.
    pub fn need_another(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.needed = now;
        }
    }

    /// Gives all commands until `limit` at least.
    pub fn extend(&mut self, limit: Instant) {
        for entry in &mut self.entries {
            entry.deadline = entry.deadline.map(|deadline| deadline.max(limit));
        }
    }
}
