//! Who was answered well, lately: the witnesses that speak for a service.

use crate::callers::Caller;
use crate::time::Instant;
use std::time::Duration;

/// How long it is remembered that a caller was answered well.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(30);

/// A caller that was answered well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) caller: Caller,
    /// When it was answered last.
    pub(crate) at: Instant,
}

/// The two callers that were answered last, as far as they are known: the newer one first. With two, a
/// single caller can't hide others by good calls of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered(pub(crate) [Option<Witness>; 2]);

impl Answered {
    /// `caller` was answered well at this time, which may be earlier than what is known already.
    pub(crate) fn add(&mut self, caller: Caller, at: Instant) {
        let Self([newer, older]) = self;
        if let Some(known) = newer
            && known.caller == caller
        {
            known.at = known.at.max(at);
            return;
        }
        let mut witness = Witness { caller, at };
        if let Some(known) = older {
            if known.caller != caller && known.at > at {
                return;
            }
            if known.caller == caller {
                witness.at = known.at.max(at);
            }
        }
        *older = Some(witness);
        if newer.is_none_or(|newer| newer.at <= witness.at) {
            std::mem::swap(newer, older);
        }
    }

    /// Who was answered last.
    pub(crate) fn newest(&self) -> Option<Caller> {
        let [newest, _] = self.0;
        newest.map(|witness| witness.caller)
    }

    /// Adds what another one knows.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for witness in other.0.iter().flatten() {
            self.add(witness.caller, witness.at);
        }
    }

    /// Whether a caller was answered well, lately, of which `is_wanted` is true.
    pub(crate) fn any(&self, now: Instant, is_wanted: impl Fn(Caller) -> bool) -> bool {
        self.0
            .iter()
            .flatten()
            .any(|witness| now.since(witness.at) < REMEMBERED && is_wanted(witness.caller))
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

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

    #[test]
    fn good_calls_of_ones_own_hide_nobody_else() {
        let [suspect, other] = [1, 2].map(Caller::from_hash);
        let mut answered = Answered::default();
        let others_than = |answered: &Answered, suspect, now| answered.any(now, |by| by != suspect);
        answered.add(suspect, NOW);
        assert!(!others_than(&answered, suspect, NOW));
        answered.add(other, NOW);
        for _ in 0..10 {
            answered.add(suspect, NOW);
        }
        assert!(others_than(&answered, suspect, NOW));
        assert!(others_than(&answered, other, NOW));
        assert!(!others_than(&answered, suspect, NOW.after(REMEMBERED)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_last_two_are_known_in_whatever_order_they_are_heard_of(
            calls in prop::collection::vec((1_u32..5, 0_u64..1_000_000), 0..20).prop_shuffle(),
        ) {
            let mut answered = Answered::default();
            for (caller, at) in &calls {
                answered.add(Caller::from_hash(*caller), NOW.after(Duration::from_nanos(*at)));
            }
            let last = |caller: u32| calls.iter().filter(|(by, _)| *by == caller).map(|(_, at)| *at).max();
            let mut expected: Vec<u64> = (1..5).filter_map(last).collect();
            expected.sort_unstable_by(|one, other| other.cmp(one));
            expected.truncate(2);
            let known: Vec<u64> = answered.0.iter().flatten()
                .map(|witness| witness.at.as_nanos() - NOW.as_nanos()).collect();
            prop_assert_eq!(known, expected);
        }
    }
}
