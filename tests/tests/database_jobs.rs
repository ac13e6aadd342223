//! Cleanup jobs at a real `PostgreSQL`.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use levee::database::preset::Preset;
use levee::database::sql::{Begin, Parameter, Types};
use levee_harness::clock::Stopwatch;
use levee_harness::postgres::Postgres;
use levee_harness::process::Signal;
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;
use postgres::types::ToSql;
use postgres::{Client, Transaction};
use serde_json::Value;

const AUTH: &str = "jobs: {auth_cleanup: {preset: expired_tokens, pause: 0s, scheduled: false}}";
const RUN_AUTH: &str = "/v1/jobs/auth_cleanup/run?wait=5m";

fn rows(sidecar: &Sidecar) -> u64 {
    sidecar.metric("auth_cleanup_expired_tokens_total").unwrap()
}

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
    let statement = spec.batch(&Types::new(), Begin::First);
    let values: Vec<&(dyn ToSql + Sync)> = statement
        .parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Value(value) => value as &(dyn ToSql + Sync),
            Parameter::Size => &10_i64,
            Parameter::From => unreachable!("it begins at the first row"),
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
fn two_at_once_handle_each_row_once_and_their_counts_add_up() {
    // PostgreSQL: they take turns. CockroachDB has no lease: they pass by each other's rows.
    for dialect in ["postgres", "cockroach"] {
        let postgres = Postgres::with_tables().unwrap();
        postgres.execute(
            "CREATE TABLE gone (token_id uuid); GRANT ALL ON gone TO levee;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN INSERT INTO gone VALUES (OLD.token_id); RETURN OLD; END';
             CREATE TRIGGER note BEFORE DELETE ON email_verification_tokens FOR EACH ROW EXECUTE FUNCTION note()",
        ).unwrap();
        postgres.add_tokens(30_000, 10).unwrap();
        let keys = format!(
            "dialect: {dialect}\njobs: {{auth_cleanup: {{preset: expired_tokens, batch: 100, pause: 0s, scheduled: false}}}}"
        );
        let sidecars = [0; 2].map(|_| Sidecar::at(&postgres, "levee", &keys).unwrap());
        let reports: Vec<(u16, Value)> = thread::scope(|scope| {
            let runs = sidecars
                .each_ref()
                .map(|sidecar| scope.spawn(|| sidecar.post(RUN_AUTH).unwrap()));
            runs.into_iter()
                .map(|run| run.join().expect("a run"))
                .collect()
        });
        println!("{dialect}: {reports:?}");
        let counts = sidecars.each_ref().map(rows);
        assert_eq!(counts.iter().sum::<u64>(), 30_000);
        assert_eq!(
            postgres.number("SELECT count(*) FROM gone").unwrap(),
            30_000
        );
        assert_eq!(postgres.expired_tokens().unwrap(), 0);
        if dialect == "postgres" {
            let mut statuses: Vec<u16> = reports.iter().map(|(status, _)| *status).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409]);
            assert!(counts.contains(&0));
        } else {
            assert!(
                counts.iter().all(|count| *count > 0),
                "they share: {counts:?}"
            );
        }
    }
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
    assert!(sidecar.log().contains("attempt 1 of 5"));
}

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
        assert!(sidecar.log().contains(error.trim_matches('"')), "{error}");
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
    assert!(sidecar.log().contains("attempt 3 of 5"));
    assert_eq!(sidecar.metric("auth_cleanup_failed_total").unwrap(), 0);
}

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

/// Holds the ten tokens that expired first, until the transaction ends.
fn lock_the_first_ten(service: &mut Client) -> Transaction<'_> {
    let mut transaction = service.transaction().expect("a transaction");
    transaction
        .execute(
            "SELECT 1 FROM email_verification_tokens ORDER BY expires_at LIMIT 10 FOR UPDATE",
            &[],
        )
        .expect("a lock");
    transaction
}

#[test]
fn rows_that_somebody_holds_are_left_to_the_next_time() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(100, 0).unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", AUTH).unwrap();
    let mut service = postgres.client_as("app").unwrap();
    let transaction = lock_the_first_ten(&mut service);
    let (_, report) = sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(report["rows"], 90, "{report}");
    transaction.rollback().expect("an end");
    let (_, report) = sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(report["rows"], 10, "{report}");
}

#[test]
fn rows_that_are_let_go_before_the_end_are_handled_too() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(200, 0).unwrap();
    let keys =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 10, pause: 50ms, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let mut service = postgres.client_as("app").unwrap();
    let transaction = lock_the_first_ten(&mut service);
    let report = thread::scope(|scope| {
        let run = scope.spawn(|| sidecar.post(RUN_AUTH).unwrap().1);
        sidecar
            .wait_for("a run to be under way", |sidecar| rows(sidecar) >= 20)
            .unwrap();
        transaction.rollback().expect("an end");
        run.join().expect("a report")
    });
    assert_eq!(report["rows"], 200, "{report}");
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

