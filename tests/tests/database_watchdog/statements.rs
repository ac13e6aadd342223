//! Which statements it ends, and which it leaves alone.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use levee::clock::Clock;
use levee::config::Config;
use levee::database::activity::{Effect, Line};
use levee::database::load;
use levee::database::watchdog::{Act, Class};
use levee::jobs::others::{RECENT, Sessions};
use levee::parts::database;
use levee_harness::clock::Stopwatch;
use levee_harness::postgres::{Postgres, programs};
use levee_harness::process::{Process, Signal};
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;
use prometheus::Registry;
use serde_json::Value;

use super::{ask, timeouts};

const WATCHDOG: &str = "watchdog: {roles: [app], every: 1s, classes: {query: 1500ms, long_query: 4s}, \
                        idle_in_transaction: 1500ms, rules: [{application: reports, class: long_query}]}";

#[test]
fn a_statement_that_hangs_behind_a_lock_is_cancelled_on_time_and_counted() {
    let postgres = Postgres::with_tables().unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", WATCHDOG).unwrap();
    let mut holder = postgres.client().unwrap();
    let mut transaction = holder.transaction().expect("a transaction");
    transaction
        .batch_execute("LOCK TABLE calls")
        .expect("a lock");
    let mut service = postgres.client_as("app").unwrap();
    let (took, code) = ask(
        &mut service,
        "SELECT count(*) FROM calls WHERE call_type = 'secret'",
    );
    println!("{took:?}");
    assert_eq!(code, "57014");
    // The limit, with a margin for a busy machine.
    assert!(
        took >= Duration::from_millis(1450) && took < Duration::from_secs(4),
        "{took:?}"
    );
    transaction.rollback().expect("an end");
    assert_eq!(
        ask(&mut service, "SELECT count(*) FROM calls").1,
        "",
        "the connection is kept"
    );
    sidecar
        .wait_for("the count", |sidecar| timeouts(sidecar, "query") == 1)
        .unwrap();
    assert_eq!(timeouts(&sidecar, "long_query"), 0);
    sidecar.wait_for_log("cancelled: ").unwrap();
    let log = sidecar.log();
    let line = log
        .lines()
        .find(|line| line.contains("cancelled: "))
        .expect(&log);
    assert!(
        line.contains("SELECT count(*) FROM calls WHERE call_type = ?"),
        "{line}"
    );
    assert!(
        line.contains("\"role\":\"app\"") && !log.contains("secret"),
        "{line}"
    );
}

#[test]
fn the_class_is_that_of_the_application_or_of_a_comment() {
    let postgres = Postgres::with_tables().unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", WATCHDOG).unwrap();
    let mut service = postgres.client_as("app").unwrap();
    let statement = "SELECT pg_sleep(2.5) /* levee: long_query */";
    assert_eq!(ask(&mut service, statement).1, "");
    let statement =
        "SELECT pg_sleep(2.5) /* levee: long_query */ /*action='index',traceparent='00-5b-7a-01'*/";
    assert_eq!(ask(&mut service, statement).1, "");
    let mut reports = postgres.client_as("app").unwrap();
    reports
        .batch_execute("SET application_name = 'reports'")
        .expect("a setting");
    assert_eq!(ask(&mut reports, "SELECT pg_sleep(2.5)").1, "");
    let (took, code) = ask(&mut reports, "SELECT pg_sleep(60)");
    assert_eq!(code, "57014", "{took:?}");
    assert!(took >= Duration::from_millis(3950), "{took:?}");
    sidecar
        .wait_for("the count", |sidecar| timeouts(sidecar, "long_query") == 1)
        .unwrap();
    assert_eq!(timeouts(&sidecar, "query"), 0);
}

