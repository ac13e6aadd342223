//! Breakers in memory that all workers share, and the list of which there are.
//!
//! Envoy's shared data is a map behind one lock, with compare-and-swap. It has a gap: a key that
//! does not exist is written without comparing, so two workers that both create a key can lose what
//! the first one wrote. Therefore a breaker is written under a key of its own, which nobody else
//! knows, before the list of services names it; the list itself is created before there are
//! workers, when the configuration is loaded.
//!
//! The keys carry a version, since shared data outlives the code that wrote it.

use crate::host::Host;
use levee_policy::breaker::{Breaker, BreakerSettings};
use levee_policy::time::Instant;

/// The services there are: for each, two bytes of length, the name, the eight bytes of its id.
const SERVICES: &str = "levee/1/services";
const BREAKER_PREFIX: &str = "levee/1/breaker/";

/// How often a compare-and-swap is tried. Each failed try means that another worker has succeeded.
const TRIES: usize = 1000;

/// Names a breaker in the shared memory.
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

/// Makes the list of services, if there is none. To be called before there are workers.
pub fn create_list<H: Host>(host: &H) {
    if host.shared(SERVICES).is_none() {
        host.set_shared(SERVICES, &[], 0);
    }
}

/// The breaker for `service`, found or made. `None` where there are `max_services` already.
pub fn find_or_create<H: Host>(
    host: &H,
    service: &str,
    settings: &BreakerSettings,
    max_services: usize,
    now: Instant,
) -> Option<BreakerId> {
    let mut created = None;
    for _ in 0..TRIES {
        let (mut list, version) = host.shared(SERVICES).unwrap_or_default();
        let mut known = 0;
        for (name, id) in entries(&list) {
            if name == service.as_bytes() {
                return Some(id);
            }
            known += 1;
        }
        if known >= max_services {
            return None;
        }
        let id = *created.get_or_insert_with(|| {
            let id = BreakerId(host.random());
            host.set_shared(&id.key(), &Breaker::new(settings, now).to_bytes(), 0);
            id
        });
        let length = u16::try_from(service.len()).ok()?;
        list.extend_from_slice(&length.to_le_bytes());
        list.extend_from_slice(service.as_bytes());
        list.extend_from_slice(&id.to_bytes());
        if host.set_shared(SERVICES, &list, version) {
            return Some(id);
        }
    }
    None
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

/// The breaker as it is.
pub fn read<H: Host>(host: &H, id: BreakerId, settings: &BreakerSettings, now: Instant) -> Breaker {
    host.shared(&id.key())
        .and_then(|(bytes, _)| Breaker::from_bytes(&bytes))
        .unwrap_or_else(|| Breaker::new(settings, now))
}

/// Applies `change` to the breaker, at once for all workers. `change` may be called several times,
/// each time on a newer breaker; the last call is the one that holds. Nothing is written where it
/// changed nothing. `None` where other workers were always faster, which is not to be expected.
pub fn change<H: Host, T>(
    host: &H,
    id: BreakerId,
    settings: &BreakerSettings,
    now: Instant,
    mut change: impl FnMut(&mut Breaker) -> T,
) -> Option<(Breaker, T)> {
    let key = id.key();
    for _ in 0..TRIES {
        let (bytes, version) = host.shared(&key).unwrap_or_default();
        let before = Breaker::from_bytes(&bytes);
        let mut breaker = before
            .clone()
            .unwrap_or_else(|| Breaker::new(settings, now));
        let result = change(&mut breaker);
        if before.as_ref() == Some(&breaker) || host.set_shared(&key, &breaker.to_bytes(), version)
        {
            return Some((breaker, result));
        }
    }
    None
}
