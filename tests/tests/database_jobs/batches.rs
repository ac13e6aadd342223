//! Batches: their size, their cost, and their limits.

use crate::auth_cleanup::RUN_AUTH;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use serde_json::Value;

#[test]
fn batches_that_are_too_slow_are_made_smaller() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN PERFORM pg_sleep(0.002); RETURN OLD; END';
         CREATE TRIGGER slow BEFORE DELETE ON email_verification_tokens FOR EACH ROW EXECUTE FUNCTION slow()",
    ).unwrap();
    postgres.add_tokens(1000, 10).unwrap();
    // In one go they would take two seconds.
    let keys = "statement_timeout: 1s\njobs: {auth_cleanup: {preset: expired_tokens, batch: 1000, batch_aim: 300ms, pause: 0s, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let (status, report) = sidecar.post(RUN_AUTH).unwrap();
    println!("{report}");
    assert_eq!(
        (status, &report["rows"]),
        (200, &Value::from(1000)),
        "{report}"
    );
    assert!(report["batches"].as_u64() >= Some(4), "{report}");
    assert!(sidecar.log().contains("SQLSTATE 57014"));
}

#[test]
fn a_batch_does_not_walk_over_what_was_deleted_before_it() {
    let postgres = Postgres::with_tables().unwrap();
    // Deleted rows stay in the index, since nothing is vacuumed meanwhile.
    postgres
        .execute("ALTER TABLE email_verification_tokens SET (autovacuum_enabled = false)")
        .unwrap();
    postgres.add_tokens(60_000, 10_000).unwrap();
    let visits = || {
        postgres.number(
            "SELECT sum(idx_blks_hit + idx_blks_read)::bigint FROM pg_statio_user_indexes WHERE indexrelname LIKE '%expires%'",
        ).unwrap()
    };
    let keys =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 100, pause: 0s, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let before = visits();
    let (_, report) = sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(
        (&report["rows"], &report["batches"]),
        (&Value::from(60_000), &Value::from(600)),
        "{report}"
    );
    // A backend's counts become visible when it has ended.
    sidecar
        .wait_for("the counts", |_| visits() > before + 600)
        .unwrap();
    let visited = visits() - before;
    println!("{visited} visits of pages");
    assert!(visited < 600 * 20, "{visited} visits of pages");
}

#[test]
fn limits_of_a_run_end_it_and_the_next_goes_on() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(1000, 0).unwrap();
    let keys = "jobs: {auth_cleanup: {preset: expired_tokens, batch: 100, max_rows: 250, pause: 0s, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    for left in [750, 500, 250, 0] {
        let (status, report) = sidecar.post(RUN_AUTH).unwrap();
        assert_eq!(
            (status, &report["outcome"]),
            (200, &Value::from("limit")),
            "{report}"
        );
        assert_eq!(postgres.expired_tokens().unwrap(), left);
    }
}
