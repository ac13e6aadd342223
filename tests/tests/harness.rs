//! The harness itself: each behaviour of a backend does what it says, and nothing is left running.

use std::process::Command;
use std::time::Duration;

use levee_harness::backend::{Backend, Behaviour, Gate, Response};
use levee_harness::client::{Connection, NoAnswer, Request};
use levee_harness::clock::Stopwatch;
use levee_harness::envoy::Envoy;
use levee_harness::envoy_config::EnvoyConfig;
use levee_harness::grpc::{self, GrpcBackend, GrpcBehaviour, status};
use levee_harness::process::{self, Output, Process, Signal};
use levee_harness::raw::{Crowd, RawConnection, Read};
use levee_harness::wait;
use levee_harness::web_socket::Socket;
use serde_json::json;

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_backend_answers_by_sequence_and_then_as_always() {
    let backend = Backend::start().unwrap();
    backend.next([
        Behaviour::status(500),
        Behaviour::Answer(
            Response::status(201)
                .header("x-seen", b"\xffyes")
                .body("hello"),
        ),
    ]);
    backend.always(Behaviour::status(204));
    let mut connection = Connection::open(backend.address()).await.unwrap();
    assert_eq!(
        connection
            .send(&Request::get("/a?b=c"))
            .await
            .unwrap()
            .status,
        500
    );
    let second = connection
        .send(&Request::post("/b", "upload").header("x-bytes", b"\xfe"))
        .await
        .unwrap();
    assert_eq!((second.status, second.text().as_str()), (201, "hello"));
    assert_eq!(second.headers["x-seen"].as_bytes(), b"\xffyes");
    assert_eq!(
        connection.send(&Request::get("/a")).await.unwrap().status,
        204
    );
    // A client gets its response before the backend has counted it.
    backend
        .wait_until("the third answer", |seen| seen.answered == 3)
        .await
        .unwrap();
    let seen = backend.seen();
    assert_eq!(
        (
            seen.connections,
            seen.requests,
            seen.answered,
            seen.in_flight
        ),
        (1, 3, 3, 0)
    );
    assert_eq!(seen.by_path["/a"], 2);
    assert_eq!(seen.last[1].header("x-bytes"), Some(&b"\xfe"[..]));
}

#[tokio::test]
async fn a_stalling_backend_counts_those_in_flight_and_those_that_left() {
    let backend = Backend::start().unwrap();
    backend.always(Behaviour::Stall);
    let crowd = Crowd::ask(backend.address(), "/x", 7).await.unwrap();
    backend.wait_in_flight(7).await.unwrap();
    crowd.leave();
    backend
        .wait_until("7 cancellations", |seen| {
            seen.cancelled == 7 && seen.in_flight == 0
        })
        .await
        .unwrap();
    let crowd = Crowd::ask(backend.address(), "/x", 3).await.unwrap();
    backend.wait_in_flight(3).await.unwrap();
    crowd.vanish();
    backend
        .wait_until("10 cancellations", |seen| seen.cancelled == 10)
        .await
        .unwrap();
    assert_eq!(backend.seen().most_in_flight, 7);
}

