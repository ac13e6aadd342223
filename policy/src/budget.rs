//! Retry budgets.
//!
//! Retries help if single calls fail, and do harm if all calls fail: each call becomes several, and
//! a service that comes back meets a multiple of its load. A budget limits retries to a fraction of
//! the calls ("Addressing Cascading Failures", Site Reliability Engineering, O'Reilly 2016; the
//! reserve for services with few calls follows Finagle's `RetryBudget`).

use crate::ratio::Ratio;
use crate::time::Instant;
use crate::window::{Counts, Window};
use std::time::Duration;

/// The period over which retries are compared with calls.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How many retries are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Allowed retries per call.
    pub ratio: Ratio,
    /// Retries per second that are allowed in addition, so that a service with few calls can retry,
    /// too. Those of a whole [`WINDOW`] may come at once.
    pub per_second: u32,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            ratio: Ratio::percent(20),
            per_second: 10,
        }
    }
}

/// What became of a request for retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Withdrawal {
    /// They are paid for and may be made.
    Paid,
    /// There was not enough left. Nothing was paid.
    Refused,
}

/// What a budget's window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Calls that were deposited.
    pub calls: u32,
    /// Retries that were paid for.
    pub retries: u32,
}

/// A retry budget: in each [`WINDOW`] at most as many retries as [`BudgetSettings`] allow for its
/// calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Counts calls as the total, and retries as failures.
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
    /// Adds calls, each of which pays for a fraction of a retry.
    pub fn deposit(&mut self, calls: u32, now: Instant) {
        self.add(calls, 0, now);
    }

    /// Pays for `retries`, all or none.
    pub fn withdraw(
        &mut self,
        settings: &BudgetSettings,
        retries: u32,
        now: Instant,
    ) -> Withdrawal {
        if self.left(settings, now) < retries {
            return Withdrawal::Refused;
        }
        self.add(0, retries, now);
        Withdrawal::Paid
    }

    /// How many retries could be paid for at `now`.
    pub fn left(&mut self, settings: &BudgetSettings, now: Instant) -> u32 {
        let Spent { calls, retries } = self.spent(now);
        let reserve = u64::from(settings.per_second) * WINDOW.as_secs();
        let allowed = settings.ratio.of(u64::from(calls)).saturating_add(reserve);
        u32::try_from(allowed.saturating_sub(u64::from(retries))).unwrap_or(u32::MAX)
    }

    /// What is in the window that ends at `now`.
    pub fn spent(&mut self, now: Instant) -> Spent {
        let counts = self.window.totals(now);
        Spent {
            calls: counts.total,
            retries: counts.failures,
        }
    }

    /// A budget that continues another one: all that it had `spent` counts as spent at `now`.
    pub fn resumed(spent: Spent, now: Instant) -> Self {
        let mut budget = Self::default();
        budget.add(spent.calls, spent.retries, now);
        budget
    }

    fn add(&mut self, calls: u32, retries: u32, now: Instant) {
        let counts = Counts {
            total: calls,
            failures: retries,
            ..Counts::default()
        };
        self.window.add(now, counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SETTINGS: BudgetSettings = BudgetSettings {
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
            while budget.withdraw(&SETTINGS, 1, at(0)) == Withdrawal::Paid {
                retries += 1;
            }
        }
        assert_eq!(retries, 100 + 200);
        assert_eq!(budget.left(&SETTINGS, at(0)), 0);
    }

    #[test]
    fn spent_retries_return_after_the_window_and_not_before() {
        let mut budget = Budget::default();
        assert_eq!(budget.withdraw(&SETTINGS, 100, at(0)), Withdrawal::Paid);
        assert_eq!(budget.withdraw(&SETTINGS, 1, at(9)), Withdrawal::Refused);
        assert_eq!(budget.left(&SETTINGS, at(11)), 100);
    }

    #[test]
    fn retries_are_paid_all_or_none() {
        let mut budget = Budget::default();
        assert_eq!(budget.withdraw(&SETTINGS, 101, at(0)), Withdrawal::Refused);
        assert_eq!(budget.left(&SETTINGS, at(0)), 100);
        assert_eq!(budget.withdraw(&SETTINGS, 100, at(0)), Withdrawal::Paid);
    }

    #[test]
    fn calls_that_left_the_window_pay_for_nothing() {
        let mut budget = Budget::default();
        budget.deposit(1_000_000, at(0));
        assert_eq!(budget.left(&SETTINGS, at(5)), 200_100);
        assert_eq!(budget.left(&SETTINGS, at(20)), 100);
    }

    #[test]
    fn a_resumed_budget_has_spent_as_much_as_before() {
        let mut budget = Budget::default();
        budget.deposit(50, at(0));
        assert_eq!(budget.withdraw(&SETTINGS, 90, at(0)), Withdrawal::Paid);
        let spent = budget.spent(at(1));
        let mut resumed = Budget::resumed(spent, at(2));
        assert_eq!(resumed.left(&SETTINGS, at(2)), 20);
    }

    #[test]
    fn counts_at_their_maximum_do_not_overflow() {
        let full = Spent {
            calls: u32::MAX,
            retries: 0,
        };
        let mut budget = Budget::resumed(full, at(0));
        budget.deposit(u32::MAX, at(0));
        let all = BudgetSettings {
            ratio: Ratio::ONE,
            per_second: u32::MAX,
        };
        assert_eq!(budget.left(&all, at(0)), u32::MAX);
        assert_eq!(budget.withdraw(&all, u32::MAX, at(0)), Withdrawal::Paid);
        assert_eq!(budget.withdraw(&SETTINGS, 1, at(0)), Withdrawal::Refused);
    }
}
