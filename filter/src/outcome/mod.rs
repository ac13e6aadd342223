//! What the end of a request says about its service.
//!
//! A good answer is recognized by one host call. Everything else is judged by [`judge`], which asks
//! for what it needs, one [`Facts`] at a time.

pub mod flag;
mod judge;

pub use judge::{Arrival, Circumstances, Ended, Facts, First, TimeoutKind, judge};

use crate::config::{ClientDeadline, Failures};
use crate::deadline::{parse_grpc_timeout, read_deadline};
use crate::host::{Host, property};
use levee_policy::breaker::{Outcome, SlowCalls};
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::Duration;

/// The protocol of an answer. The one of the service's last good answer is tried first; a wrong
/// guess costs a closer look and no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// No `grpc-status`.
    #[default]
    Http,
    /// With a `grpc-status`.
    ///
    /// Only the upstream's own `grpc-status` makes an answer gRPC. Envoy's `response.grpc_status` does
    /// not: Envoy derives it from the HTTP status if there is none, and then it is never 0.
    Grpc,
}

/// A status from this on is looked at closely: 429 is neutral.
const CLOSER_LOOK: u64 = 429;

/// Compiled CEL expressions that say in one host call whether the upstream has answered well
/// (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>).
///
/// Each is true only if [`judge`] returns success, and for nearly all successes of its protocol.
/// If it is false or has no value, the properties are read one by one. The cost of an expression
/// grows with each mention of `response`, so it asks for the lowest failure, not for each.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredWell {
    http: u32,
    grpc: u32,
}

impl AnsweredWell {
    /// For answers with a status `below` this. `None` where Envoy was built without CEL.
    fn compile<H: Host>(host: &H, below: u64) -> Option<Self> {
        let answered =
            "response.code_details == 'via_upstream' && response.flags == 0 && response.code <";
        Some(Self {
            http: host.compile(&format!(
                "{answered} {below} && !('grpc-status' in response.trailers) \
                 && !('grpc-status' in response.headers)"
            ))?,
            grpc: host.compile(&format!("{answered} {below} && response.grpc_status == 0"))?,
        })
    }

    #[inline]
    fn holds<H: Host>(self, host: &H, protocol: Protocol) -> bool {
        let expression = match protocol {
            Protocol::Http => self.http,
            Protocol::Grpc => self.grpc,
        };
        host.holds(expression)
    }
}

/// The expressions for all services.
#[derive(Debug)]
pub struct Expressions {
    /// By the status that they ask for.
    all: Vec<(u64, AnsweredWell)>,
}

impl Expressions {
    /// `None` where Envoy was built without CEL.
    pub fn compile<'a, H: Host>(
        host: &H,
        rules: impl Iterator<Item = &'a Failures>,
    ) -> Option<Self> {
        let statuses: BTreeSet<u64> = rules.map(first_to_look_at).collect();
        let compile = |status| Some((status, AnsweredWell::compile(host, status)?));
        let all = statuses.into_iter().map(compile).collect::<Option<_>>()?;
        Some(Self { all })
    }

    /// The one for a service with these rules.
    pub fn of(&self, failures: &Failures) -> Option<AnsweredWell> {
        let wanted = first_to_look_at(failures);
        let found = self.all.iter().find(|(status, _)| *status == wanted);
        found.map(|(_, expression)| *expression)
    }
}

fn first_to_look_at(failures: &Failures) -> u64 {
    failures
        .lowest_http()
        .map_or(CLOSER_LOOK, |lowest| lowest.min(CLOSER_LOOK))
}

/// Whether the current request was plainly answered well: success, without a closer look.
#[inline]
pub fn is_good<H: Host>(host: &H, answered_well: Option<AnsweredWell>, protocol: Protocol) -> bool {
    answered_well.is_some_and(|question| question.holds(host, protocol))
}

/// How the current request ended, by a closer look. A good answer in the other protocol changes
/// `protocol`.
pub fn look_closer<H: Host>(
    host: &H,
    protocol: &mut Protocol,
    failures: &Failures,
    client_deadline: Option<&ClientDeadline>,
    circumstances: Circumstances,
    stood_still: impl Fn() -> bool,
) -> Ended {
    let details = host
        .property(property::RESPONSE_CODE_DETAILS)
        .unwrap_or_default();
    let first = First {
        code: number(host, property::RESPONSE_CODE),
        flags: number(host, property::RESPONSE_FLAGS).unwrap_or(0),
        details: &details,
    };
    let facts = Read {
        host,
        client_deadline,
        stood_still,
        grpc_status: OnceCell::new(),
    };
    let ended = judge(first, failures, &facts, circumstances);
    if ended.outcome == Outcome::SUCCESS && details == judge::VIA_UPSTREAM {
        *protocol = match facts.grpc_status() {
            Some(_) => Protocol::Grpc,
            None => Protocol::Http,
        };
    }
    ended
}

