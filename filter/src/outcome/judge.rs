//! The judgement: how a request ended becomes success, failure, unanswered or neutral.
//!
//! Three principles. A result says something about a service only if the service had its chance.
//! What a caller can bring about by what it sends is weak evidence. Envoy's response code details say
//! who answered; flags add to them where they don't. `docs/reference/outcomes.md` has the table.

use super::flag;
use crate::config::Failures;
use levee_policy::breaker::Outcome;
use std::time::Duration;

pub(super) const VIA_UPSTREAM: &[u8] = b"via_upstream";
/// The service has answered an upgrade with a status below 400 other than 101.
const NOT_UPGRADED: &[u8] = b"websocket_handshake_unsuccessful";

const SWITCHING_PROTOCOLS: u64 = 101;
const OK: u64 = 200;
const BAD_REQUEST: u64 = 400;
const REQUEST_TIMEOUT: u64 = 408;
const TOO_MANY_REQUESTS: u64 = 429;
const GATEWAY_TIMEOUT: u64 = 504;
/// Statuses of gRPC.
const RESOURCE_EXHAUSTED: u64 = 8;
const UNAVAILABLE: u64 = 14;

/// Where an answer that is cut off has this many bytes already, Envoy may have been the one that
/// could not send on. It buffers at least as much before it stops to read from the service.
const MAY_BE_BLOCKED: u64 = 16 * 1024;
/// Clocks differ: a caller's deadline may strike this much before Envoy has waited for it, or 5 % of it
/// if that is more.
const TOLERANCE: Duration = Duration::from_millis(2);
/// The same for a deadline that Envoy enforces: its timers run from the beginning of an event loop's
/// round, which may take this long while many requests come at once.
const ROUND: Duration = Duration::from_millis(100);

/// The time limit that a request exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutKind {
    /// The limit of the whole request.
    Request,
    /// The limit of the response's headers.
    ResponseHeader,
    /// The cluster's `connect_timeout`, TLS handshake included.
    Connect,
}

/// What the end of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Never slow: the caller measures that.
    pub outcome: Outcome,
    /// The time limit that ended it, if one did.
    pub timeout: Option<TimeoutKind>,
}

impl Ended {
    const fn by(outcome: Outcome) -> Self {
        Self {
            outcome,
            timeout: None,
        }
    }
}

/// What is known of every request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct First<'a> {
    /// HTTP status, if response headers were sent.
    pub code: Option<u64>,
    /// Envoy's response [`flag`]s.
    pub flags: u64,
    pub details: &'a [u8],
}

/// How much of a request has arrived, and when its last piece came: at an instant, or after a
/// duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// Its headers, of a request that has a body.
    Begun,
    /// A part of its body.
    Partly(T),
    /// All of it.
    Whole(T),
}

impl<T> Arrival<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Arrival<U> {
        match self {
            Self::Begun => Arrival::Begun,
            Self::Partly(at) => Arrival::Partly(change(at)),
            Self::Whole(at) => Arrival::Whole(change(at)),
        }
    }

    /// When its last piece came.
    pub fn last_piece(self) -> Option<T> {
        match self {
            Self::Begun => None,
            Self::Partly(at) | Self::Whole(at) => Some(at),
        }
    }
}

/// What the filter knows of a request.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// How long the request took to arrive.
    pub arrival: Arrival<Duration>,
    /// Whether the limit that Envoy enforced was the caller's own, shorter deadline.
    pub limited_by_caller: bool,
    /// A call that has waited this long has waited longer than usual.
    pub longer_than_usual: Duration,
}

/// What can be found out about a request that has ended, at the price of a host call or two each.
pub trait Facts {
    /// The `grpc-status` that was sent at the end. Nothing that a client sends makes an answer gRPC.
    fn grpc_status(&self) -> Option<u64>;
    /// The same, if it was sent in the headers.
    fn grpc_status_in_headers(&self) -> Option<u64>;
    /// Whether the request got a connection to the service.
    fn had_connection(&self) -> bool;
    /// Whether all of the service's answer arrived at Envoy.
    fn answer_was_complete(&self) -> bool;
    /// How many bytes of the body were passed on to the client.
    fn passed_on(&self) -> u64;
    /// The length of the body that the response's headers declare.
    fn declared_length(&self) -> Option<u64>;
    /// Whether the request says that it is a gRPC call.
    fn is_grpc_call(&self) -> bool;
    /// Whether the client asked for a tunnel, by CONNECT.
    fn is_tunnel(&self) -> bool;
    /// From the first byte of the request to its end.
    fn took(&self) -> Duration;
    /// Whether this worker stood still while the request was in flight.
    fn stood_still(&self) -> bool;
    /// How long the caller itself was to wait, as its headers say.
    fn callers_deadline(&self) -> Option<Duration>;
}