#[test]
fn odd_names_are_quoted_and_odd_values_bound() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE SCHEMA \"a.b\"; CREATE TYPE mood AS ENUM ('sad', '; drop table calls; --');
         CREATE TABLE \"a.b\".\"x\"\"; drop table calls; --\" (\"k\"\"ey\" int PRIMARY KEY, mood mood, n numeric, at timestamp);
         INSERT INTO \"a.b\".\"x\"\"; drop table calls; --\" SELECT i, (CASE WHEN i <= 3 THEN '; drop table calls; --'
           ELSE 'sad' END)::mood, i, now() FROM generate_series(1, 10) i;
         GRANT USAGE ON SCHEMA \"a.b\" TO levee; GRANT ALL ON ALL TABLES IN SCHEMA \"a.b\" TO levee",
    ).unwrap();
    let keys = r#"jobs:
  'it''s "odd"; drop table calls':
    schema: a.b
    table: 'x"; drop table calls; --'
    key: 'k"ey'
    where: [{column: mood, in: ['; drop table calls; --']}, {column: n, is_null: false}]
    action: set
    set: {mood: sad, n: -1.5, at: {ago: 1h}}
    scheduled: false"#;
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let path = "/v1/jobs/it's%20%22odd%22%3B%20drop%20table%20calls/run?wait=1m";
    let (status, report) = sidecar.post(path).unwrap();
    assert_eq!(
        (status, &report["rows"]),
        (200, &Value::from(3)),
        "{report}"
    );
    let set = "SELECT count(*) FROM \"a.b\".\"x\"\"; drop table calls; --\" WHERE mood = 'sad' AND n = -1.5 AND at < now()";
    assert_eq!(postgres.number(set).unwrap(), 3);
    assert_eq!(postgres.number("SELECT count(*) FROM calls").unwrap(), 0);
    assert!(
        sidecar
            .get("/metrics")
            .unwrap()
            .1
            .contains("job_rows_total{job=\"it's \\\"odd\\\"; drop table calls\"} 3")
    );
}

#[test]
fn a_key_that_is_not_unique_is_refused() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute("CREATE TABLE t (id int, at timestamptz); INSERT INTO t VALUES (1, '2020-01-01'), (1, '2100-01-01'); GRANT ALL ON t TO levee").unwrap();
    let keys = "jobs: {own: {table: t, key: id, where: {column: at, before: 0s}, action: delete, scheduled: false}, \
                auth_cleanup: {preset: expired_tokens, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    sidecar
        .wait_for("it to be said", |sidecar| {
            sidecar
                .get("/v1/jobs/own")
                .unwrap()
                .1
                .contains("is not unique")
        })
        .unwrap();
    assert_eq!(sidecar.post("/v1/jobs/own/run").unwrap().0, 500);
    assert_eq!(postgres.number("SELECT count(*) FROM t").unwrap(), 2);
    // The other jobs run.
    assert_eq!(sidecar.post(RUN_AUTH).unwrap().0, 200);
}

#[test]
fn a_value_is_not_cut_to_the_length_of_its_column() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE TABLE t (id int PRIMARY KEY, c char(1), v varchar(3), q \"char\", at timestamptz);
         INSERT INTO t VALUES (1, 'a', 'abc', 'a', '2020-01-01'); GRANT ALL ON t TO levee",
    ).unwrap();
    let keys = "jobs:
  c: {table: t, key: id, where: {column: c, in: [active]}, action: delete, scheduled: false}
  v: {table: t, key: id, where: {column: v, in: [abcd]}, action: delete, scheduled: false}
  q: {table: t, key: id, where: {column: q, in: [active]}, action: delete, scheduled: false}
  set: {table: t, key: id, where: {column: at, before: 30d}, action: set, set: {v: ended}, scheduled: false}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    for job in ["c", "v", "q"] {
        let (status, report) = sidecar
            .post(&format!("/v1/jobs/{job}/run?wait=1m"))
            .unwrap();
        assert_eq!(
            (status, &report["rows"]),
            (200, &Value::from(0)),
            "{job}: {report}"
        );
    }
    let (status, report) = sidecar.post("/v1/jobs/set/run?wait=1m").unwrap();
    assert_eq!(status, 500);
    assert!(report["error"].to_string().contains("22001"), "{report}");
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM t WHERE v = 'abc'")
            .unwrap(),
        1
    );
}

#[test]
fn a_row_that_is_as_it_should_be_is_not_set_again() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE TABLE t (id int PRIMARY KEY, token json, n int, at timestamptz); GRANT ALL ON t TO levee;
         INSERT INTO t SELECT i, '{}', i, '2020-01-01' FROM generate_series(1, 2500) i",
    ).unwrap();
    let keys = "jobs: {own: {table: t, key: id, where: {column: at, before: 0s}, action: set, set: {token: null, n: 7}, \
                pause: 0s, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    for rows in [2500, 0] {
        let (_, report) = sidecar.post("/v1/jobs/own/run?wait=1m").unwrap();
        assert_eq!(
            (&report["outcome"], &report["rows"]),
            (&Value::from("done"), &Value::from(rows)),
            "{report}"
        );
    }
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM t WHERE token IS NULL AND n = 7")
            .unwrap(),
        2500
    );
}

#[test]
fn jobs_wait_for_a_connection_and_a_dry_run_stays_one() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(500, 0).unwrap();
    let keys = "connections: 1\njobs: {auth_cleanup: {preset: expired_tokens, batch: 10, pause: 100ms, scheduled: false}, \
                video_cleanup: {preset: stale_calls, older_than: 2d, dry_run: true, scheduled: false}}";
    postgres
        .execute(
            "INSERT INTO calls (status, started_at) VALUES ('active', now() - interval '3 days')",
        )
        .unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    assert_eq!(sidecar.post("/v1/auth/cleanup?wait=0s").unwrap().0, 202);
    sidecar
        .wait_for("a run to be under way", |sidecar| rows(sidecar) > 0)
        .unwrap();
    let (status, report) = sidecar.post("/v1/video/cleanup?wait=1m").unwrap();
    assert_eq!(
        (status, &report["dry_run"], &report["rows"]),
        (200, &Value::from(true), &Value::from(1)),
        "{report}"
    );
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM calls WHERE status = 'ended'")
            .unwrap(),
        0
    );
    let (_, report) = sidecar.post("/v1/video/cleanup?dry_run=false").unwrap();
    assert_eq!(report["rows"], 1);
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM calls WHERE status = 'ended'")
            .unwrap(),
        1
    );
}
