//! Reads that are sent again must not see what a later command of the same pipeline has written.

use super::Session;
use super::queue::{Bytes, Past};
use crate::idempotency::Repeat;
use crate::resp::arguments;
use std::collections::HashSet;

impl Session {
    /// Marks the reads that were sent up to `sent` and name what a command behind them, which is in doubt, may have written.
    pub(super) fn mark_overtaken(&mut self, sent: u64) {
        let mut written = HashSet::new();
        let mut overtaken = Vec::new();
        let placed: Vec<_> = self.queue.placed(self.inbox.base()).collect();
        for (place, (begin, entry)) in placed.into_iter().enumerate().rev() {
            if entry.bytes != Bytes::Kept || !entry.was_sent(sent) {
                continue;
            }
            let mut words = arguments(self.inbox.kept_command(begin, entry.end)).skip(1);
            if entry.past == Past::InDoubt {
                match entry.class.repeat {
                    Repeat::Verified => written.extend(words.next()),
                    // Which of its words are keys is not known.
                    _ if !entry.class.effect.sets_state() => written.extend(words),
                    _ => {}
                }
            } else if entry.class.only_reads && words.any(|word| written.contains(word)) {
                overtaken.push(place);
            }
        }
        for place in overtaken {
            self.queue.overtake(place);
        }
    }
}
