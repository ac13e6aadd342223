//! The breaker in the filter, with one and with several workers, against a fake Envoy.

mod fake;

use fake::{Call, End, FILTER, Gateway, Stream};
use levee_filter::plugin::Piece;
use std::time::Duration;

const OPEN_FOR: Duration = Duration::from_secs(33); // 30 s and the most jitter

fn open(gateway: &mut Gateway) {
    for _ in 0..5 {
        assert!(gateway.request(0, "auth", End::Status(503)));
    }
    assert_eq!(gateway.state("auth"), 1);
}

#[test]
fn the_sixth_request_after_five_failures_is_refused_and_says_why() {
    let mut gateway = Gateway::new(1, "");
    open(&mut gateway);
    let call = gateway.begin(0, "auth");
    assert!(call.was_refused);
    let reply = gateway.stream(call).reply.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(reply.details, "levee_circuit_open");
    assert_eq!(reply.grpc_status, 14);
    assert_eq!(reply.header("x-levee-reason"), Some("circuit_open"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=40).contains(&seconds), "{seconds}");
    let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(body["error"], "circuit_open");
    assert_eq!(body["service"], "auth");
    assert_eq!(body["retry_after_seconds"], seconds);
}

#[test]
fn each_service_has_its_own_failures() {
    let configuration = r#"{"breaker": {"witnesses": 1}, "failures": {"http": ["503"]},
        "services": {"search": {"failures": {"http": ["404"], "grpc": ["NOT_FOUND"]}}}}"#;
    for has_cel in [true, false] {
        let mut gateway = Gateway::with_cel(1, configuration, has_cel);
        for (service, code, is_open) in [
            ("auth", 500, false),
            ("auth", 404, false),
            ("auth", 503, true),
            ("search", 503, false),
            ("search", 410, false),
            ("search", 404, true),
        ] {
            for _ in 0..5 {
                assert!(
                    gateway.request(0, service, End::Status(code)),
                    "{service} {code}"
                );
            }
            assert_eq!(
                gateway.state(service),
                u64::from(is_open),
                "{service} {code}"
            );
        }
        assert_eq!(gateway.outcome("search", "success"), 10);
    }
}

/// The `retry-after` of the refusal that follows on five such answers of `auth`, if there is one.
fn refusal_after(failures: &str, answer: impl Fn(&mut Stream, u64)) -> Option<u64> {
    let configuration =
        format!(r#"{{"breaker": {{"witnesses": 1, "open_for": "5s"}}, "failures": {failures}}}"#);
    let mut gateway = Gateway::new(2, &configuration);
    for number in 0..5 {
        let call = gateway.begin(usize::from(number > 2), "auth");
        assert!(!call.was_refused);
        gateway.change(call, |stream| {
            stream.details = b"via_upstream".to_vec();
            stream.code = Some(200);
            answer(stream, number);
        });
        gateway.finish(call);
    }
    let refused = gateway.begin(0, "auth");
    let reply = gateway.stream(refused).reply?;
    Some(reply.header("retry-after").unwrap().parse().unwrap())
}

#[test]
fn a_service_that_says_when_to_come_back_is_left_alone_until_then() {
    let asks = |stream: &mut Stream, _| {
        stream.code = Some(429);
        stream.retry_after = Some("60");
    };
    let for_a_minute = 60..=80;
    let heeds = r#"{"http": [429], "retry_after": true}"#;
    let asked = refusal_after(heeds, asks).unwrap();
    assert!(for_a_minute.contains(&asked), "{asked}");
    // Only where the configuration says so, for failures, and if all say so.
    let asked = refusal_after(r#"{"http": [429]}"#, asks).unwrap();
    assert!((5..=7).contains(&asked), "{asked}");
    assert_eq!(refusal_after(r#"{"retry_after": true}"#, asks), None);
    let one_does_not_ask = |stream: &mut Stream, number| {
        asks(stream, number);
        if number == 2 {
            stream.retry_after = None;
        }
    };
    let asked = refusal_after(heeds, one_does_not_ask).unwrap();
    assert!((5..=7).contains(&asked), "{asked}");
    for has_trailers in [true, false] {
        let asked = refusal_after(r#"{"retry_after": true}"#, |stream, _| {
            stream.grpc_status = Some(14);
            stream.grpc_pushback = Some("60000");
            stream.has_trailers = has_trailers;
        });
        assert!(for_a_minute.contains(&asked.unwrap()), "{asked:?}");
    }
}

#[test]
fn a_time_that_can_not_be_read_changes_nothing() {
    for text in [
        "",
        "-1",
        "1.5",
        "Sun, 06 Nov 2050 08:49:37 GMT",
        "99999999999999999999",
    ] {
        let asked = refusal_after(r#"{"retry_after": true}"#, |stream, _| {
            stream.code = Some(503);
            stream.retry_after = Some(text);
        });
        assert!((5..=7).contains(&asked.unwrap()), "{text}: {asked:?}");
        let asked = refusal_after(r#"{"retry_after": true}"#, |stream, _| {
            stream.grpc_status = Some(14);
            stream.grpc_pushback = Some(text);
        });
        assert!((5..=7).contains(&asked.unwrap()), "{text}: {asked:?}");
    }
    let forever = refusal_after(r#"{"retry_after": true}"#, |stream, _| {
        stream.code = Some(503);
        stream.retry_after = Some("18446744073709551615");
    });
    assert!((300..=400).contains(&forever.unwrap()), "{forever:?}");
}

