//! Columns whose times could mean several moments, and tables that could be meant in several ways: nothing is deleted on a
//! guess.
#![allow(missing_docs)]

use std::fs;
use std::process::Command;

use levee_harness::built::levee;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use serde_json::Value;

/// A job that deletes rows of `t` whose time `at` is over, with further keys.
fn job(more: &str) -> String {
    format!(
        "jobs: {{own: {{table: t, key: k, where: {{column: at, before: 0s}}, action: delete, pause: 0s, scheduled: false{more}}}}}"
    )
}

fn run(sidecar: &Sidecar) -> Value {
    sidecar.post("/v1/jobs/own/run?wait=1m").unwrap().1
}

/// The report of the job with these keys at this database.
fn report(postgres: &Postgres, more: &str) -> Value {
    run(&Sidecar::at(postgres, "levee", &job(more)).unwrap())
}

/// `t` with 100 tokens that `app` has just written, valid for 30 minutes.
fn add_live_tokens(postgres: &Postgres, of: &str) {
    postgres
        .execute(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (k serial PRIMARY KEY, at {of}); GRANT ALL ON t TO levee, app;
             GRANT USAGE ON SEQUENCE t_k_seq TO app"
        ))
        .unwrap();
    let mut app = postgres.client_as("app").unwrap();
    app.batch_execute(
        "INSERT INTO t (at) SELECT now() + interval '30 min' FROM generate_series(1, 100)",
    )
    .unwrap();
}

fn rows(postgres: &Postgres) -> i64 {
    postgres.number("SELECT count(*) FROM t").unwrap()
}

#[test]
fn a_column_without_a_zone_is_not_guessed_at_wherever_the_zone_is_set() {
    for (settings, statement, shown) in [
        (
            &["timezone=America/New_York", "log_timezone=America/New_York"][..],
            "SELECT 1",
            "America/New_York (of the server's log): 0 rows",
        ),
        (
            &["timezone=UTC", "log_timezone=UTC"],
            "ALTER DATABASE app SET timezone = 'America/Chicago'",
            "America/Chicago (of this database): 0 rows",
        ),
        (
            &["timezone=UTC", "log_timezone=UTC"],
            "ALTER ROLE app SET timezone = 'America/Denver'",
            "America/Denver (of role \"app\"): 0 rows",
        ),
    ] {
        let postgres = Postgres::start_with(settings).unwrap();
        postgres.make_tables().unwrap();
        postgres.execute(statement).unwrap();
        for of in ["timestamp", "timestamp(0)", "date"] {
            add_live_tokens(&postgres, of);
            let report = report(&postgres, "");
            assert_eq!(report["outcome"], "failed", "{of}: {report}");
            assert_eq!(rows(&postgres), 100, "{of}");
            let error = report["error"].as_str().expect("an error");
            assert!(error.contains("zone: UTC"), "{error}");
            assert!(error.contains(" Its newest value is 20"), "{error}");
            if of != "date" {
                assert!(error.contains(" Read as UTC"), "{error}");
                assert!(error.contains(": 100 rows"), "{error}");
                assert!(error.contains(shown), "{error}");
            }
        }
    }
}

#[test]
fn with_its_zone_a_column_is_read_as_it_was_written() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute("ALTER ROLE app SET timezone = 'America/New_York'")
        .unwrap();
    for of in ["timestamp", "date"] {
        add_live_tokens(&postgres, of);
        let mut app = postgres.client_as("app").unwrap();
        app.batch_execute(
            "INSERT INTO t (at) SELECT now() - interval '2 days' FROM generate_series(1, 7);
             INSERT INTO t (at) VALUES ('-infinity'), ('infinity'), (null), ('0001-01-01')",
        )
        .unwrap();
        let report = report(&postgres, ", zone: America/New_York");
        assert_eq!(
            (&report["outcome"], &report["rows"]),
            (&Value::from("done"), &Value::from(7)),
            "{of}: {report}"
        );
        assert_eq!(rows(&postgres), 104, "{of}");
    }
}

#[test]
fn a_date_lasts_until_its_end() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at date); GRANT ALL ON t TO levee;
             INSERT INTO t SELECT i, (now() AT TIME ZONE 'Asia/Tokyo')::date + i FROM generate_series(-2, 1) i",
        )
        .unwrap();
    let report = report(&postgres, ", zone: Asia/Tokyo");
    assert_eq!(report["rows"], 2, "{report}");
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM t WHERE k >= 0")
            .unwrap(),
        2
    );
}

