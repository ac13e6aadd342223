//! What retries may cost.
//!
//! Retries help where single calls fail, and harm where all do: then each call becomes several, and
//! the service that is down is met by a multiple of its load when it comes back. A budget lets
//! retries be a share of the calls, and no more ("Addressing Cascading Failures", Site Reliability
//! Engineering, O'Reilly 2016; the form with a reserve is Finagle's `RetryBudget`).

use crate::ratio::Ratio;
use crate::time::Instant;
use crate::window::{Counts, Window};
use std::time::Duration;

/// Over how long calls and retries are set against each other.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How many retries are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Retries for each call.
    pub ratio: Ratio,
    /// Retries each second that are allowed whatever the number of calls, so that a service with
    /// few calls can retry too. All those of a [`WINDOW`] may come at once.
    pub per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ratio: Ratio::percent(20),
            per_second: 10,
        }
    }
}

/// A retry budget: in any [`WINDOW`] no more retries than [`Settings`] allow for its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Calls are its total, retries its failures.
    window: Window,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            window: Window::new(WINDOW),
        }
    }
}

impl Budget {
    /// `calls` have come: each pays its share in.
    pub fn deposit(&mut self, calls: u32, now: Instant) {
        self.add(calls, 0, now);
    }

    /// Pays for `retries`, all or none. False: there is not enough, and nothing was paid.
    pub fn withdraw(&mut self, settings: &Settings, retries: u32, now: Instant) -> bool {
        let allowed = self.left(settings, now) >= retries;
        if allowed {
            self.add(0, retries, now);
        }
        allowed
    }

    /// How many retries could be paid for at `now`.
    pub fn left(&mut self, settings: &Settings, now: Instant) -> u32 {
        let (calls, retries) = self.spent(now);
        let reserve = u64::from(settings.per_second) * WINDOW.as_secs();
        let allowed = settings.ratio.of(u64::from(calls)).saturating_add(reserve);
        u32::try_from(allowed.saturating_sub(u64::from(retries))).unwrap_or(u32::MAX)
    }

    /// Calls and retries of the window that ends at `now`.
    pub fn spent(&mut self, now: Instant) -> (u32, u32) {
        let counts = self.window.totals(now);
        (counts.total, counts.failures)
    }

    /// A budget that goes on where another ended: its calls and retries count as made at `now`.
    pub fn resumed(calls: u32, retries: u32, now: Instant) -> Self {
        let mut budget = Self::default();
        budget.add(calls, retries, now);
        budget
    }

    fn add(&mut self, calls: u32, retries: u32, now: Instant) {
        let counts = Counts {
            total: calls,
            failures: retries,
            slow: 0,
        };
        self.window.add(now, counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SETTINGS: Settings = Settings {
        ratio: Ratio::percent(20),
        per_second: 10,
    };

    fn at(seconds: u64) -> Instant {
        Instant::default().after(Duration::from_secs(100 + seconds))
    }

    #[test]
    fn a_dead_service_gets_a_fifth_more_once_the_reserve_is_spent() {
        let mut budget = Budget::default();
        let mut retries = 0;
        for _ in 0..1000 {
            budget.deposit(1, at(0));
            while budget.withdraw(&SETTINGS, 1, at(0)) {
                retries += 1;
            }
        }
        assert_eq!(retries, 100 + 200);
        assert_eq!(budget.left(&SETTINGS, at(0)), 0);
    }

    #[test]
    fn what_was_spent_comes_back_after_the_window_and_not_before() {
        let mut budget = Budget::default();
        assert!(budget.withdraw(&SETTINGS, 100, at(0)));
        assert!(!budget.withdraw(&SETTINGS, 1, at(9)));
        assert_eq!(budget.left(&SETTINGS, at(11)), 100);
    }

    #[test]
    fn retries_are_paid_all_or_none() {
        let mut budget = Budget::default();
        assert!(!budget.withdraw(&SETTINGS, 101, at(0)));
        assert_eq!(budget.left(&SETTINGS, at(0)), 100);
        assert!(budget.withdraw(&SETTINGS, 100, at(0)));
    }

    #[test]
    fn calls_of_long_ago_pay_for_nothing() {
        let mut budget = Budget::default();
        budget.deposit(1_000_000, at(0));
        assert_eq!(budget.left(&SETTINGS, at(5)), 200_100);
        assert_eq!(budget.left(&SETTINGS, at(20)), 100);
    }

    #[test]
    fn a_budget_that_is_resumed_is_as_spent_as_it_was() {
        let mut budget = Budget::default();
        budget.deposit(50, at(0));
        assert!(budget.withdraw(&SETTINGS, 90, at(0)));
        let (calls, retries) = budget.spent(at(1));
        let mut resumed = Budget::resumed(calls, retries, at(2));
        assert_eq!(resumed.left(&SETTINGS, at(2)), 20);
    }

    #[test]
    fn numbers_that_are_full_do_not_overflow() {
        let mut budget = Budget::resumed(u32::MAX, 0, at(0));
        budget.deposit(u32::MAX, at(0));
        let all = Settings {
            ratio: Ratio::ONE,
            per_second: u32::MAX,
        };
        assert_eq!(budget.left(&all, at(0)), u32::MAX);
        assert!(budget.withdraw(&all, u32::MAX, at(0)));
        assert!(!budget.withdraw(&SETTINGS, 1, at(0)));
    }
}
