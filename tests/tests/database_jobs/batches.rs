//! Batches: their size, their cost, and their limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::auth_cleanup::{RUN_AUTH, rows};
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
    sidecar.wait_for_log("SQLSTATE 57014").unwrap();
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
fn a_backlog_is_gone_within_seconds_while_nobody_else_is_there() {
    for rights in ["GRANT", "REVOKE"] {
        let postgres = Postgres::with_tables().unwrap();
        postgres.add_tokens(100_000, 10_000).unwrap();
        let direction = if rights == "GRANT" { "TO" } else { "FROM" };
        postgres
            .execute(&format!("{rights} pg_read_all_stats {direction} levee"))
            .unwrap();
        let sidecar = Sidecar::at(&postgres, "levee", DEFAULTS).unwrap();
        let (_, report) = sidecar.post(RUN_AUTH).unwrap();
        println!("{rights}: {report}");
        assert_eq!(
            (&report["outcome"], &report["rows"]),
            (&Value::from("done"), &Value::from(100_000)),
            "{report}"
        );
        assert!(report["seconds"].as_f64() < Some(20.0), "{report}");
    }
}

/// With all that decides on its pace by default.
const DEFAULTS: &str = "jobs: {auth_cleanup: {preset: expired_tokens, scheduled: false}}";

/// Clients that read a row again and again, until it is dropped.
struct Service {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Service {
    fn start(postgres: &Postgres) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (is_over, mut client) = (is_over.clone(), postgres.client_as("app").unwrap());
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    client.execute("SELECT 1 FROM calls", &[]).expect("a read");
                    thread::sleep(Duration::from_millis(5));
                }
            })
        };
        Self {
            clients: (0..4).map(client).collect(),
            is_over,
        }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("it saw no error");
        }
    }
}

#[test]
fn beside_others_batches_are_small_and_rest_until_the_others_leave() {
    for rights in ["GRANT", "REVOKE"] {
        let postgres = Postgres::with_tables().unwrap();
        postgres.add_tokens(200_000, 10_000).unwrap();
        let direction = if rights == "GRANT" { "TO" } else { "FROM" };
        postgres
            .execute(&format!("{rights} pg_read_all_stats {direction} levee"))
            .unwrap();
        let service = Service::start(&postgres);
        let sidecar = Sidecar::at(&postgres, "levee", DEFAULTS).unwrap();
        let batches = "job_batches_total{job=\"auth_cleanup\"}";
        let report = thread::scope(|scope| {
            let run = scope.spawn(|| sidecar.post(RUN_AUTH).unwrap().1);
            sidecar
                .wait_for_metric(batches, |batches| batches >= 30)
                .unwrap();
            let done = rows(&sidecar);
            println!("{rights}: {done} rows beside the service");
            assert!(done < 30_000, "{done}");
            service.end();
            run.join().expect("a report")
        });
        println!("{report}");
        assert_eq!(report["rows"], 200_000, "{report}");
        let batches = report["batches"].as_f64().expect("a number");
        assert!(
            batches < 400.0,
            "they grow when the others have left: {report}"
        );
    }
}

#[test]
fn batches_that_each_read_a_whole_table_do_not_shrink_for_that() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(200_000, 10_000).unwrap();
    postgres
        .execute("DROP INDEX email_verification_tokens_expires_at_idx")
        .unwrap();
    let service = Service::start(&postgres);
    let keys = "jobs: {auth_cleanup: {preset: expired_tokens, share: 0.5, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let (status, _) = sidecar.post("/v1/jobs/auth_cleanup/run?wait=0s").unwrap();
    assert_eq!(status, 202);
    let batches = "job_batches_total{job=\"auth_cleanup\"}";
    sidecar
        .wait_for_metric(batches, |batches| batches >= 6)
        .unwrap();
    let (batches, rows) = (sidecar.metric(batches).unwrap(), rows(&sidecar));
    println!("{rows} rows in {batches} batches");
    assert!(rows / batches >= 100, "{rows} rows in {batches} batches");
    service.end();
}

#[test]
fn without_rights_to_see_sessions_levee_is_not_taken_for_others() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(100_000, 10_000).unwrap();
    postgres
        .execute(
            "REVOKE pg_read_all_stats FROM levee;
             INSERT INTO calls (status, started_at) SELECT 'active', now() - interval '1 day' FROM generate_series(1, 100000);
             ANALYZE",
        )
        .unwrap();
    let watchdog = |every| {
        let keys = format!(
            "jobs: {{auth_cleanup: {{preset: expired_tokens, scheduled: false}}, \
             video_cleanup: {{preset: stale_calls, scheduled: false}}}}\n\
             watchdog: {{roles: [app], every: {every}}}"
        );
        Sidecar::at(&postgres, "levee", &keys).unwrap()
    };
    // The watchdog of one acts, those of the others stand by.
    let sidecars = ["50ms", "1s", "1s"].map(watchdog);
    let [sidecar, ..] = &sidecars;
    let reports = thread::scope(|scope| {
        let runs = ["auth_cleanup", "video_cleanup"].map(|job| {
            scope.spawn(move || {
                let run = format!("/v1/jobs/{job}/run?wait=5m");
                sidecar.post(&run).unwrap().1
            })
        });
        runs.map(|run| run.join().expect("a report"))
    });
    for report in reports {
        println!("{report}");
        assert_eq!(report["rows"], 100_000, "{report}");
        assert!(report["seconds"].as_f64() < Some(30.0), "{report}");
    }
}

#[test]
fn a_database_that_does_not_track_its_sessions_is_not_taken_for_idle() {
    for (where_it_is_off, settings, statement) in [
        ("server", &["track_activities=off"][..], "SELECT 1"),
        ("role", &[], "ALTER ROLE app SET track_activities = off"),
    ] {
        let postgres = Postgres::start_with(settings).unwrap();
        postgres.make_tables().unwrap();
        postgres.add_tokens(100_000, 10_000).unwrap();
        postgres.execute(statement).unwrap();
        let service = Service::start(&postgres);
        let sidecar = Sidecar::at(&postgres, "levee", DEFAULTS).unwrap();
        thread::scope(|scope| {
            let run = scope.spawn(|| sidecar.post(RUN_AUTH).unwrap().1);
            sidecar
                .wait_for_metric("job_batches_total{job=\"auth_cleanup\"}", |batches| {
                    batches >= 15
                })
                .unwrap();
            let done = rows(&sidecar);
            println!("{where_it_is_off}: {done} rows beside the service");
            assert!(done < 15_000, "{where_it_is_off}: {done}");
            service.end();
            run.join().expect("a report")
        });
        let log = sidecar.log();
        assert_eq!(
            log.matches("track_activities is off").count(),
            1,
            "{where_it_is_off}: {log}"
        );
        let (_, page) = sidecar.get("/v1/jobs").unwrap();
        assert!(page.contains("track_activities is off"), "{page}");
    }
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