#[test]
fn no_text_in_a_statement_raises_its_limit_but_a_tag() {
    // So the server cuts texts at 199 bytes.
    let postgres = Postgres::start_with(&["track_activity_query_size=200"]).unwrap();
    postgres.make_tables().unwrap();
    let keys = "watchdog: {roles: [app], every: 100ms, classes: {query: 500ms, long_query: 1m}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let tag = "/* levee: long_query */";
    let begin = "SELECT pg_sleep(30), '";
    let fill = "x".repeat(199 - begin.len() - "' ".len() - tag.len());
    let forged = [
        format!("{begin}{fill}' {tag}, 1"),
        "SELECT pg_sleep(30) /*a='x,levee=long_query'*/".to_owned(),
        format!("SELECT pg_sleep(30) -- {tag}"),
        format!("SELECT pg_sleep(30), $a$ {tag}$a$"),
        format!(
            "ANALYZE {} calls; SELECT pg_sleep(30)",
            "calls, ".repeat(60)
        ),
    ];
    for statement in &forged {
        let (took, code) = ask(&mut postgres.client_as("app").unwrap(), statement);
        assert_eq!(code, "57014", "{statement}");
        assert!(took < Duration::from_secs(20), "{took:?} {statement}");
    }
    let real = format!("{tag} SELECT pg_sleep(1.5), '{fill}'");
    assert_eq!(ask(&mut postgres.client_as("app").unwrap(), &real).1, "");
    sidecar
        .wait_for("the count", |sidecar| {
            timeouts(sidecar, "query") == forged.len() as u64
        })
        .unwrap();
}

#[test]
fn no_service_takes_the_place_of_levee_by_its_application_name() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = "watchdog: {roles: [app, levee], every: 100ms, classes: {query: 300ms}}";
    let _sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    for (role, code) in [("app", "57014"), ("levee", "")] {
        let mut client = postgres.client_as(role).unwrap();
        client
            .batch_execute("SET application_name = 'levee'")
            .expect("a setting");
        assert_eq!(ask(&mut client, "SELECT pg_sleep(3)").1, code, "{role}");
    }
}

#[test]
fn jobs_see_the_load_of_services_that_call_themselves_levee() {
    let postgres = Postgres::with_tables().unwrap();
    let config = configured(&postgres);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let database = database::connect(&config, 1);
    let connection = runtime.block_on(database.connect());
    let mut connection = connection.expect("a connection");
    for (role, seen) in [("levee", Sessions::Still), ("app", Sessions::Active)] {
        let mut client = postgres.client_as(role).unwrap();
        client
            .batch_execute("SET application_name = 'levee'")
            .expect("a setting");
        let cancel = client.cancel_token();
        let service = thread::spawn(move || ask(&mut client, "SELECT pg_sleep(60)"));
        let waited = Stopwatch::start();
        let is_asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while postgres.number(is_asleep).unwrap() == 0 {
            assert!(waited.elapsed() < GENEROUS);
        }
        // What else ran there is no longer recent.
        thread::sleep(2 * RECENT);
        let look = runtime.block_on(load::look(&database, &mut connection));
        assert_eq!(look.expect("a look").sessions, seen, "{role}");
        cancel.cancel_query(postgres::NoTls).expect("an end");
        service.join().expect("a statement");
    }
}

#[test]
fn the_next_statement_of_a_connection_is_never_taken_for_the_one_before() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = "watchdog: {roles: [app], every: 10ms, classes: {query: 200ms}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let mut service = postgres.client_as("app").unwrap();
    let (mut ended, mut cancelled) = (0, 0);
    // From well before the limit to well after it.
    for millis in (170..230).cycle().step_by(3).take(60) {
        match ask(
            &mut service,
            &format!("SELECT pg_sleep({})", f64::from(millis) / 1000.0),
        )
        .1
        .as_str()
        {
            "" => ended += 1,
            "57014" => cancelled += 1,
            other => panic!("{other}"),
        }
        assert_eq!(
            ask(&mut service, "SELECT pg_sleep(0.02)").1,
            "",
            "{millis} ms before it"
        );
    }
    println!("{ended} ended, {cancelled} were cancelled");
    assert!(ended > 0 && cancelled > 0);
    sidecar
        .wait_for("the count", |sidecar| {
            timeouts(sidecar, "query") >= cancelled
        })
        .unwrap();
    // A cancellation that arrived as the statement ended counts, though the client saw none.
    assert!(timeouts(&sidecar, "query") <= cancelled + 6);
}

/// The section `database`, for Levee's role and with a watchdog.
fn configured(postgres: &Postgres) -> levee::config::database::Database {
    let folder = tempfile::tempdir().expect("a directory");
    let url = folder.path().join("url");
    std::fs::write(&url, postgres.url_of("levee")).expect("a file with the URL");
    let yaml = format!("database: {{url_file: '{}', {WATCHDOG}}}\n", url.display());
    let config = Config::parse(&yaml).expect("a valid configuration");
    config.database.expect("a database")
}

