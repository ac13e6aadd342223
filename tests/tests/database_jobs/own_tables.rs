//! Jobs at tables of any shape: names, keys, types, values.

use crate::auth_cleanup::RUN_AUTH;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use serde_json::Value;

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
    zone: UTC
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

/// What was read of the table before the run may mean something else after a migration.
#[test]
fn a_table_that_changes_during_a_run_loses_no_row_that_is_alive() {
    for change in [
        "ALTER TABLE t ALTER at TYPE timestamp USING at AT TIME ZONE 'America/New_York'",
        "ALTER TABLE t ALTER at TYPE date USING at::date",
        "BEGIN; ALTER TABLE t RENAME TO old; ALTER TABLE other RENAME TO t; COMMIT",
        "BEGIN; ALTER TABLE t RENAME at TO due; ALTER TABLE t RENAME made TO at; COMMIT",
    ] {
        println!("{change}");
        let postgres = Postgres::with_tables().unwrap();
        postgres
            .execute(
                "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, made timestamptz DEFAULT now() - interval '1 day');
                 CREATE INDEX ON t (at); CREATE INDEX ON t (made);
                 INSERT INTO t SELECT i, now() - interval '2 days' FROM generate_series(1, 2000) i;
                 INSERT INTO t SELECT i, now() + interval '2 hours' FROM generate_series(10001, 10200) i;
                 CREATE TABLE other (id int PRIMARY KEY, at timestamp);
                 INSERT INTO other SELECT i, (now() AT TIME ZONE 'America/New_York') + interval '2 hours'
                   FROM generate_series(10001, 10200) i;
                 GRANT ALL ON t, other TO levee",
            )
            .unwrap();
        let keys = "jobs: {own: {table: t, key: id, where: {column: at, before: 0s}, action: delete, batch: 20, \
                    pause: 100ms, scheduled: false}}";
        let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
        assert_eq!(sidecar.post("/v1/jobs/own/run?wait=0s").unwrap().0, 202);
        let expired = "SELECT count(*) FROM t WHERE id < 10000";
        sidecar
            .wait_for("the first batches", |_| {
                postgres.number(expired).unwrap() < 2000
            })
            .unwrap();
        postgres.execute(change).unwrap();
        sidecar
            .wait_for_log("has changed since the run began")
            .unwrap();
        let alive = "SELECT count(*) FROM t WHERE id > 10000";
        assert_eq!(postgres.number(alive).unwrap(), 200);
    }
}