#[test]
fn a_zone_must_be_one_that_the_database_knows_and_no_abbreviation() {
    let postgres = Postgres::with_tables().unwrap();
    add_live_tokens(&postgres, "timestamp");
    for (zone, part) in [
        ("Europe/Nowhere", "knows no zone Europe/Nowhere"),
        ("UTC+5", "knows no zone UTC+5"),
        ("CET", "is an abbreviation"),
    ] {
        let report = report(&postgres, &format!(", zone: '{zone}'"));
        let error = report["error"].to_string();
        assert!(error.contains(part), "{zone}: {error}");
    }
    assert_eq!(rows(&postgres), 100);
}

#[test]
fn a_preset_on_a_table_that_differs_is_refused_and_runs_with_a_zone() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "ALTER TABLE email_verification_tokens ALTER expires_at TYPE timestamp;
             INSERT INTO email_verification_tokens (expires_at) VALUES (now() AT TIME ZONE 'UTC' - interval '1 h')",
        )
        .unwrap();
    for (keys, outcome) in [("", "failed"), (", zone: UTC", "done")] {
        let keys =
            format!("jobs: {{auth_cleanup: {{preset: expired_tokens, scheduled: false{keys}}}}}");
        let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
        let (_, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
        assert_eq!(report["outcome"], outcome, "{report}");
    }
}

#[test]
fn whole_numbers_need_their_unit_and_zero_is_no_time() {
    let postgres = Postgres::with_tables().unwrap();
    for (unit, factor, of) in [
        ("seconds", 1, "bigint"),
        ("milliseconds", 1000, "bigint"),
        ("seconds", 1, "int"),
    ] {
        postgres
            .execute(&format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (k int PRIMARY KEY, at {of}); GRANT ALL ON t TO levee;
                 INSERT INTO t SELECT i, (extract(epoch FROM now()) + i) * {factor} FROM generate_series(-50, 100) i
                   WHERE abs(i) > 30; INSERT INTO t VALUES (1, 0), (2, -1), (3, null)"
            ))
            .unwrap();
        let refused = report(&postgres, "");
        let error = refused["error"].to_string();
        assert!(
            error.contains("unit: seconds or unit: milliseconds"),
            "{error}"
        );
        assert!(
            error.contains(&format!("Read as {unit}: 20 rows")),
            "{error}"
        );
        let done = report(&postgres, &format!(", unit: {unit}"));
        assert_eq!(done["rows"], 20, "{done}");
        assert_eq!(rows(&postgres), 73, "{unit} {of}");
        if factor == 1 {
            let refused = report(&postgres, ", unit: milliseconds");
            let error = refused["error"].to_string();
            assert!(error.contains("is it unit: seconds?"), "{error}");
            assert_eq!(rows(&postgres), 73);
        }
    }
}

#[test]
fn a_column_of_another_type_is_refused_with_what_it_must_be() {
    let postgres = Postgres::with_tables().unwrap();
    for of in ["text", "time", "interval", "numeric", "jsonb"] {
        postgres
            .execute(&format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (k int PRIMARY KEY, at {of}); GRANT ALL ON t TO levee"
            ))
            .unwrap();
        let report = report(&postgres, ", zone: UTC, unit: seconds");
        let error = report["error"].to_string();
        assert!(error.contains("which holds no time"), "{of}: {error}");
    }
}

#[test]
fn a_table_that_is_there_twice_must_be_named_with_its_schema() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE SCHEMA tenant; CREATE TABLE tenant.t (k int PRIMARY KEY, at timestamptz);
             GRANT ALL ON SCHEMA tenant TO levee; GRANT ALL ON tenant.t TO levee; INSERT INTO tenant.t VALUES (1, '2020-01-01')",
        )
        .unwrap();
    let elsewhere = report(&postgres, "");
    let error = elsewhere["error"].to_string();
    assert!(error.contains("schema: tenant"), "{error}");
    add_live_tokens(&postgres, "timestamptz");
    let twice = report(&postgres, "");
    let error = twice["error"].to_string();
    assert!(error.contains("public, tenant"), "{error}");
    let done = report(&postgres, ", schema: tenant");
    assert_eq!(done["rows"], 1, "{done}");
    assert_eq!(rows(&postgres), 100);
}

