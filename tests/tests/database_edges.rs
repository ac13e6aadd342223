//! Unusual databases: odd tables, odd times, replicas, passwords, and a database that is unreachable.
#![allow(missing_docs)]

use std::thread;
use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::{Config, Sidecar, Start};
use levee_harness::wait::GENEROUS;
use serde_json::Value;

const AUTH: &str = "jobs: {auth_cleanup: {preset: expired_tokens, pause: 0s, scheduled: false}}";

/// Runs the job `own` to its end, and returns its report.
fn run_own(sidecar: &Sidecar) -> (u16, Value) {
    sidecar.post("/v1/jobs/own/run?wait=1m").unwrap()
}

#[test]
fn a_database_that_is_down_at_the_start_keeps_nothing_else_from_starting() {
    let mut postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(10, 0).unwrap();
    postgres.stop().unwrap();
    let keys =
        format!("{AUTH}\nwatchdog: {{roles: [app], every: 100ms, classes: {{query: 300ms}}}}");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    assert_eq!(sidecar.get("/readyz").unwrap().0, 200);
    sidecar
        .wait_for("it to be said", |sidecar| {
            sidecar
                .log()
                .contains("could not be checked: the database can't be reached")
                && sidecar
                    .get("/v1/watchdog")
                    .unwrap()
                    .1
                    .contains("can't be reached")
        })
        .unwrap();
    postgres.start_again().unwrap();
    let (status, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
    assert_eq!(
        (status, &report["rows"]),
        (200, &Value::from(10)),
        "{report}"
    );
    let hangs = postgres
        .client_as("app")
        .unwrap()
        .batch_execute("SELECT pg_sleep(60)");
    assert!(hangs.is_err(), "it is watched");
}

#[test]
fn a_database_that_goes_down_is_seen_without_a_request() {
    let mut postgres = Postgres::with_tables().unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", "").unwrap();
    let becomes = |state: &str, required: u16| {
        let wanted = format!("\"database\":\"{state}\"");
        sidecar
            .wait_for(&wanted, |sidecar| {
                let (status, body) = sidecar.get("/readyz").unwrap();
                status == 200 && body.contains(&wanted)
            })
            .unwrap();
        let required_now = sidecar.get("/readyz?require=database").unwrap().0;
        assert_eq!(required_now, required, "{state}");
    };
    becomes("ready", 200);
    postgres.stop().unwrap();
    becomes("down", 503);
    assert_eq!(
        sidecar.metric("levee_part_up{part=\"database\"}").unwrap(),
        0
    );
    postgres.start_again().unwrap();
    becomes("ready", 200);
}

#[test]
fn a_job_that_can_not_work_is_down_for_readyz_and_for_the_metric() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = "jobs: {own: {table: t, key: k, where: {column: at, before: 0s}, action: delete, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let becomes = |state: &str, up: u64| {
        let wanted = format!("\"job/own\":\"{state}\"");
        sidecar
            .wait_for(&wanted, |sidecar| {
                sidecar.get("/readyz").unwrap().1.contains(&wanted)
            })
            .unwrap();
        let metric = "levee_part_up{part=\"job/own\"}";
        assert_eq!(sidecar.metric(metric).unwrap(), up, "{state}");
    };
    becomes("down", 0);
    postgres
        .execute("CREATE TABLE t (k int PRIMARY KEY, at timestamptz); GRANT ALL ON t TO levee")
        .unwrap();
    assert_eq!(run_own(&sidecar).0, 200);
    becomes("ready", 1);
}

