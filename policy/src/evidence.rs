//! Whether complaints are enough to shut a service: how many there are, and who makes them.
//!
//! A strong failure is one that no caller can bring about: no connection, a reset, a time limit. A
//! weak one may be the caller's own doing: an error for something that it sent. Five strong ones in
//! a row are enough for a service that is well. Weak ones need a second witness: another caller, or a strong failure. If one
//! caller is all there is, three times as many are enough, but only while nobody else is answered.

use crate::answered::Answered;
use crate::callers::{Caller, Tally};
use crate::time::Instant;
use crate::window::Counts;
use std::time::Duration;

/// How much weaker the complaints of a caller are that is alone.
pub(crate) const ALONE: u32 = 3;

/// A caller is taken to be alone if nobody was answered in a time in which this many answers were
/// to be expected, by those before. With answers that come at random, at a constant rate, such a
/// time without one has a probability of e⁻⁷, 0.1 %.
const MISSED_ANSWERS: u32 = 7;
/// But nobody is alone sooner than this: a caller can make answers seem frequent by good calls of its
/// own, right before bad ones, and right after a breaker was closed nobody is known. A half-open
/// breaker waits as long for others before one caller decides.
pub(crate) const SOONEST_ALONE: Duration = Duration::from_secs(5);
/// In this time after a row's first failure other workers report whom they have answered.
const OTHERS_REPORT: Duration = Duration::from_millis(10);

/// What a complaint adds to a [`Tally`] whose content is halved from time to time.
const COMPLAINT: u32 = 16;

/// How much a failure says about the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weight {
    /// No caller can bring it about, and no call reached the service: there was no connection. So it
    /// costs the service nothing to be asked again soon.
    Unreachable,
    /// No caller can bring it about.
    #[default]
    Strong,
    /// A caller may have brought it about by what it sent.
    Weak,
}

/// How many callers must have seen weak failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Witnesses {
    /// One: weak failures are as good as strong ones.
    One,
    /// Two, or one that is alone and has seen three times as many.
    #[default]
    Two,
}

/// Who else calls, besides the caller with the most complaints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Somebody else was answered well, lately, or may be known to another worker to have been.
    AreWell,
    /// Calls were answered, but nobody knows whose.
    Unknown,
    /// Nobody, as far as can be seen.
    None,
}

impl Others {
    /// If nobody else is known to be well: `answered` calls were answered in the `period` that ends
    /// `now`, all of them before the row.
    pub(crate) fn unseen(row: &Row, answered: u32, period: Duration, now: Instant) -> Self {
        let without_answer = now.since(row.since);
        if without_answer < OTHERS_REPORT {
            return Self::AreWell;
        }
        let before = period.saturating_sub(without_answer);
        let is_alone = without_answer >= SOONEST_ALONE
            && (answered == 0
                || without_answer.saturating_mul(answered)
                    >= before.saturating_mul(MISSED_ANSWERS));
        if is_alone { Self::None } else { Self::Unknown }
    }
}

/// Failures without a success between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// How many there are, strong and weak.
    pub(crate) length: u32,
    pub(crate) strong: u32,
    pub(crate) weak: Tally,
    /// When the first of them was recorded.
    pub(crate) since: Instant,
    /// The shortest time that they ask to leave the service alone for, in seconds.
    pub(crate) again_after_secs: u32,
}

impl Row {
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn add(
        &mut self,
        weight: Weight,
        caller: Caller,
        again_after_secs: u32,
        now: Instant,
    ) {
        if self.is_empty() {
            self.since = now;
            self.again_after_secs = again_after_secs;
        }
        self.again_after_secs = self.again_after_secs.min(again_after_secs);
        self.length = self.length.saturating_add(1);
        match weight {
            Weight::Unreachable | Weight::Strong => self.strong = self.strong.saturating_add(1),
            Weight::Weak => self.weak.add(caller, 1),
        }
    }

    /// How many failures it is worth.
    pub(crate) fn worth(&self, witnesses: Witnesses, others: Others) -> u32 {
        let largest = self.weak.largest().complaints;
        let rest = self
            .strong
            .saturating_add(self.weak.total().saturating_sub(largest));
        let all = rest.saturating_add(largest);
        match (witnesses, others) {
            (Witnesses::One, _) => all,
            (Witnesses::Two, Others::AreWell) => rest.saturating_add(largest.min(rest)),
            (Witnesses::Two, Others::Unknown | Others::None) if rest > 0 => all,
            (Witnesses::Two, Others::Unknown) => 0,
            (Witnesses::Two, Others::None) => largest / ALONE,
        }
    }
}

