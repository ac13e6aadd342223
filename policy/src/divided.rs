//! The two breakers before a call to a scope: in which order they are asked, and what each is told.
//!
//! What the two make of a result is in [`scope`](crate::scope).

use crate::breaker::{Breaker, BreakerSettings, Outcome, Permit, Verdict};
use crate::callers::Caller;
use crate::replica::{Admission, Replica, Visit};
use crate::scope::{Heard, Standing};
use crate::time::Instant;

/// What the breakers before a call have given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    /// The service's.
    pub service: Permit,
    /// The scope's. [`Permit::UNTRACKED`] if there is no scope.
    pub scope: Permit,
}

impl Permits {
    /// Of a call that decides nothing.
    pub const UNTRACKED: Self = Self::of_service(Permit::UNTRACKED);

    /// Of a call that belongs to no scope.
    pub const fn of_service(service: Permit) -> Self {
        Self {
            service,
            scope: Permit::UNTRACKED,
        }
    }

    /// Whether one of them names a place for a probe.
    #[inline]
    pub const fn is_probe(self) -> bool {
        self.service.is_probe() || self.scope.is_probe()
    }
}

/// Who calls, as a breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The client, which need not be known before somebody asks.
    Client,
    /// A scope, or nobody.
    Known(Caller),
}

/// The replicas of one worker, at the time of a call.
pub trait Replicas {
    /// Names one of them.
    type Index: Copy;

    /// The replica.
    fn replica(&self, index: Self::Index) -> &Replica;

    /// What the worker knows of the breaker's answer.
    fn view(&self, index: Self::Index) -> Admission;

    /// The breaker's answer to the call.
    fn ask(&mut self, index: Self::Index) -> Verdict;

    /// Tells the breaker a result of the call.
    fn record(&mut self, index: Self::Index, permit: Permit, outcome: Outcome, who: Who);

    /// The caller that a service sees in a scope.
    fn as_caller(&self, scope: Self::Index) -> Caller;
}

/// Asks both breakers. Otherwise returns which one refuses, and how.
///
/// # Errors
/// A refusal of the service that is known comes first: a probe of the scope would be for nothing.
#[inline]
pub fn admit<R: Replicas>(
    replicas: &mut R,
    service: R::Index,
    scope: R::Index,
) -> Result<Permits, (R::Index, Verdict)> {
    match (replicas.view(service), replicas.view(scope)) {
        (
            Admission::Decided(Verdict::Admit(of_service)),
            Admission::Decided(Verdict::Admit(of_scope)),
        ) => Ok(Permits {
            service: of_service,
            scope: of_scope,
        }),
        (Admission::Decided(Verdict::Admit(_)) | Admission::VisitNeeded, _) => {
            ask_both(replicas, service, scope)
        }
        (Admission::Decided(refusal), _) => Err((service, refusal)),
    }
}

/// The same, where one of the answers is not known or a refusal.
#[inline(never)]
fn ask_both<R: Replicas>(
    replicas: &mut R,
    service: R::Index,
    scope: R::Index,
) -> Result<Permits, (R::Index, Verdict)> {
    let of_scope = match replicas.ask(scope) {
        Verdict::Admit(permit) => permit,
        refusal => return Err((scope, refusal)),
    };
    match ask_service(replicas, service, scope) {
        Verdict::Admit(permit) => Ok(Permits {
            service: permit,
            scope: of_scope,
        }),
        refusal => {
            // Nobody is asked, so the place is free again.
            let nobody = Who::Known(Caller::UNKNOWN);
            replicas.record(scope, of_scope, Outcome::Neutral, nobody);
            Err((service, refusal))
        }
    }
}

/// Asks the service's breaker about a call that the scope's has let through. If both recover, the
/// scope's share is enough.
#[inline]
fn ask_service<R: Replicas>(replicas: &mut R, service: R::Index, scope: R::Index) -> Verdict {
    if replicas.replica(scope).is_recovering()
        && let Some(permit) = replicas.replica(service).permit_beside_share()
    {
        return Verdict::Admit(permit);
    }
    replicas.ask(service)
}

/// Tells both breakers what concerns them.
#[inline]
pub fn record<R: Replicas>(
    replicas: &mut R,
    service: R::Index,
    scope: R::Index,
    permits: Permits,
    outcome: Outcome,
) {
    let heard = Heard::of(outcome, permits.service);
    replicas.record(scope, permits.scope, heard.scope, Who::Client);
    let caller = Who::Known(replicas.as_caller(scope));
    replicas.record(service, permits.service, heard.service, caller);
}

/// Whether to see if any scope works ([`none_works`](crate::scope::none_works)) after a visit to the
/// breaker of one.
pub fn asks_about_all(
    visit: Visit,
    breaker: &Breaker,
    settings: &BreakerSettings,
    now: Instant,
) -> bool {
    matches!(visit, Visit::Record(report) if report.is_complaint_of_a_call())
        && Standing::of(breaker, settings, now).is_bad()
}
