//! Connections that are lost in silence, without being closed: another session takes over.

use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::postgres::Postgres;
use levee_harness::relay::{Relay, Silence};
use levee_harness::sidecar::{Config, Sidecar, Start};

use super::ask;

/// From the loss of a connection until another session has its work.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// For what a busy machine takes longer for.
const MARGIN: Duration = Duration::from_millis(1500);

const QUICK: &str = "watchdog: {roles: [app], every: 1s, classes: {query: 1s}}";

const ACTING: &str = "db_watchdog_acting{database=\"app\",watched=\"app\"}";

fn acts(sidecar: &Sidecar) -> bool {
    sidecar.metric(ACTING).unwrap() == 1
}

/// A relay to the server, and a sidecar that reaches it only so.
fn behind_a_relay(postgres: &Postgres, keys: &str) -> (Relay, Sidecar) {
    let relay = Relay::to(([127, 0, 0, 1], postgres.port()).into()).unwrap();
    let url = format!("postgres://levee@{}/app", relay.address);
    let sidecar = Sidecar::start_with(&Config::new("").database(&url, keys), &Start::default());
    (relay, sidecar.unwrap())
}

fn is_cancelled_after_the_take_over(postgres: &Postgres) {
    let mut service = postgres.client_as("app").unwrap();
    let (took, code) = ask(&mut service, "SELECT pg_sleep(60)");
    assert_eq!(code, "57014", "{took:?}");
    println!("{took:?}");
    let limit = Duration::from_secs(1);
    assert!(took < TAKE_OVER + limit + MARGIN, "{took:?}");
}

#[test]
fn a_connection_that_was_lost_in_silence_is_replaced_and_its_claim_taken_over() {
    for silence in [Silence::Swallowed, Silence::Dropped] {
        let postgres = Postgres::with_tables().unwrap();
        let (relay, sidecar) = behind_a_relay(&postgres, QUICK);
        sidecar.wait_for("its duty", acts).unwrap();
        relay.silence(silence).unwrap();
        is_cancelled_after_the_take_over(&postgres);
        sidecar.wait_for("its duty", acts).unwrap();
        let (_, page) = sidecar.get("/v1/watchdog").unwrap();
        assert!(page.contains("\"here\":true"), "{page}");
    }
}

#[test]
fn a_connection_that_is_lost_in_silence_after_an_outage_is_noticed_as_soon() {
    let mut postgres = Postgres::with_tables().unwrap();
    let (relay, sidecar) = behind_a_relay(&postgres, QUICK);
    sidecar.wait_for("its duty", acts).unwrap();
    postgres.stop().unwrap();
    let failed = "db_watchdog_failed_total{database=\"app\"}";
    sidecar
        .wait_for_metric(failed, |failed| failed >= 5)
        .unwrap();
    assert!(!acts(&sidecar));
    postgres.start_again().unwrap();
    sidecar.wait_for("its duty", acts).unwrap();
    // A statement that is cancelled shows that it polls again.
    is_cancelled_after_the_take_over(&postgres);
    relay.silence(Silence::Swallowed).unwrap();
    is_cancelled_after_the_take_over(&postgres);
}

#[test]
fn an_instance_that_is_cut_off_in_silence_is_replaced_by_another_which_says_so() {
    for silence in [Silence::Swallowed, Silence::Dropped] {
        let postgres = Postgres::with_tables().unwrap();
        let (relay, first) = behind_a_relay(&postgres, QUICK);
        first.wait_for("its duty", acts).unwrap();
        postgres
            .execute(
                "CREATE ROLE second LOGIN; GRANT pg_read_all_stats, pg_signal_backend TO second",
            )
            .unwrap();
        // Sessions of another role are not ended: then the server itself must notice.
        let role = match silence {
            Silence::Swallowed => "levee",
            Silence::Dropped => "second",
        };
        let second = Sidecar::at(&postgres, role, QUICK).unwrap();
        let holder = postgres
            .number("SELECT pid::bigint FROM pg_locks WHERE locktype = 'advisory'")
            .unwrap();
        let other = format!("{{\"client\":\"127.0.0.1\",\"here\":false,\"process\":\"{holder}\"");
        second
            .wait_for("its standby", |second| {
                let (_, page) = second.get("/v1/watchdog").unwrap();
                page.contains(&other) && page.contains("\"stands_by\":true")
            })
            .unwrap();
        assert!(!acts(&second));
        relay.isolate(silence).unwrap();
        is_cancelled_after_the_take_over(&postgres);
        assert!(acts(&second));
        first.wait_for("its doubt", |first| !acts(first)).unwrap();
        assert!(
            first
                .get("/v1/watchdog")
                .unwrap()
                .1
                .contains("\"acting\":null")
        );
        if silence == Silence::Swallowed {
            second
                .wait_for_log("took over from a session that is silent")
                .unwrap();
        }
        let log = second.log();
        let took_over = log.contains("took over from a session that is silent");
        assert_eq!(took_over, silence == Silence::Swallowed, "{log}");
    }
}

#[test]
fn the_claim_of_a_job_whose_instance_was_cut_off_is_taken_over() {
    let keys =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 10, pause: 10s, scheduled: false}}";
    for silence in [Silence::Swallowed, Silence::Dropped] {
        let postgres = Postgres::with_tables().unwrap();
        postgres.add_tokens(50, 0).unwrap();
        let (relay, first) = behind_a_relay(&postgres, keys);
        assert_eq!(first.post("/v1/auth/cleanup?wait=0s").unwrap().0, 202);
        first
            .wait_for_metric("job_rows_total{job=\"auth_cleanup\"}", |rows| rows == 10)
            .unwrap();
        let quick = keys.replace("10s", "0s");
        let second = Sidecar::at(&postgres, "levee", &quick).unwrap();
        // A run that only rests keeps its claim.
        thread::sleep(Duration::from_secs(4));
        assert_eq!(second.post("/v1/auth/cleanup?wait=1m").unwrap().0, 409);
        relay.isolate(silence).unwrap();
        let waited = Stopwatch::start();
        second
            .wait_for("the claim", |second| {
                second.post("/v1/auth/cleanup?wait=1m").unwrap().0 == 200
            })
            .unwrap();
        let waited = waited.elapsed();
        println!("{waited:?}");
        assert!(waited < TAKE_OVER + MARGIN, "{waited:?}");
        assert_eq!(postgres.expired_tokens().unwrap(), 0);
    }
}