#[test]
fn what_was_seen_is_only_acted_on_while_it_is_still_so() {
    let postgres = Postgres::with_tables().unwrap();
    let config = configured(&postgres);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let registry = Registry::new();
    let part =
        runtime.block_on(async { database::build(&config, &registry, Clock::start(), &stopped) });
    let guard = part.expect("metrics").guard.expect("a watchdog");

    let mut service = postgres.client_as("app").unwrap();
    let statements = thread::spawn(move || {
        let first = ask(&mut service, "SELECT pg_sleep(60) /* 1 */").1;
        let second = ask(&mut service, "SELECT pg_sleep(1) /* 2 */").1;
        let mut idle = service.transaction().expect("a transaction");
        let _ = idle.query_one("SELECT 1", &[]);
        thread::sleep(Duration::from_secs(1));
        let _ = idle.query_one("SELECT pg_sleep(1.1)", &[]);
        (first, second, idle.commit().is_ok())
    });
    let line = runtime.block_on(guard.connect(GENEROUS));
    let mut line = line.expect("a connection");
    let seen = |line: &mut Line, what: &str| {
        let waited = Stopwatch::start();
        loop {
            let sessions = runtime.block_on(guard.sessions(line)).expect("sessions");
            if let Some(session) = sessions
                .into_iter()
                .find(|it| it.statement.text.contains(what))
            {
                return session;
            }
            assert!(waited.elapsed() < GENEROUS, "{what} is not seen");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let nothing_is_done = |line: &mut Line, session| {
        for act in [
            Act::Cancel(Class::Query),
            Act::Terminate(Class::Query),
            Act::EndIdle,
        ] {
            let done = runtime.block_on(guard.carry_out(line, session, act));
            assert_eq!(done, Ok(Effect::TooLate), "{act:?}");
        }
    };
    let first = seen(&mut line, "/* 1 */");
    // It ends, and the next one begins, before the watchdog acts.
    // By a single signal: a cancel request signals both the process and its group.
    postgres
        .number(&format!(
            "SELECT pg_cancel_backend({})::int::bigint",
            first.process
        ))
        .unwrap();
    let second = seen(&mut line, "/* 2 */");
    assert_eq!(first.process, second.process);
    nothing_is_done(&mut line, &first);
    let idle = seen(&mut line, "SELECT 1");
    seen(&mut line, "pg_sleep(1.1)");
    nothing_is_done(&mut line, &idle);
    let ended = statements.join().expect("the service");
    assert_eq!(ended, ("57014".to_owned(), String::new(), true));
}

#[expect(clippy::too_many_lines, reason = "one history, step by step")]
#[test]
fn others_maintenance_replication_and_levee_itself_are_left_alone() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "CREATE ROLE other LOGIN; ALTER ROLE app REPLICATION; CREATE TABLE large AS SELECT i FROM generate_series(1, 60000) i;
         ALTER TABLE large OWNER TO app",
    ).unwrap();
    // Levee logs in as the role that it watches.
    let keys = "jobs: {own: {table: large2, key: i, where: {column: i, is_null: false}, action: delete, scheduled: false}}\n\
                watchdog: {roles: [app, levee], applications: [repair], every: 100ms, classes: {query: 300ms}}";
    postgres.execute(
        "CREATE TABLE large2 (i int PRIMARY KEY); INSERT INTO large2 VALUES (1); ALTER TABLE large2 OWNER TO app;
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.5); RETURN OLD; END';
         CREATE TRIGGER slow BEFORE DELETE ON large2 FOR EACH ROW EXECUTE FUNCTION slow();
         GRANT pg_read_all_stats, pg_signal_backend TO app",
    ).unwrap();
    let sidecar = Sidecar::at(&postgres, "app", keys).unwrap();
    let mut receiver = Command::new(programs().unwrap().join("pg_receivewal"));
    let folder = tempfile::tempdir().expect("a directory");
    receiver
        .args([
            "-h",
            "127.0.0.1",
            "-U",
            "app",
            "--no-loop",
            "-p",
            &postgres.port().to_string(),
            "-D",
        ])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut receiver = Process::spawn(receiver, Signal::Kill).expect("pg_receivewal");
    thread::scope(|scope| {
        // Slow maintenance, by the cost delay.
        let vacuum = scope.spawn(|| {
            let mut client = postgres.client_as("app").unwrap();
            client
                .batch_execute("SET vacuum_cost_delay = 20; SET vacuum_cost_limit = 10")
                .expect("settings");
            ask(&mut client, "VACUUM (ANALYZE) large")
        });
        // A superuser with a watched application name.
        let superuser = scope.spawn(|| {
            let mut client = postgres.client().unwrap();
            client
                .batch_execute("SET application_name = 'repair'")
                .expect("a setting");
            ask(&mut client, "SELECT pg_sleep(1.5)")
        });
        let other = scope.spawn(|| {
            ask(
                &mut postgres.client_as("other").unwrap(),
                "SELECT pg_sleep(1.5)",
            )
        });
        let (status, report) = sidecar.post("/v1/jobs/own/run?wait=1m").unwrap();
        assert_eq!(
            (status, report["rows"].as_u64()),
            (200, Some(1)),
            "{report}"
        );
        let (took, code) = vacuum.join().expect("a vacuum");
        assert_eq!(code, "");
        assert!(
            took > Duration::from_millis(600),
            "it was too short to show anything: {took:?}"
        );
        for (_, code) in [superuser, other].map(|it| it.join().expect("a statement")) {
            assert_eq!(code, "");
        }
    });
    assert_eq!(receiver.exit_status(), None, "replication was ended");
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM pg_stat_replication WHERE usename = 'app'")
            .unwrap(),
        1
    );
    assert_eq!(timeouts(&sidecar, "query"), 0);
    let failed = sidecar
        .metric("db_watchdog_failed_total{database=\"app\"}")
        .unwrap();
    assert_eq!(failed, 0, "nothing was tried: {}", sidecar.log());
    let mut service = postgres.client_as("app").unwrap();
    assert_eq!(
        ask(&mut service, "SELECT pg_sleep(60)").1,
        "57014",
        "it does watch"
    );
}

