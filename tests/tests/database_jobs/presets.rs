//! The presets: which rows they handle, and what they count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::auth_cleanup::{AUTH, RUN_AUTH, rows};
use levee::database::preset::Preset;
use levee::database::sql::{Begin, Parameter, Which};
use levee::database::table::{Reach, Table, Types};
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use postgres::types::ToSql;
use serde_json::Value;

#[test]
fn all_expired_tokens_go_and_no_other_row_while_the_service_goes_on() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(300_000, 150_000).unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", AUTH).unwrap();
    let running = Arc::new(AtomicBool::new(true));
    let service = {
        let (mut client, running) = (postgres.client_as("app").unwrap(), running.clone());
        thread::spawn(move || {
            let mut done = 0;
            while running.load(Ordering::SeqCst) {
                let row = client
                    .query_one(
                        "INSERT INTO email_verification_tokens (expires_at) VALUES (now() + interval '1 day') \
                         RETURNING token_id::text",
                        &[],
                    )
                    .expect("the service inserts");
                let id: String = row.get(0);
                let found = client.query(
                    "SELECT 1 FROM email_verification_tokens WHERE token_id = $1::text::uuid",
                    &[&id],
                );
                assert_eq!(found.expect("the service reads").len(), 1);
                done += 1;
            }
            done
        })
    };
    let (status, report) = sidecar.post(RUN_AUTH).unwrap();
    running.store(false, Ordering::SeqCst);
    let inserted: i64 = service.join().expect("the service saw no error");
    println!("{report}, the service inserted {inserted} meanwhile");
    assert_eq!((status, &report["outcome"]), (200, &Value::from("done")));
    assert_eq!(report["rows"], 300_000);
    assert_eq!(postgres.expired_tokens().unwrap(), 0);
    let left = postgres
        .number("SELECT count(*) FROM email_verification_tokens")
        .unwrap();
    assert_eq!(left, 150_000 + inserted);
    assert!(inserted > 0);
    assert_eq!(rows(&sidecar), 300_000);
    assert_eq!(
        sidecar
            .metric("job_rows_total{job=\"auth_cleanup\"}")
            .unwrap(),
        300_000
    );
    assert_eq!(sidecar.metric("auth_cleanup_failed_total").unwrap(), 0);
    assert_eq!(
        sidecar
            .metric("auth_cleanup_duration_seconds_count")
            .unwrap(),
        1
    );
    assert_eq!(
        sidecar
            .metric("job_runs_total{job=\"auth_cleanup\",outcome=\"done\"}")
            .unwrap(),
        1
    );
}

#[test]
fn stale_calls_are_ended_with_their_duration_and_no_others() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "INSERT INTO calls (call_type, status, started_at) VALUES
           ('ringing', 'ringing', now() - interval '25 hours'), ('active', 'active', now() - interval '3 days'),
           ('ancient', 'active', '0100-01-01'), ('null', 'active', NULL), ('future', 'active', now() + interval '1 day'),
           ('recent', 'ringing', now() - interval '23 hours'), ('endless', 'active', '-infinity'),
           ('ended', 'ended', now() - interval '30 hours'), ('missed', 'missed', now() - interval '30 hours')",
    ).unwrap();
    let sidecar = Sidecar::at(
        &postgres,
        "levee",
        "jobs: {video_cleanup: {preset: stale_calls, scheduled: false}}",
    )
    .unwrap();
    let (_, report) = sidecar.post("/v1/video/cleanup?wait=1m").unwrap();
    assert_eq!(report["rows"], 3, "{report}");
    assert_eq!(
        sidecar.metric("video_cleanup_stale_calls_total").unwrap(),
        3
    );
    let rows = postgres
        .client().unwrap()
        .query(
            "SELECT call_type FROM calls WHERE status = 'ended' AND ended_at BETWEEN now() - interval '1 minute' AND now() \
             AND duration = least(floor(extract(epoch FROM ended_at - started_at)), 2147483647)",
            &[],
        )
        .expect("a query");
    let mut ended: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    ended.sort();
    assert_eq!(ended, ["active", "ancient", "ringing"]);
    let untouched = postgres
        .number("SELECT count(*) FROM calls WHERE ended_at IS NULL AND duration IS NULL")
        .unwrap();
    assert_eq!(untouched, 6);
}

#[test]
fn a_call_of_exactly_24_hours_is_left_alone() {
    let postgres = Postgres::with_tables().unwrap();
    let mut client = postgres.client().unwrap();
    // Within one transaction now() is one moment.
    let mut transaction = client.transaction().expect("a transaction");
    transaction
        .batch_execute(
            "INSERT INTO calls (call_type, status, started_at) VALUES ('exact', 'active', now() - interval '24 hours'),
             ('older', 'active', now() - interval '24 hours' - interval '1 microsecond')",
        )
        .expect("rows");
    let spec = Preset::find("stale_calls").expect("a preset").spec(None);
    let table = Table {
        name: spec.quoted_table(),
        oid: String::new(),
        reach: Reach::Own,
        types: Types::new(),
    };
    let statement = spec.batch(&table, Begin::First, Which::All);
    let values: Vec<&(dyn ToSql + Sync)> = statement
        .parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Value(value) => value as &(dyn ToSql + Sync),
            Parameter::Size => &10_i64,
            Parameter::From | Parameter::Keys => unreachable!("it begins at the first row"),
        })
        .collect();
    let done = transaction.query_one(&statement.text, &values);
    assert_eq!(done.expect("a batch").get::<_, i64>(0), 1);
    let row = transaction.query_one(
        "SELECT call_type, duration FROM calls WHERE status = 'ended'",
        &[],
    );
    let row = row.expect("a row");
    assert_eq!((row.get(0), row.get(1)), ("older".to_owned(), 86_400));
}

#[test]
fn a_failed_run_is_counted_for_its_own_preset() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute("ALTER TABLE calls RENAME TO elsewhere")
        .unwrap();
    let keys = "jobs: {auth_cleanup: {preset: expired_tokens}, video_cleanup: {preset: stale_calls, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let (status, report) = sidecar.post("/v1/video/cleanup").unwrap();
    assert_eq!(
        (status, &report["outcome"]),
        (500, &Value::from("failed")),
        "{report}"
    );
    assert_eq!(sidecar.metric("video_cleanup_failed_total").unwrap(), 1);
    assert_eq!(sidecar.metric("auth_cleanup_failed_total").unwrap(), 0);
    postgres
        .execute("ALTER TABLE elsewhere RENAME TO calls")
        .unwrap();
    assert_eq!(sidecar.post("/v1/video/cleanup").unwrap().0, 200);
    assert_eq!(sidecar.metric("video_cleanup_failed_total").unwrap(), 1);
    assert_eq!(
        sidecar
            .metric("video_cleanup_duration_seconds_count")
            .unwrap(),
        2
    );
}
