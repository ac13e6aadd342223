use super::super::flag::*;
use super::*;
use std::cell::Cell;

/// A request about which nothing special is known. It took 2 s, and 1 s is longer than usual.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one fact")]
struct Known {
    grpc_in_headers: Option<u64>,
    grpc_in_trailers: Option<u64>,
    had_connection: bool,
    was_complete: bool,
    passed_on: u64,
    declared_length: Option<u64>,
    is_grpc_call: bool,
    is_tunnel: bool,
    deadline: Option<Duration>,
    stood_still: bool,
}

const PLAIN: Known = Known {
    grpc_in_headers: None,
    grpc_in_trailers: None,
    had_connection: true,
    was_complete: false,
    passed_on: 0,
    declared_length: None,
    is_grpc_call: false,
    is_tunnel: false,
    deadline: None,
    stood_still: false,
};

impl Facts for Known {
    fn grpc_status(&self) -> Option<u64> {
        self.grpc_in_trailers.or(self.grpc_in_headers)
    }
    fn grpc_status_in_headers(&self) -> Option<u64> {
        self.grpc_in_headers
    }
    fn had_connection(&self) -> bool {
        self.had_connection
    }
    fn answer_was_complete(&self) -> bool {
        self.was_complete
    }
    fn passed_on(&self) -> u64 {
        self.passed_on
    }
    fn declared_length(&self) -> Option<u64> {
        self.declared_length
    }
    fn is_grpc_call(&self) -> bool {
        self.is_grpc_call
    }
    fn is_tunnel(&self) -> bool {
        self.is_tunnel
    }
    fn took(&self) -> Duration {
        Duration::from_secs(2)
    }
    fn stood_still(&self) -> bool {
        self.stood_still
    }
    fn callers_deadline(&self) -> Option<Duration> {
        self.deadline
    }
}

const ARRIVED_AT_ONCE: Circumstances = Circumstances {
    arrival: Arrival::Whole(Duration::ZERO),
    limited_by_caller: false,
    longer_than_usual: Duration::from_secs(1),
};

fn end(code: u64, flags: u64, details: &str, known: &Known) -> Ended {
    let first = First {
        code: (code > 0).then_some(code),
        flags,
        details: details.as_bytes(),
    };
    judge(first, &Failures::default(), known, ARRIVED_AT_ONCE)
}

fn outcome(code: u64, flags: u64, details: &str, known: &Known) -> Outcome {
    end(code, flags, details, known).outcome
}

const ANSWERED: &str = "via_upstream";
const REFUSED: &str = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
const CLOSED: &str = "upstream_reset_before_response_started{connection_termination}";
const CLOSED_LATE: &str = "upstream_reset_after_response_started{connection_termination}";
const RESET: &str = "upstream_reset_before_response_started{remote_reset}";
const WEAK: Outcome = Outcome::WEAK_FAILURE;

#[test]
fn an_answer_is_judged_by_its_status_whatever_the_flags_say() {
    for flags in [0, UPSTREAM_OVERFLOW, 1 << 13] {
        for code in 100..=599 {
            let expected = match code {
                429 => Outcome::Neutral,
                502..=504 => Outcome::FAILURE,
                501 | 505 => Outcome::SUCCESS,
                500.. => WEAK,
                _ => Outcome::SUCCESS,
            };
            assert_eq!(
                outcome(code, flags, ANSWERED, &PLAIN),
                expected,
                "{code} {flags}"
            );
        }
    }
    assert_eq!(outcome(0, 0, ANSWERED, &PLAIN), Outcome::Neutral);
}

