//! Time limits of requests: classes, and how a client's own deadline shortens them.

use std::time::Duration;

/// The name of a time limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// A quick look-up. 7 s by default: more than a statement of 5 s that it waits for.
    Short,
    /// An ordinary call that does some work. 10 s by default.
    Medium,
    /// Requests without a class of their own. 30 s by default.
    #[default]
    Default,
    /// A call known to be slow. 60 s by default.
    Long,
    /// An upload or a report. 5 min by default.
    VeryLong,
}

/// The limit of each class. Must not be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Limit of [`Class::Short`].
    pub short: Duration,
    /// Limit of [`Class::Medium`].
    pub medium: Duration,
    /// Limit of [`Class::Default`].
    pub default: Duration,
    /// Limit of [`Class::Long`].
    pub long: Duration,
    /// Limit of [`Class::VeryLong`].
    pub very_long: Duration,
}

impl Default for Classes {
    fn default() -> Self {
        Self {
            short: Duration::from_secs(7),
            medium: Duration::from_secs(10),
            default: Duration::from_secs(30),
            long: Duration::from_mins(1),
            very_long: Duration::from_mins(5),
        }
    }
}

impl Classes {
    /// The limit of `class`.
    pub const fn limit(&self, class: Class) -> Duration {
        match class {
            Class::Short => self.short,
            Class::Medium => self.medium,
            Class::Default => self.default,
            Class::Long => self.long,
            Class::VeryLong => self.very_long,
        }
    }
}

/// The two limits of a request, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the end of the request to the end of the response. At least 1 ms.
    pub whole: Duration,
    /// From the end of the request to the response's headers. At least 1 ms, at most `whole`.
    pub response_header: Duration,
}

impl Limits {
    /// Rounds both down to whole milliseconds, the unit of Envoy's headers, and up to 1 ms: in those
    /// headers 0 means no limit.
    pub fn new(whole: Duration, response_header: Duration) -> Self {
        let whole = at_least_a_millisecond(whole);
        Self {
            whole,
            response_header: at_least_a_millisecond(response_header).min(whole),
        }
    }

    /// The limits for a client that gives up after `deadline`. They are never longer than before.
    #[must_use]
    pub fn shortened_to(self, deadline: Duration) -> Self {
        Self::new(self.whole.min(deadline), self.response_header)
    }
}

fn at_least_a_millisecond(duration: Duration) -> Duration {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_five_defaults_are_7_10_30_60_and_300_seconds() {
        let classes = Classes::default();
        let limits = [
            Class::Short,
            Class::Medium,
            Class::Default,
            Class::Long,
            Class::VeryLong,
        ]
        .map(|class| classes.limit(class).as_secs());
        assert_eq!(limits, [7, 10, 30, 60, 300]);
    }

    #[test]
    fn a_deadline_shortens_and_never_lengthens() {
        let limits = Limits::new(Duration::from_secs(30), Duration::from_secs(10));
        let shorter = limits.shortened_to(Duration::from_secs(2));
        assert_eq!(shorter.whole, Duration::from_secs(2));
        assert_eq!(shorter.response_header, Duration::from_secs(2));
        assert_eq!(limits.shortened_to(Duration::from_mins(10)), limits);
    }

    #[test]
    fn no_limit_is_ever_zero() {
        let limits = Limits::new(Duration::ZERO, Duration::from_nanos(5));
        assert_eq!(limits.whole, Duration::from_millis(1));
        assert_eq!(limits.response_header, Duration::from_millis(1));
        let limits = Limits::new(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(
            limits.shortened_to(Duration::ZERO).whole,
            Duration::from_millis(1)
        );
    }
}