/// Who has complained and who was answered, lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Callers {
    /// Weak failures.
    pub(crate) failed: Tally,
    /// Calls that were not answered.
    pub(crate) unanswered: Tally,
    /// When the tallies were halved last.
    pub(crate) faded: Instant,
    /// Who was answered after a failure, and whom workers report of the others.
    pub(crate) answered: Answered,
}

impl Callers {
    /// A weak failure of `caller`, one of `weak` in the window.
    pub(crate) fn failed(&mut self, caller: Caller, weak: u32, now: Instant, window: Duration) {
        self.fade(now, window);
        self.failed.cap(COMPLAINT.saturating_mul(weak));
        self.failed.add(caller, COMPLAINT);
    }

    /// `caller` has given up, as `unanswered` callers have in the window.
    pub(crate) fn gave_up(
        &mut self,
        caller: Caller,
        unanswered: u32,
        now: Instant,
        window: Duration,
    ) {
        self.fade(now, window);
        self.unanswered.cap(COMPLAINT.saturating_mul(unanswered));
        self.unanswered.add(caller, COMPLAINT);
    }

    /// Complaints are forgotten about when they leave the window.
    fn fade(&mut self, now: Instant, window: Duration) {
        let half = (crate::time::nanos(window) / 2).max(1);
        let halves = crate::time::nanos(now.since(self.faded)) / half;
        for _ in 0..halves.min(u64::from(u32::BITS)) {
            self.failed.halve();
            self.unanswered.halve();
        }
        if halves > 0 {
            self.faded = now;
        }
    }

    pub(crate) fn clear_complaints(&mut self) {
        self.failed.clear();
        self.unanswered.clear();
    }
}

/// Complaints of a window, as far as they count, and how much larger the rule's minimum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    pub(crate) complaints: u32,
    pub(crate) times_minimum: u32,
}

/// How much `strong` and `weak` complaints are worth together. One caller supplies at most half.
pub(crate) fn credit(
    witnesses: Witnesses,
    others: Others,
    strong: u32,
    weak: u32,
    by_caller: &Tally,
) -> Credit {
    let full = |complaints, times_minimum| Credit {
        complaints,
        times_minimum,
    };
    let all = strong.saturating_add(weak);
    if weak == 0 || witnesses == Witnesses::One {
        return full(all, 1);
    }
    let total = u64::from(by_caller.total()).max(1);
    let largest = u64::from(by_caller.largest().complaints).min(total);
    let largest = u32::try_from(u64::from(weak) * largest / total).unwrap_or(weak);
    let rest = strong.saturating_add(weak - largest);
    match others {
        Others::None if rest == 0 => full(all, ALONE),
        Others::None => full(all, 1),
        Others::AreWell | Others::Unknown => full(rest.saturating_add(largest.min(rest)), 1),
    }
}