#[test]
fn refused_clients_get_different_retry_times() {
    let mut gateway = Gateway::new(1, "");
    open(&mut gateway);
    let times: std::collections::BTreeSet<String> = (0..50)
        .map(|_| {
            let call = gateway.begin(0, "auth");
            let reply = gateway.stream(call).reply.unwrap();
            reply.header("retry-after").unwrap().to_owned()
        })
        .collect();
    assert!(times.len() >= 3, "{times:?}");
}

#[test]
fn other_services_are_untouched() {
    let mut gateway = Gateway::new(2, "");
    gateway.request(0, "chat", End::Status(200));
    open(&mut gateway);
    for worker in 0..2 {
        assert!(gateway.request(worker, "chat", End::Status(200)));
        assert!(!gateway.request(worker, "auth", End::Status(200)));
    }
    assert_eq!(gateway.state("chat"), 0);
}

#[test]
fn five_failures_open_it_however_they_are_spread_over_four_workers() {
    for spread in [
        [0, 1, 2, 3, 0],
        [3, 3, 2, 2, 1],
        [0, 0, 0, 0, 1],
        [1, 2, 3, 0, 1],
    ] {
        let mut gateway = Gateway::new(4, "");
        for worker in 0..4 {
            gateway.request(worker, "auth", End::Status(200));
        }
        for worker in spread {
            assert!(
                gateway.request(worker, "auth", End::Status(503)),
                "{spread:?}"
            );
        }
        for worker in 0..4 {
            assert!(
                !gateway.request(worker, "auth", End::Status(200)),
                "{spread:?} {worker}"
            );
        }
    }
}

