//! Who complains: callers, and how many of the weak failures come from one of them.
//!
//! A caller can bring a weak failure about by what it sends, so one caller alone must not be able
//! to shut a service for the others. A [`Tally`] tells the most frequent callers apart in constant
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

/// How many callers a [`Tally`] tells apart.
pub(crate) const TOLD_APART: usize = 4;

/// How many complaints of one caller there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) caller: Caller,
    pub(crate) complaints: u32,
}

/// Complaints by caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// A share without complaints is free.
    pub(crate) shares: [Share; TOLD_APART],
    /// Of callers that are not told apart.
    pub(crate) others: u32,
}

impl Tally {
    /// Adds complaints of `caller`.
    pub(crate) fn add(&mut self, caller: Caller, complaints: u32) {
        let mut rarest = 0;
        let mut fewest = u32::MAX;
        for (place, share) in self.shares.iter_mut().enumerate() {
            if share.complaints > 0 && share.caller == caller {
                share.complaints = share.complaints.saturating_add(complaints);
                return;
            }
            if share.complaints < fewest {
                (rarest, fewest) = (place, share.complaints);
            }
        }
        self.others = self.others.saturating_add(fewest);
        if let Some(share) = self.shares.get_mut(rarest) {
            *share = Share { caller, complaints };
        }
    }

    /// The complaints of `caller`. None if it is not told apart.
    pub(crate) fn complaints_of(&self, caller: Caller) -> u32 {
        let mut shares = self.shares.iter();
        let share = shares.find(|share| share.complaints > 0 && share.caller == caller);
        share.map_or(0, |share| share.complaints)
    }

    /// No share is larger than this.
    pub(crate) fn cap(&mut self, complaints: u32) {
        for share in &mut self.shares {
            share.complaints = share.complaints.min(complaints);
        }
        self.others = self.others.min(complaints);
    }

    /// The share of the most frequent caller.
    pub(crate) fn largest(&self) -> Share {
        let mut largest = Share::default();
        for share in self.shares {
            if share.complaints > largest.complaints {
                largest = share;
            }
        }
        largest
    }

    pub(crate) fn total(&self) -> u32 {
        self.shares.iter().fold(self.others, |sum, share| {
            sum.saturating_add(share.complaints)
        })
    }

    /// Forgets half of what there was.
    pub(crate) fn halve(&mut self) {
        for share in &mut self.shares {
            share.complaints /= 2;
        }
        self.others /= 2;
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

    #[test]
    fn one_caller_is_found_among_many_that_complain_once() {
        let mut tally = Tally::default();
        for other in 1..=1000 {
            tally.add(Caller::from_hash(other), 1);
            tally.add(Caller::from_hash(7_777), 1);
        }
        let largest = tally.largest();
        assert_eq!(largest.caller, Caller::from_hash(7_777));
        assert_eq!((largest.complaints, tally.total()), (1000, 2000));
    }

    #[test]
    fn what_was_halved_to_nothing_is_free() {
        let mut tally = Tally::default();
        for caller in 1..=4 {
            tally.add(Caller::from_hash(caller), 1);
        }
        tally.halve();
        assert_eq!(
            tally,
            Tally {
                shares: tally.shares,
                others: 0
            }
        );
        assert_eq!(tally.total(), 0);
        tally.add(Caller::from_hash(9), 1);
        assert_eq!((tally.largest().complaints, tally.total()), (1, 1));
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
                tally.add(Caller::from_hash(*caller), 1);
                exact[*caller as usize] += 1;
            }
            prop_assert_eq!(tally.total() as usize, callers.len());
            let largest = tally.largest();
            prop_assert!(largest.complaints <= exact[largest.caller.hash() as usize]);
            if exact.iter().filter(|count| **count > 0).count() <= TOLD_APART {
                prop_assert_eq!(largest.complaints, *exact.iter().max().unwrap());
            }
        }
    }
}
