//! Whole commands or replies out of bytes that come in pieces.

use levee_redis_session::resp::Progress;

/// Takes the first frame out of `bytes`, if it has ended. `scanned` bytes of them were scanned before, and `progress` says how
/// far that got now.
pub(crate) fn take(
    bytes: &mut Vec<u8>,
    scanned: &mut usize,
    progress: Progress,
) -> Option<Vec<u8>> {
    *scanned += progress.consumed;
    progress.complete.then(|| {
        let rest = bytes.split_off(std::mem::take(scanned));
        std::mem::replace(bytes, rest)
    })
}
