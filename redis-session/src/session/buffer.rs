//! How much memory inbox and outbox keep after a burst.

/// Consumed bytes are removed from the front of a buffer once there are more of them than this, so that each byte is
/// moved rarely.
pub(super) const CONSUMED: usize = 64 * 1024;

/// Releases the memory of an empty buffer if a burst has made it large.
pub(super) fn shrink(buffer: &mut Vec<u8>) {
    if buffer.capacity() > 2 * CONSUMED {
        *buffer = Vec::new();
    }
}