/// Who ended a request, and how.
enum Ending {
    /// The service has answered.
    Answered,
    /// An upgraded connection, a redirect that Envoy follows: good, however it ended.
    Good,
    /// Envoy or another filter, without asking the service.
    Gateway,
    /// The client left.
    Left,
    /// A time limit. With the kind if it is one of Levee's.
    CutOff(Limit),
    /// The service could not be reached, or did not finish its answer.
    Failed,
}

/// A time limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Of the router; Levee sets them.
    Router(TimeoutKind),
    /// The age of a stream.
    Age,
    /// Nothing moved.
    Idle,
}

/// What the end of a request says about its service.
pub fn judge(
    first: First<'_>,
    failures: &Failures,
    facts: &impl Facts,
    circumstances: Circumstances,
) -> Ended {
    match ending(first) {
        Ending::Good => Ended::by(Outcome::SUCCESS),
        Ending::Gateway => Ended::by(Outcome::Neutral),
        Ending::Answered => Ended::by(answered(first, failures, facts)),
        Ending::Left => Ended::by(left(first, failures, facts, circumstances)),
        Ending::CutOff(limit) => cut_off(limit, first, failures, facts, circumstances),
        Ending::Failed => failed(first, facts, circumstances),
    }
}

fn ending(first: First<'_>) -> Ending {
    let First {
        code,
        flags,
        details,
    } = first;
    // How the connection later closes says little: usually one side leaves.
    if code == Some(SWITCHING_PROTOCOLS) || details == b"internal_redirect" {
        return Ending::Good;
    }
    // Over HTTP/3 Envoy sets no flag for it.
    if flags & flag::CLIENT != 0 || (code.is_none() && details.is_empty()) {
        return Ending::Left;
    }
    if flags & flag::GATEWAY != 0 {
        return Ending::Gateway;
    }
    if details == VIA_UPSTREAM || details == NOT_UPGRADED {
        return Ending::Answered;
    }
    if flags & flag::UPSTREAM_REQUEST_TIMEOUT != 0 {
        let kind = if says(details, b"per_try_timeout") {
            TimeoutKind::ResponseHeader
        } else {
            TimeoutKind::Request
        };
        return Ending::CutOff(Limit::Router(kind));
    }
    if flags & flag::STREAM_IDLE != 0 {
        return Ending::CutOff(Limit::Idle);
    }
    // Envoy sets no flag for the listener's and the route's `max_stream_duration`.
    if flags & flag::AGE != 0 || details == b"max_duration_timeout" {
        return Ending::CutOff(Limit::Age);
    }
    if flags & flag::SERVICE != 0 {
        return Ending::Failed;
    }
    Ending::Gateway
}

/// By its HTTP status, and by its gRPC status if that is good.
fn answered(first: First<'_>, failures: &Failures, facts: &impl Facts) -> Outcome {
    let outcome = match first.code {
        None | Some(0) => return Outcome::Neutral,
        Some(status) if failures.has_http(status) => http_failure(status),
        Some(TOO_MANY_REQUESTS) => return Outcome::Neutral,
        Some(BAD_REQUEST..) => return Outcome::SUCCESS,
        Some(_) => match facts.grpc_status() {
            Some(status) if failures.has_grpc(status) => grpc_failure(status),
            Some(RESOURCE_EXHAUSTED) => return Outcome::Neutral,
            Some(_) | None => return Outcome::SUCCESS,
        },
    };
    if is_over_for_caller(facts) {
        return Outcome::Neutral;
    }
    outcome
}

/// How much it says depends on who can provoke it, not on who has listed it.
const fn http_failure(status: u64) -> Outcome {
    match status {
        502..=504 => Outcome::FAILURE,
        _ => Outcome::WEAK_FAILURE,
    }
}

const fn grpc_failure(status: u64) -> Outcome {
    match status {
        UNAVAILABLE => Outcome::FAILURE,
        _ => Outcome::WEAK_FAILURE,
    }
}

/// The client left. That says something if it had waited for long, or had its answer already.
fn left(
    first: First<'_>,
    failures: &Failures,
    facts: &impl Facts,
    circumstances: Circumstances,
) -> Outcome {
    if first.code.is_none() {
        return unanswered(facts, circumstances);
    }
    if first.code == Some(OK) && facts.is_tunnel() {
        return Outcome::SUCCESS;
    }
    if facts.answer_was_complete() {
        return answered(first, failures, facts);
    }
    Outcome::Neutral
}

