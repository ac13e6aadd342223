//! What a client has set on its connection, and what of it the next connection can't have.

use crate::commands::{Class, Effect, Raw};
use crate::replay::{Preamble, Replay};

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(super) struct ClientState {
    replay: Replay,
    /// The number of the MULTI that began the transaction.
    multi: Option<u64>,
    /// A script or function is part of the transaction.
    calls_scripts: bool,
    /// The number of the first WATCH.
    watch: Option<u64>,
    /// The breaker refused a transaction that is not over: none of it may be executed.
    multi_refused: bool,
    subscribed: bool,
    logged_in: bool,
    /// State was set that can't be replayed.
    attached: bool,
    /// Levee answered a command that sets state, so what follows it can't be executed.
    failed: bool,
}

impl ClientState {
    pub const fn in_transaction(&self) -> bool {
        self.multi.is_some()
    }

    /// AUTH, or HELLO with AUTH, was answered well.
    pub const fn has_logged_in(&self) -> bool {
        self.logged_in
    }

    pub const fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Commands belong to something that has begun: refusing one would change its meaning.
    pub const fn is_bound(&self) -> bool {
        self.multi.is_some() || self.subscribed
    }

    /// EXEC will run a script or function.
    pub const fn calls_scripts(&self) -> bool {
        self.in_transaction() && self.calls_scripts
    }

    /// What a command that arrives now relies on.
    pub fn binding(&self) -> Option<u64> {
        self.watch.or(self.multi)
    }

    /// The command belongs to a transaction that was refused.
    pub fn is_refused(&mut self, effect: Effect) -> bool {
        let refused = self.multi_refused && effect != Effect::Reset;
        self.multi_refused = refused && !matches!(effect, Effect::Exec | Effect::Discard);
        refused
    }

    pub const fn refuse_transaction(&mut self) {
        self.multi_refused = true;
    }

    /// A command that sets state was answered by Levee.
    pub const fn fail(&mut self) {
        self.failed = true;
    }

    /// The command `number` was accepted. Returns the effect that it has by itself: what a transaction queues is
    /// executed by EXEC alone.
    pub fn begin(&mut self, class: Class, number: u64) -> Effect {
        let effect = class.effect;
        let ends_it = matches!(effect, Effect::Exec | Effect::Discard | Effect::Reset);
        // What EXEC will do to replies is not followed either.
        let silences = matches!(effect, Effect::Raw(Raw::Silence(_)));
        let queued = self.in_transaction() && !ends_it && !silences;
        match effect {
            Effect::Multi if !queued => (self.multi, self.calls_scripts) = (Some(number), false),
            Effect::Watch if !queued => self.watch = self.watch.or(Some(number)),
            Effect::Unwatch if !queued => self.watch = None,
            // Outside a transaction these are errors and change nothing.
            Effect::Exec | Effect::Discard if self.in_transaction() => {
                (self.multi, self.watch) = (None, None);
            }
            Effect::Reset => (self.multi, self.watch) = (None, None),
            Effect::Subscribe => self.subscribed = true,
            Effect::Attach => self.attached = true,
            // Whether EXEC sets it is not followed.
            Effect::Select | Effect::Auth | Effect::Hello | Effect::ClientSetting if queued => {
                self.attached = true;
            }
            _ => {}
        }
        self.calls_scripts |= queued && class.work.takes_long();
        if queued { Effect::None } else { effect }
    }

    /// Redis has executed `command`.
    pub fn adopt(&mut self, effect: Effect, command: &[u8]) {
        self.attached |= self.replay.adopt(effect, command).is_err();
        self.logged_in |= effect == Effect::Auth || self.replay.has_identity();
    }

    /// Redis has executed RESET; `subscribes` and `attaches` say what follows it already.
    pub fn reset(&mut self, subscribes: bool, attaches: bool) {
        self.replay = Replay::default();
        self.logged_in = false;
        (self.subscribed, self.attached) = (subscribes, attaches);
    }

    /// Redis refused the MULTI or WATCH `number`.
    pub fn did_not_begin(&mut self, number: u64) {
        for state in [&mut self.multi, &mut self.watch] {
            *state = state.filter(|began| *began != number);
        }
    }

    /// The client relies on state that the next connection can't have; `first` is the number of the first command that
    /// is not answered.
    pub fn is_lost(&self, first: u64) -> bool {
        let began = |number: Option<u64>| number.is_some_and(|number| number < first);
        began(self.multi) || began(self.watch) || self.subscribed || self.attached || self.failed
    }

    pub fn preamble(&self) -> Preamble {
        self.replay.preamble()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idempotency::Idempotency;
    use crate::resp::encode;

    #[test]
    fn a_transaction_is_lost_once_its_begin_is_answered() {
        let mut client = ClientState::default();
        let class = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            Class::of(&encode(&words), &Idempotency::new(&[], &[]))
        };
        assert_eq!(client.begin(class("MULTI"), 0), Effect::Multi);
        assert_eq!(client.begin(class("SELECT 1"), 1), Effect::None);
        assert!(client.in_transaction() && client.is_lost(0), "SELECT in it");
        client.reset(false, false);
        assert!(!client.is_lost(0) && client.is_lost(1));
        assert_eq!(client.begin(class("EXEC"), 2), Effect::Exec);
        assert!(!client.is_lost(3));
    }

    #[test]
    fn a_refused_transaction_is_refused_to_its_end() {
        let mut client = ClientState::default();
        client.refuse_transaction();
        for effect in [Effect::None, Effect::Multi, Effect::Exec] {
            assert!(client.is_refused(effect));
        }
        assert!(!client.is_refused(Effect::None));
        client.refuse_transaction();
        assert!(!client.is_refused(Effect::Reset) && !client.is_refused(Effect::None));
    }
}
