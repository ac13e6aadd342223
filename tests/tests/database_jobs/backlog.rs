//! What is left of a job, and how it shows.

use crate::auth_cleanup::RUN_AUTH;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use serde_json::Value;

fn labelled(metric: &str, job: &str) -> String {
    format!("{metric}{{job=\"{job}\"}}")
}

#[test]
fn what_is_left_and_how_old_it_is_are_metrics() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(20_000, 10_000).unwrap();
    postgres
        .execute("INSERT INTO email_verification_tokens (expires_at) VALUES (now() - interval '3 days'); ANALYZE")
        .unwrap();
    let keys = "jobs: {auth_cleanup: {preset: expired_tokens, max_rows: 5000, pause: 0s, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let [backlog, oldest, at_limit] = [
        "job_backlog_rows",
        "job_oldest_row_age_seconds",
        "job_runs_at_limit",
    ]
    .map(|metric| labelled(metric, "auth_cleanup"));
    let is_near = |rows: u64| 18_000 < rows && rows < 22_000;
    // Before the first run, too.
    sidecar
        .wait_for("an estimate", |sidecar| {
            sidecar.metric(&backlog).is_ok_and(is_near)
        })
        .unwrap();
    let three_days = 3 * 24 * 3600;
    let age = sidecar.metric(&oldest).unwrap();
    assert!(three_days <= age && age < three_days + 600, "{age}");
    for runs in 1..=4 {
        let (_, report) = sidecar.post(RUN_AUTH).unwrap();
        assert_eq!(report["outcome"], "limit", "{report}");
        assert_eq!(sidecar.metric(&at_limit).unwrap(), runs);
        // The row of three days ago went first.
        assert!(sidecar.metric(&oldest).unwrap() <= 3700);
        assert!(sidecar.metric(&backlog).unwrap() > 0);
    }
    let (_, report) = sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(report["outcome"], "done", "{report}");
    for metric in [&at_limit, &backlog, &oldest] {
        assert_eq!(sidecar.metric(metric).unwrap(), 0, "{metric}");
    }
}

fn warnings(sidecar: &Sidecar) -> Vec<String> {
    sidecar.wait_for_log("checked").unwrap();
    let (_, page) = sidecar.get("/v1/jobs/own").unwrap();
    let page: Value = serde_json::from_str(&page).expect("a page");
    let warnings = page["warnings"].as_array().expect("a list");
    warnings
        .iter()
        .map(|warning| warning.as_str().expect("a text").to_owned())
        .collect()
}

#[test]
fn a_batch_that_reads_a_whole_table_is_a_warning_with_the_index_that_mends_it() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE small (id int PRIMARY KEY, \"at\" timestamptz); GRANT ALL ON small TO levee;
             INSERT INTO small SELECT n, now() FROM generate_series(1, 100) n;
             CREATE TABLE \"Large\" (id int, \"at\" timestamptz, PRIMARY KEY (id)); GRANT ALL ON \"Large\" TO levee;
             INSERT INTO \"Large\" SELECT n, now() - interval '1 hour' FROM generate_series(1, 20000) n;
             CREATE TABLE parts (id int, at timestamptz, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10000);
             CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10000) TO (30000);
             INSERT INTO parts SELECT n, now() - interval '1 hour' FROM generate_series(1, 20000) n;
             GRANT ALL ON parts TO levee; ANALYZE",
        )
        .unwrap();
    for (table, indexes) in [
        ("small", &[][..]),
        (
            "Large",
            &["CREATE INDEX CONCURRENTLY ON \"public\".\"Large\" (\"at\");"][..],
        ),
        (
            "parts",
            &[
                "CREATE INDEX CONCURRENTLY ON \"public\".\"parts_1\" (\"at\");",
                "CREATE INDEX CONCURRENTLY ON \"public\".\"parts_2\" (\"at\");",
            ],
        ),
    ] {
        let keys = format!(
            "jobs: {{own: {{table: {table}, key: id, where: {{column: at, before: 0s}}, action: delete, scheduled: false}}}}"
        );
        let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
        let found = warnings(&sidecar);
        println!("{found:?}");
        assert_eq!(found.len(), usize::from(!indexes.is_empty()), "{found:?}");
        let mut client = postgres.client().unwrap();
        for index in indexes {
            assert!(found[0].contains(index), "{found:?}");
            sidecar.wait_for_log("CREATE INDEX CONCURRENTLY").unwrap();
            client.batch_execute(index).expect("an index");
        }
        let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
        assert_eq!(warnings(&sidecar), Vec::<String>::new(), "mended");
    }
}

#[test]
fn each_statement_of_a_batch_is_planned_once_before_a_run() {
    let postgres = Postgres::start_with(&["log_statement=all"]).unwrap();
    postgres.make_tables().unwrap();
    postgres.add_tokens(100, 0).unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", crate::auth_cleanup::AUTH).unwrap();
    sidecar.wait_for_log("checked").unwrap();
    let explained = || {
        let log = postgres.log();
        let batches = log
            .lines()
            .filter(|line| line.contains("EXPLAIN") && line.contains("DELETE FROM"));
        batches.count()
    };
    let before = explained();
    sidecar.post(RUN_AUTH).unwrap();
    // The first batch and a later one.
    assert_eq!(explained() - before, 2, "{}", postgres.log());
}
