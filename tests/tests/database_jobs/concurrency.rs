//! Jobs beside each other, and beside transactions of the service.

use std::thread;

use crate::auth_cleanup::{AUTH, RUN_AUTH, rows};
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use postgres::{Client, Transaction};
use serde_json::Value;

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

#[test]
fn a_run_that_another_session_took_over_has_not_failed() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(20_000, 0).unwrap();
    let keys =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 10, pause: 20ms, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let report = thread::scope(|scope| {
        let run = scope.spawn(|| sidecar.post(RUN_AUTH).unwrap());
        sidecar
            .wait_for("a batch", |sidecar| rows(sidecar) > 0)
            .unwrap();
        // The claim is an advisory lock: whoever waits for it has it once the session of the run has ended.
        let mut other = postgres.client().unwrap();
        let key = "SELECT (l.classid::bigint << 32) | l.objid::bigint, l.pid FROM pg_locks l \
                   JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND a.usename = 'levee'";
        let held = other.query_one(key, &[]).expect("a claim");
        let (key, process): (i64, i32) = (held.get(0), held.get(1));
        let waits = scope.spawn(move || {
            other
                .execute("SELECT pg_advisory_lock($1)", &[&key])
                .expect("the lock");
            other
        });
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        sidecar
            .wait_for("somebody who waits", |_| {
                postgres.number(waiting).unwrap() == 1
            })
            .unwrap();
        let end = format!("SELECT pg_terminate_backend({process})");
        postgres.execute(&end).unwrap();
        let other = waits.join().expect("a session");
        let report = run.join().expect("a report");
        drop(other);
        report
    });
    let (status, report) = report;
    assert_eq!(
        (status, &report["outcome"]),
        (409, &Value::from("elsewhere")),
        "{report}"
    );
    assert!(report["rows"].as_u64() > Some(0), "{report}");
    let error = report["error"].to_string();
    assert!(
        error.contains("another instance is running it") && error.contains("before that: "),
        "{report}"
    );
    for (outcome, runs) in [("elsewhere", 1), ("failed", 0)] {
        let metric = format!("job_runs_total{{job=\"auth_cleanup\",outcome=\"{outcome}\"}}");
        assert_eq!(sidecar.metric(&metric).unwrap(), runs, "{outcome}");
    }
}
