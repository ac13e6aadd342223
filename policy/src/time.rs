//! Monotonic time as a plain number, so that it can be an argument and be sent between workers.

use std::time::Duration;

/// A moment on a monotonic clock, in nanoseconds since an origin that all users of a value share: in the filter that of
/// Envoy's monotonic clock, in the sidecar the Unix epoch, as the system's clock had it when the process started.
///
/// 64 bits of nanoseconds last 584 years. Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `duration` later, at most the latest that can be represented.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// The time from `earlier` to this moment. Zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in whole nanoseconds, at most [`u64::MAX`].
#[inline]
pub fn nanos(duration: Duration) -> u64 {
    // `Duration::as_nanos` multiplies 128 bits, which is a function call in WebAssembly.
    const A_SECOND: u64 = 1_000_000_000;
    if duration.as_secs() > u64::MAX / A_SECOND {
        return u64::MAX;
    }
    (duration.as_secs() * A_SECOND).saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn durations_with_too_many_nanoseconds_saturate() {
        let longest = Duration::from_nanos(u64::MAX);
        let nanosecond = Duration::from_nanos(1);
        assert_eq!(nanos(Duration::from_nanos(u64::MAX - 1)), u64::MAX - 1);
        assert_eq!(nanos(longest), u64::MAX);
        assert_eq!(nanos(longest + nanosecond), u64::MAX);
        assert_eq!(nanos(longest + Duration::from_secs(1)), u64::MAX);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
        assert_eq!(nanos(Duration::new(2, 3)), 2_000_000_003);
    }
}
