//! Breakers in memory that all workers share, and the list of them.
//!
//! Envoy's shared data is a map behind one lock, with compare-and-swap. It has a gap: a key that
//! does not exist is written without comparing, so if two workers create the same key, one can
//! overwrite what the other wrote. Therefore a new breaker is written under a random key, which
//! only its creator knows, before it enters the list of services. The list itself is created when
//! the configuration is loaded, before there are workers.
//!
//! The keys carry a version, since shared data outlives the code that wrote it.

use crate::host::{Host, Swap, Version, Versioned};
use levee_policy::breaker::{Breaker, BreakerSettings};
use levee_policy::time::Instant;
use std::borrow::Cow;
use std::time::Duration;

/// The list of services. Each entry: two bytes of length, the name, the eight bytes of its id.
const SERVICES: &str = "levee/5/services";
/// A list of this kind for the scopes of each service, by the id of its breaker.
const SCOPES_PREFIX: &str = "levee/5/scopes/";
const BREAKER_PREFIX: &str = "levee/5/breaker/";
/// When each service was checked last, by the id of its breaker: nanoseconds in eight bytes.
const CHECKED_PREFIX: &str = "levee/1/checked/";

/// Each failed compare-and-swap means that another worker's has succeeded.
const TRIES: usize = 1000;

/// Names a breaker in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BreakerId(u64);

impl BreakerId {
    /// As a message to other workers.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// From another worker's message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes
            .try_into()
            .ok()
            .map(|bytes| Self(u64::from_le_bytes(bytes)))
    }

    fn key(self) -> String {
        format!("{BREAKER_PREFIX}{:016x}", self.0)
    }
}

/// A list of breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Services,
    /// Of the service with this breaker.
    ScopesOf(BreakerId),
}

impl List {
    fn key(self) -> Cow<'static, str> {
        match self {
            Self::Services => SERVICES.into(),
            Self::ScopesOf(service) => format!("{SCOPES_PREFIX}{:016x}", service.0).into(),
        }
    }
}

/// A breaker in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: BreakerId,
    /// How many breakers the list has.
    pub among: usize,
    /// Whether this call has put it there.
    pub is_new: bool,
}

/// Creates the list of services if it does not exist. Must be called before there are workers.
pub fn create_list<H: Host>(host: &H) {
    if host.shared(SERVICES).is_none() {
        host.set_shared(SERVICES, &[], Version::ANY);
    }
}

/// Finds or creates the breaker `name`. Returns `None` if there are `at_most` already.
pub fn find_or_create<H: Host>(
    host: &H,
    list: List,
    name: &str,
    settings: &BreakerSettings,
    at_most: usize,
    now: Instant,
) -> Option<Listed> {
    let key = list.key();
    let mut created = None;
    for _ in 0..TRIES {
        let Versioned { mut value, version } = host.shared(&key).unwrap_or_default();
        let among = entries(&value).count();
        let known = entries(&value).find(|(known, _)| *known == name.as_bytes());
        if let Some((_, id)) = known {
            return Some(Listed {
                id,
                among,
                is_new: false,
            });
        }
        if among >= at_most {
            return None;
        }
        let id = *created.get_or_insert_with(|| create(host, list, settings, now));
        let length = u16::try_from(name.len()).ok()?;
        value.extend_from_slice(&length.to_le_bytes());
        value.extend_from_slice(name.as_bytes());
        value.extend_from_slice(&id.to_bytes());
        if host.set_shared(&key, &value, version) == Swap::Written {
            return Some(Listed {
                id,
                among: among + 1,
                is_new: true,
            });
        }
    }
    None
}

/// Writes a breaker that only its creator knows, and for a service what else it has.
fn create<H: Host>(host: &H, list: List, settings: &BreakerSettings, now: Instant) -> BreakerId {
    let id = BreakerId(host.random());
    let breaker = Breaker::new(settings, now).to_bytes();
    host.set_shared(&id.key(), &breaker, Version::ANY);
    if list == List::Services {
        host.set_shared(&List::ScopesOf(id).key(), &[], Version::ANY);
        host.set_shared(&checked_key(id), &[], Version::ANY);
    }
    id
}

fn checked_key(service: BreakerId) -> String {
    format!("{CHECKED_PREFIX}{:016x}", service.0)
}

/// Takes this worker's turn to check the service with this breaker. False if another worker has taken it within the
/// time `every`.
pub fn take_turn_to_check<H: Host>(
    host: &H,
    service: BreakerId,
    every: Duration,
    now: Instant,
) -> bool {
    let key = checked_key(service);
    let Versioned { value, version } = host.shared(&key).unwrap_or_default();
    let last = value
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let is_due = now >= Instant::from_nanos(last).after(every);
    is_due && host.set_shared(&key, &now.as_nanos().to_le_bytes(), version) == Swap::Written
}

/// All breakers in a list, by name.
pub fn breakers<H: Host>(host: &H, list: List) -> Vec<(String, BreakerId)> {
    let list = host.shared(&list.key()).unwrap_or_default().value;
    entries(&list)
        .map(|(name, id)| (String::from_utf8_lossy(name).into_owned(), id))
        .collect()
}

fn entries(mut list: &[u8]) -> impl Iterator<Item = (&[u8], BreakerId)> {
    std::iter::from_fn(move || {
        let (length, rest) = list.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        list = rest;
        Some((name, BreakerId(u64::from_le_bytes(*id))))
    })
}

/// The current breaker. A new one if it cannot be read.
pub fn read<H: Host>(host: &H, id: BreakerId, settings: &BreakerSettings, now: Instant) -> Breaker {
    host.shared(&id.key())
        .and_then(|stored| Breaker::from_bytes(&stored.value))
        .unwrap_or_else(|| Breaker::new(settings, now))
}

/// Applies `change` to the breaker, atomically for all workers. `change` may be called several
/// times, each time on a newer breaker; the last call counts. Nothing is written if it changes
/// nothing. Returns `None` if other workers were faster every time, which is not expected to
/// happen.
pub fn change<H: Host, T>(
    host: &H,
    id: BreakerId,
    settings: &BreakerSettings,
    now: Instant,
    mut change: impl FnMut(&mut Breaker) -> T,
) -> Option<(Breaker, T)> {
    let key = id.key();
    for _ in 0..TRIES {
        let stored = host.shared(&key).unwrap_or_default();
        let before = Breaker::from_bytes(&stored.value);
        let mut breaker = before
            .clone()
            .unwrap_or_else(|| Breaker::new(settings, now));
        let result = change(&mut breaker);
        if before.as_ref() == Some(&breaker)
            || host.set_shared(&key, &breaker.to_bytes(), stored.version) == Swap::Written
        {
            return Some((breaker, result));
        }
    }
    None
}
