//! The circuit breaker.
//!
//! ```text
//!             a rule was met                  open time has passed
//!   CLOSED ────────────────────▶ OPEN ────────────────────────────▶ HALF-OPEN
//!     ▲                            ▲                                 │     │
//!     │                            └──── a probe failed: longer ─────┘     │
//!     └───────────────────── enough probes succeeded ──────────────────────┘
//! ```
//!
//! A call asks with [`Breaker::admit`], holds the [`Permit`] that it gets, and ends with
//! [`Breaker::record`]. These rules avoid the mistakes of other breakers:
//!
//! * **Stale results decide nothing.** Every transition starts a new generation. A permit names
//!   the generation that issued it, and a result from an earlier generation is dropped. A call that
//!   was admitted while closed and fails while half-open opens nothing.
//! * **A lost probe blocks nothing.** A probe's place is a lease. It is free again when a result
//!   arrives, of whatever kind, or when the lease expires. A later result still counts while its
//!   generation lasts: the place was lost, but the result is evidence.
//! * **The limit is on probes in flight**, not on finished probes.
//! * **A call that says nothing about the service decides nothing** ([`Outcome::Neutral`]), but
//!   frees its place.
//! * **One caller shuts no service for the others.** What a caller can bring about by what it sends
//!   is weak evidence, which needs a second witness: see [`evidence`](crate::evidence).
//! * **Silence is evidence.** Callers that give up because no answer comes open the breaker if
//!   hardly any call is answered ([`Silence`]).
//! * **Jitter is drawn once**, when the breaker opens, so repeated calls get consistent answers.
//!
//! Every operation takes constant time and allocates nothing.

mod call;
mod phase;
mod probes;
mod settings;

use call::FIRST_GENERATION;
pub(crate) use call::{Generation, ProbeId};
pub use call::{Outcome, Permit, Report, Verdict};
pub(crate) use phase::State;
pub use phase::{Cause, Phase, Transition};
pub(crate) use probes::{Lease, Probes};
pub use settings::{BreakerSettings, FailureRate, HalfOpen, MAX_PROBES, Mode, Silence, SlowCalls};

use crate::callers::{Caller, Complaints};
use crate::evidence::{
    Callers, Complained, Others, Portion, Row, SOONEST_ALONE, Weight, Witnesses, answered_well,
};
use crate::surprise::Expected;
use crate::time::Instant;
use crate::window::{Counts, Window};
use std::time::Duration;

/// So many failures of one caller in a row are more than chance where calls hardly ever fail.
const NO_CHANCE: u32 = 2;

/// How often a breaker was opened since it was closed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Openings {
    /// By calls that reached the service.
    pub(crate) reached: u32,
    /// By calls that did not.
    pub(crate) unreachable: u32,
}

/// The right to send a health check. It names the open period that issued it: an answer that comes
/// later decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckPermit(Generation);

