//! The two breakers before a call to a scope: in which order they are asked, and what each is told.
//!
//! What the two make of a result is in [`scope`](crate::scope).

use crate::breaker::{Breaker, BreakerSettings, Outcome, Permit, Verdict};
use crate::callers::Caller;
use crate::replica::{Admission, Replica, Visit};
use crate::scope::{Standing, heard_by_scope, heard_by_service};
use crate::surprise::Expected;
use crate::time::Instant;
use std::time::Duration;

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

    /// Tells the breaker a result of the call. Returns how many failures
    /// [that has ended](crate::replica::Visited::ended_failures).
    fn record(&mut self, index: Self::Index, permit: Permit, outcome: Outcome, who: Who) -> u32;

    /// The caller of good calls in a scope, as its service sees it.
    fn as_caller(&self, scope: Self::Index) -> Caller;
}

/// The answer of two breakers to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted<I> {
    /// It may go out. Its result must be recorded with these permits.
    With(Permits),
    /// The same, but in another mode it would be refused.
    ByShadow(Permits),
    /// It must not go out.
    No {
        /// Who refuses it.
        by: I,
        /// When to ask again. Zero if that is unknown because all probes are in flight.
        retry_after: Duration,
    },
}

/// Asks both breakers. Each may have a mode of its own.
#[inline]
pub fn admit<R: Replicas>(
    replicas: &mut R,
    service: R::Index,
    scope: R::Index,
) -> Admitted<R::Index> {
    match (replicas.view(service), replicas.view(scope)) {
        (
            Admission::Decided(Verdict::Admit(of_service)),
            Admission::Decided(Verdict::Admit(of_scope)),
        ) => Admitted::With(Permits {
            service: of_service,
            scope: of_scope,
        }),
        // A probe of the scope would be for nothing.
        (Admission::Decided(Verdict::Refuse { retry_after }), _) => Admitted::No {
            by: service,
            retry_after,
        },
        _ => ask_both(replicas, service, scope),
    }
}

/// The same, where it is not known that both let the call go.
#[inline(never)]
fn ask_both<R: Replicas>(
    replicas: &mut R,
    service: R::Index,
    scope: R::Index,
) -> Admitted<R::Index> {
    let of_scope = match replicas.ask(scope) {
        Verdict::Admit(permit) => Some(permit),
        Verdict::WouldRefuse => None,
        Verdict::Refuse { retry_after } => {
            return Admitted::No {
                by: scope,
                retry_after,
            };
        }
    };
    let of_service = match ask_service(replicas, service, scope) {
        Verdict::Admit(permit) => Some(permit),
        Verdict::WouldRefuse => None,
        Verdict::Refuse { retry_after } => {
            if let Some(permit) = of_scope {
                // Nobody is asked, so the place is free again.
                let nobody = Who::Known(Caller::UNKNOWN);
                replicas.record(scope, permit, Outcome::Neutral, nobody);
            }
            return Admitted::No {
                by: service,
                retry_after,
            };
        }
    };
    let permits = Permits {
        service: of_service.unwrap_or(Permit::UNTRACKED),
        scope: of_scope.unwrap_or(Permit::UNTRACKED),
    };
    if of_service.is_some() && of_scope.is_some() {
        Admitted::With(permits)
    } else {
        Admitted::ByShadow(permits)
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
    let of_scope = heard_by_scope(outcome);
    let ended_failures = replicas.record(scope, permits.scope, of_scope, Who::Client);
    let of_service = heard_by_service(outcome, permits.service, ended_failures);
    let who = match of_service {
        // A client that gives its calls up is no witness for those that had no connection.
        Outcome::Failure { .. } | Outcome::Unknown => Who::Client,
        _ => Who::Known(replicas.as_caller(scope)),
    };
    replicas.record(service, permits.service, of_service, who);
}

/// Whether to see if any scope works ([`none_works`](crate::scope::none_works)) after a visit to the
/// breaker of one.
pub fn asks_about_all(
    visit: Visit,
    breaker: &Breaker,
    settings: &BreakerSettings,
    of_service: Expected,
    now: Instant,
) -> bool {
    matches!(visit, Visit::Record(report) if report.is_complaint_of_a_call())
        && Standing::of(breaker, settings, of_service, now).is_bad()
}
