//! Rows that a constraint or a trigger keeps: the others are handled, and these are named.

use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use serde_json::Value;

/// A job that deletes rows of `t` whose time `at` is over.
const DELETE: &str = "jobs: {own: {table: t, key: k, where: {column: at, before: 0s}, action: delete, batch: 100, pause: 0s, \
                      scheduled: false}}";

fn run(sidecar: &Sidecar) -> Value {
    sidecar.post("/v1/jobs/own/run?wait=1m").unwrap().1
}

/// A database with the table `t` of `rows` expired rows, and what `more` makes.
fn with_rows(rows: u32, more: &str) -> Postgres {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(&format!(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz NOT NULL);
             INSERT INTO t SELECT i, '2020-01-01'::timestamptz + i * interval '1 s' FROM generate_series(1, {rows}) i;
             {more}; GRANT ALL ON ALL TABLES IN SCHEMA public TO levee"
        ))
        .unwrap();
    postgres
}

/// The run came to its end, handled this many rows, and passed that many by.
#[track_caller]
fn assert_done(report: &Value, rows: u64, skipped: u64) {
    assert_eq!(
        (&report["outcome"], &report["rows"], &report["skipped"]),
        (
            &Value::from("done"),
            &Value::from(rows),
            &Value::from(skipped)
        ),
        "{report}"
    );
}

fn left(postgres: &Postgres) -> i64 {
    postgres.number("SELECT count(*) FROM t").unwrap()
}

#[test]
fn a_row_that_a_foreign_key_keeps_does_not_stop_the_others() {
    for deferred in ["", "DEFERRABLE INITIALLY DEFERRED"] {
        let postgres = with_rows(
            1000,
            &format!(
                "CREATE TABLE other (k int REFERENCES t {deferred}); INSERT INTO other VALUES (1), (777)"
            ),
        );
        let sidecar = Sidecar::at(&postgres, "levee", DELETE).unwrap();
        let report = run(&sidecar);
        println!("{deferred:?}");
        assert_done(&report, 998, 2);
        assert_eq!(left(&postgres), 2);
        let first = &report["skipped_rows"][0];
        assert_eq!(first["key"], "1", "{report}");
        assert!(first["error"].to_string().contains("23503"), "{report}");
        let skipped = sidecar
            .metric("job_rows_skipped_total{job=\"own\"}")
            .unwrap();
        assert_eq!(skipped, 2);
        for key in ["1", "777"] {
            let said = format!("row {key} can't be handled");
            sidecar.wait_for_log(&said).unwrap();
            assert_eq!(sidecar.log().matches(&said).count(), 1, "{key}");
        }
        // The next run comes by them again.
        let report = run(&sidecar);
        assert_done(&report, 0, 2);
    }
}

#[test]
fn rows_that_a_trigger_refuses_do_not_stop_the_others() {
    let postgres = with_rows(
        500,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN IF OLD.k % 50 = 7 THEN RAISE EXCEPTION ''not %'', OLD.k; END IF; RETURN OLD; END';
         CREATE TRIGGER refuse BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let sidecar = Sidecar::at(&postgres, "levee", DELETE).unwrap();
    let report = run(&sidecar);
    assert_done(&report, 490, 10);
    assert_eq!(left(&postgres), 10);
}

#[test]
fn rows_that_share_one_time_and_are_kept_silently_do_not_end_the_run() {
    let postgres = with_rows(
        0,
        "INSERT INTO t SELECT i, '2020-01-01' FROM generate_series(1, 350) i;
         INSERT INTO t SELECT i, '2020-01-02' FROM generate_series(351, 400) i;
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN IF OLD.k <= 300 THEN RETURN NULL; END IF; RETURN OLD; END';
         CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    let sidecar = Sidecar::at(&postgres, "levee", DELETE).unwrap();
    let report = run(&sidecar);
    assert_done(&report, 100, 300);
    assert_eq!(left(&postgres), 300);
}

#[test]
fn rows_that_a_check_refuses_to_change_are_passed_by_with_a_key_of_two_columns() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (a int, b text, at timestamptz, state text, PRIMARY KEY (a, b),
               CHECK (state <> 'ended' OR b <> 'x, \"y\"'));
             INSERT INTO t SELECT i, CASE WHEN i % 10 = 0 THEN 'x, \"y\"' ELSE 'z' END, '2020-01-01', 'active'
               FROM generate_series(1, 100) i; GRANT ALL ON t TO levee",
        )
        .unwrap();
    let keys = "jobs: {own: {table: t, key: [a, b], where: {column: at, before: 0s}, action: set, set: {state: ended}, \
                batch: 30, pause: 0s, scheduled: false}}";
    let report = run(&Sidecar::at(&postgres, "levee", keys).unwrap());
    assert_done(&report, 90, 10);
}

#[test]
fn a_row_that_its_service_prolongs_meanwhile_stays() {
    let postgres = with_rows(2000, "GRANT ALL ON t TO app");
    let sidecar = Sidecar::at(
        &postgres,
        "levee",
        &DELETE.replace("batch: 100", "batch: 10"),
    )
    .unwrap();
    assert_eq!(sidecar.post("/v1/jobs/own/run?wait=0s").unwrap().0, 202);
    let mut app = postgres.client_as("app").unwrap();
    let mut prolonged = Vec::new();
    for key in (1..=2000).rev().step_by(7) {
        let rows = app
            .execute(
                "UPDATE t SET at = now() + interval '1 h' WHERE k = $1",
                &[&key],
            )
            .unwrap();
        if rows == 1 {
            prolonged.push(key);
        }
    }
    sidecar
        .wait_for_metric("job_runs_total{job=\"own\",outcome=\"done\"}", |value| {
            value == 1
        })
        .unwrap();
    assert!(!prolonged.is_empty());
    assert_eq!(left(&postgres), i64::try_from(prolonged.len()).unwrap());
}