/// A circuit breaker: see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    pub(crate) state: State,
    pub(crate) generation: Generation,
    /// When the state began.
    pub(crate) since: Instant,
    /// How often it was opened since it was closed last.
    pub(crate) openings: Openings,
    pub(crate) row: Row,
    pub(crate) callers: Callers,
    pub(crate) window: Window,
    pub(crate) probes: Probes,
    /// No health check is sent before, and an open period that begins sooner counts from then: the end of
    /// the period that a check has cut short last, or of one that the service has asked for.
    pub(crate) not_checked_before: Instant,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: &BreakerSettings, now: Instant) -> Self {
        Self {
            state: State::Closed,
            generation: FIRST_GENERATION,
            since: now,
            openings: Openings::default(),
            row: Row::default(),
            callers: Callers::default(),
            window: Window::new(settings.window),
            probes: Probes::default(),
            not_checked_before: Instant::default(),
        }
    }

    /// The phase. An open breaker whose time has passed stays open until a call asks.
    pub const fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// When the current phase began.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// When it was closed after an outage, if it is closed. `None` if it was never open.
    pub(crate) fn closed_again_at(&self) -> Option<Instant> {
        (self.state == State::Closed && self.generation != FIRST_GENERATION).then_some(self.since)
    }

    /// How many leases of probes have expired in total (wraps around).
    pub const fn expired_leases(&self) -> u32 {
        self.probes.expired
    }

    /// May a call go out at `now`, whoever calls?
    #[inline]
    pub fn admit(
        &mut self,
        settings: &BreakerSettings,
        now: Instant,
    ) -> (Verdict, Option<Transition>) {
        self.admit_caller(settings, Caller::UNKNOWN, now)
    }

    /// May a call of `caller` go out at `now`? Who calls matters only while half-open.
    #[inline]
    pub fn admit_caller(
        &mut self,
        settings: &BreakerSettings,
        caller: Caller,
        now: Instant,
    ) -> (Verdict, Option<Transition>) {
        if !settings.mode.learns() {
            return (fixed_verdict(settings), None);
        }
        match self.state {
            State::Closed => (self.admitted(None), None),
            State::Open { until } if now < until => {
                (refusal(settings.mode, until.since(now)), None)
            }
            State::Open { .. } | State::HalfOpen => {
                let (probe, transition) = self.place_for_probe(settings, caller, now);
                let verdict = if probe.is_some() {
                    self.admitted(probe)
                } else {
                    refusal(settings.mode, Duration::ZERO)
                };
                (verdict, transition)
            }
        }
    }

    #[inline]
    const fn admitted(&self, probe: Option<ProbeId>) -> Verdict {
        Verdict::Admit(Permit {
            generation: self.generation,
            probe,
        })
    }

    /// May a call go out at `now`, where only checks of the caller's own are probes? They ask by
    /// [`admit`](Self::admit).
    pub fn admit_when_closed(&self, settings: &BreakerSettings, now: Instant) -> Verdict {
        if !settings.mode.learns() {
            return fixed_verdict(settings);
        }
        match self.state {
            State::Closed => self.admitted(None),
            State::Open { until } => refusal(settings.mode, until.since(now)),
            State::HalfOpen => refusal(settings.mode, Duration::ZERO),
        }
    }

    /// Becomes half-open if necessary, and finds a place for a probe.
    ///
    /// Out of line, so the inlined fast path stays small. The result fits in registers.
    #[inline(never)]
    fn place_for_probe(
        &mut self,
        settings: &BreakerSettings,
        caller: Caller,
        now: Instant,
    ) -> (Option<ProbeId>, Option<Transition>) {
        let transition = (self.state != State::HalfOpen)
            .then(|| self.change(State::HalfOpen, Cause::OpenTimePassed, now));
        let caller = match settings.witnesses {
            Witnesses::One => Caller::UNKNOWN,
            Witnesses::Two => caller,
        };
        let probe = self.probes.acquire(settings.half_open, caller, now);
        (probe, transition)
    }

    /// A health check was answered: an open breaker lets probes through before its time has passed.
    /// Only calls can close it, since a service may answer health checks and fail otherwise.
    pub fn hasten(&mut self, settings: &BreakerSettings, now: Instant) -> Option<Transition> {
        self.test_now(settings, Cause::HealthCheckPassed, now)
    }

    /// Lets probes through before the time of an open breaker has passed.
    pub(crate) fn test_now(
        &mut self,
        settings: &BreakerSettings,
        cause: Cause,
        now: Instant,
    ) -> Option<Transition> {
        let is_open = self.phase() == Phase::Open && settings.mode.learns();
        is_open.then(|| self.change(State::HalfOpen, cause, now))
    }

    /// The permit of a health check that is sent at `now`, if it could help: the breaker must have been open for
    /// `at_least`.
    ///
    /// A service may pass its checks while calls to it fail. So each open period is cut short once:
    /// if calls fail all the same, the next period is added to its end, and none is cut short before
    /// that. A service that stays down gets the probes that it would get anyway, each at most one open
    /// period earlier.
    pub fn permit_check(
        &self,
        settings: &BreakerSettings,
        at_least: Duration,
        now: Instant,
    ) -> Option<CheckPermit> {
        let State::Open { until } = self.state else {
            return None;
        };
        let may_help = settings.mode.learns()
            && now < until
            && now >= self.since.after(at_least)
            && now >= self.not_checked_before;
        may_help.then_some(CheckPermit(self.generation))
    }

    /// A health check that was sent in this open period has passed.
    pub fn check_passed(
        &mut self,
        settings: &BreakerSettings,
        check: CheckPermit,
        now: Instant,
    ) -> Option<Transition> {
        let State::Open { until } = self.state else {
            return None;
        };
        if check.0 != self.generation {
            return None;
        }
        let transition = self.hasten(settings, now)?;
        self.not_checked_before = until;
        Some(transition)
    }

    /// None of the service's scopes works ([`scope`](crate::scope)), so all of it is shut. Only scopes that
    /// nobody has called lately notice, and a few of their calls cost little: so it asks again as soon as
    /// if the service could not be reached.
    pub fn open_with_scopes(
        &mut self,
        settings: &BreakerSettings,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        let is_back = self.state == State::HalfOpen && self.probes.successes > 0;
        let opens = self.phase() != Phase::Open && !is_back && settings.mode.learns();
        opens.then(|| {
            self.open(
                settings,
                Cause::NoScopeWorks,
                Weight::Unreachable,
                now,
                random,
            )
        })
    }

    /// Records the result of a call whose caller is not known. `random` (64 evenly distributed bits)
    /// gives the jitter if the result opens the breaker.
    #[inline]
    pub fn record(
        &mut self,
        settings: &BreakerSettings,
        permit: Permit,
        outcome: Outcome,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        self.record_report(settings, Report::new(permit, outcome), now, random)
    }

    /// Like [`report`](Self::report), and faster for a success while there are no failures.
    #[inline]
    pub fn record_report(
        &mut self,
        settings: &BreakerSettings,
        report: Report,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        if report.outcome == Outcome::SUCCESS
            && self.state == State::Closed
            && report.permit.generation == self.generation
            && settings.mode.learns()
            && self.row.is_empty()
        {
            // The most frequent case. A closed generation has no probes.
            self.window.resize(settings.window);
            self.window.add_success(now);
            if self.window.is_clean() {
                return None;
            }
            return self.judge_rates(settings, Expected::default(), now, random);
        }
        self.report(settings, report, now, random)
    }

    /// Records the result of a call. `random` is as in [`record`](Self::record).
    #[inline(never)]
    pub fn report(
        &mut self,
        settings: &BreakerSettings,
        report: Report,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        let is_current = report.permit.generation == self.generation;
        let elsewhere = Expected::default();
        self.record_call(settings, report, elsewhere, now, random)
            .or_else(|| {
                // A stale result decides nothing, and a neutral one changes no rate.
                (is_current && report.outcome != Outcome::Neutral)
                    .then(|| self.judge_rates(settings, elsewhere, now, random))
                    .flatten()
            })
    }

    /// Like [`report`](Self::report), but does not judge the rates. `elsewhere` is what is expected of other
    /// scopes, if this is the breaker of one: nothing is news that all of them suffer.
    pub(crate) fn record_call(
        &mut self,
        settings: &BreakerSettings,
        report: Report,
        elsewhere: Expected,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        if report.permit.generation != self.generation {
            return None;
        }
        if let Some(probe) = report.permit.probe {
            self.probes
                .release(probe, report.outcome, settings.half_open, now);
        }
        if !settings.mode.learns() || report.outcome == Outcome::Neutral {
            // The first: the call was admitted under another configuration.
            return None;
        }
        match self.state {
            State::Closed => self.record_closed(settings, report, elsewhere, now, random),
            State::Open { .. } => None,
            State::HalfOpen => self.record_probe(settings, report, now, random),
        }
    }

    /// Records a result of the current generation while closed.
    fn record_closed(
        &mut self,
        settings: &BreakerSettings,
        Report {
            outcome,
            caller,
            again_after_secs,
            usual_millis,
            ..
        }: Report,
        elsewhere: Expected,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        self.count(settings, outcome, now);
        match outcome {
            Outcome::Success { .. } | Outcome::After { .. } => {
                self.answer(caller, now);
                self.row = Row::default();
                None
            }
            Outcome::Failure { weight, .. } => {
                let counts = self.window.sum();
                self.callers
                    .failed(caller, weight, counts, now, settings.window);
                self.row.add(weight, caller, again_after_secs, now);
                let limit = settings.consecutive_failures?;
                let opens = self.row.length >= limit
                    && self.is_news(settings, elsewhere, limit, usual_millis, now);
                opens.then(|| self.open(settings, Cause::ConsecutiveFailures, weight, now, random))
            }
            Outcome::Unanswered => {
                let counts = self.window.sum();
                self.callers.gave_up(caller, counts, now, settings.window);
                self.row.gave_up(caller);
                None
            }
            Outcome::Unknown => {
                self.row.gave_up(caller);
                None
            }
            Outcome::Neutral => None,
        }
    }

    /// Records the result of a probe.
    fn record_probe(
        &mut self,
        settings: &BreakerSettings,
        Report {
            outcome,
            caller,
            again_after_secs,
            ..
        }: Report,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        let weight = match outcome {
            Outcome::Success { slow: false } | Outcome::After { .. } => {
                self.answer(caller, now);
                self.probes.successes = self.probes.successes.saturating_add(1);
                return (self.probes.successes >= settings.half_open.successes_to_close)
                    .then(|| self.change(State::Closed, Cause::ProbesSucceeded, now));
            }
            Outcome::Unknown | Outcome::Neutral => return None,
            // If slow probes closed the breaker, the slow-call rule would open it again.
            Outcome::Success { slow: true } => Weight::Strong,
            Outcome::Failure { weight, .. } => weight,
            Outcome::Unanswered => Weight::Weak,
        };
        self.row.add(weight, caller, again_after_secs, now);
        (self.worth_of_row(settings, Expected::default(), now) >= 1)
            .then(|| self.open(settings, Cause::ProbeFailed, weight, now, random))
    }

    /// A caller was answered well.
    fn answer(&mut self, caller: Caller, now: Instant) {
        if !self.row.is_empty() || self.state == State::HalfOpen {
            self.callers.answered.add(caller, now);
        }
    }

    /// What the service was expected to do before the row.
    fn expected(&self, settings: &BreakerSettings) -> Expected {
        let row = self.row.by_caller.total();
        let sum = self.window.sum();
        let before = Counts {
            failures: sum.failures.saturating_sub(self.row.length),
            weak: sum.weak.saturating_sub(row.weak),
            ..sum
        };
        let complained = Complained::new(before, &self.callers.complaints, Complaints::suspicion);
        complained.expected(settings.witnesses, answered_well(sum))
    }

    /// Whether the row is worth more than what is expected of the service, where `limit` failures would be
    /// enough for one that hardly ever fails.
    ///
    /// A refused connection is known before any answer. So where many calls are made at once and some fail
    /// anyway, their failures come in a row, and the row says nothing until answers could have come too.
    fn is_news(
        &self,
        settings: &BreakerSettings,
        elsewhere: Expected,
        limit: u32,
        usual_millis: u32,
        now: Instant,
    ) -> bool {
        let expected = self.expected(settings);
        if expected.some_fail()
            && now.since(self.row.since) < Duration::from_millis(usual_millis.into())
        {
            return false;
        }
        let worth = self.worth_of_row(settings, expected, now);
        expected.is_refuted_by(worth, limit) && elsewhere.is_refuted_by(worth, limit)
    }

    fn worth_of_row(&self, settings: &BreakerSettings, expected: Expected, now: Instant) -> u32 {
        // Whoever complains too isn't well any more, unless it is as often as is to be expected.
        let row = &self.row.by_caller;
        let most = row.largest(Complaints::suspicion).complaints.doubtful();
        let is_well = |caller| match row.complaints_of(caller).doubtful() {
            0 => true,
            own => most > 1 && !expected.is_refuted_by(own, NO_CHANCE),
        };
        let others = if self.callers.answered.any(now, is_well) {
            Others::AreWell
        } else if self.state == State::HalfOpen {
            // All results are reported at once, and only probes are answered.
            if now.since(self.since) >= SOONEST_ALONE {
                Others::None
            } else {
                Others::Unknown
            }
        } else {
            let answered = answered_well(self.window.sum());
            let period = settings.window.min(now.since(self.since));
            Others::unseen(&self.row, answered, period, now)
        };
        self.row.worth(settings.witnesses, others)
    }

    /// Opens the breaker if one of the rates requires it at `now`.
    pub(crate) fn judge_rates(
        &mut self,
        settings: &BreakerSettings,
        elsewhere: Expected,
        now: Instant,
        random: u64,
    ) -> Option<Transition> {
        if self.state != State::Closed || !settings.mode.learns() {
            return None;
        }
        let counts = self.window.totals(now);
        if counts.is_clean() {
            return None;
        }
        let cause = self.cause_of_opening(settings, elsewhere, counts, now)?;
        Some(self.open(settings, cause, Weight::Strong, now, random))
    }

    /// The rate that requires to open, if one does.
    fn cause_of_opening(
        &self,
        settings: &BreakerSettings,
        elsewhere: Expected,
        counts: Counts,
        now: Instant,
    ) -> Option<Cause> {
        if settings
            .failure_rate
            .is_some_and(|rule| self.fails_too_often(settings, rule, elsewhere, counts, now))
        {
            Some(Cause::FailureRate)
        } else if settings.slow_calls.is_some_and(|rule| {
            Portion::of(counts.slow, counts.total).reaches(rule.ratio, rule.minimum_requests)
        }) {
            Some(Cause::SlowCalls)
        } else if settings
            .silence
            .is_some_and(|rule| self.is_silent(settings, rule, counts, now))
        {
            Some(Cause::Silence)
        } else {
            None
        }
    }

    fn fails_too_often(
        &self,
        settings: &BreakerSettings,
        rule: FailureRate,
        elsewhere: Expected,
        counts: Counts,
        now: Instant,
    ) -> bool {
        let reaches = |portion: Portion| portion.reaches(rule.ratio, rule.minimum_requests);
        // Whoever complains, it is no more than that.
        if !reaches(Portion::of(counts.failures, counts.total)) {
            return false;
        }
        let by_caller = &self.callers.complaints;
        let complained = Complained::new(counts, by_caller, Complaints::suspicion);
        let others = self.others_than(complained.suspect, counts, now);
        let portions = complained.failures(settings.witnesses, others, answered_well(counts));
        portions
            .into_iter()
            .any(|portion| reaches(portion) && portion.refutes(elsewhere))
    }

    fn is_silent(
        &self,
        settings: &BreakerSettings,
        rule: Silence,
        counts: Counts,
        now: Instant,
    ) -> bool {
        let reaches = |portion: Portion| portion.reaches(rule.ratio, rule.minimum_requests);
        if !reaches(Portion::beside(counts.unanswered, counts.total)) {
            return false;
        }
        let complained = Complained::of_silence(counts, &self.callers.complaints);
        let others = self.others_than(complained.suspect, counts, now);
        reaches(complained.silence(settings.witnesses, others, counts.total))
    }

    /// What is expected of the calls of a service's scopes.
    pub fn expected_of_scopes(&self, now: Instant) -> Expected {
        let counts = self.window.clone().totals(now);
        Expected {
            calls: counts.total,
            failed: counts.in_scopes,
        }
    }

    /// What is expected elsewhere than in this scope, of a service of which this much is.
    pub(crate) fn expected_elsewhere(&self, of_service: Expected, now: Instant) -> Expected {
        let own = self.window.clone().totals(now);
        let ended = own.failures.saturating_sub(self.row.length);
        Expected {
            calls: of_service.calls.saturating_sub(own.total),
            failed: of_service.failed.saturating_sub(ended),
        }
    }

    /// How many failures the row is worth, whatever is expected.
    pub(crate) fn failures_in_row(&self, settings: &BreakerSettings, now: Instant) -> u32 {
        self.worth_of_row(settings, Expected::default(), now)
    }

    /// Who calls besides the suspect.
    fn others_than(&self, suspect: Caller, counts: Counts, now: Instant) -> Others {
        if self.callers.answered.any(now, |caller| caller != suspect) {
            Others::AreWell
        } else if answered_well(counts) == 0 && now.since(self.since) >= SOONEST_ALONE {
            Others::None
        } else {
            Others::Unknown
        }
    }

    fn count(&mut self, settings: &BreakerSettings, outcome: Outcome, now: Instant) {
        self.window.resize(settings.window);
        self.window.add(now, outcome.counts());
    }

    #[inline(never)]
    fn open(
        &mut self,
        settings: &BreakerSettings,
        cause: Cause,
        weight: Weight,
        now: Instant,
        random: u64,
    ) -> Transition {
        if self.state != State::HalfOpen {
            self.openings = Openings::default();
            if now.since(self.since) >= settings.window {
                // What health checks have saved before, the service has earned.
                self.not_checked_before = Instant::default();
            }
        }
        let mut is_asked_for = false;
        let until = match weight {
            Weight::Unreachable => {
                let before = self.openings.unreachable;
                self.openings.unreachable = before.saturating_add(1);
                now.after(settings.open_unreachable.wait(before, random))
            }
            Weight::Strong | Weight::Weak => {
                let before = self.openings.reached;
                self.openings.reached = before.saturating_add(1);
                let nominal = settings.open.nominal(before);
                let asked = self.asked_for(cause).min(settings.open.max);
                is_asked_for = asked > nominal;
                let wait = settings.open.jitter.apply(nominal.max(asked), random);
                now.max(self.not_checked_before).after(wait)
            }
        };
        if is_asked_for {
            self.not_checked_before = until;
        }
        self.change(State::Open { until }, cause, now)
    }

    /// How long the service asks to be left alone: what each failure of the row that opens says. The
    /// word of one alone could be about its caller.
    const fn asked_for(&self, cause: Cause) -> Duration {
        match cause {
            Cause::ConsecutiveFailures | Cause::ProbeFailed => {
                Duration::from_secs(self.row.again_after_secs as u64)
            }
            _ => Duration::ZERO,
        }
    }

    /// The only place where the state changes.
    #[inline(never)]
    fn change(&mut self, to: State, cause: Cause, now: Instant) -> Transition {
        let transition = Transition {
            from: self.phase(),
            to: to.phase(),
            cause,
        };
        self.state = to;
        self.since = now;
        // 0 is the generation of untracked permits.
        self.generation = self.generation.checked_add(1).unwrap_or(FIRST_GENERATION);
        self.row = Row::default();
        self.callers.complaints.clear();
        if matches!(to, State::Open { .. }) {
            // Whoever was answered before the outage may not be any more.
            self.callers.answered.clear();
        }
        self.window.clear();
        self.probes.clear();
        transition
    }
}