#[tokio::test]
async fn a_gate_holds_requests_back_until_it_is_opened() {
    let backend = Backend::start().unwrap();
    let gate = Gate::closed();
    backend.always(Behaviour::Hold(gate.clone(), Response::status(200)));
    let held = tokio::spawn({
        let address = backend.address();
        async move { Request::get("/").send(address).await }
    });
    backend.wait_in_flight(1).await.unwrap();
    gate.open();
    assert_eq!(held.await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn a_refusing_backend_keeps_its_port_and_comes_back() {
    let backend = Backend::start().unwrap();
    let mut kept = Connection::open(backend.address()).await.unwrap();
    assert_eq!(kept.send(&Request::get("/")).await.unwrap().status, 200);
    for _ in 0..20 {
        backend.refuse();
        wait::until("the port to be closed", wait::GENEROUS, || async {
            match Request::get("/").send(backend.address()).await {
                Err(NoAnswer::NotConnected(why)) if why.contains("refused") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        backend.accept().unwrap();
        assert_eq!(
            Request::get("/")
                .send(backend.address())
                .await
                .unwrap()
                .status,
            200
        );
    }
    assert!(
        kept.send(&Request::get("/")).await.is_err(),
        "open connections end too"
    );
}

#[tokio::test]
async fn a_silent_backend_accepts_and_says_nothing() {
    let backend = Backend::start().unwrap();
    backend.be_silent().unwrap();
    let mut client = RawConnection::open(backend.address()).await.unwrap();
    client.send("GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(client.read_to_end(SOON).await, Read::TooLate);
    assert_eq!(client.received(), b"");
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_backend_reports_what_is_not_http() {
    let backend = Backend::start().unwrap();
    backend.check_only_http().unwrap();
    let mut client = RawConnection::open(backend.address()).await.unwrap();
    client.send("\x16\x03\x01\r\n\r\n").await.unwrap();
    assert_ne!(client.read_to_end(wait::GENEROUS).await, Read::TooLate);
    assert_eq!(backend.requests(), 0);
    let error = backend.check_only_http().unwrap_err().to_string();
    assert!(error.contains("not HTTP"), "{error}");
}

#[test]
fn an_error_quotes_the_output_of_a_program_only_where_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let error = |output| {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo no port; exit 3"])
            .stdout(std::fs::File::create(&log).unwrap());
        let mut process = Process::spawn(command, Signal::Kill).unwrap();
        let never = || Err::<(), _>("not yet");
        process
            .until_ready("it", wait::GENEROUS, output, never)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(Output::File(&log)),
        "it didn't start (exit status: 3). Its log ends with:\n  no port"
    );
    assert_eq!(error(Output::NotKept), "it didn't start (exit status: 3)");
}

#[tokio::test]
async fn resets_closes_and_stalls_come_where_they_are_told() {
    let backend = Backend::start().unwrap();
    backend.next([
        Behaviour::Reset,
        Behaviour::ResetInBody("part".into()),
        Behaviour::Close,
        Behaviour::StallInBody("part".into()),
    ]);
    let ask = || async {
        let mut client = RawConnection::open(backend.address()).await.unwrap();
        client.send("GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let end = client.read_to_end(SOON).await;
        (end, client.received().ends_with(b"part"))
    };
    assert_eq!(ask().await, (Read::Reset, false));
    assert_eq!(ask().await, (Read::Reset, true));
    assert_eq!(ask().await, (Read::Closed, false));
    assert_eq!(ask().await, (Read::TooLate, true));
}

#[tokio::test]
async fn uploads_are_read_whole_chunked_or_in_drops() {
    let backend = Backend::start().unwrap();
    backend.next([
        Behaviour::status(200),
        Behaviour::Drip(10, Duration::from_millis(20), Response::status(201)),
    ]);
    let chunked = Request::post("/", "").slow_body("0123456789", 3, Duration::from_millis(20));
    assert_eq!(chunked.send(backend.address()).await.unwrap().status, 200);
    let dripped = Request::post("/", vec![b'x'; 100])
        .send(backend.address())
        .await
        .unwrap();
    assert_eq!(dripped.status, 201);
    assert!(
        dripped.took >= Duration::from_millis(200),
        "{:?}",
        dripped.took
    );
    let mut client = RawConnection::open(backend.address()).await.unwrap();
    client
        .send("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.read_status(wait::GENEROUS).await, Ok(100));
    client.forget();
    client.send("ok").await.unwrap();
    assert_eq!(client.read_status(wait::GENEROUS).await, Ok(200));
}

#[tokio::test]
async fn an_upgraded_connection_is_silent_or_echoes() {
    let backend = Backend::start().unwrap();
    backend.next([Behaviour::Upgrade, Behaviour::UpgradeAndEcho]);
    let upgrade = "GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut silent = RawConnection::open(backend.address()).await.unwrap();
    silent.send(upgrade).await.unwrap();
    assert_eq!(silent.read_status(wait::GENEROUS).await, Ok(101));
    silent.forget();
    silent.send("ping").await.unwrap();
    assert_eq!(silent.read_until(b"ping", SOON).await, Read::TooLate);
    let mut echo = RawConnection::open(backend.address()).await.unwrap();
    echo.send(upgrade).await.unwrap();
    assert_eq!(echo.read_status(wait::GENEROUS).await, Ok(101));
    echo.send("ping").await.unwrap();
    assert_eq!(echo.read_until(b"ping", wait::GENEROUS).await, Read::Found);
}

#[tokio::test]
async fn a_web_socket_client_gets_its_messages_back() {
    let backend = Backend::start().unwrap();
    backend.always(Behaviour::UpgradeAndEcho);
    let mut socket = Socket::open(backend.address(), "/").await.unwrap();
    // For the key of the RFC's example, section 1.3.
    assert_eq!(
        socket.headers["sec-websocket-accept"],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    socket.send("hello").await.unwrap();
    assert_eq!(socket.next().await.unwrap().as_deref(), Some("hello"));
    socket.close().await.unwrap();
}

#[tokio::test]
async fn a_grpc_backend_answers_with_each_status_and_stalls() {
    let backend = GrpcBackend::start().unwrap();
    let call = grpc::call("/levee.Demo/Call");
    for behaviour in [
        GrpcBehaviour::Trailers(status::OK),
        GrpcBehaviour::TrailersOnly(status::UNAVAILABLE),
    ] {
        backend.always(behaviour);
        let answer = grpc::send(&call, backend.address()).await.unwrap();
        let wanted = if behaviour == GrpcBehaviour::Trailers(status::OK) {
            0
        } else {
            14
        };
        assert_eq!(grpc::status_of(&answer), Some(wanted), "{answer:?}");
        assert_eq!(answer.trailers.is_some(), wanted == 0);
    }
    for behaviour in [GrpcBehaviour::Stall, GrpcBehaviour::StallInStream] {
        backend.always(behaviour);
        let answer = grpc::send(&call.clone().bound(SOON), backend.address()).await;
        assert_eq!(answer.unwrap_err(), NoAnswer::TooLate(SOON));
    }
    let seen = || backend.seen();
    wait::until_now("the cancellation", wait::GENEROUS, || {
        if seen().cancelled == 1 && seen().in_flight == 0 {
            Ok(())
        } else {
            Err(format!("{:?}", seen()))
        }
    })
    .await
    .unwrap();
    assert_eq!(seen().calls, 4);
}

#[tokio::test]
async fn a_bare_gateway_passes_requests_on_and_reports_them() {
    let auth = Backend::start().unwrap();
    let config = EnvoyConfig::gateway()
        .without_filter()
        .upstream("auth", auth.address());
    let envoy = Envoy::start(config).await.unwrap();
    let answer = Request::get("/v1/auth/me?token=secret")
        .send(envoy.address())
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(
        auth.last_request().unwrap().target,
        "/v1/auth/me?token=secret"
    );
    let line = envoy
        .access_log()
        .of_request(answer.request_id())
        .await
        .unwrap();
    assert_eq!(
        (
            line.number("status"),
            line.text("service"),
            line.text("path")
        ),
        (Some(200), "auth", "/v1/auth/me")
    );
    envoy
        .wait_for_metric(
            "envoy_cluster_upstream_rq_total",
            &[("envoy_cluster_name", "auth")],
            1.0,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dropped_envoy_leaves_no_process() {
    let envoy = Envoy::start(EnvoyConfig::minimal().without_filter())
        .await
        .unwrap();
    let ids = envoy.process_ids();
    assert_eq!(ids.len(), 2, "func-e and Envoy: {ids:?}");
    let directory = envoy.directory().to_path_buf();
    drop(envoy);
    assert!(ids.iter().all(|&id| !process::is_running(id)), "{ids:?}");
    assert!(!directory.exists());
}

#[test]
fn a_child_outlives_the_thread_that_asked_for_it_but_not_its_owner() {
    let asked_on_a_short_lived_thread = std::thread::spawn(|| {
        let mut command = Command::new("sleep");
        command.arg("60");
        Process::spawn(command, Signal::Kill).unwrap()
    });
    let mut child = asked_on_a_short_lived_thread.join().unwrap();
    let id = child.id();
    assert_eq!(child.wait(SOON), None, "still running");
    assert!(process::is_running(id));
    drop(child);
    assert!(!process::is_running(id));
}

#[tokio::test]
async fn waiting_ends_at_its_bound_with_what_was_seen_last() {
    let watch = Stopwatch::start();
    let waiting = tokio::spawn(wait::until_now("the moon", SOON, || {
        Err::<(), _>("only clouds")
    }));
    let message = waiting.await.unwrap().unwrap_err().to_string();
    assert!(
        message.contains("the moon") && message.contains("only clouds"),
        "{message}"
    );
    assert!(watch.elapsed() >= SOON);
}

/// With one or two hosts, an ejection would be an outage caused by the gateway.
#[tokio::test]
async fn outlier_detection_ejects_nobody_from_a_service_of_one_host_and_one_of_three() {
    let bad = Backend::start().unwrap();
    bad.always(Behaviour::status(503));
    let good = [Backend::start().unwrap(), Backend::start().unwrap()];
    let config = EnvoyConfig::gateway()
        .without_filter()
        .upstream("auth", bad.address())
        .upstreams(
            "video",
            &[
                bad.address().into(),
                good[0].address().into(),
                good[1].address().into(),
            ],
        )
        .cluster("auth", &json!({"outlier_detection": {"interval": "0.2s"}}))
        .cluster("video", &json!({"outlier_detection": {"interval": "0.2s"}}));
    let envoy = Envoy::start(config).await.unwrap();
    for _ in 0..30 {
        assert_eq!(
            Request::get("/v1/auth")
                .send(envoy.address())
                .await
                .unwrap()
                .status,
            503
        );
        Request::get("/v1/video")
            .send(envoy.address())
            .await
            .unwrap();
    }
    let ejections = "envoy_cluster_outlier_detection_ejections_active";
    envoy
        .wait_for_metric(ejections, &[("envoy_cluster_name", "video")], 1.0)
        .await
        .unwrap();
    assert_eq!(
        envoy
            .metrics()
            .await
            .unwrap()
            .get(ejections, &[("envoy_cluster_name", "auth")]),
        Some(0.0)
    );
}

#[tokio::test]
async fn a_service_that_came_back_is_reached_before_the_next_health_check() {
    let auth = Backend::start_refusing().unwrap();
    let checks = json!({"health_checks": [{
        "timeout": "1s", "interval": "60s", "no_traffic_interval": "60s",
        "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {},
    }]});
    let config = EnvoyConfig::gateway()
        .without_filter()
        .upstream("auth", auth.address())
        .cluster("auth", &checks);
    let envoy = Envoy::start(config).await.unwrap();
    let unhealthy = [("envoy_cluster_name", "auth")];
    envoy
        .wait_for_metric("envoy_cluster_membership_healthy", &unhealthy, 0.0)
        .await
        .unwrap();
    let down = Request::get("/v1/auth")
        .send(envoy.address())
        .await
        .unwrap();
    assert_eq!(
        envoy
            .access_log()
            .of_request(down.request_id())
            .await
            .unwrap()
            .text("flags"),
        "UF",
        "not UH"
    );
    auth.accept().unwrap();
    assert_eq!(
        Request::get("/v1/auth")
            .send(envoy.address())
            .await
            .unwrap()
            .status,
        200
    );
    envoy
        .wait_for_metric("envoy_cluster_membership_healthy", &unhealthy, 0.0)
        .await
        .unwrap();
}