#[test]
fn rows_of_heirs_are_left_alone_and_those_of_partitions_are_not() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz); CREATE TABLE archive () INHERITS (t);
             INSERT INTO t SELECT i, '2020-01-01' FROM generate_series(1, 10) i;
             INSERT INTO archive SELECT * FROM t; GRANT ALL ON t, archive TO levee",
        )
        .unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", &job("")).unwrap();
    assert_eq!(run(&sidecar)["rows"], 10);
    assert_eq!(postgres.number("SELECT count(*) FROM archive").unwrap(), 10);
    sidecar
        .wait_for("it to be said", |sidecar| {
            sidecar.get("/v1/jobs/own").unwrap().1.contains("archive")
        })
        .unwrap();
    postgres
        .execute(
            "DROP TABLE t CASCADE; CREATE TABLE t (k int, at timestamptz, PRIMARY KEY (k, at)) PARTITION BY RANGE (at);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
             CREATE TABLE t2 PARTITION OF t DEFAULT;
             INSERT INTO t SELECT i % 2, '2020-12-31'::timestamptz + i * interval '1 h' FROM generate_series(1, 100) i;
             INSERT INTO t VALUES (1, now() + interval '1 h'); GRANT ALL ON t TO levee",
        )
        .unwrap();
    // By one column of its key alone, a row would not be told from others.
    let refused = report(&postgres, "");
    let error = refused["error"].to_string();
    assert!(error.contains("give one of its keys: [k, at]"), "{error}");
    let keys = job(", batch: 7").replace("key: k", "key: [k, at]");
    let report = run(&Sidecar::at(&postgres, "levee", &keys).unwrap());
    assert_eq!(report["rows"], 100, "{report}");
    assert_eq!(rows(&postgres), 1);
}

#[test]
fn a_view_or_a_table_without_a_key_is_refused() {
    let postgres = Postgres::with_tables().unwrap();
    for (table, part) in [
        ("VIEW t AS SELECT 1 AS k, now() AS at", "is a view"),
        (
            "MATERIALIZED VIEW t AS SELECT 1 AS k, now() AS at",
            "is a view",
        ),
        ("TABLE t (k int, at timestamptz)", "has no such key"),
    ] {
        postgres.execute(&format!("CREATE {table}")).unwrap();
        postgres.execute("GRANT ALL ON t TO levee").unwrap();
        let report = report(&postgres, "");
        let error = report["error"].to_string();
        assert!(error.contains(part), "{error}");
        let kind = table.split(" t ").next().expect("the kind");
        postgres.execute(&format!("DROP {kind} t")).unwrap();
    }
}

#[test]
fn a_dry_run_shows_the_oldest_and_the_newest_row_that_it_would_take() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz); GRANT ALL ON t TO levee;
             INSERT INTO t SELECT i, now() - i * interval '1 h' - interval '5 s' FROM generate_series(-5, 48) i",
        )
        .unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", &job("")).unwrap();
    let (_, report) = sidecar.post("/v1/jobs/own/run?dry_run=true").unwrap();
    assert_eq!(report["rows"], 49, "{report}");
    assert_eq!(report["oldest"]["key"], "48", "{report}");
    assert_eq!(report["newest"]["key"], "0", "{report}");
    let age = |row: &str| report[row]["age"].as_str().expect("an age").to_owned();
    assert!(age("oldest").starts_with("2 days"), "{report}");
    assert!(!age("newest").contains("hour"), "{report}");
    sidecar.wait_for_log("from row 48 (").unwrap();
}

#[test]
fn what_else_a_job_would_take_is_said_at_the_start() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz);
             CREATE TABLE letters (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE);
             ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT ALL ON t, letters TO levee",
        )
        .unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", &job("")).unwrap();
    for part in ["ON DELETE CASCADE", "row level security"] {
        sidecar.wait_for_log(part).unwrap();
    }
}

#[test]
fn a_wrong_unit_takes_no_row_that_is_alive_whatever_else_is_in_the_column() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k serial PRIMARY KEY, at bigint); GRANT ALL ON t TO levee;
             INSERT INTO t (at) SELECT extract(epoch FROM now()) + 3600 FROM generate_series(1, 100);
             INSERT INTO t (at) VALUES (9223372036854775807)",
        )
        .unwrap();
    let report = report(&postgres, ", unit: milliseconds");
    assert_eq!(report["rows"], 0, "{report}");
    assert_eq!(rows(&postgres), 101);
    // The other way round, one row of another unit keeps no job from its work.
    postgres
        .execute(
            "UPDATE t SET at = at * 1000 WHERE at < 9e15; UPDATE t SET at = at - 7200000 WHERE k <= 10;
             INSERT INTO t (at) VALUES (9)",
        )
        .unwrap();
    let report = self::report(&postgres, ", unit: milliseconds");
    assert_eq!(report["rows"], 10, "{report}");
    let small = "jobs: {own: {table: calls, key: call_id, where: {column: duration, before: 0s}, unit: milliseconds, \
                 action: delete, scheduled: false}}";
    let report = run(&Sidecar::at(&postgres, "levee", small).unwrap());
    assert!(
        report["error"].to_string().contains("too small"),
        "{report}"
    );
}