#[test]
fn without_its_roles_it_says_so_and_the_rest_works() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(10, 0).unwrap();
    postgres
        .execute("REVOKE pg_read_all_stats, pg_signal_backend FROM levee")
        .unwrap();
    let keys =
        format!("jobs: {{auth_cleanup: {{preset: expired_tokens, scheduled: false}}}}\n{WATCHDOG}");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    sidecar
        .wait_for("it to be said", |sidecar| {
            let (_, page) = sidecar.get("/v1/watchdog").unwrap();
            page.contains("lacks pg_read_all_stats, pg_signal_backend")
                && sidecar
                    .metric("db_watchdog_failed_total{database=\"app\"}")
                    .unwrap()
                    > 0
        })
        .unwrap();
    sidecar
        .wait_for_log("GRANT pg_read_all_stats, pg_signal_backend TO")
        .unwrap();
    let (status, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
    assert_eq!(
        (status, report["rows"].as_u64()),
        (200, Some(10)),
        "{report}"
    );
    assert_eq!(
        ask(
            &mut postgres.client_as("app").unwrap(),
            "SELECT pg_sleep(2)"
        )
        .1,
        ""
    );
}

#[test]
fn sessions_idle_in_a_transaction_are_ended() {
    let postgres = Postgres::with_tables().unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", WATCHDOG).unwrap();
    let mut service = postgres.client_as("app").unwrap();
    let mut idle = postgres.client_as("app").unwrap();
    service
        .batch_execute("BEGIN; LOCK TABLE calls")
        .expect("a transaction");
    sidecar
        .wait_for("its end", |sidecar| {
            timeouts(sidecar, "idle_in_transaction") == 1
        })
        .unwrap();
    assert_eq!(
        ask(
            &mut postgres.client().unwrap(),
            "SELECT count(*) FROM calls"
        )
        .1,
        "",
        "the lock is free"
    );
    assert!(service.batch_execute("COMMIT").is_err());
    assert_eq!(
        ask(&mut idle, "SELECT 1").1,
        "",
        "outside of a transaction nobody is ended"
    );
    sidecar
        .wait_for_log("ended: BEGIN; LOCK TABLE calls")
        .unwrap();
}