#[test]
fn a_database_without_connections_left_is_said_to_be_so() {
    let postgres =
        Postgres::start_with(&["max_connections=8", "superuser_reserved_connections=3"]).unwrap();
    postgres.make_tables().unwrap();
    let all: Vec<_> = (0..5).map(|_| postgres.client_as("app").unwrap()).collect();
    let sidecar = Sidecar::at(&postgres, "levee", AUTH).unwrap();
    sidecar
        .wait_for("it to be said", |sidecar| {
            sidecar
                .log()
                .contains("could not be checked: the database can't be reached")
                && sidecar.log().contains("connections left (max_connections)")
        })
        .unwrap();
    drop(all);
    let (status, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
    assert_eq!((status, &report["outcome"]), (200, &Value::from("done")));
}

#[test]
fn keys_of_all_types_and_parts_of_tables_are_cleaned_up() {
    let postgres = Postgres::with_tables().unwrap();
    for (key, value) in [
        ("bigint", "i"),
        ("text", "'k' || i"),
        ("uuid", "gen_random_uuid()"),
        ("timestamptz", "now() + i * interval '1 s'"),
        ("bytea", "decode(to_hex(1000000 + i), 'escape')"),
    ] {
        for parts in ["", "PARTITION BY HASH (k)"] {
            postgres.execute(&format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (k {key} PRIMARY KEY, at timestamptz, day date \
                 GENERATED ALWAYS AS ((at AT TIME ZONE 'UTC')::date) STORED) {parts}"
            )).unwrap();
            if !parts.is_empty() {
                postgres
                    .execute(
                        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                     CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                    )
                    .unwrap();
            }
            postgres.execute(&format!(
                "INSERT INTO t SELECT {value}, now() + (i - 51 + 0.1 * sign(i - 50.5)) * interval '1 day' FROM generate_series(1, 100) i;
                 GRANT ALL ON t TO levee"
            )).unwrap();
            let keys = "jobs: {own: {table: t, key: k, where: [{column: at, before: 0s}, {column: day, before: 0s}], \
                        zone: UTC, action: delete, batch: 7, pause: 0s, scheduled: false}}";
            let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
            let (status, report) = run_own(&sidecar);
            assert_eq!(
                (status, &report["rows"], &report["batches"]),
                (200, &Value::from(50), &Value::from(8)),
                "{key} {parts}: {report}"
            );
            assert_eq!(
                postgres
                    .number("SELECT count(*) FROM t WHERE at > now()")
                    .unwrap(),
                50
            );
        }
    }
}

#[test]
fn rows_can_be_ordered_by_a_column_of_any_type_and_by_one_that_is_null() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE TYPE mood AS ENUM ('b', 'a', 'c'); CREATE DOMAIN small AS int CHECK (VALUE < 1000)",
    ).unwrap();
    for (column, value) in [
        ("int", "NULLIF(i % 3, 0)"),
        ("small", "i"),
        ("mood", "(ARRAY['b', 'a', 'c'])[1 + i % 3]::mood"),
        ("bool", "i % 2 = 0"),
        ("uuid", "gen_random_uuid()"),
        ("name", "('n' || i)::name"),
        ("\"char\"", "(ARRAY['x', 'y'])[1 + i % 2]::\"char\""),
        ("bpchar(8)", "'a' || i"),
        (
            "double precision",
            "CASE WHEN i % 5 = 0 THEN 'NaN' ELSE i / 3.0 END",
        ),
        ("interval", "i * interval '1 month 1.5 s'"),
        (
            "timestamp",
            "CASE WHEN i % 5 = 0 THEN '-infinity' ELSE now() + i * interval '1 us' END",
        ),
        ("jsonb", "jsonb_build_object('i', i)"),
        ("int[]", "ARRAY[i, NULL]"),
    ] {
        goes_by(&postgres, column, value);
    }
}

#[test]
fn rows_can_be_ordered_by_text_whose_collation_takes_two_cases_for_equal() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
    ).unwrap();
    goes_by(
        &postgres,
        "text COLLATE blind",
        "CASE i % 2 WHEN 0 THEN 'A' ELSE 'a' END || i",
    );
}

/// A job ordered by the column `o` of this type, with `value` in row `i`, deletes all expired rows.
fn goes_by(postgres: &Postgres, column: &str, value: &str) {
    postgres.execute(&format!(
        "DROP TABLE IF EXISTS t; CREATE TABLE t (k int PRIMARY KEY, at timestamptz, o {column});
         INSERT INTO t SELECT i, now() + (i - 50.5) * interval '1 day', {value} FROM generate_series(1, 100) i;
         GRANT ALL ON t TO levee"
    )).unwrap();
    let keys = "jobs: {own: {table: t, key: k, where: {column: at, before: 0s}, order: o, action: delete, \
                batch: 7, pause: 0s, scheduled: false}}";
    let sidecar = Sidecar::at(postgres, "levee", keys).unwrap();
    let (_, report) = run_own(&sidecar);
    assert_eq!(
        (&report["outcome"], &report["rows"]),
        (&Value::from("done"), &Value::from(50)),
        "{column}: {report}"
    );
}