fn cut_off(
    limit: Limit,
    first: First<'_>,
    failures: &Failures,
    facts: &impl Facts,
    circumstances: Circumstances,
) -> Ended {
    let timeout = match limit {
        Limit::Router(kind) => Some(kind),
        Limit::Age | Limit::Idle => None,
    };
    let neutral = Ended {
        outcome: Outcome::Neutral,
        timeout,
    };
    if first.code == Some(REQUEST_TIMEOUT) || !facts.had_connection() || facts.stood_still() {
        return neutral;
    }
    let is_complete = facts.answer_was_complete();
    if is_complete || !is_envoys_own(first, facts) {
        let outcome = if is_complete {
            answered(first, failures, facts)
        } else if timeout.is_none()
            || facts.passed_on() >= MAY_BE_BLOCKED
            || circumstances.limited_by_caller
            || is_over_for_caller(facts)
        {
            Outcome::Neutral
        } else {
            // It stalled; or the caller has asked for a stream that is longer than its class.
            Outcome::WEAK_FAILURE
        };
        return Ended { outcome, timeout };
    }
    if circumstances.limited_by_caller || is_over_for_caller(facts) || is_callers_age(limit, facts)
    {
        return Ended {
            outcome: unanswered(facts, circumstances),
            timeout,
        };
    }
    // The age of a stream counts from its beginning: a slow upload may have left the service no time.
    if timeout.is_none() {
        return Ended::by(match circumstances.arrival {
            Arrival::Whole(_) if has_waited_long(facts, circumstances) => Outcome::FAILURE,
            _ => unanswered(facts, circumstances),
        });
    }
    Ended {
        outcome: Outcome::FAILURE,
        timeout,
    }
}

/// Whether the client got an answer of Envoy's own to a request that a time limit ended, and not the
/// beginning of the service's. Envoy's is whole, but the service's was cut off.
fn is_envoys_own(first: First<'_>, facts: &impl Facts) -> bool {
    matches!(first.code, None | Some(GATEWAY_TIMEOUT | REQUEST_TIMEOUT))
        || facts.grpc_status_in_headers().is_some()
        // `local_reply_config` may change the status.
        || facts.declared_length().is_some_and(|length| length == facts.passed_on())
}

fn failed(first: First<'_>, facts: &impl Facts, circumstances: Circumstances) -> Ended {
    let is_connect_timeout = first.flags & flag::UPSTREAM_CONNECTION_FAILURE != 0
        && says(first.details, b"connection_timeout");
    let outcome = if facts.stood_still() {
        Outcome::Neutral
    } else if first.code == Some(OK) && facts.is_tunnel() {
        Outcome::SUCCESS
    } else if !facts.had_connection() {
        Outcome::UNREACHABLE
    } else if is_over_for_caller(facts) {
        if says(first.details, b"after_response_started") {
            Outcome::Neutral
        } else {
            unanswered(facts, circumstances)
        }
    } else if matches!(circumstances.arrival, Arrival::Whole(_)) {
        Outcome::FAILURE
    } else {
        // Services close connections on which a request does not arrive. A call that streams is no
        // exception: the caller may call any upload gRPC.
        Outcome::WEAK_FAILURE
    };
    Ended {
        outcome,
        timeout: is_connect_timeout.then_some(TimeoutKind::Connect),
    }
}

/// The caller gave up, and there was no answer.
fn unanswered(facts: &impl Facts, circumstances: Circumstances) -> Outcome {
    if !has_waited_long(facts, circumstances) || !facts.had_connection() || facts.stood_still() {
        return Outcome::Neutral;
    }
    Outcome::Unanswered
}

/// Whether the service had longer than usual, from when it was asked: when all of the request had
/// arrived, or the last message of a gRPC call that streams.
fn has_waited_long(facts: &impl Facts, circumstances: Circumstances) -> bool {
    let asked_after = match circumstances.arrival {
        Arrival::Whole(after) => after,
        Arrival::Partly(after) if facts.is_grpc_call() => after,
        Arrival::Partly(_) | Arrival::Begun => return false,
    };
    let waited = facts.took().saturating_sub(asked_after);
    has_passed(circumstances.longer_than_usual, waited)
}

/// Whether the caller's own deadline had passed.
fn is_over_for_caller(facts: &impl Facts) -> bool {
    facts
        .callers_deadline()
        .is_some_and(|deadline| has_passed(deadline, facts.took()))
}

/// Whether the age that Envoy allowed a stream was the caller's own deadline.
fn is_callers_age(limit: Limit, facts: &impl Facts) -> bool {
    limit == Limit::Age
        && facts
            .callers_deadline()
            .is_some_and(|deadline| has_passed(deadline, facts.took().saturating_add(ROUND)))
}

/// Whether a time limit had passed after `waited`.
fn has_passed(limit: Duration, waited: Duration) -> bool {
    waited.saturating_add(TOLERANCE.max(limit / 20)) >= limit
}

fn says(details: &[u8], word: &[u8]) -> bool {
    details.windows(word.len()).any(|part| part == word)
}

#[cfg(test)]
mod tests;
