//! Whether complaints are enough to shut a service: how many there are, and who makes them.
//!
//! A strong failure is one that no caller can bring about: no connection, a reset, a time limit. A
//! weak one may be the caller's own doing: an error for something that it sent. Five strong ones in
//! a row are enough for a service that is well. Weak ones need a second witness: a weak failure of another
//! caller. If one caller is all there is, three times as many are enough, but only while nobody else is
//! answered.

use crate::answered::Answered;
use crate::callers::{Caller, Complaints, Tally};
use crate::ratio::Ratio;
use crate::surprise::Expected;
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
    /// Somebody else was answered well, lately.
    AreWell,
    /// Another worker may know of somebody, and has had no time to say so.
    MayBeWell,
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
            return Self::MayBeWell;
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
    /// How many there are.
    pub(crate) length: u32,
    /// How many strong ones came last, without anything between them that a caller may have brought
    /// about.
    pub(crate) strong_run: u32,
    /// The failures, and what was given up meanwhile.
    pub(crate) by_caller: Tally,
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

    /// How many of them are not only the doing of the one who may have brought the most about. One may be
    /// chance for anybody.
    pub(crate) fn believed(&self) -> u32 {
        let suspect = self.by_caller.largest(Complaints::suspicion).complaints;
        self.length.saturating_sub(suspect.weak.saturating_sub(1))
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
        self.strong_run = match weight {
            Weight::Unreachable | Weight::Strong => self.strong_run.saturating_add(1),
            Weight::Weak => 0,
        };
        self.by_caller.add(caller, weight.times(1));
    }

    /// `caller` has given up a call.
    pub(crate) fn gave_up(&mut self, caller: Caller) {
        if !self.is_empty() {
            self.strong_run = 0;
            self.by_caller.add(caller, unanswered(1));
        }
    }

    /// How many failures it is worth.
    ///
    /// The suspect is the caller that may have brought the most about. Its strong failures between its
    /// weak ones are no witnesses: a service that fails now and then does so for it, too, and the more it
    /// calls, the more often. Only those that nothing else came between are as good as anybody's. For the
    /// same reason a strong failure of another caller bears out one failure of the suspect, not all.
    pub(crate) fn worth(&self, witnesses: Witnesses, others: Others) -> u32 {
        let suspect = self.by_caller.largest(Complaints::suspicion).complaints;
        if witnesses == Witnesses::One || suspect.doubtful() == 0 {
            return self.length;
        }
        let of_others = self.length.saturating_sub(suspect.failures());
        let borne_out = |most: u32| {
            let own = suspect.failures().min(most);
            self.strong_run.max(of_others.saturating_add(own))
        };
        let somebody_else_saw_weak = self.by_caller.total().weak > suspect.weak;
        match others {
            // One may be chance for anybody.
            Others::AreWell => borne_out(of_others.min(1)),
            Others::Unknown | Others::None if somebody_else_saw_weak => self.length,
            Others::MayBeWell | Others::Unknown => borne_out(of_others),
            Others::None => {
                let alone = suspect.strong.saturating_add(suspect.weak / ALONE);
                borne_out(of_others.max(alone))
            }
        }
    }
}

impl Weight {
    /// So many failures of this weight.
    const fn times(self, count: u32) -> Complaints {
        let (strong, weak) = match self {
            Self::Unreachable | Self::Strong => (count, 0),
            Self::Weak => (0, count),
        };
        Complaints {
            strong,
            weak,
            unanswered: 0,
        }
    }
}

pub(crate) const fn unanswered(count: u32) -> Complaints {
    Complaints {
        strong: 0,
        weak: 0,
        unanswered: count,
    }
}

/// Who has complained and who was answered, lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Callers {
    pub(crate) complaints: Tally,
    /// When the tally was halved last.
    pub(crate) faded: Instant,
    /// Who was answered after a failure, and whom workers report of the others.
    pub(crate) answered: Answered,
}

