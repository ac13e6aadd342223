//! Who keeps a statement waiting for a lock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use serde_json::Value;

use super::{ask, timeouts};

const KEYS: &str =
    "watchdog: {roles: [app], every: 200ms, classes: {query: 2s}, idle_in_transaction: 1m}";

fn page(sidecar: &Sidecar) -> Value {
    serde_json::from_str(&sidecar.get("/v1/watchdog").unwrap().1).expect("JSON")
}

/// The audit line of a class.
fn audit(sidecar: &Sidecar, class: &str) -> Value {
    let find = || {
        let log = sidecar.log();
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.find(|line: &Value| line["class"] == class)
    };
    sidecar
        .wait_for("the audit line", |_| find().is_some())
        .unwrap();
    find().expect("it was there")
}

#[test]
fn the_session_that_a_statement_waits_for_is_named() {
    let postgres = Postgres::with_tables().unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", KEYS).unwrap();
    let mut holder = postgres.client().unwrap();
    holder
        .batch_execute(
            "SET application_name = 'migration'; BEGIN; LOCK TABLE calls;
             SELECT 'secret' FROM pg_class LIMIT 1",
        )
        .expect("a transaction");
    let row = holder.query_one("SELECT pg_backend_pid()::text", &[]);
    let process: String = row.expect("a row").get(0);
    thread::scope(|scope| {
        // It waits, too, and others wait behind it: it is not what is to be named.
        scope.spawn(|| {
            let mut between = postgres.client().unwrap();
            let _ = between.batch_execute("SET lock_timeout = '10s'; ALTER TABLE calls ADD x int");
        });
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        sidecar
            .wait_for("a queue", |_| postgres.number(waiting).unwrap() == 1)
            .unwrap();
        let service = scope.spawn(|| {
            let mut service = postgres.client_as("app").unwrap();
            ask(
                &mut service,
                "SELECT count(*) FROM calls WHERE status = 'hidden'",
            )
        });
        sidecar
            .wait_for("the wait", |sidecar| {
                page(sidecar)["waits"][0]["blockers"][0]["process"] == process.as_str()
            })
            .unwrap();
        let page = page(&sidecar);
        let wait = &page["waits"][0];
        assert_eq!(wait["role"], "app", "{page}");
        let blockers = wait["blockers"].as_array().expect("a list");
        assert_eq!(blockers.len(), 1, "{page}");
        let blocker = &blockers[0];
        assert_eq!(blocker["state"], "idle in transaction", "{page}");
        assert_eq!(blocker["application"], "migration", "{page}");
        assert_eq!(service.join().expect("a statement").1, "57014");
        holder.batch_execute("ROLLBACK").expect("an end");
    });
    let line = audit(&sidecar, "query");
    let blockers = line["blockers"].as_str().expect("the blockers");
    assert!(
        blockers.starts_with(&format!("process {process} of role \"postgres\"")),
        "{line}"
    );
    assert!(blockers.contains("idle in transaction for"), "{line}");
    let said = format!("{line}{}", page(&sidecar));
    assert!(
        !said.contains("secret") && !said.contains("hidden"),
        "{said}"
    );
    sidecar
        .wait_for("the end of the wait", |sidecar| {
            page(sidecar)["waits"].as_array().is_some_and(Vec::is_empty)
        })
        .unwrap();
}

