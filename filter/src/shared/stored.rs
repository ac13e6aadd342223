//! A list of breakers, as it is stored: how many it has ever had (32 bits), and its entries. Each entry: two bytes
//! of length, the name, the eight bytes of its id, and when it was called (nanoseconds in eight bytes).

use levee_policy::time::Instant;
use std::time::Duration;

/// A scope that nobody has called for this long gives its place in a full list to another.
const IDLE: Duration = Duration::from_hours(1);
/// How often a worker says that a scope is called. The time in its entry may lag by half as much again, since
/// another worker may have said so just before.
pub const SAY_CALLED_EVERY: Duration = Duration::from_mins(10);
/// How many scopes a service may ever have for each place in its list, since neither workers nor
/// Envoy's statistics forget one.
const SCOPES_PER_PLACE: usize = 4;

/// A list of breakers.
#[derive(Debug, Default)]
pub(super) struct Stored {
    had: u32,
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// Of its breaker.
    pub(super) id: u64,
    /// When it was called, as workers have said last.
    pub(super) called: Instant,
}

/// Where a new entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    AtEnd,
    /// Of an entry that is not called any more.
    Of(usize),
}

impl Stored {
    pub(super) fn parse(list: &[u8]) -> Self {
        let Some((had, mut rest)) = list.split_first_chunk() else {
            return Self::default();
        };
        let next = || {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::from(u16::from_le_bytes(*length));
            let (name, after) = after.split_at_checked(length)?;
            let (id, after) = after.split_first_chunk()?;
            let (called, after) = after.split_first_chunk()?;
            rest = after;
            Some(Entry {
                name: name.to_vec(),
                id: u64::from_le_bytes(*id),
                called: Instant::from_nanos(u64::from_le_bytes(*called)),
            })
        };
        Self {
            had: u32::from_le_bytes(*had),
            entries: std::iter::from_fn(next).collect(),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut list = self.had.to_le_bytes().to_vec();
        for entry in &self.entries {
            let length = u16::try_from(entry.name.len()).unwrap_or_default();
            list.extend_from_slice(&length.to_le_bytes());
            list.extend_from_slice(&entry.name);
            list.extend_from_slice(&entry.id.to_le_bytes());
            list.extend_from_slice(&entry.called.as_nanos().to_le_bytes());
        }
        list
    }

    /// The place for a new entry in a list that is not full.
    pub(super) fn place_at_end(&self, at_most: usize) -> Option<Place> {
        (self.entries.len() < at_most).then_some(Place::AtEnd)
    }

    /// The place for a new scope in a full list: that of the one which was not called for longest.
    pub(super) fn place_of_idle(&self, at_most: usize, now: Instant) -> Option<Place> {
        let had = usize::try_from(self.had).unwrap_or(usize::MAX);
        if had >= at_most.saturating_mul(SCOPES_PER_PLACE) {
            return None;
        }
        let entries = self.entries.iter().enumerate();
        let (place, longest) = entries.min_by_key(|(_, entry)| entry.called)?;
        (now.since(longest.called) >= IDLE).then_some(Place::Of(place))
    }

    pub(super) fn put(&mut self, place: Place, entry: Entry) {
        self.had = self.had.saturating_add(1);
        match place {
            Place::AtEnd => self.entries.push(entry),
            Place::Of(place) => {
                if let Some(old) = self.entries.get_mut(place) {
                    *old = entry;
                }
            }
        }
    }
}