#[test]
fn a_success_on_any_worker_ends_the_row_of_failures() {
    let mut gateway = Gateway::new(4, "");
    for worker in 0..4 {
        gateway.request(worker, "auth", End::Status(200));
    }
    for _ in 0..4 {
        for failing in 0..4 {
            assert!(gateway.request(failing, "auth", End::Status(503)));
        }
        assert!(gateway.request(2, "auth", End::Status(200)));
        gateway.pass(Duration::from_secs(11)); // so that the rate does not apply
    }
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn a_worker_that_has_not_heard_of_the_opening_does_not_prolong_it() {
    let mut gateway = Gateway::new(2, "");
    gateway.request(0, "auth", End::Status(200));
    gateway.request(1, "auth", End::Status(200));
    // Admitted by a worker that does not know yet that the breaker is open: its failure is stale.
    let late = gateway.begin(1, "auth");
    open(&mut gateway);
    gateway.end(late, End::Status(503));
    assert_eq!(gateway.state("auth"), 1);
    gateway.pass(OPEN_FOR);
    assert!(
        gateway.request(1, "auth", End::Status(200)),
        "not prolonged"
    );
}

#[test]
fn at_most_three_probes_are_in_flight_over_all_workers_and_three_successes_close() {
    let mut gateway = Gateway::new(4, "");
    for worker in 0..4 {
        gateway.request(worker, "auth", End::Status(200));
    }
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    let calls: Vec<Call> = (0..8).map(|n| gateway.begin(n % 4, "auth")).collect();
    let let_through: Vec<Call> = calls.into_iter().filter(|call| !call.was_refused).collect();
    assert_eq!(let_through.len(), 3);
    assert_eq!(gateway.state("auth"), 2);
    for call in let_through {
        assert_eq!(gateway.state("auth"), 2);
        gateway.end(call, End::Status(200));
    }
    assert_eq!(gateway.state("auth"), 0);
    for worker in 0..4 {
        assert!(gateway.request(worker, "auth", End::Status(200)));
    }
}

#[test]
fn a_failed_probe_opens_again_for_longer() {
    let mut gateway = Gateway::new(2, "");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    assert!(gateway.request(1, "auth", End::Reset));
    assert_eq!(gateway.state("auth"), 1);
    gateway.pass(OPEN_FOR);
    assert!(
        !gateway.request(0, "auth", End::Status(200)),
        "60 s this time"
    );
    gateway.pass(OPEN_FOR);
    assert!(gateway.request(0, "auth", End::Status(200)));
}

#[test]
fn a_call_admitted_while_closed_that_fails_while_half_open_decides_nothing() {
    let mut gateway = Gateway::new(2, "");
    let early = gateway.begin(1, "auth");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    let probe = gateway.begin(0, "auth");
    assert_eq!(gateway.state("auth"), 2);
    gateway.end(early, End::Status(503));
    assert_eq!(gateway.state("auth"), 2);
    gateway.end(probe, End::Status(200));
    assert!(gateway.request(0, "auth", End::Status(200)));
    assert!(gateway.request(1, "auth", End::Status(200)));
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn a_cancelled_probe_gives_its_permit_back() {
    let mut gateway = Gateway::new(2, "");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    let probes: Vec<Call> = (0..3).map(|_| gateway.begin(0, "auth")).collect();
    assert!(gateway.begin(1, "auth").was_refused);
    gateway.end(probes[0], End::ClientGone);
    gateway.abandon(probes[1]);
    assert_eq!(gateway.state("auth"), 2);
    assert!(!gateway.begin(1, "auth").was_refused);
    assert!(!gateway.begin(1, "auth").was_refused);
    assert!(gateway.begin(1, "auth").was_refused);
}

#[test]
fn a_probe_lost_with_its_worker_blocks_nothing() {
    let mut gateway = Gateway::new(2, "");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    for _ in 0..3 {
        assert!(!gateway.begin(1, "auth").was_refused);
    }
    gateway.workers.truncate(1);
    assert!(gateway.begin(0, "auth").was_refused);
    gateway.pass(Duration::from_secs(16));
    for _ in 0..3 {
        assert!(gateway.request(0, "auth", End::Status(200)));
    }
    assert_eq!(gateway.state("auth"), 0);
    gateway.pass(Duration::from_millis(100));
    assert_eq!(
        gateway.metric("circuit_breaker_probe_leases_expired_total.service.auth"),
        3
    );
}

#[test]
fn an_upgraded_probe_succeeds_at_once() {
    let mut gateway = Gateway::new(1, "");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    let probes: Vec<Call> = (0..3).map(|_| gateway.begin(0, "auth")).collect();
    for probe in &probes {
        gateway.change(*probe, |stream| stream.code = Some(101));
    }
    gateway.pass(Duration::from_millis(100));
    assert_eq!(gateway.state("auth"), 0);
    // Hours later the connection ends. The probe was counted already, so this decides nothing.
    gateway.end(probes[0], End::Reset);
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn a_probe_has_succeeded_when_it_has_lived_a_moment_after_good_headers() {
    let mut gateway = Gateway::new(1, "");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    let probes: Vec<Call> = (0..3).map(|_| gateway.begin(0, "auth")).collect();
    for probe in &probes {
        gateway.change(*probe, |stream| stream.code = Some(200));
    }
    gateway.pass(Duration::from_secs(1));
    assert_eq!(gateway.state("auth"), 2, "headers alone are not enough");
    gateway.pass(Duration::from_millis(200));
    assert_eq!(gateway.state("auth"), 0);
    // A stream that ends badly an hour later decides nothing more.
    gateway.end(probes[0], End::Reset);
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn a_probe_whose_headers_are_bad_has_not_succeeded_however_long_it_lives() {
    let mut gateway = Gateway::new(1, "");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    let probes: Vec<Call> = (0..3).map(|_| gateway.begin(0, "auth")).collect();
    for probe in &probes {
        gateway.change(*probe, |stream| stream.code = Some(503));
    }
    gateway.pass(Duration::from_secs(5));
    assert_eq!(gateway.state("auth"), 2);
    gateway.end(probes[0], End::Status(503));
    assert_eq!(gateway.state("auth"), 1);
}

#[test]
fn a_probe_whose_upload_does_not_arrive_gives_its_place_to_another() {
    let mut gateway = Gateway::new(1, "");
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    let slow: Vec<Call> = (0..3).map(|_| gateway.begin_upload(0, "auth")).collect();
    // Envoy tells what arrives of bodies: the filter sees that by the first piece.
    gateway.arrive(slow[0], Piece::Some);
    assert!(gateway.begin(0, "auth").was_refused);
    gateway.pass(Duration::from_millis(1100));
    let others: Vec<Call> = (0..3).map(|_| gateway.begin(0, "auth")).collect();
    for other in others {
        assert!(!other.was_refused);
        gateway.end(other, End::Status(200));
    }
    assert_eq!(gateway.state("auth"), 0);
    gateway.end(slow[0], End::Reset);
    assert_eq!(gateway.outcome("auth", "success"), 3);
}

#[test]
fn slow_uploads_that_end_well_close_it_and_one_that_fails_opens_it_again() {
    for (end, expected) in [(End::Status(200), 0), (End::Reset, 1)] {
        let mut gateway = Gateway::new(1, "");
        let whole = gateway.begin_upload(0, "auth");
        gateway.arrive(whole, Piece::Last);
        gateway.end(whole, End::Status(200));
        open(&mut gateway);
        gateway.pass(OPEN_FOR);
        let uploads: Vec<Call> = (0..3).map(|_| gateway.begin_upload(0, "auth")).collect();
        gateway.pass(Duration::from_millis(1500));
        assert_eq!(gateway.state("auth"), 2);
        for upload in uploads {
            gateway.arrive(upload, Piece::Last);
            gateway.end(upload, end);
        }
        assert_eq!(gateway.state("auth"), expected, "{end:?}");
    }
}

#[test]
fn only_a_grpc_call_may_be_unanswered_though_its_request_is_not_complete() {
    for (kind, expected) in [
        ("application/grpc", 1),
        ("application/grpc+proto", 1),
        ("application/grpc-web", 0),
        ("application/json", 0),
    ] {
        let mut gateway = Gateway::new(1, "");
        let call = gateway.begin_upload_of(
            0,
            Stream {
                cluster: b"auth".to_vec(),
                request_headers: vec![("content-type".to_owned(), kind.as_bytes().to_vec())],
                ..Stream::default()
            },
        );
        gateway.arrive(call, Piece::Some);
        gateway.change(call, |stream| stream.duration = Some(2_000_000_000));
        gateway.end(call, End::ClientGone);
        gateway.pass(Duration::from_millis(100));
        let unanswered = gateway.metric("circuit_breaker_unanswered_total.service.auth");
        assert_eq!(unanswered, expected, "{kind}");
    }
}

#[test]
fn a_request_that_claims_to_be_grpc_is_judged_by_the_answer() {
    // Envoy derives UNKNOWN for an answer without a grpc-status.
    let mut gateway = Gateway::new(1, "");
    for code in [200, 400, 404, 415, 429] {
        for _ in 0..10 {
            let headers = vec![("content-type".to_owned(), b"application/grpc-web".to_vec())];
            let stream = Stream {
                cluster: b"auth".to_vec(),
                request_headers: headers,
                ..Stream::default()
            };
            let call = gateway.begin_stream(0, stream);
            assert!(!call.was_refused, "{code}");
            gateway.end(call, End::Status(code));
        }
    }
    assert_eq!(gateway.outcome("auth", "failure"), 0);
    assert_eq!(gateway.outcome("auth", "neutral"), 10);
}

#[test]
fn a_grpc_status_counts_in_trailers_and_in_headers() {
    for has_trailers in [true, false] {
        let mut gateway = Gateway::new(1, "");
        for _ in 0..5 {
            let call = gateway.begin(0, "auth");
            gateway.change(call, |stream| {
                (stream.has_trailers, stream.grpc_status) = (has_trailers, Some(14));
            });
            gateway.end(call, End::Status(200));
        }
        assert_eq!(gateway.state("auth"), 1);
    }
}

#[test]
fn a_client_that_gives_up_early_by_its_own_deadline_opens_nothing() {
    let mut gateway = Gateway::new(
        1,
        r#"{"timeouts": {"client_deadline_header": "grpc-timeout"}}"#,
    );
    for (deadline, expected) in [("20m", 0), ("1H", 1)] {
        for _ in 0..5 {
            let headers = vec![("grpc-timeout".to_owned(), deadline.as_bytes().to_vec())];
            let stream = Stream {
                cluster: b"auth".to_vec(),
                request_headers: headers,
                ..Stream::default()
            };
            let call = gateway.begin_stream(0, stream);
            gateway.change(call, |stream| {
                stream.code = Some(504);
                stream.flags = 1 << 2;
                stream.details = b"response_timeout".to_vec();
            });
            gateway.finish(call);
        }
        assert_eq!(gateway.state("auth"), expected, "{deadline}");
    }
    gateway.pass(Duration::from_millis(100));
    let timeouts = gateway.metric("proxy_request_timeout_total.kind.request.service.auth");
    assert_eq!(timeouts, 10, "counted nevertheless");
}

#[test]
fn sixty_percent_of_errors_never_five_in_a_row_open_it_by_the_rate() {
    let mut gateway = Gateway::new(4, "");
    let mut sent = 0;
    'sending: loop {
        for ok in [false, false, false, true, true] {
            let end = End::Status(if ok { 200 } else { 503 });
            if !gateway.request(sent % 4, "auth", end) {
                break 'sending;
            }
            sent += 1;
            gateway.pass(Duration::from_millis(20));
        }
        assert!(sent < 60, "it should have opened");
    }
    assert!(sent >= 20, "{sent}: fewer than the minimum");
}

#[test]
fn a_failing_client_on_one_worker_does_not_decide_for_all() {
    let mut gateway = Gateway::new(4, r#"{"breaker": {"consecutive_failures": 0}}"#);
    for _ in 0..50 {
        for worker in 1..4 {
            for _ in 0..10 {
                assert!(gateway.request(worker, "auth", End::Status(200)));
            }
        }
        assert!(gateway.request(0, "auth", End::Status(503)));
        gateway.pass(Duration::from_millis(100));
    }
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn one_failure_among_fewer_requests_than_the_minimum_opens_nothing() {
    let configuration = r#"{"breaker": {"failure_rate": {"ratio": 0.05, "minimum_requests": 20}}}"#;
    let mut gateway = Gateway::new(2, configuration);
    for n in 0..19 {
        assert!(gateway.request(n % 2, "auth", End::Status(if n == 3 { 500 } else { 200 })));
        gateway.pass(Duration::from_millis(100));
    }
    assert_eq!(gateway.state("auth"), 0);
}

#[test]
fn thirty_clients_that_disconnect_open_nothing() {
    let mut gateway = Gateway::new(2, "");
    let calls: Vec<Call> = (0..30).map(|n| gateway.begin(n % 2, "auth")).collect();
    for call in calls {
        gateway.end(call, End::ClientGone);
    }
    assert_eq!(gateway.state("auth"), 0);
    assert_eq!(gateway.outcome("auth", "neutral"), 30);
    assert!(gateway.request(0, "auth", End::Status(200)));
}

#[test]
fn shadow_decides_and_counts_but_refuses_nothing() {
    let mut gateway = Gateway::new(2, r#"{"breaker": {"mode": "shadow"}}"#);
    for n in 0..10 {
        assert!(gateway.request(n % 2, "auth", End::Status(503)));
    }
    assert_eq!(gateway.state("auth"), 1);
    assert_eq!(gateway.outcome("auth", "failure"), 10);
    assert_eq!(gateway.outcome("auth", "rejected"), 0);
    assert_eq!(
        gateway.metric("circuit_breaker_shadow_rejected_total.service.auth"),
        5
    );
}

#[test]
fn the_other_modes_follow_their_definitions() {
    for (mode, number, passes, state, counted) in [
        ("disabled", 2, true, 0, 0),
        ("forced_open", 3, false, 1, 0),
        ("forced_closed", 4, true, 0, 10),
    ] {
        let mut gateway = Gateway::new(1, &format!(r#"{{"breaker": {{"mode": "{mode}"}}}}"#));
        for _ in 0..10 {
            assert_eq!(
                gateway.request(0, "auth", End::Status(503)),
                passes,
                "{mode}"
            );
        }
        assert_eq!(gateway.state("auth"), state, "{mode}");
        assert_eq!(
            gateway.metric("circuit_breaker_mode.service.auth"),
            number,
            "{mode}"
        );
        assert_eq!(gateway.outcome("auth", "failure"), counted, "{mode}");
    }
}

#[test]
fn a_fixed_answer_replaces_the_refusal() {
    let configuration = r#"{"services": {"auth": {"fallback":
        {"status": 200, "headers": {"x-stale": "1"}, "body": "[]"}}}}"#;
    let mut gateway = Gateway::new(1, configuration);
    open(&mut gateway);
    let call = gateway.begin(0, "auth");
    let reply = gateway.stream(call).reply.unwrap();
    assert_eq!((reply.status, reply.body.as_str()), (200, "[]"));
    assert_eq!(reply.header("x-stale"), Some("1"));
    assert_eq!(reply.header("x-levee-reason"), Some("circuit_open"));
    assert_eq!(reply.details, "levee_circuit_open");
}

#[test]
fn a_clients_deadline_does_not_hide_that_the_service_is_unreachable() {
    let mut gateway = Gateway::new(
        1,
        r#"{"timeouts": {"client_deadline_header": "grpc-timeout"}}"#,
    );
    for _ in 0..5 {
        let headers = vec![("grpc-timeout".to_owned(), b"10S".to_vec())];
        let stream = Stream {
            request_headers: headers,
            ..to_auth_or_else(None)
        };
        let call = gateway.begin_stream(0, stream);
        gateway.change(call, |stream| {
            stream.code = Some(503);
            stream.flags = 1 << 5;
            stream.details = b"upstream_reset_before_response_started{connection_timeout}".to_vec();
        });
        gateway.finish(call);
    }
    assert_eq!(gateway.state("auth"), 1);
}

fn to_auth_or_else(fallback: Option<&[u8]>) -> Stream {
    Stream {
        cluster: b"auth".to_vec(),
        cluster_by_fallback: fallback.map(<[u8]>::to_vec),
        ..Stream::default()
    }
}

#[test]
fn another_route_replaces_the_refusal() {
    let configuration = r#"{"services": {"auth": {"fallback": {"route": "maintenance"}}}}"#;
    let mut gateway = Gateway::new(1, configuration);
    gateway.request(0, "auth", End::Status(200));
    gateway.request(0, "maintenance", End::Status(200));
    open(&mut gateway);
    for _ in 0..3 {
        let call = gateway.begin_stream(0, to_auth_or_else(Some(b"maintenance")));
        assert!(!call.was_refused);
        let stream = gateway.stream(call);
        assert_eq!(
            stream.header("x-levee-fallback"),
            Some(b"maintenance".as_slice())
        );
        assert!(stream.route_was_cleared);
        assert!(stream.header("x-envoy-upstream-rq-timeout-ms").is_some());
        // The result of the other route says nothing about the service.
        gateway.end(call, End::Status(200));
    }
    assert_eq!(gateway.outcome("auth", "rejected"), 3);
    assert_eq!(gateway.outcome("auth", "success"), 1);
}

#[test]
fn a_fallback_route_that_leads_back_does_not_disable_the_breaker() {
    let configuration = r#"{"services": {"auth": {"fallback": {"route": "typo"}}}}"#;
    let mut gateway = Gateway::new(1, configuration);
    open(&mut gateway);
    let call = gateway.begin_stream(0, to_auth_or_else(None));
    assert!(!call.was_refused, "unknown before the first one");
    gateway.end(call, End::Status(503));
    for _ in 0..3 {
        assert!(gateway.begin_stream(0, to_auth_or_else(None)).was_refused);
    }
}

#[test]
fn a_client_that_asks_for_the_fallback_route_is_refused() {
    let configuration = r#"{"services": {"auth": {"fallback": {"route": "maintenance"}}}}"#;
    let mut gateway = Gateway::new(1, configuration);
    let headers = vec![("x-levee-fallback".to_owned(), b"\xff".to_vec())];
    let stream = Stream {
        request_headers: headers,
        ..to_auth_or_else(None)
    };
    let call = gateway.begin_stream(0, stream.clone());
    assert!(call.was_refused);
    assert_eq!(gateway.stream(call).reply.unwrap().status, 400);
    // Without fallback routes the header means nothing.
    let mut gateway = Gateway::new(1, "");
    assert!(!gateway.begin_stream(0, stream).was_refused);
}

#[test]
fn clusters_with_the_same_alias_share_a_breaker() {
    let configuration = r#"{"aliases": {"outbound|8080||auth.ns": "auth", "auth-canary": "auth"}}"#;
    let mut gateway = Gateway::new(1, configuration);
    for cluster in [
        "outbound|8080||auth.ns",
        "auth",
        "auth-canary",
        "auth",
        "auth",
    ] {
        assert!(gateway.request(0, cluster, End::Status(503)));
    }
    assert!(!gateway.request(0, "auth-canary", End::Status(200)));
    assert_eq!(gateway.state("auth"), 1);
}

#[test]
fn beyond_max_services_there_are_limits_but_no_breaker() {
    let mut gateway = Gateway::new(2, r#"{"max_services": 2}"#);
    assert!(gateway.request(0, "one", End::Status(200)));
    assert!(gateway.request(1, "two", End::Status(200)));
    for _ in 0..10 {
        let call = gateway.begin(0, "three");
        assert!(!call.was_refused);
        assert!(
            gateway
                .stream(call)
                .header("x-envoy-upstream-rq-timeout-ms")
                .is_some()
        );
        gateway.end(call, End::Status(503));
    }
    assert_eq!(
        gateway.metric("circuit_breaker_services_over_limit_total"),
        1
    );
    assert!(
        gateway.request(1, "one", End::Status(200)),
        "all workers share the list"
    );
}

#[test]
fn a_worker_that_starts_later_knows_that_the_breaker_is_open() {
    let mut gateway = Gateway::new(1, "");
    open(&mut gateway);
    gateway.add_worker("");
    assert!(!gateway.request(1, "auth", End::Status(200)));
}

#[test]
fn a_worker_that_was_stalled_catches_up_at_its_next_tick() {
    let mut gateway = Gateway::new(2, "");
    gateway.request(0, "auth", End::Status(200));
    gateway.request(1, "auth", End::Status(200));
    // Worker 1 is stalled until it gets no more messages.
    for _ in 0..150 {
        gateway.pass_without_ticks(Duration::from_millis(100));
        gateway.workers[0].contexts.on_tick(FILTER);
    }
    for _ in 0..5 {
        let stream = Stream {
            cluster: b"auth".to_vec(),
            ..Stream::default()
        };
        let call = gateway.begin_quietly(0, stream);
        gateway.end(call, End::Status(503));
    }
    gateway.workers[1].contexts.on_tick(FILTER);
    assert!(!gateway.request(1, "auth", End::Status(200)));
}

#[test]
fn slow_calls_open_it_if_the_rule_is_on() {
    let configuration = r#"{"breaker": {"slow_calls": {"longer_than": "1s", "ratio": 0.5}}}"#;
    let mut gateway = Gateway::new(1, configuration);
    let mut sent = 0;
    loop {
        let call = gateway.begin(0, "auth");
        if call.was_refused {
            break;
        }
        sent += 1;
        assert!(sent < 40);
        gateway.change(call, |stream| stream.backend_latency = Some(1_500_000_000));
        gateway.end(call, End::Status(200));
        gateway.pass(Duration::from_millis(100));
    }
    assert!(sent >= 20);
}

#[test]
fn a_request_without_a_cluster_is_left_alone() {
    let mut gateway = Gateway::new(1, "");
    let call = gateway.begin_stream(0, Stream::default());
    assert!(!call.was_refused);
    assert!(gateway.stream(call).request_headers.is_empty());
    gateway.take_calls(0);
    gateway.end(call, End::Status(404));
    assert!(gateway.take_calls(0).is_empty(), "no host calls for it");
}

#[test]
fn counts_are_not_lost_with_the_plugin() {
    let mut gateway = Gateway::new(1, "");
    gateway.request(0, "auth", End::Status(200));
    let name = "circuit_breaker_requests_total.outcome.success.service.auth";
    assert_eq!(gateway.metric(name), 0, "the tick hands it over");
    gateway.workers[0].contexts.on_delete(FILTER);
    assert_eq!(gateway.metric(name), 1);
}

#[test]
fn workers_that_have_ended_get_no_more_messages() {
    let mut gateway = Gateway::new(2, "");
    gateway.request(0, "auth", End::Status(200));
    gateway.request(1, "auth", End::Status(200));
    gateway.workers.truncate(1);
    gateway.take_calls(0);
    let messages = |gateway: &mut Gateway| {
        gateway.request(0, "auth", End::Status(503));
        gateway.request(0, "auth", End::Status(200));
        let calls = gateway.take_calls(0);
        calls.iter().filter(|call| **call == "enqueue").count()
    };
    assert!(messages(&mut gateway) > 0, "it may still be running");
    gateway.pass(Duration::from_secs(11));
    assert_eq!(messages(&mut gateway), 0);
}

/// Closes the breaker again. Calls must go to worker 0.
fn recovered(configuration: &str) -> Gateway {
    let mut gateway = Gateway::new(1, configuration);
    open(&mut gateway);
    gateway.pass(OPEN_FOR);
    for _ in 0..3 {
        assert!(gateway.request(0, "auth", End::Status(200)));
    }
    assert_eq!(gateway.state("auth"), 0);
    gateway
}

#[test]
fn after_an_outage_a_growing_share_of_the_requests_is_let_through() {
    let mut gateway = recovered(r#"{"breaker": {"recover_for": "10s"}}"#);
    let rejected = gateway.outcome("auth", "rejected");
    let mut passed = Vec::new();
    for _ in 0..11 {
        let of_a_second = (0..100).filter(|_| {
            gateway.pass(Duration::from_millis(10));
            gateway.request(0, "auth", End::Status(200))
        });
        passed.push(of_a_second.count());
    }
    // A tenth at the beginning, and nine more within ten seconds.
    for (second, count) in passed.iter().enumerate().take(10) {
        let share = 14 + 9 * second;
        assert!(count.abs_diff(share) <= 3, "{passed:?}");
    }
    assert_eq!(passed[10], 100);
    let refused = 1_100 - passed.iter().sum::<usize>();
    let counted = gateway.outcome("auth", "rejected") - rejected;
    assert_eq!(counted, u64::try_from(refused).unwrap());
    assert_eq!(gateway.state("auth"), 0, "closed all the time");
}

#[test]
fn a_request_that_is_refused_during_the_recovery_should_come_again_soon() {
    let mut gateway = recovered(r#"{"breaker": {"recover_for": "10s"}}"#);
    assert!(gateway.request(0, "auth", End::Status(200)), "the first");
    let refused = gateway.begin(0, "auth");
    let reply = gateway.stream(refused).reply.expect("a refusal");
    assert!(matches!(reply.header("retry-after"), Some("1" | "2")));
    // Other services are not concerned, nor is this one where it is off.
    assert!((0..20).all(|_| gateway.request(0, "chat", End::Status(200))));
    let mut gateway = recovered("");
    assert!((0..20).all(|_| gateway.request(0, "auth", End::Status(200))));
    let mut gateway = recovered(r#"{"breaker": {"recover_for": "10s", "mode": "shadow"}}"#);
    assert!((0..20).all(|_| gateway.request(0, "auth", End::Status(200))));
    gateway.pass(Duration::from_secs(1));
    let shadowed = gateway.metric("circuit_breaker_shadow_rejected_total.service.auth");
    assert!(shadowed >= 15, "{shadowed}");
}