#[test]
fn a_transaction_that_is_busy_for_too_long_is_ended_though_no_statement_is_long() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = "watchdog: {roles: [app], every: 500ms, classes: {query: 1s, long_query: 1s}, transaction: 2s}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let mut service = postgres.client_as("app").unwrap();
    let mut other = postgres.client_as("app").unwrap();
    let took = Stopwatch::start();
    service
        .batch_execute("BEGIN; LOCK TABLE calls")
        .expect("a transaction");
    while ask(&mut service, "SELECT pg_sleep(0.02)").1.is_empty() {
        assert_eq!(ask(&mut other, "SELECT 1").1, "", "it is in none");
        assert!(took.elapsed() < GENEROUS);
    }
    let took = took.elapsed();
    assert!(
        took >= Duration::from_millis(1950) && took < Duration::from_secs(4),
        "{took:?}"
    );
    sidecar
        .wait_for("the count", |sidecar| timeouts(sidecar, "transaction") == 1)
        .unwrap();
    sidecar.wait_for_log("\"class\":\"transaction\"").unwrap();
    assert_eq!(ask(&mut other, "SELECT count(*) FROM calls").1, "");
}

const STUBBORN: &str = "DO 'BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'";

#[test]
fn what_does_not_heed_its_cancellation_is_ended_where_that_is_wanted() {
    let postgres = Postgres::with_tables().unwrap();
    let keys =
        "watchdog: {roles: [app], every: 100ms, classes: {query: 300ms}, terminate_after: 700ms}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let (took, code) = ask(&mut postgres.client_as("app").unwrap(), STUBBORN);
    // The client may see its connection close before the reason arrives.
    assert!(
        ["57P01", "connection closed"].contains(&code.as_str()),
        "{code} {took:?}"
    );
    let ended = "db_sessions_terminated_total{database=\"app\"}";
    sidecar.wait_for_metric(ended, |value| value == 1).unwrap();
    assert_eq!(timeouts(&sidecar, "query"), 1, "it is one statement");
}

#[test]
fn of_two_instances_one_acts_and_the_other_takes_over() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = "watchdog: {roles: [app], every: 100ms, classes: {query: 300ms}}";
    let mut sidecars = vec![
        Sidecar::at(&postgres, "levee", keys).unwrap(),
        Sidecar::at(&postgres, "levee", keys).unwrap(),
    ];
    for _ in 0..10 {
        assert_eq!(
            ask(
                &mut postgres.client_as("app").unwrap(),
                "SELECT pg_sleep(60)"
            )
            .1,
            "57014"
        );
    }
    let stands_by = |sidecar: &Sidecar| {
        sidecar
            .get("/v1/watchdog")
            .unwrap()
            .1
            .contains("\"stands_by\":true")
    };
    let acting = sidecars.iter().position(|sidecar| !stands_by(sidecar));
    let mut acting = sidecars.swap_remove(acting.expect("one acts"));
    assert!(stands_by(&sidecars[0]));
    acting
        .wait_for("the count", |sidecar| timeouts(sidecar, "query") == 10)
        .unwrap();
    assert_eq!(timeouts(&sidecars[0], "query"), 0);
    acting.kill();
    assert_eq!(
        ask(
            &mut postgres.client_as("app").unwrap(),
            "SELECT pg_sleep(60)"
        )
        .1,
        "57014"
    );
    sidecars[0]
        .wait_for("the count", |sidecar| timeouts(sidecar, "query") == 1)
        .unwrap();
}

const QUICK: &str = "watchdog: {roles: [app], every: 100ms, classes: {query: 300ms}}";

const ACTING: &str = "db_watchdog_acting{database=\"app\",watched=\"app\"}";

fn is_cancelled(postgres: &Postgres) {
    let mut service = postgres.client_as("app").unwrap();
    let (took, code) = ask(&mut service, "SELECT pg_sleep(30)");
    assert_eq!(code, "57014", "{took:?}");
}

