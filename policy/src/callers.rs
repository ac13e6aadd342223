//! Who complains: callers, and how many of the weak failures come from one of them.
//!
//! A caller can bring a weak failure about by what it sends, so one caller alone must not be able
//! to shut a service for the others. A `Tally` tells the most frequent callers apart in constant
//! space. A new caller takes the place of the rarest one, as in Space-Saving (Metwally et al.,
//! "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005), but not its count, so
//! that no count is too high.

/// Who made a call, as a hash of its address. Two callers with the same hash are taken for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller(u32);

impl Caller {
    /// Callers that nothing is known of. They are taken for one.
    pub const UNKNOWN: Self = Self(0);

    /// The caller with this hash of its address.
    pub const fn from_hash(hash: u32) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn hash(self) -> u32 {
        self.0
    }
}

/// How many callers a [`Tally`] tracks.
pub(crate) const TOLD_APART: usize = 4;

/// What was complained about, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complaints {
    /// Failures that no caller can bring about.
    pub(crate) strong: u32,
    /// Failures that the caller may have brought about.
    pub(crate) weak: u32,
    /// Calls that the caller gave up.
    pub(crate) unanswered: u32,
}

impl Complaints {
    pub(crate) const fn failures(self) -> u32 {
        self.strong.saturating_add(self.weak)
    }

    /// Those that the caller may have brought about.
    pub(crate) const fn doubtful(self) -> u32 {
        self.weak.saturating_add(self.unanswered)
    }

    /// A measure of how much a caller may have brought about, to find the one that counts least.
    pub(crate) const fn suspicion(self) -> (u32, u32) {
        (self.doubtful(), self.failures())
    }

    const fn all(self) -> u32 {
        self.failures().saturating_add(self.unanswered)
    }

    pub(crate) const fn times(self, times: u32) -> Self {
        Self {
            strong: self.strong.saturating_mul(times),
            weak: self.weak.saturating_mul(times),
            unanswered: self.unanswered.saturating_mul(times),
        }
    }

    /// Each kind, and the same kind of `other`, combined.
    fn with(self, other: Self, combine: impl Fn(u32, u32) -> u32) -> Self {
        Self {
            strong: combine(self.strong, other.strong),
            weak: combine(self.weak, other.weak),
            unanswered: combine(self.unanswered, other.unanswered),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, u32::saturating_add)
    }

    const fn half(self) -> Self {
        Self {
            strong: self.strong / 2,
            weak: self.weak / 2,
            unanswered: self.unanswered / 2,
        }
    }
}

/// The complaints of one caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) caller: Caller,
    pub(crate) complaints: Complaints,
}

/// Complaints by caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// A share without complaints is free.
    pub(crate) shares: [Share; TOLD_APART],
    /// Of callers that are not told apart.
    pub(crate) others: Complaints,
}

impl Tally {
    /// Adds complaints of `caller`.
    pub(crate) fn add(&mut self, caller: Caller, complaints: Complaints) {
        let mut rarest = 0;
        let mut fewest = u32::MAX;
        for (place, share) in self.shares.iter_mut().enumerate() {
            let all = share.complaints.all();
            if all > 0 && share.caller == caller {
                share.complaints = share.complaints.plus(complaints);
                return;
            }
            if all < fewest {
                (rarest, fewest) = (place, all);
            }
        }
        if let Some(share) = self.shares.get_mut(rarest) {
            self.others = self.others.plus(share.complaints);
            *share = Share { caller, complaints };
        }
    }

    /// The complaints of `caller`. None if it is not told apart.
    pub(crate) fn complaints_of(&self, caller: Caller) -> Complaints {
        let mut shares = self.shares.iter();
        let share = shares.find(|share| share.complaints.all() > 0 && share.caller == caller);
        share.map_or(Complaints::default(), |share| share.complaints)
    }

    /// No share has more of a kind than `most`.
    pub(crate) fn cap(&mut self, most: Complaints) {
        for share in &mut self.shares {
            share.complaints = share.complaints.with(most, u32::min);
        }
        self.others = self.others.with(most, u32::min);
    }

    /// The share of the caller that complains most, by this measure.
    pub(crate) fn largest<M: PartialOrd>(&self, measure: impl Fn(Complaints) -> M) -> Share {
        let mut largest = Share::default();
        for share in self.shares {
            if measure(share.complaints) > measure(largest.complaints) {
                largest = share;
            }
        }
        largest
    }

    pub(crate) fn total(&self) -> Complaints {
        self.shares
            .iter()
            .fold(self.others, |sum, share| sum.plus(share.complaints))
    }

    /// Forgets half of what there was.
    pub(crate) fn halve(&mut self) {
        for share in &mut self.shares {
            share.complaints = share.complaints.half();
        }
        self.others = self.others.half();
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const ONE: Complaints = Complaints {
        strong: 0,
        weak: 1,
        unanswered: 0,
    };

    #[test]
    fn one_caller_is_found_among_many_that_complain_once() {
        let mut tally = Tally::default();
        for other in 1..=1000 {
            tally.add(Caller::from_hash(other), ONE);
            tally.add(Caller::from_hash(7_777), ONE);
        }
        let largest = tally.largest(|complaints| complaints.weak);
        assert_eq!(largest.caller, Caller::from_hash(7_777));
        assert_eq!((largest.complaints.weak, tally.total().weak), (1000, 2000));
    }

    #[test]
    fn what_was_halved_to_nothing_is_free() {
        let mut tally = Tally::default();
        for caller in 1..=4 {
            tally.add(Caller::from_hash(caller), ONE);
        }
        tally.halve();
        assert_eq!(
            tally,
            Tally {
                shares: tally.shares,
                others: Complaints::default()
            }
        );
        assert_eq!(tally.total(), Complaints::default());
        tally.add(Caller::from_hash(9), ONE);
        let largest = tally.largest(|complaints| complaints.weak);
        assert_eq!((largest.complaints, tally.total()), (ONE, ONE));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn nothing_is_lost_and_up_to_four_callers_are_exact(
            callers in prop::collection::vec(1_u32..9, 1..200),
        ) {
            let mut tally = Tally::default();
            let mut exact = [0_u32; 9];
            for caller in &callers {
                tally.add(Caller::from_hash(*caller), ONE);
                exact[*caller as usize] += 1;
            }
            prop_assert_eq!(tally.total().weak as usize, callers.len());
            let largest = tally.largest(|complaints| complaints.weak);
            prop_assert!(largest.complaints.weak <= exact[largest.caller.hash() as usize]);
            if exact.iter().filter(|count| **count > 0).count() <= TOLD_APART {
                prop_assert_eq!(largest.complaints.weak, *exact.iter().max().unwrap());
            }
        }
    }
}
