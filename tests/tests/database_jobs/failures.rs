//! Runs that fail or are interrupted, and those after them.

use std::time::Duration;

use crate::auth_cleanup::{AUTH, RUN_AUTH, rows};
use levee_harness::clock::Stopwatch;
use levee_harness::postgres::Postgres;
use levee_harness::process::Signal;
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;
use serde_json::Value;

#[test]
fn what_is_wrong_is_said_and_counted_and_the_next_turn_works() {
    let mut postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(10, 10).unwrap();
    let keys = "jobs: {auth_cleanup: {preset: expired_tokens, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let (right, wrong) = (
        "SELECT 1".to_owned(),
        "ALTER TABLE email_verification_tokens RENAME TO",
    );
    let cases = [
        (
            "there is no table",
            format!("{wrong} elsewhere"),
            "ALTER TABLE elsewhere RENAME TO email_verification_tokens".to_owned(),
        ),
        (
            "has no column \\\"expires_at\\\"",
            "ALTER TABLE email_verification_tokens RENAME expires_at TO other".to_owned(),
            "ALTER TABLE email_verification_tokens RENAME other TO expires_at".to_owned(),
        ),
        (
            "SQLSTATE 42501",
            "REVOKE DELETE ON email_verification_tokens FROM levee".to_owned(),
            "GRANT DELETE ON email_verification_tokens TO levee".to_owned(),
        ),
        (
            "SQLSTATE 25006",
            "ALTER ROLE levee SET default_transaction_read_only = on".to_owned(),
            "ALTER ROLE levee RESET default_transaction_read_only".to_owned(),
        ),
        ("can't be reached", String::new(), right),
    ];
    for (place, (says, harm, mend)) in cases.iter().enumerate() {
        if harm.is_empty() {
            postgres.stop().unwrap();
        } else {
            postgres.execute(harm).unwrap();
            // Existing connections don't see the setting.
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'levee'",
            ).unwrap();
        }
        let (status, report) = sidecar.post(RUN_AUTH).unwrap();
        assert_eq!(
            (status, &report["outcome"]),
            (500, &Value::from("failed")),
            "{report}"
        );
        let error = report["error"].to_string();
        assert!(error.contains(says) || harm.is_empty(), "{says}: {error}");
        let failed = u64::try_from(place).expect("a place") + 1;
        assert_eq!(sidecar.metric("auth_cleanup_failed_total").unwrap(), failed);
        sidecar.wait_for_log(error.trim_matches('"')).unwrap();
        if harm.is_empty() {
            postgres.start_again().unwrap();
        } else {
            postgres.execute(mend).unwrap();
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'levee'",
            ).unwrap();
        }
    }
    let (status, report) = sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(
        (status, &report["rows"]),
        (200, &Value::from(10)),
        "{report}"
    );
}

#[test]
fn a_database_that_restarts_in_mid_run_is_waited_for() {
    let mut postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(20_000, 10).unwrap();
    let keys =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 100, pause: 10ms, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    assert_eq!(sidecar.post("/v1/auth/cleanup?wait=0s").unwrap().0, 202);
    sidecar
        .wait_for("a run to be under way", |sidecar| rows(sidecar) >= 300)
        .unwrap();
    postgres.stop().unwrap();
    postgres.start_again().unwrap();
    sidecar
        .wait_for("the rest to go", |_| {
            postgres.expired_tokens().unwrap() == 0
        })
        .unwrap();
    sidecar
        .wait_for_metric(
            "job_runs_total{job=\"auth_cleanup\",outcome=\"done\"}",
            |value| value == 1,
        )
        .unwrap();
    // A batch whose commit was not confirmed may have been committed.
    let counted = rows(&sidecar);
    assert!((19_900..=20_000).contains(&counted), "{counted}");
    sidecar.wait_for_log("attempt 1 of 5").unwrap();
}

#[test]
fn a_database_that_stands_still_fails_the_run_in_time() {
    let mut postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(10, 10).unwrap();
    let keys = format!("statement_timeout: 100ms\n{AUTH}");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    postgres.signal_all(Signal::Stop).unwrap();
    let (status, report) = sidecar.post("/v1/auth/cleanup?wait=2m").unwrap();
    postgres.signal_all(Signal::Continue).unwrap();
    assert_eq!(status, 500, "{report}");
    let (_, report) = sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(report["rows"], 10, "{report}");
}

#[test]
fn serialisation_failures_are_tried_again() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE SEQUENCE turns; GRANT ALL ON turns TO levee;
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN IF nextval(''turns'') <= 3 THEN RAISE EXCEPTION ''restart transaction'' USING ERRCODE = ''40001'';
            END IF; RETURN OLD; END';
         CREATE TRIGGER fail BEFORE DELETE ON email_verification_tokens FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    ).unwrap();
    postgres.add_tokens(10, 10).unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", &format!("dialect: cockroach\n{AUTH}")).unwrap();
    let (status, report) = sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(
        (status, &report["rows"]),
        (200, &Value::from(10)),
        "{report}"
    );
    sidecar.wait_for_log("attempt 3 of 5").unwrap();
    assert_eq!(sidecar.metric("auth_cleanup_failed_total").unwrap(), 0);
}

#[test]
fn a_run_that_is_killed_is_completed_by_the_next() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(20_000, 10).unwrap();
    let keys = "jobs: {auth_cleanup: {preset: expired_tokens, batch: 100, pause: 20ms, every: 1s}}";
    let mut sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    sidecar
        .wait_for("a run to be under way", |sidecar| rows(sidecar) >= 300)
        .unwrap();
    sidecar.kill();
    let left = postgres.expired_tokens().unwrap();
    println!("{left} are left");
    assert!(left > 0 && left % 100 == 0, "whole batches only: {left}");
    let keys = keys.replace("20ms", "0s");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    sidecar
        .wait_for("the rest to go", |_| {
            postgres.expired_tokens().unwrap() == 0
        })
        .unwrap();
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM email_verification_tokens")
            .unwrap(),
        10
    );
    sidecar
        .wait_for("the count", |sidecar| {
            rows(sidecar) == u64::try_from(left).expect("a count")
        })
        .unwrap();
}

#[test]
fn a_stop_ends_a_run_after_its_batch() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(20_000, 0).unwrap();
    let keys = "jobs: {auth_cleanup: {preset: expired_tokens, batch: 100, pause: 20ms, every: 1s}}";
    let mut sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    sidecar
        .wait_for("a run to be under way", |sidecar| rows(sidecar) >= 300)
        .unwrap();
    let took = Stopwatch::start();
    sidecar.terminate();
    let exit = sidecar.wait(GENEROUS).expect("it ends");
    assert!(
        exit.success() && took.elapsed() < Duration::from_secs(5),
        "{exit}"
    );
    let log = sidecar.log();
    let line = log
        .lines()
        .find(|line| line.contains("stopped: "))
        .expect(&log);
    let line: Value = serde_json::from_str(line).expect("JSON");
    let left = postgres.expired_tokens().unwrap();
    assert_eq!(line["rows"].as_i64(), Some(20_000 - left), "{line}");
}
