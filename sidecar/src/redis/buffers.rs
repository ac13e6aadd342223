//! How much memory the buffers of all Redis clients may take together.
//!
//! Each client reports what its buffers take, whenever that has changed by a few kilobytes. From half of the limit on,
//! clients that don't take their replies are read from less. Beyond the limit the largest holders are asked to release
//! what they hold, which ends their connections unless they don't use it.

use levee_redis_session::session::Memory;
use prometheus::{IntGauge, Registry};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

pub const BUFFERED: &str = "redis_proxy_buffered_bytes";

/// Every client may hold this much. Only what is beyond is counted.
const UNCOUNTED: usize = 64 * 1024;

/// Sums are this exact for each client.
const STEP: usize = 16 * 1024;

/// The sum of all clients.
#[derive(Debug)]
pub struct Buffers {
    limit: usize,
    used: AtomicUsize,
    shown: IntGauge,
    holders: Mutex<Holders>,
}

#[derive(Debug, Default)]
struct Holders {
    by_number: HashMap<u64, Arc<Holder>>,
    next: u64,
}

/// A client that has had something to count.
#[derive(Debug, Default)]
struct Holder {
    counted: AtomicUsize,
    is_asked: AtomicBool,
    /// Of the client's task.
    waker: Mutex<Option<Waker>>,
}

impl Buffers {
    /// # Errors
    /// `registry` already has [`BUFFERED`].
    pub fn new(limit: usize, registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let help = "What the buffers of Redis clients take, beyond 64 KiB of each.";
        let shown = IntGauge::new(BUFFERED, help)?;
        registry.register(Box::new(shown.clone()))?;
        Ok(Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            shown,
            holders: Mutex::default(),
        }))
    }

    pub fn memory(&self) -> Memory {
        if self.used.load(Relaxed) < self.limit / 2 {
            Memory::Ample
        } else {
            Memory::Scarce
        }
    }

    fn change(&self, from: usize, to: usize) {
        let used = if to > from {
            self.used.fetch_add(to - from, Relaxed) + (to - from)
        } else {
            self.used.fetch_sub(from - to, Relaxed) - (from - to)
        };
        self.shown.set(i64::try_from(used).unwrap_or(i64::MAX));
        if to > from && used > self.limit {
            self.ask_largest(used);
        }
    }

    /// Asks as many as bring the sum down to seven eighths of the limit, so that it is not at once there again.
    fn ask_largest(&self, used: usize) {
        let mut excess = used.saturating_sub(self.limit - self.limit / 8);
        let holders = self.lock();
        let mut largest = Vec::new();
        for holder in holders.by_number.values() {
            let counted = holder.counted.load(Relaxed);
            if holder.is_asked.load(Relaxed) {
                excess = excess.saturating_sub(counted);
            } else {
                largest.push((counted, holder));
            }
        }
        largest.sort_unstable_by_key(|(counted, _)| std::cmp::Reverse(*counted));
        for (counted, holder) in largest {
            if excess == 0 || counted == 0 {
                break;
            }
            excess = excess.saturating_sub(counted);
            holder.ask();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    fn ask(&self) {
        self.is_asked.store(true, Relaxed);
        if let Some(waker) = &*self.waker() {
            waker.wake_by_ref();
        }
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one client holds.
#[derive(Debug)]
pub struct Share {
    buffers: Arc<Buffers>,
    counted: usize,
    holder: Option<(u64, Arc<Holder>)>,
}

impl Share {
    pub const fn new(buffers: Arc<Buffers>) -> Self {
        Self {
            buffers,
            counted: 0,
            holder: None,
        }
    }

    pub fn memory(&self) -> Memory {
        self.buffers.memory()
    }

    /// The client holds this many bytes now. Its task is woken when it is to release them.
    pub fn hold(&mut self, bytes: usize, waker: &Waker) {
        let counted = bytes.saturating_sub(UNCOUNTED).next_multiple_of(STEP);
        if counted == self.counted {
            return;
        }
        let holder = self.holder(waker);
        holder.counted.store(counted, Relaxed);
        let before = std::mem::replace(&mut self.counted, counted);
        self.buffers.change(before, counted);
    }

    fn holder(&mut self, waker: &Waker) -> &Holder {
        let (_, holder) = self.holder.get_or_insert_with(|| {
            let holder = Arc::new(Holder::default());
            let mut holders = self.buffers.lock();
            let number = holders.next;
            holders.next += 1;
            holders.by_number.insert(number, holder.clone());
            (number, holder)
        });
        *holder.waker() = Some(waker.clone());
        holder
    }

    pub const fn is_counted(&self) -> bool {
        self.counted > 0
    }

    /// Whether it is to release what it holds. Says so once.
    pub fn is_asked(&self) -> bool {
        let Some((_, holder)) = &self.holder else {
            return false;
        };
        holder.is_asked.load(Relaxed) && holder.is_asked.swap(false, Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((number, _)) = self.holder.take() {
            self.buffers.lock().by_number.remove(&number);
            self.buffers.change(self.counted, 0);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::task::Wake;

    const MIB: usize = 1 << 20;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    fn buffers() -> Arc<Buffers> {
        Buffers::new(8 * MIB, &Registry::new()).unwrap()
    }

    fn share(buffers: &Arc<Buffers>, bytes: usize) -> (Share, Arc<Woken>) {
        let woken = Arc::new(Woken::default());
        let mut share = Share::new(buffers.clone());
        share.hold(bytes, &Waker::from(woken.clone()));
        (share, woken)
    }

    #[test]
    fn little_is_not_counted_and_half_of_the_limit_is_scarce() {
        let buffers = buffers();
        let small: Vec<_> = (0..1000).map(|_| share(&buffers, UNCOUNTED)).collect();
        assert_eq!((buffers.shown.get(), buffers.memory()), (0, Memory::Ample));
        let large = share(&buffers, 4 * MIB + UNCOUNTED);
        assert_eq!(buffers.memory(), Memory::Scarce);
        drop((small, large));
        assert_eq!((buffers.shown.get(), buffers.memory()), (0, Memory::Ample));
        assert!(buffers.lock().by_number.is_empty());
    }

    #[test]
    fn the_largest_are_asked_first_and_only_as_many_as_needed() {
        let buffers = buffers();
        let shares: Vec<_> = [1, 3, 2].map(|mib| share(&buffers, mib * MIB)).into();
        let asked = |shares: &[(Share, Arc<Woken>)]| -> Vec<bool> {
            shares.iter().map(|(share, _)| share.is_asked()).collect()
        };
        assert_eq!(asked(&shares), [false; 3]);
        let over = share(&buffers, 3 * MIB - UNCOUNTED);
        assert_eq!(asked(&shares), [false, true, false]);
        assert!(shares[1].1.0.load(Relaxed) && !over.1.0.load(Relaxed));
        assert_eq!(asked(&shares), [false; 3], "each is asked once");
    }

    #[test]
    fn those_that_were_asked_and_have_not_yet_released_count_as_released() {
        let buffers = buffers();
        let large = share(&buffers, 6 * MIB);
        let mut other = share(&buffers, 3 * MIB);
        other.0.hold(3 * MIB + STEP, Waker::noop());
        assert!(large.0.is_asked() && !other.0.is_asked());
    }
}