/// Marks an outcome as slow, if it was. That takes one host call if there is a rule.
pub fn mark_slow<H: Host>(host: &H, outcome: &mut Outcome, rule: Option<SlowCalls>) {
    if let Some(rule) = rule
        && let Outcome::Success { slow } | Outcome::Failure { slow, .. } = outcome
    {
        *slow = number(host, property::BACKEND_LATENCY)
            .is_some_and(|nanos| Duration::from_nanos(nanos) > rule.longer_than);
    }
}

/// How many seconds the service asks to be left alone, by its answer to the current request. Zero if it
/// does not say, or by a date: the filter has no calendar.
pub fn asked_to_wait_secs<H: Host>(host: &H) -> u32 {
    let pushback = || {
        digits(host, property::GRPC_PUSHBACK_TRAILER)
            .or_else(|| digits(host, property::GRPC_PUSHBACK_HEADER))
            .map(|millis| millis.div_ceil(1000))
    };
    let secs = digits(host, property::RETRY_AFTER).or_else(pushback);
    secs.map_or(0, |secs| u32::try_from(secs).unwrap_or(u32::MAX))
}

/// The status of the response to the current request, if its headers have come.
pub fn status_so_far<H: Host>(host: &H) -> Option<u64> {
    number(host, property::RESPONSE_CODE)
}

/// Whether the service's answer reached the client, though the filter never saw the request.
pub fn was_answered_by_upstream<H: Host>(host: &H) -> bool {
    host.with_property(property::RESPONSE_CODE_DETAILS, |details| {
        details == judge::VIA_UPSTREAM || details.starts_with(b"cache.")
    })
    .unwrap_or(false)
}

/// Facts about the current request, each read when it is asked for.
struct Read<'a, H, S> {
    host: &'a H,
    client_deadline: Option<&'a ClientDeadline>,
    stood_still: S,
    grpc_status: OnceCell<Option<u64>>,
}

impl<H: Host, S: Fn() -> bool> Facts for Read<'_, H, S> {
    fn grpc_status(&self) -> Option<u64> {
        *self.grpc_status.get_or_init(|| {
            digits(self.host, property::GRPC_STATUS_TRAILER)
                .or_else(|| self.grpc_status_in_headers())
        })
    }

    fn stood_still(&self) -> bool {
        (self.stood_still)()
    }

    fn grpc_status_in_headers(&self) -> Option<u64> {
        digits(self.host, property::GRPC_STATUS_HEADER)
    }

    fn had_connection(&self) -> bool {
        let address = property::UPSTREAM_LOCAL_ADDRESS;
        self.host
            .with_property(address, |address| !address.is_empty())
            .unwrap_or(false)
    }

    fn answer_was_complete(&self) -> bool {
        number(self.host, property::BACKEND_LATENCY).is_some()
    }

    fn passed_on(&self) -> u64 {
        number(self.host, property::RESPONSE_SIZE).unwrap_or(0)
    }

    fn declared_length(&self) -> Option<u64> {
        digits(self.host, property::CONTENT_LENGTH)
    }

    fn is_grpc_call(&self) -> bool {
        self.host
            .request_header("content-type")
            .and_then(|kind| {
                let rest = kind.strip_prefix(b"application/grpc")?;
                // gRPC-Web has no streams of requests.
                Some(!rest.starts_with(b"-web"))
            })
            .unwrap_or(false)
    }

    fn is_tunnel(&self) -> bool {
        self.host
            .with_property(property::REQUEST_METHOD, |method| method == b"CONNECT")
            .unwrap_or(false)
    }

    fn took(&self) -> Duration {
        number(self.host, property::REQUEST_DURATION).map_or(Duration::ZERO, Duration::from_nanos)
    }

    fn callers_deadline(&self) -> Option<Duration> {
        let grpc = || parse_grpc_timeout(&self.host.request_header("grpc-timeout")?);
        let configured = self
            .client_deadline
            .filter(|deadline| **deadline != ClientDeadline::GrpcTimeout);
        let own = || read_deadline(self.host, configured?);
        match (grpc(), own()) {
            (Some(grpc), Some(own)) => Some(grpc.min(own)),
            (grpc, own) => grpc.or(own),
        }
    }
}

fn number<H: Host>(host: &H, path: &str) -> Option<u64> {
    host.with_property(path, |bytes| bytes.try_into().ok().map(u64::from_le_bytes))?
}

fn digits<H: Host>(host: &H, path: &str) -> Option<u64> {
    host.with_property(path, |bytes| std::str::from_utf8(bytes).ok()?.parse().ok())?
}