#[test]
fn an_instance_without_the_right_to_act_leaves_that_to_one_that_has_it() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "CREATE ROLE weak LOGIN; GRANT pg_read_all_stats TO weak;
             CREATE ROLE strong LOGIN; GRANT pg_read_all_stats, pg_signal_backend TO strong",
        )
        .unwrap();
    let acts = |sidecar: &Sidecar| sidecar.metric(ACTING).unwrap() == 1;
    let weak = Sidecar::at(&postgres, "weak", QUICK).unwrap();
    weak.wait_for_log("lacks pg_signal_backend").unwrap();
    let levee = Sidecar::at(&postgres, "levee", QUICK).unwrap();
    levee.wait_for("its duty", acts).unwrap();
    is_cancelled(&postgres);
    let strong = Sidecar::at(&postgres, "strong", QUICK).unwrap();
    strong
        .wait_for("its standby", |strong| {
            let (_, page) = strong.get("/v1/watchdog").unwrap();
            page.contains("\"stands_by\":true")
        })
        .unwrap();
    postgres
        .execute("REVOKE pg_signal_backend FROM levee")
        .unwrap();
    is_cancelled(&postgres);
    assert!(acts(&strong));
    levee.wait_for("its end", |levee| !acts(levee)).unwrap();
    assert!(!acts(&weak));
    let (_, page) = levee.get("/v1/watchdog").unwrap();
    assert!(page.contains("lacks pg_signal_backend"), "{page}");
    assert!(page.contains("\"acting\":null"), "{page}");
}

#[test]
fn what_two_watchdogs_both_watch_is_acted_on_and_counted_once() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute("CREATE ROLE other LOGIN").unwrap();
    let keys = QUICK.replace("}}", "}, idle_in_transaction: 300ms, terminate_after: 1s}");
    let overlapping = keys.replace("[app]", "[other, app]");
    let sidecars = [&keys, &overlapping].map(|keys| Sidecar::at(&postgres, "levee", keys).unwrap());
    for (sidecar, watched) in sidecars.iter().zip(["app", "app, other"]) {
        let acting = format!("db_watchdog_acting{{database=\"app\",watched=\"{watched}\"}}");
        sidecar
            .wait_for("its duty", |sidecar| sidecar.metric(&acting).unwrap() == 1)
            .unwrap();
    }
    let sum = |count: &dyn Fn(&Sidecar) -> u64| sidecars.iter().map(count).sum::<u64>();
    // It is cancelled, goes on, and is ended.
    let mut stubborn = postgres.client_as("app").unwrap();
    assert_ne!(ask(&mut stubborn, STUBBORN).1, "");
    let mut idle = postgres.client_as("app").unwrap();
    idle.batch_execute("BEGIN").expect("a transaction");
    is_cancelled(&postgres);
    let ended = |sidecar: &Sidecar| {
        sidecar
            .metric("db_sessions_terminated_total{database=\"app\"}")
            .unwrap()
    };
    let idle_ended = |sidecar: &Sidecar| timeouts(sidecar, "idle_in_transaction");
    let cancelled = |sidecar: &Sidecar| timeouts(sidecar, "query");
    sidecars[0]
        .wait_for("the counts", |_| {
            sum(&ended) >= 1 && sum(&idle_ended) >= 1 && sum(&cancelled) >= 2
        })
        .unwrap();
    // After some more polls of both, they are the same, and no lock is left but the claims.
    let claims = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    sidecars[0]
        .wait_for("the end of the locks", |_| {
            postgres.number(claims).unwrap() == 2
        })
        .unwrap();
    assert_eq!((sum(&ended), sum(&idle_ended), sum(&cancelled)), (1, 1, 2));
    let lines = |sidecar: &Sidecar| sidecar.log().matches("\"audit\":true").count() as u64;
    assert_eq!(sum(&lines), 4);
    // One that could not act keeps nobody else from it.
    postgres
        .execute("CREATE ROLE strong LOGIN; GRANT pg_read_all_stats, pg_signal_backend TO strong")
        .unwrap();
    let _strong = Sidecar::at(&postgres, "strong", QUICK).unwrap();
    postgres
        .execute("REVOKE pg_signal_backend FROM levee")
        .unwrap();
    is_cancelled(&postgres);
}

#[test]
fn a_member_of_all_watched_roles_needs_no_further_rights() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute("CREATE ROLE member LOGIN; GRANT app TO member")
        .unwrap();
    let member = Sidecar::at(&postgres, "member", QUICK).unwrap();
    is_cancelled(&postgres);
    member
        .wait_for("its duty", |member| member.metric(ACTING).unwrap() == 1)
        .unwrap();
    let others = QUICK.replace("[app]", "[app, levee]");
    let member = Sidecar::at(&postgres, "member", &others).unwrap();
    member
        .wait_for_log("lacks pg_read_all_stats, pg_signal_backend")
        .unwrap();
}