/// The answer in a mode that does not depend on the state.
#[cold]
pub(crate) fn fixed_verdict(settings: &BreakerSettings) -> Verdict {
    match settings.mode.fixed_phase() {
        Some(Phase::Open) => Verdict::Refuse {
            retry_after: settings.open.base,
        },
        _ => Verdict::Admit(Permit::UNTRACKED),
    }
}

/// A refusal in `mode`.
#[inline]
pub(crate) const fn refusal(mode: Mode, retry_after: Duration) -> Verdict {
    match mode {
        Mode::Shadow => Verdict::WouldRefuse,
        _ => Verdict::Refuse { retry_after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

    #[test]
    fn the_generation_of_untracked_permits_is_never_reached() {
        let settings = BreakerSettings::default();
        let mut breaker = Breaker::new(&settings, NOW);
        breaker.generation = Generation::MAX;
        breaker.change(State::HalfOpen, Cause::OpenTimePassed, NOW);
        assert_eq!(breaker.generation, 1);
        breaker.record(&settings, Permit::UNTRACKED, Outcome::FAILURE, NOW, 0);
        assert_eq!(breaker.phase(), Phase::HalfOpen);
    }

    #[test]
    fn counts_at_their_maximum_do_not_overflow() {
        let settings = BreakerSettings {
            consecutive_failures: None,
            failure_rate: None,
            ..BreakerSettings::default()
        };
        let mut breaker = Breaker::new(&settings, NOW);
        breaker.row.length = u32::MAX;
        let permit = Permit {
            generation: breaker.generation,
            probe: None,
        };
        breaker.record(&settings, permit, Outcome::FAILURE, NOW, 0);
        assert_eq!(breaker.row.length, u32::MAX);

        breaker.change(State::HalfOpen, Cause::OpenTimePassed, NOW);
        breaker.openings.reached = u32::MAX;
        breaker.probes.admitted = u32::MAX;
        breaker.probes.expired = u32::MAX;
        let (Verdict::Admit(_), _) = breaker.admit(&settings, NOW) else {
            panic!("a place is free");
        };
        let later = NOW.after(settings.half_open.lease);
        let (Verdict::Admit(probe), _) = breaker.admit(&settings, later) else {
            panic!("two places are free");
        };
        assert_eq!((breaker.probes.admitted, breaker.probes.expired), (1, 0));
        breaker.record(&settings, probe, Outcome::FAILURE, later, 0);
        assert_eq!(breaker.openings.reached, u32::MAX);
        let longest = later.after(settings.open.max);
        assert_eq!(breaker.state, State::Open { until: longest });

        breaker.change(State::HalfOpen, Cause::OpenTimePassed, longest);
        breaker.probes.successes = u32::MAX;
        let (Verdict::Admit(probe), _) = breaker.admit(&settings, longest) else {
            panic!("a place is free");
        };
        breaker.record(&settings, probe, Outcome::SUCCESS, longest, 0);
        assert_eq!(breaker.phase(), Phase::Closed);
    }

    #[test]
    fn a_window_of_another_length_starts_empty() {
        let mut settings = BreakerSettings {
            consecutive_failures: None,
            ..BreakerSettings::default()
        };
        let mut breaker = Breaker::new(&settings, NOW);
        let permit = Permit {
            generation: breaker.generation,
            probe: None,
        };
        for _ in 0..19 {
            breaker.record(&settings, permit, Outcome::FAILURE, NOW, 0);
        }
        settings.window = Duration::from_secs(20);
        let after = breaker.record(&settings, permit, Outcome::FAILURE, NOW, 0);
        assert_eq!(after, None);
        assert_eq!(
            breaker
                .window
                .totals(NOW.after(Duration::from_secs(15)))
                .total,
            1
        );
    }
}