impl Callers {
    /// A call of `caller` has failed. It is one of those in the window, which are `counts`.
    pub(crate) fn failed(
        &mut self,
        caller: Caller,
        weight: Weight,
        counts: Counts,
        now: Instant,
        window: Duration,
    ) {
        // Whose the strong ones are matters only beside doubtful ones.
        if complaints_in(counts).doubtful() > 0 {
            self.complain(caller, weight.times(COMPLAINT), counts, now, window);
        }
    }

    /// `caller` has given up a call.
    pub(crate) fn gave_up(
        &mut self,
        caller: Caller,
        counts: Counts,
        now: Instant,
        window: Duration,
    ) {
        self.complain(caller, unanswered(COMPLAINT), counts, now, window);
    }

    /// Who has given up the most of the calls in `counts`, and how many.
    pub(crate) fn most_unanswered(&self, counts: Counts) -> (Caller, u32) {
        let complained = Complained::of_silence(counts, &self.complaints);
        (complained.suspect, complained.own.unanswered)
    }

    fn complain(
        &mut self,
        caller: Caller,
        complaint: Complaints,
        counts: Counts,
        now: Instant,
        window: Duration,
    ) {
        self.fade(now, window);
        self.complaints.cap(complaints_in(counts).times(COMPLAINT));
        self.complaints.add(caller, complaint);
    }

    /// Complaints are forgotten about when they leave the window.
    fn fade(&mut self, now: Instant, window: Duration) {
        let half = (crate::time::nanos(window) / 2).max(1);
        let halves = crate::time::nanos(now.since(self.faded)) / half;
        for _ in 0..halves.min(u64::from(u32::BITS)) {
            self.complaints.halve();
        }
        if halves > 0 {
            self.faded = now;
        }
    }
}

/// A part of some calls, to compare with the ratio of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portion {
    part: u32,
    whole: u32,
    /// How much larger the rule's minimum is.
    times_minimum: u32,
}

impl Portion {
    const NONE: Self = Self::of(0, 0);

    pub(crate) const fn of(part: u32, whole: u32) -> Self {
        Self {
            part,
            whole,
            times_minimum: 1,
        }
    }

    /// A part that is not among these `others`.
    pub(crate) const fn beside(part: u32, others: u32) -> Self {
        Self::of(part, others.saturating_add(part))
    }

    /// Whether it is improbable where so many calls fail.
    pub(crate) fn refutes(self, expected: Expected) -> bool {
        expected.is_refuted_by_portion(self.part, self.whole)
    }

    /// Whether it is as large as `ratio`, of at least `minimum` calls.
    pub(crate) fn reaches(self, ratio: Ratio, minimum: u32) -> bool {
        let minimum = minimum.saturating_mul(self.times_minimum);
        self.part > 0 && self.whole >= minimum && ratio.is_reached_by(self.part, self.whole)
    }
}

/// The complaints in a window, and which of them come from the caller that may have brought the most
/// about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complained {
    pub(crate) suspect: Caller,
    all: Complaints,
    own: Complaints,
}

impl Complained {
    /// `counts` of a window, with the suspect by this measure.
    pub(crate) fn new(
        counts: Counts,
        by_caller: &Tally,
        measure: impl Fn(Complaints) -> (u32, u32),
    ) -> Self {
        let share = by_caller.largest(measure);
        let all = complaints_in(counts);
        // The tally fades, so only its proportions hold.
        let (own, total) = (share.complaints, by_caller.total());
        let part = |count: u32, own: u32, total: u32| {
            let [count, own, total] = [count, own.min(total), total.max(1)].map(u64::from);
            u32::try_from((count * own + total / 2) / total).unwrap_or(u32::MAX)
        };
        Self {
            suspect: share.caller,
            all,
            own: Complaints {
                strong: part(all.strong, own.strong, total.strong),
                weak: part(all.weak, own.weak, total.weak),
                unanswered: part(all.unanswered, own.unanswered, total.unanswered),
            },
        }
    }

    /// With the suspect that has given up the most.
    pub(crate) fn of_silence(counts: Counts, by_caller: &Tally) -> Self {
        Self::new(counts, by_caller, |complaints| (complaints.unanswered, 0))
    }