#[test]
fn a_key_that_may_be_null_or_is_one_of_several_columns_is_refused() {
    let postgres = Postgres::with_tables().unwrap();
    for table in [
        "CREATE TABLE t (k int UNIQUE, at timestamptz)",
        "CREATE TABLE t (k int, j int, at timestamptz, PRIMARY KEY (k, j))",
    ] {
        postgres
            .execute(&format!(
                "DROP TABLE IF EXISTS t; {table}; GRANT ALL ON t TO levee"
            ))
            .unwrap();
        let keys = "jobs: {own: {table: t, key: k, where: {column: at, before: 0s}, action: delete, scheduled: false}}";
        let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
        let (status, report) = run_own(&sidecar);
        assert_eq!(status, 500, "{table}: {report}");
        assert!(report["error"].to_string().contains("unique"), "{report}");
    }
}

#[test]
fn a_time_that_is_another_at_each_look_is_refused() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE DOMAIN moment AS timestamptz;
         CREATE TABLE t (k int PRIMARY KEY, at timestamptz, seen moment, due text); GRANT ALL ON t TO levee;
         INSERT INTO t SELECT i, '2020-01-01' FROM generate_series(1, 100) i",
    ).unwrap();
    let job = |set: &str| {
        format!(
            "{{table: t, key: k, where: {{column: at, before: 0s}}, action: set, set: {set}, batch: 10, max_rows: 1000, \
             pause: 0s, scheduled: false}}"
        )
    };
    let keys = format!(
        "jobs:\n  own: {}\n  word: {}",
        job("{due: a, seen: ' Now'}"),
        job("{due: now}")
    );
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    let (status, report) = run_own(&sidecar);
    assert_eq!(
        (status, &report["rows"]),
        (500, &Value::from(0)),
        "{report}"
    );
    assert!(
        report["error"].to_string().contains("{ago: 0s}"),
        "{report}"
    );
    let (_, report) = sidecar.post("/v1/jobs/word/run?wait=1m").unwrap();
    assert_eq!(
        (&report["outcome"], &report["rows"]),
        (&Value::from("done"), &Value::from(100)),
        "{report}"
    );
}

#[test]
fn jobs_of_one_name_at_two_tables_do_not_wait_for_each_other() {
    let postgres = Postgres::with_tables().unwrap();
    let sidecars: Vec<Sidecar> = ["a", "b"]
        .map(|table| {
            postgres.execute(&format!(
                "CREATE TABLE {table} (k int PRIMARY KEY, at timestamptz); GRANT ALL ON {table} TO levee;
                 INSERT INTO {table} SELECT i, '2020-01-01' FROM generate_series(1, 100) i"
            )).unwrap();
            let keys = format!(
                "jobs: {{own: {{table: {table}, key: k, where: {{column: at, before: 0s}}, action: delete, batch: 10, \
                 pause: 100ms, scheduled: false}}}}"
            );
            Sidecar::at(&postgres, "levee", &keys).unwrap()
        })
        .into();
    thread::scope(|scope| {
        let runs: Vec<_> = sidecars
            .iter()
            .map(|sidecar| scope.spawn(|| run_own(sidecar).1))
            .collect();
        for run in runs {
            let report = run.join().expect("a report");
            assert_eq!(
                (&report["outcome"], &report["rows"]),
                (&Value::from("done"), &Value::from(100)),
                "{report}"
            );
        }
    });
}

#[test]
fn rows_that_others_hide_or_keep_end_the_run() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE TABLE hidden (k int PRIMARY KEY, at timestamptz, owner text); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON hidden USING (owner = 'levee');
         CREATE TABLE kept (k int PRIMARY KEY, at timestamptz, gone bool);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN UPDATE kept SET gone = true WHERE k = OLD.k; RETURN NULL; END';
         CREATE TRIGGER keep BEFORE DELETE ON kept FOR EACH ROW EXECUTE FUNCTION keep();
         CREATE TABLE few (k int PRIMARY KEY, at timestamptz);
         CREATE FUNCTION keep_few() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN IF OLD.k <= 25 THEN RETURN NULL; END IF; RETURN OLD; END';
         CREATE TRIGGER keep BEFORE DELETE ON few FOR EACH ROW EXECUTE FUNCTION keep_few();
         INSERT INTO few SELECT i, '2020-01-01'::timestamptz + i * interval '1 s' FROM generate_series(1, 100) i;
         CREATE TABLE by_number (LIKE few INCLUDING ALL); INSERT INTO by_number SELECT * FROM few;
         CREATE TRIGGER keep BEFORE DELETE ON by_number FOR EACH ROW EXECUTE FUNCTION keep_few();
         INSERT INTO hidden SELECT i, '2020-01-01', CASE WHEN i > 90 THEN 'levee' ELSE 'other' END FROM generate_series(1, 100) i;
         INSERT INTO kept SELECT i, '2020-01-01', false FROM generate_series(1, 100) i;
         GRANT ALL ON hidden, kept, few, by_number TO levee",
    ).unwrap();
    let job = |table, order| {
        format!(
            "\n  {table}: {{table: {table}, key: k, order: {order}, where: {{column: at, before: 0s}}, action: delete, batch: 10, pause: 0s, scheduled: false}}"
        )
    };
    let keys = [
        job("hidden", "at"),
        job("kept", "at"),
        job("few", "at"),
        // 9 comes before 18, unlike in text.
        job("by_number", "k"),
    ]
    .concat();
    let keys = format!("jobs:{keys}");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    for (table, rows) in [("hidden", 10), ("kept", 0), ("few", 75), ("by_number", 75)] {
        let (_, report) = sidecar
            .post(&format!("/v1/jobs/{table}/run?wait=1m"))
            .unwrap();
        assert_eq!(
            (&report["outcome"], &report["rows"]),
            (&Value::from("done"), &Value::from(rows)),
            "{table}: {report}"
        );
    }
    assert_eq!(postgres.number("SELECT count(*) FROM hidden").unwrap(), 90);
}