/// How many calls in `counts` were answered well.
pub(crate) const fn answered_well(counts: Counts) -> u32 {
    counts.total.saturating_sub(counts.failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
    const WINDOW: Duration = Duration::from_secs(10);

    fn row(strong: u32, weak_by_caller: &[u32]) -> Row {
        let mut row = Row::default();
        for _ in 0..strong {
            row.add(Weight::Strong, Caller::UNKNOWN, 0, NOW);
        }
        for (caller, failures) in (1..).zip(weak_by_caller) {
            for _ in 0..*failures {
                row.add(Weight::Weak, Caller::from_hash(caller), 0, NOW);
            }
        }
        row
    }

    #[test]
    fn what_a_row_is_worth() {
        use Others::{AreWell, None, Unknown};
        for (strong, weak, expected) in [
            (5, vec![], [5, 5, 5]),
            (0, vec![4, 1], [2, 5, 5]),
            (0, vec![3, 3], [6, 6, 6]),
            (0, vec![1, 1, 1, 1, 1], [5, 5, 5]),
            (1, vec![4], [2, 5, 5]),
            (0, vec![1000], [0, 0, 333]),
            (0, vec![15], [0, 0, 5]),
            (0, vec![14], [0, 0, 4]),
        ] {
            let row = row(strong, &weak);
            let worth = [AreWell, Unknown, None].map(|others| row.worth(Witnesses::Two, others));
            assert_eq!(worth, expected, "{strong} strong and {weak:?}");
            let all = strong + weak.iter().sum::<u32>();
            assert_eq!(row.worth(Witnesses::One, AreWell), all);
        }
    }

    #[test]
    fn what_a_windows_complaints_are_worth() {
        use Others::{AreWell, None, Unknown};
        for (strong, weak, others, expected) in [
            (10, vec![], AreWell, (10, 1)),
            (0, vec![100], AreWell, (0, 1)),
            (0, vec![100], Unknown, (0, 1)),
            (0, vec![100], None, (100, 3)),
            (0, vec![90, 10], AreWell, (20, 1)),
            (0, vec![99, 1], Unknown, (2, 1)),
            (5, vec![90, 10], None, (105, 1)),
            (0, vec![25, 25, 25, 25], AreWell, (100, 1)),
        ] {
            let tally = row(0, &weak).weak;
            let total = weak.iter().sum();
            let Credit {
                complaints,
                times_minimum,
            } = credit(Witnesses::Two, others, strong, total, &tally);
            assert_eq!(
                (complaints, times_minimum),
                expected,
                "{strong} {weak:?} {others:?}"
            );
            let old_rule = credit(Witnesses::One, others, strong, total, &tally);
            assert_eq!(old_rule.complaints, strong + total);
        }
    }

    #[test]
    fn a_caller_is_alone_when_seven_answers_are_missed() {
        let row = row(0, &[15]);
        let after = |millis| NOW.after(Duration::from_millis(millis));
        for (answers, millis) in [(0, 5_000), (1, 8_750), (10, 5_000), (1000, 5_000)] {
            let others = |millis| Others::unseen(&row, answers, WINDOW, after(millis));
            assert_ne!(others(millis - 1), Others::None, "{answers}");
            assert_eq!(others(millis), Others::None, "{answers}");
        }
        assert_eq!(Others::unseen(&row, 10, WINDOW, after(9)), Others::AreWell);
        assert_eq!(Others::unseen(&row, 10, WINDOW, after(10)), Others::Unknown);
    }

    #[test]
    fn one_more_failure_is_never_worth_less() {
        for others in [Others::AreWell, Others::Unknown, Others::None] {
            for strong in 0..4 {
                for weak in [
                    vec![],
                    vec![1],
                    vec![9],
                    vec![9, 1],
                    vec![3, 3, 3],
                    vec![50, 1, 1],
                ] {
                    let worth = |strong, weak: &[u32]| {
                        let Credit {
                            complaints,
                            times_minimum,
                        } = credit(
                            Witnesses::Two,
                            others,
                            strong,
                            weak.iter().sum(),
                            &row(0, weak).weak,
                        );
                        complaints / times_minimum
                    };
                    let before = worth(strong, &weak);
                    assert!(
                        worth(strong + 1, &weak) >= before,
                        "{others:?} {strong} {weak:?}"
                    );
                    let more: Vec<u32> = weak.iter().copied().chain([1]).collect();
                    assert!(
                        worth(strong, &more) >= before,
                        "{others:?} {strong} {weak:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn complaints_fade_within_a_few_windows_whatever_its_length_was_before() {
        for before in [WINDOW, Duration::from_millis(7)] {
            let mut callers = Callers::default();
            let caller = Caller::from_hash(1);
            callers.failed(caller, 1, NOW, before);
            callers.failed(caller, 2, NOW.after(WINDOW), WINDOW);
            assert_eq!(callers.failed.total(), COMPLAINT + COMPLAINT / 4);
            callers.gave_up(Caller::from_hash(2), 1, NOW.after(4 * WINDOW), WINDOW);
            assert_eq!(callers.failed.total(), 0);
        }
    }

    #[test]
    fn who_has_left_is_not_blamed_for_what_others_see_later() {
        let mut callers = Callers::default();
        for weak in 1..100_000 {
            callers.failed(Caller::from_hash(1), weak, NOW, WINDOW);
        }
        // The window has forgotten them.
        for weak in 1..=20 {
            callers.failed(
                Caller::from_hash(1 + weak),
                weak,
                NOW.after(2 * WINDOW),
                WINDOW,
            );
        }
        assert_ne!(callers.failed.largest().caller, Caller::from_hash(1));
    }
}