    /// What failures are worth beside `answered` calls. The rate is reached if either portion reaches it.
    ///
    /// What may be the suspect's own doing counts for nothing while others are answered, and takes
    /// nothing away from what they see.
    pub(crate) fn failures(
        self,
        witnesses: Witnesses,
        others: Others,
        answered: u32,
    ) -> [Portion; 2] {
        let all = self.all.failures();
        if witnesses == Witnesses::One || self.all.doubtful() == 0 {
            return [Portion::beside(all, answered), Portion::NONE];
        }
        if others == Others::None {
            let is_alone = self.all.strong == 0 && all == self.own.weak;
            return [alone(all, answered, is_alone), Portion::NONE];
        }
        // Strong failures are a sample of all calls: the more the suspect makes, the more of them it meets.
        let calls = answered
            .saturating_add(all)
            .saturating_add(self.all.unanswered);
        let among_all_calls = Portion::of(self.believed(), calls);
        let second = if others == Others::AreWell {
            all.saturating_sub(self.own.failures())
        } else {
            // There may be nobody else. What the suspect sees is believed as far as the rest bears it out.
            let believed = self.believed();
            believed.saturating_add(self.own.weak.min(believed))
        };
        [among_all_calls, Portion::beside(second, answered)]
    }

    /// What unanswered calls are worth beside `answered` ones.
    pub(crate) fn silence(self, witnesses: Witnesses, others: Others, answered: u32) -> Portion {
        let all = self.all.unanswered;
        let of_others = all - self.own.unanswered;
        match (witnesses, others) {
            (Witnesses::One, _) => Portion::beside(all, answered),
            (Witnesses::Two, Others::None) => alone(all, answered, of_others == 0),
            (Witnesses::Two, Others::AreWell | Others::MayBeWell | Others::Unknown) => {
                Portion::beside(of_others, answered)
            }
        }
    }

    /// The failures that are believed, whoever the suspect is.
    const fn believed(self) -> u32 {
        self.all.failures().saturating_sub(self.own.weak)
    }

    /// What the service is expected to do, beside `answered` calls.
    pub(crate) fn expected(self, witnesses: Witnesses, answered: u32) -> Expected {
        let failed = match witnesses {
            Witnesses::One => self.all.failures(),
            Witnesses::Two => self.believed(),
        };
        Expected {
            calls: answered.saturating_add(failed),
            failed,
        }
    }
}

fn alone(complaints: u32, answered: u32, is_alone: bool) -> Portion {
    Portion {
        times_minimum: if is_alone { ALONE } else { 1 },
        ..Portion::beside(complaints, answered)
    }
}