#[test]
fn rows_are_walked_in_the_order_of_numbers_and_not_of_their_texts() {
    for (first, last) in [(2, 10), (2_000, 10_000)] {
        let postgres = Postgres::with_tables().unwrap();
        postgres
            .execute(&format!(
                "CREATE TABLE t (k int PRIMARY KEY, at timestamptz);
                 INSERT INTO t SELECT i, '2020-01-01' FROM generate_series({first}, {last}) i;
                 CREATE TABLE other (k int REFERENCES t); INSERT INTO other VALUES ({first}), ({last});
                 GRANT ALL ON t, other TO levee"
            ))
            .unwrap();
        let keys = DELETE.replace("batch: 100", "order: k");
        let report = run(&Sidecar::at(&postgres, "levee", &keys).unwrap());
        assert_eq!(
            (&report["rows"], &report["skipped"]),
            (&Value::from(last - first - 1), &Value::from(2)),
            "{report}"
        );
    }
}

/// A trigger before the deletion of each row of `t`, whose body is this.
fn trigger(body: &str) -> String {
    format!(
        "CREATE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN OLD; END$$;
         CREATE TRIGGER hook BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION hook()"
    )
}

#[test]
fn many_rows_that_are_kept_at_the_front_starve_no_others() {
    let postgres = with_rows(
        2000,
        "CREATE TABLE other (k int REFERENCES t); CREATE INDEX ON t (at);
         INSERT INTO other SELECT generate_series(1, 1000); CREATE INDEX ON other (k)",
    );
    let keys = DELETE.replace("batch: 100, pause: 0s, ", "");
    let report = run(&Sidecar::at(&postgres, "levee", &keys).unwrap());
    assert_done(&report, 1000, 1000);
}

#[test]
fn a_row_is_passed_by_whatever_its_trigger_raises() {
    for code in ["22012", "45000", "0A000", "42501", "XX000", "MY001"] {
        let body =
            format!("IF OLD.k = 50 THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END IF;");
        let postgres = with_rows(100, &trigger(&body));
        let report = run(&Sidecar::at(&postgres, "levee", DELETE).unwrap());
        println!("{code}");
        assert_done(&report, 99, 1);
    }
}

#[test]
fn what_fails_for_every_row_is_a_failure_of_the_run() {
    for rows in [3, 300] {
        let postgres = with_rows(rows, &trigger("PERFORM 1 / 0;"));
        let report = run(&Sidecar::at(&postgres, "levee", DELETE).unwrap());
        assert_eq!(report["outcome"], "failed", "{report}");
        assert!(report["error"].to_string().contains("22012"), "{report}");
    }
}

#[test]
fn a_row_that_takes_too_long_or_is_locked_elsewhere_does_not_stop_the_others() {
    let slow = trigger("IF OLD.k = 12 THEN PERFORM pg_sleep(5); END IF;");
    let locked =
        "CREATE TABLE other (k int REFERENCES t ON DELETE CASCADE); INSERT INTO other VALUES (12)";
    for more in [slow.as_str(), locked] {
        let postgres = with_rows(200, more);
        let mut other = postgres.client().unwrap();
        let mut transaction = other.transaction().unwrap();
        if more == locked {
            transaction
                .batch_execute("SELECT 1 FROM other FOR UPDATE")
                .unwrap();
        }
        let keys = format!("statement_timeout: 700ms\n{DELETE}");
        let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
        let report = run(&sidecar);
        assert_done(&report, 199, 1);
        transaction.rollback().unwrap();
    }
}

#[test]
fn a_change_that_a_trigger_undoes_is_not_made_for_ever() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE TABLE t (k int PRIMARY KEY, at timestamptz, state text); GRANT ALL ON t TO levee;
             INSERT INTO t SELECT i, '2020-01-01', 'active' FROM generate_series(1, 100) i;
             CREATE FUNCTION lower_it() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN NEW.state = lower(NEW.state); RETURN NEW; END';
             CREATE TRIGGER lower_it BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION lower_it()",
        )
        .unwrap();
    let keys = "jobs: {own: {table: t, key: k, order: k, where: {column: at, before: 0s}, action: set, set: {state: Ended}, \
                batch: 10, pause: 0s, scheduled: false}}";
    let report = run(&Sidecar::at(&postgres, "levee", keys).unwrap());
    assert_eq!(report["outcome"], "done", "{report}");
    assert!(report["rows"].as_i64().unwrap() < 300, "{report}");
}

#[test]
fn what_a_trigger_says_is_shown_in_a_bounded_length() {
    let body = "RAISE EXCEPTION '%', repeat('x', 1000000);";
    let postgres = with_rows(20, &trigger(body));
    let sidecar = Sidecar::at(&postgres, "levee", DELETE).unwrap();
    let report = run(&sidecar);
    assert_eq!(report["skipped"], 20, "{report}");
    assert!(report.to_string().len() < 10_000);
    sidecar.wait_for_log("done: ").unwrap();
    assert!(sidecar.log().len() < 100_000);
}