#[test]
fn rows_of_an_heir_that_is_made_during_a_run_are_left_alone() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz); GRANT ALL ON t TO levee;
             INSERT INTO t SELECT i, '2020-01-01' FROM generate_series(1, 600) i",
        )
        .unwrap();
    let keys = job(", batch: 10").replace("pause: 0s", "pause: 20ms");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    assert_eq!(sidecar.post("/v1/jobs/own/run?wait=0s").unwrap().0, 202);
    sidecar
        .wait_for_metric("job_rows_total{job=\"own\"}", |rows| rows > 0)
        .unwrap();
    postgres
        .execute(
            "CREATE TABLE heir () INHERITS (t); INSERT INTO heir SELECT i, '2020-01-01' FROM generate_series(1, 100) i;
             GRANT ALL ON heir TO levee",
        )
        .unwrap();
    sidecar
        .wait_for_metric("job_runs_total{job=\"own\",outcome=\"done\"}", |runs| {
            runs == 1
        })
        .unwrap();
    assert_eq!(postgres.number("SELECT count(*) FROM heir").unwrap(), 100);
    assert_eq!(rows(&postgres), 100);
}

#[test]
fn no_schema_can_change_what_the_statements_mean() {
    let postgres = Postgres::with_tables().unwrap();
    add_live_tokens(&postgres, "timestamptz");
    postgres
        .execute(
            "CREATE SCHEMA tricks; GRANT USAGE ON SCHEMA tricks TO PUBLIC;
             CREATE FUNCTION tricks.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT pg_catalog.now() + interval '1 year'$$;
             CREATE FUNCTION tricks.always(timestamptz, timestamptz) RETURNS bool LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR tricks.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = tricks.always);
             ALTER DATABASE app SET search_path = tricks, public, pg_catalog;
             ALTER DATABASE app SET quote_all_identifiers = on",
        )
        .unwrap();
    let report = report(&postgres, "");
    assert_eq!(
        (&report["outcome"], &report["rows"]),
        (&Value::from("done"), &Value::from(0)),
        "{report}"
    );
    assert_eq!(rows(&postgres), 100);
}

#[test]
fn a_row_does_not_take_others_of_its_table_with_it() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz, parent int REFERENCES t ON DELETE CASCADE);
             GRANT ALL ON t TO levee; INSERT INTO t VALUES (1, '2020-01-01', null), (2, now() + interval '1 h', 1)",
        )
        .unwrap();
    let report = report(&postgres, "");
    assert!(
        report["error"].to_string().contains("NO ACTION"),
        "{report}"
    );
    assert_eq!(rows(&postgres), 2);
}

#[test]
fn times_of_day_and_moving_words_are_not_guessed_at() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz, clock time, day date, during tstzrange);
             GRANT ALL ON t TO levee",
        )
        .unwrap();
    for (keys, part) in [
        (
            "where: {column: at, before: 0s}, action: set, set: {clock: {ago: 0s}, day: '2026-01-01'}",
            "holds no time",
        ),
        (
            "where: {column: day, in: ['2026-01-01', yesterday]}, action: delete",
            "another time at each batch",
        ),
        (
            "where: {column: at, before: 0s}, action: set, set: {during: '[now,)'}",
            "another time at each batch",
        ),
    ] {
        let keys = format!("jobs: {{own: {{table: t, key: k, {keys}, scheduled: false}}}}");
        let report = run(&Sidecar::at(&postgres, "levee", &keys).unwrap());
        assert!(report["error"].to_string().contains(part), "{report}");
    }
}

/// Exit code and standard output of `levee check --database`, for the job with these keys.
fn check(postgres: &Postgres, more: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("levee.yaml");
    let keys = job(more);
    fs::write(
        &file,
        format!("database:\n  url_env: DATABASE_URL\n  {keys}\n"),
    )
    .unwrap();
    let output = Command::new(levee().unwrap())
        .args(["check", "--database", "--config"])
        .arg(&file)
        .env("DATABASE_URL", postgres.url_of("levee"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_check_at_the_database_says_before_a_run_what_would_be_refused() {
    let mut postgres = Postgres::with_tables().unwrap();
    add_live_tokens(&postgres, "timestamp");
    let (code, text) = check(&postgres, "");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("levee.yaml:3: database.jobs.own: "), "{text}");
    assert!(text.contains("zone: UTC"), "{text}");
    let (code, text) = check(&postgres, ", zone: UTC");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("valid"), "{text}");
    postgres.stop().unwrap();
    let (code, text) = check(&postgres, "");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("can't be checked at its database"), "{text}");
}