/// The rules as a configuration says them.
fn rules(json: &str) -> Failures {
    let json = format!(r#"{{"failures": {json}}}"#);
    let config = crate::config::Config::parse(json.as_bytes());
    config.expect("valid rules").general.failures
}

#[test]
fn the_rules_say_which_statuses_are_failures_and_who_can_provoke_them_how_much_they_say() {
    let grpc = |status| Known {
        grpc_in_trailers: Some(status),
        ..PLAIN
    };
    let listed = rules(r#"{"http": ["404", "429", "500-504"], "grpc": [5, 8, 14]}"#);
    let left_out = rules(r#"{"http": [], "grpc": []}"#);
    for (code, known, with, without) in [
        (404, PLAIN, WEAK, Outcome::SUCCESS),
        (405, PLAIN, Outcome::SUCCESS, Outcome::SUCCESS),
        (429, PLAIN, WEAK, Outcome::Neutral),
        (500, PLAIN, WEAK, Outcome::SUCCESS),
        (501, PLAIN, WEAK, Outcome::SUCCESS),
        (502, PLAIN, Outcome::FAILURE, Outcome::SUCCESS),
        (503, PLAIN, Outcome::FAILURE, Outcome::SUCCESS),
        (504, PLAIN, Outcome::FAILURE, Outcome::SUCCESS),
        (505, PLAIN, Outcome::SUCCESS, Outcome::SUCCESS),
        (600, PLAIN, WEAK, Outcome::SUCCESS),
        (200, grpc(0), Outcome::SUCCESS, Outcome::SUCCESS),
        (200, grpc(2), Outcome::SUCCESS, Outcome::SUCCESS),
        (200, grpc(5), WEAK, Outcome::SUCCESS),
        (200, grpc(8), WEAK, Outcome::Neutral),
        (200, grpc(14), Outcome::FAILURE, Outcome::SUCCESS),
        (200, grpc(99), Outcome::SUCCESS, Outcome::SUCCESS),
        (403, grpc(14), Outcome::SUCCESS, Outcome::SUCCESS),
        (404, grpc(0), WEAK, Outcome::SUCCESS),
    ] {
        let first = First {
            code: Some(code),
            flags: 0,
            details: ANSWERED.as_bytes(),
        };
        for (rules, expected) in [(listed, with), (left_out, without)] {
            let ended = judge(first, &rules, &known, ARRIVED_AT_ONCE);
            assert_eq!(ended.outcome, expected, "{code} {known:?}");
        }
    }
}

#[test]
fn a_status_that_was_listed_says_nothing_after_the_callers_deadline() {
    let listed = rules(r#"{"http": ["404", "429"]}"#);
    let late = Known {
        deadline: Some(Duration::from_millis(1)),
        ..PLAIN
    };
    for code in [404, 429] {
        let first = First {
            code: Some(code),
            flags: 0,
            details: ANSWERED.as_bytes(),
        };
        let ended = judge(first, &listed, &late, ARRIVED_AT_ONCE);
        assert_eq!(ended.outcome, Outcome::Neutral, "{code}");
    }
}

#[test]
fn rules_concern_only_what_the_service_has_answered() {
    let none = rules(r#"{"http": [], "grpc": []}"#);
    for (code, flags, details) in [
        (503, UPSTREAM_CONNECTION_TERMINATION, CLOSED),
        (504, UPSTREAM_REQUEST_TIMEOUT, "response_timeout"),
    ] {
        let first = First {
            code: Some(code),
            flags,
            details: details.as_bytes(),
        };
        let ended = judge(first, &none, &PLAIN, ARRIVED_AT_ONCE);
        assert_eq!(ended.outcome, Outcome::FAILURE, "{details}");
    }
    let all = rules(r#"{"http": ["400-599"]}"#);
    let limited = First {
        code: Some(429),
        flags: RATE_LIMITED,
        details: b"local_rate_limited",
    };
    let ended = judge(limited, &all, &PLAIN, ARRIVED_AT_ONCE);
    assert_eq!(ended.outcome, Outcome::Neutral);
}

#[test]
fn a_grpc_status_decides_where_the_http_status_is_good() {
    for status in 0..=16 {
        let expected = match status {
            2 | 4 | 13 | 15 => WEAK,
            14 => Outcome::FAILURE,
            8 => Outcome::Neutral,
            _ => Outcome::SUCCESS,
        };
        for known in [
            Known {
                grpc_in_trailers: Some(status),
                ..PLAIN
            },
            Known {
                grpc_in_headers: Some(status),
                ..PLAIN
            },
        ] {
            assert_eq!(outcome(200, 0, ANSWERED, &known), expected, "{status}");
            assert_eq!(
                outcome(400, 0, ANSWERED, &known),
                Outcome::SUCCESS,
                "{status}"
            );
            assert_eq!(
                outcome(405, 0, ANSWERED, &known),
                Outcome::SUCCESS,
                "{status}"
            );
        }
    }
}

#[test]
fn a_retry_that_was_stopped_is_not_the_gateways_own_limit() {
    assert_eq!(
        outcome(503, UPSTREAM_OVERFLOW, ANSWERED, &PLAIN),
        Outcome::FAILURE
    );
    let flags = UPSTREAM_OVERFLOW | UPSTREAM_CONNECTION_TERMINATION;
    assert_eq!(outcome(503, flags, CLOSED, &PLAIN), Outcome::FAILURE);
    let overflow = "upstream_reset_before_response_started{overflow}";
    assert_eq!(
        outcome(503, UPSTREAM_OVERFLOW, overflow, &PLAIN),
        Outcome::Neutral
    );
}

#[test]
fn what_the_gateway_or_another_filter_answers_is_neutral() {
    for flags in [
        RATE_LIMITED,
        UNAUTHORIZED,
        FAULT_INJECTED,
        NO_ROUTE,
        NO_CLUSTER,
        OVERLOAD,
        DROP_OVERLOAD,
        UNCONDITIONAL_DROP,
        FROM_CACHE,
        FAILED_LOCAL_HEALTH_CHECK,
        NO_FILTER_CONFIG,
    ] {
        assert_eq!(
            outcome(503, flags, ANSWERED, &PLAIN),
            Outcome::Neutral,
            "{flags:x}"
        );
    }
    for (code, details) in [
        (401, "jwt_authn_access_denied{Jwt_is_missing}"),
        (403, "rbac_access_denied_matched_policy[none]"),
        (429, "local_rate_limited"),
        (500, "lua_response"),
        (200, "direct_response"),
        (503, "levee_circuit_open"),
        (408, "request_overall_timeout"),
    ] {
        assert_eq!(
            outcome(code, 0, details, &PLAIN),
            Outcome::Neutral,
            "{details}"
        );
    }
}

#[test]
fn without_a_connection_the_service_was_unreachable_whatever_the_callers_deadline() {
    let unconnected = |deadline| Known {
        had_connection: false,
        deadline,
        ..PLAIN
    };
    for (flags, details) in [
        (UPSTREAM_CONNECTION_FAILURE, REFUSED),
        (NO_HEALTHY_UPSTREAM, "no_healthy_upstream"),
        (DNS_FAILURE, "dns_resolution_failure"),
    ] {
        for deadline in [None, Some(Duration::ZERO)] {
            let outcome = outcome(503, flags, details, &unconnected(deadline));
            assert_eq!(outcome, Outcome::UNREACHABLE, "{details}");
        }
    }
}

#[test]
fn what_no_caller_can_bring_about_is_a_strong_failure() {
    for (code, flags, details) in [
        (503, UPSTREAM_CONNECTION_TERMINATION, CLOSED),
        (200, UPSTREAM_CONNECTION_TERMINATION, CLOSED_LATE),
        (200, UPSTREAM_REMOTE_RESET, RESET),
        (
            503,
            LOCAL_RESET,
            "upstream_reset_before_response_started{local_reset}",
        ),
        (
            502,
            UPSTREAM_PROTOCOL_ERROR,
            "upstream_reset_before_response_started{protocol_error}",
        ),
        (504, UPSTREAM_REQUEST_TIMEOUT, "response_timeout"),
        (504, UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_timeout"),
        (504, STREAM_IDLE, "stream_idle_timeout"),
        (
            504,
            UPSTREAM_MAX_DURATION,
            "upstream_max_stream_duration_reached",
        ),
        (504, 0, "max_duration_timeout"),
    ] {
        assert_eq!(
            outcome(code, flags, details, &PLAIN),
            Outcome::FAILURE,
            "{details}"
        );
        let excused = Known {
            stood_still: true,
            ..PLAIN
        };
        assert_eq!(
            outcome(code, flags, details, &excused),
            Outcome::Neutral,
            "{details}"
        );
    }
}

#[test]
fn what_ends_at_the_callers_own_deadline_is_the_callers() {
    for (deadline, is_over) in [
        (Some(Duration::from_secs(1)), true),
        (Some(Duration::from_secs(2)), true),
        (Some(Duration::from_secs(3)), false),
    ] {
        let known = Known { deadline, ..PLAIN };
        for (code, flags, details, otherwise) in [
            (200, UPSTREAM_REMOTE_RESET, RESET, Outcome::FAILURE),
            (
                504,
                UPSTREAM_REQUEST_TIMEOUT,
                "response_timeout",
                Outcome::FAILURE,
            ),
            (504, 0, "max_duration_timeout", Outcome::FAILURE),
        ] {
            let expected = if is_over {
                Outcome::Unanswered
            } else {
                otherwise
            };
            assert_eq!(
                outcome(code, flags, details, &known),
                expected,
                "{details} {deadline:?}"
            );
        }
        let answered_4 = Known {
            grpc_in_headers: Some(4),
            ..known.clone()
        };
        let expected = if is_over { Outcome::Neutral } else { WEAK };
        assert_eq!(
            outcome(200, 0, ANSWERED, &answered_4),
            expected,
            "{deadline:?}"
        );
        let expected = if is_over {
            Outcome::Neutral
        } else {
            Outcome::FAILURE
        };
        assert_eq!(outcome(503, 0, ANSWERED, &known), expected, "{deadline:?}");
        let closed = outcome(200, UPSTREAM_CONNECTION_TERMINATION, CLOSED_LATE, &known);
        assert_eq!(closed, expected, "{deadline:?}");
    }
}

#[test]
fn a_limit_that_was_the_callers_is_no_failure() {
    let circumstances = Circumstances {
        limited_by_caller: true,
        ..ARRIVED_AT_ONCE
    };
    for (code, expected) in [(504, Outcome::Unanswered), (200, Outcome::Neutral)] {
        let first = First {
            code: Some(code),
            flags: UPSTREAM_REQUEST_TIMEOUT,
            details: b"response_timeout",
        };
        let ended = judge(first, &Failures::default(), &PLAIN, circumstances);
        assert_eq!(ended.outcome, expected);
        assert_eq!(
            ended.timeout,
            Some(TimeoutKind::Request),
            "counted nevertheless"
        );
    }
}

#[test]
fn a_client_that_leaves_says_something_only_after_a_long_wait() {
    let first = |flags| First {
        code: None,
        flags,
        details: b"downstream_remote_disconnect",
    };
    let third = First {
        code: None,
        flags: 0,
        details: b"", // HTTP/3
    };
    for first in [
        first(DOWNSTREAM_TERMINATION),
        first(DOWNSTREAM_RESET),
        third,
    ] {
        for (longer_than_usual, arrival, expected) in [
            (1, Arrival::Whole(0), Outcome::Unanswered),
            (2, Arrival::Whole(0), Outcome::Unanswered),
            (3, Arrival::Whole(0), Outcome::Neutral),
            (1, Arrival::Whole(1500), Outcome::Neutral), // Its upload took most of the time.
            (1, Arrival::Partly(0), Outcome::Neutral),
            (1, Arrival::Begun, Outcome::Neutral),
        ] {
            let circumstances = Circumstances {
                arrival: arrival.map(Duration::from_millis),
                limited_by_caller: false,
                longer_than_usual: Duration::from_secs(longer_than_usual),
            };
            let outcome = judge(first, &Failures::default(), &PLAIN, circumstances).outcome;
            assert_eq!(outcome, expected, "{longer_than_usual} {arrival:?}");
        }
        for known in [
            Known {
                had_connection: false,
                ..PLAIN
            },
            Known {
                stood_still: true,
                ..PLAIN
            },
        ] {
            let outcome = judge(first, &Failures::default(), &known, ARRIVED_AT_ONCE).outcome;
            assert_eq!(outcome, Outcome::Neutral);
        }
    }
}

#[test]
fn a_client_that_leaves_in_the_answer_says_nothing_unless_the_answer_was_complete() {
    let details = "downstream_remote_disconnect";
    let left = |code, known: &Known| outcome(code, DOWNSTREAM_TERMINATION, details, known);
    assert_eq!(left(200, &PLAIN), Outcome::Neutral);
    assert_eq!(left(503, &PLAIN), Outcome::Neutral);
    let complete = Known {
        was_complete: true,
        ..PLAIN
    };
    assert_eq!(left(200, &complete), Outcome::SUCCESS);
    assert_eq!(left(503, &complete), Outcome::FAILURE);
}

#[test]
fn an_answer_that_is_cut_off_is_a_failure_only_if_the_service_was_to_go_on() {
    let cut = |known: &Known| outcome(200, UPSTREAM_REQUEST_TIMEOUT, "response_timeout", known);
    assert_eq!(cut(&PLAIN), WEAK);
    for passed_on in [16 * 1024, 1 << 20] {
        assert_eq!(cut(&Known { passed_on, ..PLAIN }), Outcome::Neutral);
    }
    let complete = Known {
        was_complete: true,
        passed_on: 100,
        ..PLAIN
    };
    assert_eq!(cut(&complete), Outcome::SUCCESS);
    // A stream that was ended for its age or for being idle had its answer.
    for (flags, details) in [
        (STREAM_IDLE, "stream_idle_timeout"),
        (
            UPSTREAM_MAX_DURATION,
            "upstream_max_stream_duration_reached",
        ),
        (0, "max_duration_timeout"),
    ] {
        assert_eq!(
            outcome(200, flags, details, &PLAIN),
            Outcome::Neutral,
            "{details}"
        );
    }
    // Envoy's own answer to a gRPC client has status 200.
    let own = Known {
        grpc_in_headers: Some(14),
        ..PLAIN
    };
    assert_eq!(cut(&own), Outcome::FAILURE);
}

#[test]
fn who_waits_for_a_connection_has_not_asked_the_service() {
    let waiting = Known {
        had_connection: false,
        ..PLAIN
    };
    let ended = end(504, UPSTREAM_REQUEST_TIMEOUT, "response_timeout", &waiting);
    assert_eq!(ended.outcome, Outcome::Neutral);
    assert_eq!(
        ended.timeout,
        Some(TimeoutKind::Request),
        "it ran out of time"
    );
}

#[test]
fn an_upload_that_ends_by_a_limit_says_nothing() {
    let uploading = Circumstances {
        arrival: Arrival::Partly(Duration::ZERO),
        ..ARRIVED_AT_ONCE
    };
    for (code, flags, details) in [
        (408, STREAM_IDLE, "stream_idle_timeout"),
        (504, 0, "max_duration_timeout"),
        (504, STREAM_IDLE, "stream_idle_timeout"),
    ] {
        let first = First {
            code: Some(code),
            flags,
            details: details.as_bytes(),
        };
        assert_eq!(
            judge(first, &Failures::default(), &PLAIN, uploading).outcome,
            Outcome::Neutral,
            "{details}"
        );
    }
}

#[test]
fn a_connection_that_ends_while_the_request_arrives_is_weak_evidence() {
    let uploading = Circumstances {
        arrival: Arrival::Partly(Duration::ZERO),
        ..ARRIVED_AT_ONCE
    };
    for (flags, details, had_connection, expected) in [
        (UPSTREAM_CONNECTION_TERMINATION, CLOSED, true, WEAK),
        (
            UPSTREAM_CONNECTION_FAILURE,
            REFUSED,
            false,
            Outcome::UNREACHABLE,
        ),
    ] {
        let first = First {
            code: Some(503),
            flags,
            details: details.as_bytes(),
        };
        let known = Known {
            had_connection,
            ..PLAIN
        };
        assert_eq!(
            judge(first, &Failures::default(), &known, uploading).outcome,
            expected,
            "{details}"
        );
    }
}

#[test]
fn a_streams_age_is_a_failure_only_if_the_service_had_time() {
    for (arrived_after, expected) in [(500, Outcome::FAILURE), (1900, Outcome::Neutral)] {
        let circumstances = Circumstances {
            arrival: Arrival::Whole(Duration::from_millis(arrived_after)),
            ..ARRIVED_AT_ONCE
        };
        let first = First {
            code: Some(504),
            flags: 0,
            details: b"max_duration_timeout",
        };
        assert_eq!(
            judge(first, &Failures::default(), &PLAIN, circumstances).outcome,
            expected
        );
    }
}

#[test]
fn a_grpc_call_that_streams_is_unanswered_if_its_last_message_is_long_ago() {
    let call = Known {
        is_grpc_call: true,
        ..PLAIN
    };
    let after = Duration::from_millis;
    for (arrival, grpc, http) in [
        (
            Arrival::Partly(after(0)),
            Outcome::Unanswered,
            Outcome::Neutral,
        ),
        (
            Arrival::Partly(after(900)),
            Outcome::Unanswered,
            Outcome::Neutral,
        ),
        (
            Arrival::Partly(after(1_500)),
            Outcome::Neutral,
            Outcome::Neutral,
        ), // It still sends.
        (Arrival::Begun, Outcome::Neutral, Outcome::Neutral),
    ] {
        let circumstances = Circumstances {
            arrival,
            ..ARRIVED_AT_ONCE
        };
        let at_the_deadline = Known {
            deadline: Some(Duration::from_secs(2)),
            ..call.clone()
        };
        let ended_by_envoy = Known {
            grpc_in_headers: Some(4),
            ..at_the_deadline.clone()
        };
        let idle = Known {
            grpc_in_headers: Some(2),
            ..call.clone()
        };
        for (code, flags, details, known) in [
            (0, DOWNSTREAM_RESET, "http2.remote_reset", &call),
            (200, UPSTREAM_REMOTE_RESET, RESET, &at_the_deadline),
            (200, 0, "max_duration_timeout", &ended_by_envoy),
            (200, STREAM_IDLE, "stream_idle_timeout", &idle),
        ] {
            let first = First {
                code: (code > 0).then_some(code),
                flags,
                details: details.as_bytes(),
            };
            let outcome =
                |known: &Known| judge(first, &Failures::default(), known, circumstances).outcome;
            assert_eq!(outcome(known), grpc, "{details} {arrival:?}");
            let upload = Known {
                is_grpc_call: false,
                ..known.clone()
            };
            assert_eq!(outcome(&upload), http, "{details} {arrival:?}");
        }
        // Who calls an upload gRPC makes no failure of it.
        let closed = First {
            code: Some(503),
            flags: UPSTREAM_CONNECTION_TERMINATION,
            details: CLOSED.as_bytes(),
        };
        assert_eq!(
            judge(closed, &Failures::default(), &call, circumstances).outcome,
            WEAK
        );
    }
}

#[test]
fn an_answer_to_an_upgrade_is_judged_as_any_other() {
    for (code, expected) in [
        (200, Outcome::SUCCESS),
        (403, Outcome::SUCCESS),
        (429, Outcome::Neutral),
        (500, WEAK),
        (503, Outcome::FAILURE),
    ] {
        let details = "websocket_handshake_unsuccessful";
        assert_eq!(outcome(code, 0, details, &PLAIN), expected, "{code}");
    }
}

#[test]
fn an_answer_of_envoys_own_is_known_whatever_its_status() {
    for code in [200, 503, 504] {
        let own = Known {
            declared_length: Some(24),
            passed_on: 24,
            ..PLAIN
        };
        let cut =
            |known: &Known| outcome(code, UPSTREAM_REQUEST_TIMEOUT, "response_timeout", known);
        assert_eq!(cut(&own), Outcome::FAILURE, "{code}");
        if code == 504 {
            continue;
        }
        for (declared_length, passed_on) in [(None, 24), (Some(1_000), 24), (None, 0)] {
            let of_the_service = Known {
                passed_on,
                declared_length,
                ..PLAIN
            };
            assert_eq!(cut(&of_the_service), WEAK, "{code} {declared_length:?}");
        }
        let complete = Known {
            was_complete: true,
            ..own
        };
        let expected = if code == 200 {
            Outcome::SUCCESS
        } else {
            Outcome::FAILURE
        };
        assert_eq!(cut(&complete), expected, "{code}");
    }
}

#[test]
fn upgrades_tunnels_and_redirects_have_succeeded_however_they_end() {
    let flags = [
        0,
        UPSTREAM_CONNECTION_TERMINATION,
        DOWNSTREAM_TERMINATION,
        DOWNSTREAM_RESET,
    ];
    for flags in flags {
        assert_eq!(outcome(101, flags, CLOSED_LATE, &PLAIN), Outcome::SUCCESS);
    }
    let tunnel = Known {
        is_tunnel: true,
        ..PLAIN
    };
    for (flags, details) in [
        (DOWNSTREAM_TERMINATION, "downstream_remote_disconnect"),
        (DOWNSTREAM_RESET, "http2.remote_reset"),
        (UPSTREAM_CONNECTION_TERMINATION, CLOSED_LATE),
    ] {
        assert_eq!(
            outcome(200, flags, details, &tunnel),
            Outcome::SUCCESS,
            "{details}"
        );
    }
    assert_eq!(
        outcome(302, 0, "internal_redirect", &PLAIN),
        Outcome::SUCCESS
    );
}

#[test]
fn kinds_of_timeouts_are_distinguished() {
    let kind = |flags, details| end(504, flags, details, &PLAIN).timeout;
    let connecting = "upstream_reset_before_response_started{connection_timeout}";
    for (flags, details, expected) in [
        (
            UPSTREAM_REQUEST_TIMEOUT,
            "upstream_per_try_timeout",
            Some(TimeoutKind::ResponseHeader),
        ),
        (
            UPSTREAM_REQUEST_TIMEOUT,
            "response_timeout",
            Some(TimeoutKind::Request),
        ),
        // The operator's limits.
        (0, "max_duration_timeout", None),
        (
            UPSTREAM_MAX_DURATION,
            "upstream_max_stream_duration_reached",
            None,
        ),
        (STREAM_IDLE, "stream_idle_timeout", None),
        (
            UPSTREAM_CONNECTION_FAILURE,
            connecting,
            Some(TimeoutKind::Connect),
        ),
        (UPSTREAM_CONNECTION_FAILURE, REFUSED, None),
        (0, ANSWERED, None),
    ] {
        assert_eq!(kind(flags, details), expected, "{details}");
    }
}

/// Counts the questions, each of which is a host call or two.
#[derive(Default)]
struct Counting(Cell<u32>);

impl Counting {
    fn tell<T>(&self, value: T) -> T {
        self.0.set(self.0.get() + 1);
        value
    }
}

impl Facts for Counting {
    fn grpc_status(&self) -> Option<u64> {
        self.tell(PLAIN.grpc_status())
    }
    fn grpc_status_in_headers(&self) -> Option<u64> {
        self.tell(PLAIN.grpc_status_in_headers())
    }
    fn had_connection(&self) -> bool {
        self.tell(PLAIN.had_connection())
    }
    fn answer_was_complete(&self) -> bool {
        self.tell(PLAIN.answer_was_complete())
    }
    fn passed_on(&self) -> u64 {
        self.tell(PLAIN.passed_on())
    }
    fn declared_length(&self) -> Option<u64> {
        self.tell(PLAIN.declared_length())
    }
    fn is_grpc_call(&self) -> bool {
        self.tell(PLAIN.is_grpc_call())
    }
    fn is_tunnel(&self) -> bool {
        self.tell(PLAIN.is_tunnel())
    }
    fn took(&self) -> Duration {
        self.tell(PLAIN.took())
    }
    fn stood_still(&self) -> bool {
        self.tell(PLAIN.stood_still())
    }
    fn callers_deadline(&self) -> Option<Duration> {
        self.tell(PLAIN.callers_deadline())
    }
}

#[test]
fn no_more_is_asked_than_needed() {
    for (code, flags, details, most) in [
        (404, 0, ANSWERED, 0),
        (200, 0, ANSWERED, 1),
        (401, UNAUTHORIZED, "", 0),
        (503, 0, ANSWERED, 1),
        (503, UPSTREAM_CONNECTION_FAILURE, REFUSED, 3),
        (504, UPSTREAM_REQUEST_TIMEOUT, "response_timeout", 4),
        (0, DOWNSTREAM_RESET, "http2.remote_reset", 3),
    ] {
        let facts = Counting::default();
        let first = First {
            code: (code > 0).then_some(code),
            flags,
            details: details.as_bytes(),
        };
        judge(first, &Failures::default(), &facts, ARRIVED_AT_ONCE);
        assert!(facts.0.get() <= most, "{details}: {}", facts.0.get());
    }
}
