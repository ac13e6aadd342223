//! What the end of a request says about its service.

use crate::host::{Host, property};
use levee_policy::breaker::{Outcome, SlowCalls};
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

/// Compiled CEL expressions that say in one host call whether the upstream has answered well
/// (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>).
///
/// Each is true only if [`classify`] returns success, and for nearly all successes of its protocol.
/// If it is false or has no value, the properties are read one by one. The cost of an expression
/// grows with each mention of `response`.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredWell {
    http: u32,
    grpc: u32,
}

impl AnsweredWell {
    /// `None` where Envoy was built without CEL.
    pub fn compile<H: Host>(host: &H) -> Option<Self> {
        Some(Self {
            http: host.compile(
                "response.code_details == 'via_upstream' && response.flags == 0 && response.code < 429 \
                 && !('grpc-status' in response.trailers) && !('grpc-status' in response.headers)",
            )?,
            grpc: host.compile(
                "response.code_details == 'via_upstream' && response.flags == 0 && response.grpc_status == 0 \
                 && response.code < 429",
            )?,
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
    pub outcome: Outcome,
    /// The time limit that ended it, if one did.
    pub timeout: Option<TimeoutKind>,
}

/// Envoy's response flags, by their bits
/// (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>).
pub mod flag {
    /// LH: the host's own health check failed (health check filter).
    pub const FAILED_LOCAL_HEALTH_CHECK: u64 = 1;
    /// UH: no healthy host.
    pub const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
    /// UT: a time limit enforced by the router.
    pub const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    /// LR: Envoy reset the upstream connection.
    pub const LOCAL_RESET: u64 = 1 << 3;
    /// UR: the upstream reset the stream.
    pub const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
    /// UF: no connection to the upstream.
    pub const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
    /// UC: the upstream ended the connection.
    pub const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    /// UO: Envoy's own limits for the cluster.
    pub const UPSTREAM_OVERFLOW: u64 = 1 << 7;
    /// NR: no route.
    pub const NO_ROUTE: u64 = 1 << 8;
    /// FI: a failure injected by the fault filter.
    pub const FAULT_INJECTED: u64 = 1 << 10;
    /// RL: a rate limit.
    pub const RATE_LIMITED: u64 = 1 << 11;
    /// UAEX: external authorization.
    pub const UNAUTHORIZED: u64 = 1 << 12;
    /// DC: the client ended the connection.
    pub const DOWNSTREAM_TERMINATION: u64 = 1 << 14;
    /// SI: nothing moved for `stream_idle_timeout`.
    pub const STREAM_IDLE: u64 = 1 << 16;
    /// IH: an `x-envoy-` header of the request was refused.
    pub const INVALID_REQUEST_HEADERS: u64 = 1 << 17;
    /// DPE: the client broke the protocol.
    pub const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
    /// UMSDR: the upstream's `max_stream_duration`.
    pub const UPSTREAM_MAX_DURATION: u64 = 1 << 19;
    /// RFCF: from the cache filter.
    pub const FROM_CACHE: u64 = 1 << 20;
    /// NFCF: a filter's configuration was missing.
    pub const NO_FILTER_CONFIG: u64 = 1 << 21;
    /// DT: the route's or the listener's `max_stream_duration`.
    pub const DURATION_TIMEOUT: u64 = 1 << 22;
    /// UPE: the upstream broke the protocol.
    pub const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
    /// NC: no such cluster.
    pub const NO_CLUSTER: u64 = 1 << 24;
    /// OM: the overload manager.
    pub const OVERLOAD: u64 = 1 << 25;
    /// DF: the upstream's name was not resolved.
    pub const DNS_FAILURE: u64 = 1 << 26;
    /// DO: the cluster's `drop_overload`.
    pub const DROP_OVERLOAD: u64 = 1 << 27;
    /// DR: the client reset the stream.
    pub const DOWNSTREAM_RESET: u64 = 1 << 28;
    /// UDO: the cluster's `drop_overload` at 100 %.
    pub const UNCONDITIONAL_DROP: u64 = 1 << 29;
}

/// The client left.
const CLIENT: u64 = flag::DOWNSTREAM_TERMINATION | flag::DOWNSTREAM_RESET;

/// Envoy or another filter answered without asking the service.
const GATEWAY: u64 = flag::FAILED_LOCAL_HEALTH_CHECK
    | flag::UPSTREAM_OVERFLOW
    | flag::NO_ROUTE
    | flag::FAULT_INJECTED
    | flag::RATE_LIMITED
    | flag::UNAUTHORIZED
    | flag::INVALID_REQUEST_HEADERS
    | flag::DOWNSTREAM_PROTOCOL_ERROR
    | flag::FROM_CACHE
    | flag::NO_FILTER_CONFIG
    | flag::NO_CLUSTER
    | flag::OVERLOAD
    | flag::DROP_OVERLOAD
    | flag::UNCONDITIONAL_DROP;

/// The service could not be reached, or did not finish its answer.
const SERVICE: u64 = flag::NO_HEALTHY_UPSTREAM
    | flag::UPSTREAM_REQUEST_TIMEOUT
    | flag::LOCAL_RESET
    | flag::UPSTREAM_REMOTE_RESET
    | flag::UPSTREAM_CONNECTION_FAILURE
    | flag::UPSTREAM_CONNECTION_TERMINATION
    | flag::UPSTREAM_PROTOCOL_ERROR
    | flag::DNS_FAILURE;

/// A stream was ended for its age or for being idle. That is the service's fault only if it had not
/// answered yet.
const AGE: u64 = flag::STREAM_IDLE | flag::UPSTREAM_MAX_DURATION | flag::DURATION_TIMEOUT;

const SWITCHING_PROTOCOLS: u64 = 101;
const TOO_MANY_REQUESTS: u64 = 429;
const SERVER_ERROR: u64 = 500;

/// gRPC statuses that are failures of the service: UNKNOWN, `DEADLINE_EXCEEDED`, INTERNAL,
/// UNAVAILABLE, `DATA_LOSS` (<https://grpc.io/docs/guides/status-codes/>).
const GRPC_FAILURES: [u64; 5] = [2, 4, 13, 14, 15];
const GRPC_RESOURCE_EXHAUSTED: u64 = 8;

/// What is known about a request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// HTTP status, if response headers were sent.
    pub code: Option<u64>,
    /// Envoy's response [`flag`]s.
    pub flags: u64,
    pub details: &'a [u8],
    /// The `grpc-status` that the upstream sent. Nothing that a client sends makes an answer gRPC.
    pub grpc_status: Option<u64>,
}

/// What `evidence` says about the service. The result is never slow: the caller measures that.
pub fn classify(evidence: Evidence<'_>) -> Ended {
    let Evidence {
        code,
        flags,
        details,
        grpc_status,
    } = evidence;
    let ended = |outcome| Ended {
        outcome,
        timeout: None,
    };
    // An upgrade counts as success. How the connection later closes says little: usually one side
    // leaves.
    if code == Some(SWITCHING_PROTOCOLS) {
        return ended(Outcome::SUCCESS);
    }
    if flags & (CLIENT | GATEWAY) != 0 {
        return ended(Outcome::Neutral);
    }
    if flags & SERVICE != 0 {
        return Ended {
            outcome: Outcome::FAILURE,
            timeout: timeout(flags, details),
        };
    }
    if flags & AGE != 0 {
        return if code.is_some_and(|code| code >= SERVER_ERROR) {
            Ended {
                outcome: Outcome::FAILURE,
                timeout: Some(TimeoutKind::Request),
            }
        } else {
            ended(Outcome::Neutral)
        };
    }
    let Some(code) = code.filter(|_| details == b"via_upstream") else {
        return ended(Outcome::Neutral);
    };
    ended(match grpc_status {
        Some(GRPC_RESOURCE_EXHAUSTED) => Outcome::Neutral,
        Some(status) if GRPC_FAILURES.contains(&status) => Outcome::FAILURE,
        _ => match code {
            SERVER_ERROR.. => Outcome::FAILURE,
            TOO_MANY_REQUESTS => Outcome::Neutral,
            _ => Outcome::SUCCESS,
        },
    })
}

fn timeout(flags: u64, details: &[u8]) -> Option<TimeoutKind> {
    let says = |word: &[u8]| details.windows(word.len()).any(|part| part == word);
    if flags & flag::UPSTREAM_REQUEST_TIMEOUT != 0 {
        Some(if says(b"per_try_timeout") {
            TimeoutKind::ResponseHeader
        } else {
            TimeoutKind::Request
        })
    } else if flags & flag::UPSTREAM_CONNECTION_FAILURE != 0 && says(b"connection_timeout") {
        Some(TimeoutKind::Connect)
    } else {
        None
    }
}

/// How the current request ended. A good answer in the expected `protocol` takes one host call, or
/// two if `slow_calls` is set. A good answer in the other protocol changes `protocol`.
pub fn of_current_request<H: Host>(
    host: &H,
    answered_well: Option<AnsweredWell>,
    protocol: &mut Protocol,
    slow_calls: Option<SlowCalls>,
) -> Ended {
    let is_good = answered_well.is_some_and(|question| question.holds(host, *protocol));
    let mut ended = if is_good {
        Ended {
            outcome: Outcome::SUCCESS,
            timeout: None,
        }
    } else {
        read_current_request(host, protocol)
    };
    if let Some(rule) = slow_calls
        && let Outcome::Success { slow } | Outcome::Failure { slow } = &mut ended.outcome
    {
        *slow = number(host, property::BACKEND_LATENCY)
            .is_some_and(|nanos| Duration::from_nanos(nanos) > rule.longer_than);
    }
    ended
}

/// How the current request ended, by reading each of its properties.
fn read_current_request<H: Host>(host: &H, protocol: &mut Protocol) -> Ended {
    let details = host
        .property(property::RESPONSE_CODE_DETAILS)
        .unwrap_or_default();
    let grpc_status = digits(host, property::GRPC_STATUS_TRAILER)
        .or_else(|| digits(host, property::GRPC_STATUS_HEADER));
    let ended = classify(Evidence {
        code: number(host, property::RESPONSE_CODE),
        flags: number(host, property::RESPONSE_FLAGS).unwrap_or(0),
        details: &details,
        grpc_status,
    });
    if ended.outcome == Outcome::SUCCESS {
        *protocol = match grpc_status {
            Some(_) => Protocol::Grpc,
            None => Protocol::Http,
        };
    }
    ended
}

/// Whether the current request's connection was upgraded. A WebSocket that stays open for hours has
/// succeeded already.
pub fn is_upgraded<H: Host>(host: &H) -> bool {
    number(host, property::RESPONSE_CODE) == Some(SWITCHING_PROTOCOLS)
}

fn number<H: Host>(host: &H, path: &str) -> Option<u64> {
    host.with_property(path, |bytes| bytes.try_into().ok().map(u64::from_le_bytes))?
}

fn digits<H: Host>(host: &H, path: &str) -> Option<u64> {
    host.with_property(path, |bytes| std::str::from_utf8(bytes).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIA_UPSTREAM: Evidence<'static> = Evidence {
        code: Some(200),
        flags: 0,
        details: b"via_upstream",
        grpc_status: None,
    };

    fn outcome(evidence: Evidence<'_>) -> Outcome {
        classify(evidence).outcome
    }

    #[test]
    fn an_upstreams_5xx_is_a_failure_and_its_429_is_neutral() {
        for code in 100..=599 {
            let expected = match code {
                500.. => Outcome::FAILURE,
                429 => Outcome::Neutral,
                _ => Outcome::SUCCESS,
            };
            assert_eq!(
                outcome(Evidence {
                    code: Some(code),
                    ..VIA_UPSTREAM
                }),
                expected,
                "{code}"
            );
        }
    }

    #[test]
    fn another_filters_answer_is_neutral_whatever_its_status() {
        for (code, details) in [
            (401, "jwt_authn_access_denied{Jwt_is_missing}"),
            (403, "rbac_access_denied_matched_policy[none]"),
            (429, "local_rate_limited"),
            (500, "lua_response"),
            (200, "direct_response"),
            (503, "levee_circuit_open"),
        ] {
            let evidence = Evidence {
                code: Some(code),
                details: details.as_bytes(),
                ..VIA_UPSTREAM
            };
            assert_eq!(outcome(evidence), Outcome::Neutral, "{details}");
        }
    }

    #[test]
    fn a_client_that_leaves_is_neutral_even_with_other_flags() {
        for flags in [flag::DOWNSTREAM_TERMINATION, flag::DOWNSTREAM_RESET] {
            for other in 0..30 {
                for code in [None, Some(0), Some(200), Some(503)] {
                    let evidence = Evidence {
                        code,
                        flags: flags | 1 << other,
                        ..VIA_UPSTREAM
                    };
                    assert_eq!(outcome(evidence), Outcome::Neutral, "{flags:x} {other}");
                }
            }
        }
    }

    #[test]
    fn each_flag_means_what_the_table_says() {
        use flag::*;
        let table = [
            (NO_HEALTHY_UPSTREAM, 503, Outcome::FAILURE),
            (UPSTREAM_REQUEST_TIMEOUT, 504, Outcome::FAILURE),
            (LOCAL_RESET, 503, Outcome::FAILURE),
            (UPSTREAM_REMOTE_RESET, 200, Outcome::FAILURE),
            (UPSTREAM_CONNECTION_FAILURE, 503, Outcome::FAILURE),
            (UPSTREAM_CONNECTION_TERMINATION, 200, Outcome::FAILURE),
            (UPSTREAM_PROTOCOL_ERROR, 502, Outcome::FAILURE),
            (DNS_FAILURE, 503, Outcome::FAILURE),
            (UPSTREAM_OVERFLOW, 503, Outcome::Neutral),
            (RATE_LIMITED, 429, Outcome::Neutral),
            (UNAUTHORIZED, 403, Outcome::Neutral),
            (FAULT_INJECTED, 503, Outcome::Neutral),
            (NO_ROUTE, 404, Outcome::Neutral),
            (NO_CLUSTER, 503, Outcome::Neutral),
            (OVERLOAD, 503, Outcome::Neutral),
            (DROP_OVERLOAD, 503, Outcome::Neutral),
            (UNCONDITIONAL_DROP, 503, Outcome::Neutral),
            (FROM_CACHE, 500, Outcome::Neutral),
            (STREAM_IDLE, 504, Outcome::FAILURE),
            (STREAM_IDLE, 408, Outcome::Neutral),
            (STREAM_IDLE, 200, Outcome::Neutral),
            (UPSTREAM_MAX_DURATION, 200, Outcome::Neutral),
            (DURATION_TIMEOUT, 504, Outcome::FAILURE),
        ];
        for (flags, code, expected) in table {
            let evidence = Evidence {
                code: Some(code),
                flags,
                ..VIA_UPSTREAM
            };
            assert_eq!(outcome(evidence), expected, "{flags:#x} {code}");
        }
    }

    #[test]
    fn grpc_statuses_decide_for_grpc() {
        for status in 0..=16 {
            let expected = match status {
                2 | 4 | 13 | 14 | 15 => Outcome::FAILURE,
                8 => Outcome::Neutral,
                _ => Outcome::SUCCESS,
            };
            let evidence = Evidence {
                grpc_status: Some(status),
                ..VIA_UPSTREAM
            };
            assert_eq!(outcome(evidence), expected, "{status}");
        }
    }

    #[test]
    fn an_upgraded_connection_has_succeeded_however_it_ends() {
        for flags in [
            0,
            flag::UPSTREAM_CONNECTION_TERMINATION,
            flag::DOWNSTREAM_TERMINATION,
        ] {
            let evidence = Evidence {
                code: Some(101),
                flags,
                ..VIA_UPSTREAM
            };
            assert_eq!(outcome(evidence), Outcome::SUCCESS);
        }
    }

    #[test]
    fn kinds_of_timeouts_are_distinguished() {
        use flag::*;
        let kind = |flags, details: &'static str| {
            classify(Evidence {
                code: Some(504),
                flags,
                details: details.as_bytes(),
                grpc_status: None,
            })
            .timeout
        };
        assert_eq!(
            kind(UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_timeout"),
            Some(TimeoutKind::ResponseHeader)
        );
        assert_eq!(
            kind(UPSTREAM_REQUEST_TIMEOUT, "response_timeout"),
            Some(TimeoutKind::Request)
        );
        assert_eq!(
            kind(
                UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{connection_timeout}"
            ),
            Some(TimeoutKind::Connect)
        );
        assert_eq!(
            kind(
                UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
            ),
            None
        );
        assert_eq!(kind(0, "via_upstream"), None);
    }
}