const fn complaints_in(counts: Counts) -> Complaints {
    Complaints {
        strong: counts.failures.saturating_sub(counts.weak),
        weak: counts.weak,
        unanswered: counts.unanswered,
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

    /// Strong failures of somebody else, then weak ones by caller.
    fn row(strong: u32, weak_by_caller: &[u32]) -> Row {
        let mut row = Row::default();
        for _ in 0..strong {
            row.add(Weight::Strong, Caller::from_hash(1_000), 0, NOW);
        }
        for (caller, failures) in (1..).zip(weak_by_caller) {
            for _ in 0..*failures {
                row.add(Weight::Weak, Caller::from_hash(caller), 0, NOW);
            }
        }
        row
    }

    fn worth(row: &Row) -> [u32; 3] {
        [Others::AreWell, Others::Unknown, Others::None]
            .map(|others| row.worth(Witnesses::Two, others))
    }

    #[test]
    fn what_a_row_is_worth() {
        for (strong, weak, expected) in [
            (5, vec![], [5, 5, 5]),
            (5, vec![1], [6, 6, 6]),
            (0, vec![4, 1], [2, 5, 5]),
            (0, vec![3, 3], [4, 6, 6]),
            (0, vec![1, 1, 1, 1, 1], [5, 5, 5]),
            (1, vec![4], [2, 2, 2]),
            (2, vec![3], [3, 4, 4]),
            (4, vec![100], [5, 8, 37]),
            (0, vec![1000], [0, 0, 333]),
            (0, vec![15], [0, 0, 5]),
            (0, vec![14], [0, 0, 4]),
        ] {
            let row = row(strong, &weak);
            assert_eq!(worth(&row), expected, "{strong} strong and {weak:?}");
            let all = strong + weak.iter().sum::<u32>();
            assert_eq!(row.worth(Witnesses::One, Others::AreWell), all);
        }
    }

    #[test]
    fn a_suspects_strong_failures_count_only_if_nothing_else_came_between() {
        let suspect = Caller::from_hash(1);
        let other = Caller::from_hash(2);
        let mut row = Row::default();
        for weight in [
            Weight::Strong,
            Weight::Weak,
            Weight::Unreachable,
            Weight::Weak,
        ] {
            row.add(weight, suspect, 0, NOW);
        }
        assert_eq!(worth(&row), [0, 0, 2]);
        row.add(Weight::Strong, suspect, 0, NOW);
        row.add(Weight::Strong, suspect, 0, NOW);
        assert_eq!(worth(&row), [2, 2, 4]);
        row.gave_up(suspect);
        assert_eq!(worth(&row), [0, 0, 4]);
        row.gave_up(other);
        row.add(Weight::Strong, other, 0, NOW);
        assert_eq!(worth(&row), [2, 2, 5]);
    }

    #[test]
    fn what_is_given_up_begins_no_row() {
        let mut row = Row::default();
        row.gave_up(Caller::from_hash(1));
        assert_eq!(row, Row::default());
    }

    fn complained(strong_by_caller: &[u32], weak_by_caller: &[u32]) -> Complained {
        let mut tally = Tally::default();
        let mut counts = Counts::default();
        for (by_caller, weight) in [
            (strong_by_caller, Weight::Strong),
            (weak_by_caller, Weight::Weak),
        ] {
            for (caller, failures) in (1..).zip(by_caller) {
                if *failures > 0 {
                    tally.add(
                        Caller::from_hash(caller),
                        weight.times(COMPLAINT * failures),
                    );
                }
                counts.failures += failures;
                if weight == Weight::Weak {
                    counts.weak += failures;
                }
            }
        }
        Complained::new(counts, &tally, Complaints::suspicion)
    }

    /// What failures are worth beside 100 answered calls, each in percent of the whole.
    fn percent(strong_by_caller: &[u32], weak_by_caller: &[u32], others: Others) -> [u32; 2] {
        let complained = complained(strong_by_caller, weak_by_caller);
        complained
            .failures(Witnesses::Two, others, 100)
            .map(|portion| portion.part * 100 / portion.whole.max(1))
    }

    #[test]
    fn what_a_windows_failures_are_worth() {
        use Others::{AreWell, None, Unknown};
        for (strong, weak, others, expected) in [
            (vec![300], vec![], AreWell, [75, 0]),
            (vec![], vec![300], AreWell, [0, 0]),
            (vec![], vec![300], Unknown, [0, 0]),
            (vec![100], vec![100], Unknown, [33, 66]),
            (vec![100], vec![100], AreWell, [33, 0]),
            (vec![], vec![300], None, [75, 0]),
            (vec![], vec![75, 75, 75, 75], AreWell, [56, 69]),
            // One caller makes most calls, and all see the same.
            (vec![], vec![300, 100], AreWell, [20, 50]),
            (vec![300, 100], vec![], AreWell, [80, 0]),
            // One in ten calls fails strongly, and the first caller fails weakly as well.
            (vec![0, 11], vec![11], AreWell, [9, 9]),
            (vec![100, 11], vec![900], AreWell, [9, 9]),
            // The same, and most of the others' calls fail weakly.
            (vec![100, 30], vec![900, 270], AreWell, [28, 75]),
        ] {
            let found = percent(&strong, &weak, others);
            assert_eq!(found, expected, "{strong:?} {weak:?} {others:?}");
        }
        let [one_alone, _] = complained(&[], &[300]).failures(Witnesses::Two, None, 0);
        assert_eq!(one_alone.times_minimum, ALONE);
        let [old_rule, _] = complained(&[3], &[300]).failures(Witnesses::One, AreWell, 0);
        assert_eq!((old_rule.part, old_rule.whole), (303, 303));
    }

    #[test]
    fn a_suspect_neither_hides_what_others_see_nor_adds_to_it() {
        // Of the others' calls 100 are answered, and as many as here fail, half of them weakly.
        for failed in [0, 2, 50, 100] {
            let others = failed * 100 / (100 + failed);
            for calls in [100, 1_000, 10_000] {
                // As many of the suspect's calls fail strongly, and all the rest weakly.
                let strong = calls * failed / 2 / (100 + failed);
                let found = percent(
                    &[strong, failed / 2],
                    &[calls - strong, failed / 2],
                    Others::AreWell,
                );
                let most = found.into_iter().max().unwrap();
                assert!(most.abs_diff(others) <= 1, "{failed} {calls}: {found:?}");
            }
        }
    }

    #[test]
    fn what_silence_is_worth() {
        let of = |unanswered_by_caller: &[u32], others| {
            let mut tally = Tally::default();
            for (caller, calls) in (1..).zip(unanswered_by_caller) {
                tally.add(Caller::from_hash(caller), unanswered(*calls));
            }
            let counts = Counts {
                unanswered: unanswered_by_caller.iter().sum(),
                ..Counts::default()
            };
            let complained = Complained::of_silence(counts, &tally);
            let portion = complained.silence(Witnesses::Two, others, 1);
            (portion.part, portion.times_minimum)
        };
        assert_eq!(of(&[100], Others::AreWell), (0, 1));
        assert_eq!(of(&[100], Others::None), (100, ALONE));
        assert_eq!(of(&[90, 10], Others::None), (100, 1));
        assert_eq!(of(&[90, 10], Others::Unknown), (10, 1));
        assert_eq!(of(&[25, 25, 25, 25], Others::Unknown), (75, 1));
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
        assert_eq!(
            Others::unseen(&row, 10, WINDOW, after(9)),
            Others::MayBeWell
        );
        assert_eq!(Others::unseen(&row, 10, WINDOW, after(10)), Others::Unknown);
    }

    fn failures(weak: u32) -> Counts {
        Counts {
            total: weak,
            failures: weak,
            weak,
            ..Counts::default()
        }
    }

    #[test]
    fn complaints_fade_within_a_few_windows_whatever_its_length_was_before() {
        for before in [WINDOW, Duration::from_millis(7)] {
            let mut callers = Callers::default();
            let caller = Caller::from_hash(1);
            let fail = |callers: &mut Callers, weak, now, window| {
                callers.failed(caller, Weight::Weak, failures(weak), now, window);
            };
            fail(&mut callers, 1, NOW, before);
            fail(&mut callers, 2, NOW.after(WINDOW), WINDOW);
            assert_eq!(callers.complaints.total().weak, COMPLAINT + COMPLAINT / 4);
            let later = NOW.after(4 * WINDOW);
            let counts = Counts {
                unanswered: 1,
                ..Counts::default()
            };
            callers.gave_up(Caller::from_hash(2), counts, later, WINDOW);
            assert_eq!(callers.complaints.total(), unanswered(COMPLAINT));
        }
    }

    #[test]
    fn who_has_left_is_not_blamed_for_what_others_see_later() {
        let mut callers = Callers::default();
        let mut fail = |caller, weak, now| {
            let caller = Caller::from_hash(caller);
            callers.failed(caller, Weight::Weak, failures(weak), now, WINDOW);
        };
        for weak in 1..100_000 {
            fail(1, weak, NOW);
        }
        // The window has forgotten them.
        for weak in 1..=20 {
            fail(1 + weak, weak, NOW.after(2 * WINDOW));
        }
        let suspect = callers.complaints.largest(Complaints::suspicion);
        assert_ne!(suspect.caller, Caller::from_hash(1));
    }
}