#[test]
fn a_blocker_of_a_watched_role_is_ended_where_that_is_wanted_and_others_go_on() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = KEYS.replace("idle_in", "blockers: cancel, idle_in");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    let mut idle = postgres.client_as("app").unwrap();
    idle.batch_execute("BEGIN; LOCK TABLE calls")
        .expect("a transaction");
    thread::scope(|scope| {
        let services: Vec<_> = (0..5)
            .map(|_| {
                scope.spawn(|| {
                    let mut service = postgres.client_as("app").unwrap();
                    ask(&mut service, "SELECT count(*) FROM calls")
                })
            })
            .collect();
        for service in services {
            let (took, code) = service.join().expect("a statement");
            assert_eq!(code, "", "{took:?}");
            assert!(took >= Duration::from_millis(1900), "{took:?}");
        }
    });
    assert!(idle.batch_execute("COMMIT").is_err());
    assert_eq!(timeouts(&sidecar, "blocker"), 1);
    assert_eq!(timeouts(&sidecar, "query"), 0);
    let line = audit(&sidecar, "blocker");
    assert_eq!(line["message"], "ended: BEGIN; LOCK TABLE calls");
    let waiting = line["waiting"].as_str().expect("who waited");
    assert!(waiting.contains("SELECT count(*) FROM calls"), "{line}");

    // One that is active is cancelled, and keeps its session.
    let mut active = postgres.client_as("app").unwrap();
    active
        .batch_execute("BEGIN; LOCK TABLE calls")
        .expect("a transaction");
    thread::scope(|scope| {
        let blocker = scope.spawn(move || {
            let tagged = "SELECT pg_sleep(60) /* levee: long_query */";
            let (_, code) = ask(&mut active, tagged);
            (code, ask(&mut active, "ROLLBACK").1)
        });
        let (took, code) = ask(
            &mut postgres.client_as("app").unwrap(),
            "SELECT count(*) FROM calls",
        );
        assert_eq!(code, "", "{took:?}");
        let codes = blocker.join().expect("a statement");
        assert_eq!(codes, ("57014".to_owned(), String::new()));
    });
    assert_eq!(timeouts(&sidecar, "blocker"), 2);
}

#[test]
fn short_transactions_that_queue_for_a_row_are_not_ended() {
    const HELD: Duration = Duration::from_millis(40);
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute("CREATE TABLE hot (n int); INSERT INTO hot VALUES (0); GRANT ALL ON hot TO app")
        .unwrap();
    // A quarter of it is much longer than a transaction, also on a machine that stands still now and then.
    let keys = "watchdog: {roles: [app], every: 50ms, classes: {query: 1500ms}, blockers: cancel}";
    let sidecar = Sidecar::at(&postgres, "levee", keys).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // A turn of all of them takes longer than the limit.
        let services: Vec<_> = (0..45)
            .map(|_| {
                scope.spawn(|| {
                    let mut service = postgres.client_as("app").unwrap();
                    let mut codes = BTreeSet::new();
                    while !is_over.load(Ordering::Relaxed) {
                        codes.insert(ask(&mut service, "BEGIN; UPDATE hot SET n = n + 1").1);
                        thread::sleep(HELD);
                        codes.insert(ask(&mut service, "COMMIT").1);
                    }
                    codes
                })
            })
            .collect();
        let waited = sidecar.wait_for("cancelled waiters", |sidecar| {
            timeouts(sidecar, "query") >= 20
        });
        is_over.store(true, Ordering::Relaxed);
        waited.unwrap();
        let known = BTreeSet::from([String::new(), "57014".to_owned()]);
        for service in services {
            let codes = service.join().expect("a service");
            assert!(codes.is_subset(&known), "{codes:?}");
        }
    });
    assert_eq!(timeouts(&sidecar, "blocker"), 0);
}

#[test]
fn a_blocker_that_is_not_watched_is_left_alone() {
    let postgres = Postgres::with_tables().unwrap();
    let keys = KEYS.replace("idle_in", "blockers: cancel, idle_in");
    let sidecar = Sidecar::at(&postgres, "levee", &keys).unwrap();
    let mut holder = postgres.client().unwrap();
    holder
        .batch_execute("BEGIN; LOCK TABLE calls")
        .expect("a transaction");
    let (took, code) = ask(
        &mut postgres.client_as("app").unwrap(),
        "SELECT count(*) FROM calls",
    );
    assert_eq!(code, "57014", "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(holder.batch_execute("COMMIT").is_ok());
    sidecar
        .wait_for("the count", |sidecar| timeouts(sidecar, "query") == 1)
        .unwrap();
    assert_eq!(timeouts(&sidecar, "blocker"), 0);
}