#[test]
fn the_readiness_says_whether_the_watchdog_works() {
    let mut postgres = Postgres::with_tables().unwrap();
    postgres.stop().unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", QUICK).unwrap();
    let up = |sidecar: &Sidecar| sidecar.metric("levee_part_up{part=\"watchdog\"}").unwrap();
    let shown = |sidecar: &Sidecar| {
        let (_, page) = sidecar.get("/readyz").unwrap();
        let page: Value = serde_json::from_str(&page).expect("JSON");
        page["parts"]["watchdog"].as_str().map(str::to_owned)
    };
    // From the first answer on.
    sidecar
        .wait_for("its failure", |sidecar| {
            assert_eq!(up(sidecar), 0);
            let shown = shown(sidecar);
            assert_ne!(shown.as_deref(), Some("ready"));
            shown.as_deref() == Some("down")
        })
        .unwrap();
    postgres.start_again().unwrap();
    sidecar
        .wait_for("its work", |sidecar| {
            shown(sidecar).as_deref() == Some("ready") && up(sidecar) == 1
        })
        .unwrap();
    postgres.stop().unwrap();
    sidecar
        .wait_for("its failure", |sidecar| {
            shown(sidecar).as_deref() == Some("down") && up(sidecar) == 0
        })
        .unwrap();
}

#[test]
fn roles_that_can_not_be_watched_are_named() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute("CREATE ROLE team; GRANT team TO app")
        .unwrap();
    let keys = "watchdog: {roles: [app, ap, postgres, team], every: 100ms}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    sidecar
        .wait_for("it to be said", |sidecar| {
            let page = sidecar.get("/v1/watchdog").unwrap().1;
            page.contains("there is no role \\\"ap\\\"")
                && page.contains("\\\"postgres\\\" is a superuser")
                && page.contains("nobody logs in as role \\\"team\\\"")
        })
        .unwrap();
}

#[test]
fn a_server_that_does_not_track_activities_is_told_of() {
    let postgres = Postgres::start_with(&["track_activities=off"]).unwrap();
    postgres.make_tables().unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", WATCHDOG).unwrap();
    sidecar
        .wait_for("it to be said", |sidecar| {
            sidecar
                .get("/v1/watchdog")
                .unwrap()
                .1
                .contains("track_activities is off")
        })
        .unwrap();
}

#[test]
fn a_dry_run_only_says_what_it_would_do() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = "watchdog: {roles: [app], every: 100ms, classes: {query: 200ms}, idle_in_transaction: 300ms, dry_run: true}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    assert_eq!(
        ask(
            &mut postgres.client_as("app").unwrap(),
            "SELECT pg_sleep(1.5)"
        )
        .1,
        ""
    );
    sidecar
        .wait_for_log("would cancel: SELECT pg_sleep(?)")
        .unwrap();
    assert_eq!(sidecar.log().matches("would cancel").count(), 1);
    let mut service = postgres.client_as("app").unwrap();
    service.batch_execute("BEGIN").expect("a transaction");
    sidecar.wait_for_log("would end: BEGIN").unwrap();
    assert!(service.batch_execute("COMMIT").is_ok());
    assert_eq!(
        timeouts(&sidecar, "query") + timeouts(&sidecar, "idle_in_transaction"),
        0
    );
}

#[test]
fn a_database_that_was_away_is_watched_again() {
    let mut postgres = Postgres::with_tables().unwrap();
    let keys = "watchdog: {roles: [app], every: 100ms, classes: {query: 300ms}}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    assert_eq!(
        ask(
            &mut postgres.client_as("app").unwrap(),
            "SELECT pg_sleep(60)"
        )
        .1,
        "57014"
    );
    postgres.stop().unwrap();
    sidecar
        .wait_for_metric("db_watchdog_failed_total{database=\"app\"}", |value| {
            value > 0
        })
        .unwrap();
    sidecar
        .wait_for("it to be said", |sidecar| {
            let (_, page) = sidecar.get("/v1/watchdog").unwrap();
            page.contains("can't be reached")
        })
        .unwrap();
    postgres.start_again().unwrap();
    assert_eq!(
        ask(
            &mut postgres.client_as("app").unwrap(),
            "SELECT pg_sleep(60)"
        )
        .1,
        "57014"
    );
    sidecar
        .wait_for("its recovery", |sidecar| {
            sidecar
                .get("/v1/watchdog")
                .unwrap()
                .1
                .contains("\"problem\":null")
        })
        .unwrap();
}