#[test]
fn values_are_compared_as_the_column_holds_them() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE DOMAIN short AS varchar(3); CREATE DOMAIN code AS short; CREATE DOMAIN price AS numeric(10,2);
         CREATE TABLE t (k int PRIMARY KEY, at timestamptz, n numeric(10,2), p price, s timestamptz(0), c char(5), code code);
         INSERT INTO t SELECT i, '2020-01-01', i, i, now(), 'a', 'act' FROM generate_series(1, 10) i; GRANT ALL ON t TO levee",
    ).unwrap();
    let keys = "jobs:
  own: {table: t, key: k, where: {column: at, before: 0s}, action: set, max_rows: 50, pause: 0s, batch: 10, scheduled: false,
        set: {n: 7, p: 7.5, s: '2020-01-01 00:00:00.5Z', c: b}}
  code: {table: t, key: k, where: {column: code, in: [active]}, action: delete, scheduled: false}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    for rows in [10, 0] {
        let (_, report) = run_own(&sidecar);
        assert_eq!(
            (&report["outcome"], &report["rows"]),
            (&Value::from("done"), &Value::from(rows)),
            "{report}"
        );
    }
    // Cast to a domain it would be cut to "act".
    let (status, report) = sidecar.post("/v1/jobs/code/run?wait=1m").unwrap();
    assert_eq!(
        (status, &report["rows"]),
        (200, &Value::from(0)),
        "{report}"
    );
}

#[test]
fn times_without_a_zone_are_read_and_written_in_the_jobs_zone() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "ALTER DATABASE app SET timezone = 'America/New_York'; ALTER ROLE levee SET timezone = 'Asia/Tokyo';
         CREATE TABLE t (k text PRIMARY KEY, at timestamp, ended timestamp, duration int); GRANT ALL ON t TO levee;
         INSERT INTO t VALUES ('past', (now() AT TIME ZONE 'UTC') - interval '1 minute'),
           ('future', (now() AT TIME ZONE 'UTC') + interval '1 minute')",
    ).unwrap();
    let keys = "jobs: {own: {table: t, key: k, where: {column: at, before: 0s}, zone: UTC, action: set, \
                set: {ended: {ago: 0s}, duration: {seconds_since: at}, k: done}, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let (_, report) = run_own(&sidecar);
    assert_eq!(report["rows"], 1, "{report}");
    let right = "SELECT count(*) FROM t WHERE k = 'done' AND duration BETWEEN 60 AND 90 \
                 AND ended BETWEEN (now() AT TIME ZONE 'UTC') - interval '30 s' AND now() AT TIME ZONE 'UTC'";
    assert_eq!(postgres.number(right).unwrap(), 1);
}

#[test]
fn a_table_that_is_named_with_its_schema_is_told_how_to_be() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = "jobs: {own: {table: public.calls, key: call_id, where: {column: started_at, before: 0s}, action: delete, \
                scheduled: false}}";
    let (_, report) = run_own(&Sidecar::at(&postgres, "levee", keys).unwrap());
    let error = report["error"].to_string();
    assert!(error.contains("under schema"), "{error}");
}

