//! Mutexes whose data stays valid when a thread panics while holding them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a poisoned mutex too.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