#[test]
fn a_table_that_a_migration_has_locked_is_waited_for_briefly_and_asked_again() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(10, 0).unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", AUTH).unwrap();
    let mut migration = postgres.client().unwrap();
    let mut transaction = migration.transaction().expect("a transaction");
    transaction
        .batch_execute("LOCK TABLE email_verification_tokens")
        .expect("a lock");
    assert_eq!(sidecar.post("/v1/auth/cleanup?wait=0s").unwrap().0, 202);
    sidecar.wait_for_log("SQLSTATE 55P03").unwrap();
    transaction.rollback().expect("an end");
    sidecar
        .wait_for_metric(
            "job_runs_total{job=\"auth_cleanup\",outcome=\"done\"}",
            |value| value == 1,
        )
        .unwrap();
    assert_eq!(postgres.expired_tokens().unwrap(), 0);
}

#[test]
fn a_replica_that_is_behind_is_waited_for_and_at_a_replica_rows_are_only_counted() {
    let postgres = Postgres::with_tables().unwrap();
    // It lags by this much at each commit, and reports it each second.
    let replica = postgres
        .start_replica(&[
            "recovery_min_apply_delay=4s",
            "wal_receiver_status_interval=1s",
        ])
        .unwrap();
    let keys =
        "jobs: {auth_cleanup: {preset: expired_tokens, max_lag: 1s, pause: 0s, scheduled: false}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    postgres.add_tokens(10, 0).unwrap();
    let waited = Stopwatch::start();
    let lag = "SELECT count(*) FROM pg_stat_replication WHERE replay_lag > interval '1 s'";
    while postgres.number(lag).unwrap() == 0 {
        assert!(waited.elapsed() < GENEROUS, "the replica is never behind");
        postgres
            .execute("SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS t ()")
            .unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(sidecar.post("/v1/auth/cleanup?wait=0s").unwrap().0, 202);
    sidecar.wait_for_log("waits for replicas").unwrap();
    assert_eq!(postgres.expired_tokens().unwrap(), 10);
    sidecar
        .wait_for_metric(
            "job_runs_total{job=\"auth_cleanup\",outcome=\"done\"}",
            |value| value == 1,
        )
        .unwrap();
    assert_eq!(postgres.expired_tokens().unwrap(), 0);

    postgres.add_tokens(20, 0).unwrap();
    let at_replica = Sidecar::at(&replica, "levee", AUTH).unwrap();
    let waited = Stopwatch::start();
    while replica.expired_tokens().unwrap() != 20 {
        assert!(waited.elapsed() < GENEROUS, "the replica never sees them");
        thread::sleep(Duration::from_millis(100));
    }
    let (status, report) = at_replica.post("/v1/auth/cleanup?dry_run=true").unwrap();
    assert_eq!(
        (status, &report["rows"]),
        (200, &Value::from(20)),
        "{report}"
    );
    let (status, report) = at_replica.post("/v1/auth/cleanup?wait=1m").unwrap();
    assert_eq!(status, 500);
    assert!(
        report["error"].to_string().contains("is this a replica?"),
        "{report}"
    );
}

#[test]
fn a_password_with_odd_characters_is_read_and_never_shown() {
    let postgres = Postgres::with_tables().unwrap();
    // Before PostgreSQL 14, passwords are hashed with MD5 by default.
    postgres
        .execute(
            "SET password_encryption = 'scram-sha-256'; ALTER ROLE levee PASSWORD 'p@s:s/w?o#r%d'",
        )
        .unwrap();
    postgres
        .let_in("host all postgres 127.0.0.1/32 trust\nhost all levee 127.0.0.1/32 scram-sha-256\n")
        .unwrap();
    let keys = format!("{AUTH}\nwatchdog: {{roles: [app], every: 100ms}}");
    for (password, status) in [("p%40s%3As%2Fw%3Fo%23r%25d", 200), ("p%40s%3As%2Fw", 500)] {
        let url = postgres
            .url_of("levee")
            .replace("levee@", &format!("levee:{password}@"));
        let config = Config::new("").database(&url, &keys);
        let sidecar = Sidecar::start_with(&config, &Start::default()).unwrap();
        let (seen, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
        assert_eq!(seen, status, "{report}");
        if status == 500 {
            assert!(report["error"].to_string().contains("28P01"), "{report}");
        }
        let said = [
            sidecar.log(),
            report.to_string(),
            sidecar.get("/v1/jobs").unwrap().1,
            sidecar.get("/v1/watchdog").unwrap().1,
            sidecar.get("/metrics").unwrap().1,
        ]
        .concat();
        for secret in ["p@s", "p%40s"] {
            assert!(!said.contains(secret), "{said}");
        }
    }
}
