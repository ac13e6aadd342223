//! Behind a pooler.

use levee_harness::built;
use levee_harness::clock::Stopwatch;
use levee_harness::pgbouncer::PgBouncer;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::{Config, Sidecar, Start};
use postgres::Client;
use serde_json::Value;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::ask;

const KEYS: &str = "jobs: {auth_cleanup: {preset: expired_tokens, scheduled: false}}\n\
                    watchdog: {roles: [app], every: 100ms, classes: {query: 300ms}}";

const REFUSAL: &str = "a pooler in transaction or statement mode";

fn sidecar(bouncer: &PgBouncer) -> Sidecar {
    let config = Config::new("").database(&bouncer.url_of("levee"), KEYS);
    Sidecar::start_with(&config, &Start::default()).unwrap()
}

/// What Levee could leave behind in the sessions that a client gets.
fn left_behind(client: &mut Client) -> Vec<String> {
    let rows = client.simple_query(
        "SELECT setting || ' ' || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') FROM pg_settings \
         WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')",
    );
    let mut found = Vec::new();
    for message in rows.expect("a query") {
        if let postgres::SimpleQueryMessage::Row(row) = message {
            found.push(row.get(0).expect("a value").to_owned());
        }
    }
    found
}

/// Stops the services, even if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn is_refused_and_nobody_inherits(settings: &str, services: usize) {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(10, 0).unwrap();
    let settings = format!("pool_mode = {settings}");
    // One pool for all users, as with a shared login.
    let bouncer = PgBouncer::before(&postgres, &settings).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..services {
            scope.spawn(|| {
                let mut service = bouncer.client_as("levee").unwrap();
                while !stop.load(Ordering::SeqCst) {
                    let _ = service.simple_query("SELECT pg_sleep(0.001)");
                }
            });
        }
        let _stop = Stop(&stop);
        let sidecar = sidecar(&bouncer);
        let (status, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
        assert_eq!(status, 500, "{report}");
        assert!(report["error"].to_string().contains(REFUSAL), "{report}");
        sidecar
            .wait_for("the watchdog's refusal", |sidecar| {
                sidecar.get("/v1/watchdog").unwrap().1.contains(REFUSAL)
            })
            .unwrap();
        let acting = "db_watchdog_acting{database=\"app\",watched=\"app\"}";
        assert_eq!(sidecar.metric(acting).unwrap(), 0);
        let (code, said) = levee(&bouncer.url_of("levee"), &["db", "limits"]);
        assert!(code == Some(1) && said.contains(REFUSAL), "{said}");
        let (code, said) = levee(&bouncer.url_of("levee"), &["check", "--database"]);
        assert_eq!(code, Some(2), "{said}");
        for path in ["database.jobs.auth_cleanup: ", "database.watchdog: "] {
            let refusal = format!("{path}{REFUSAL}");
            assert!(said.contains(&refusal), "{refusal}: {said}");
        }
    });
    assert_eq!(postgres.expired_tokens().unwrap(), 10);
    // Of the pool that Levee used.
    let mut clients: Vec<Client> = (0..5)
        .map(|_| bouncer.client_as("levee").unwrap())
        .collect();
    for client in &mut clients {
        assert_eq!(left_behind(client), ["0 0", "0 0", "0 0"]);
    }
}

/// Exit code and output of `levee` with this configuration.
fn levee(url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a directory");
    let config = Config::new("").database(url, KEYS);
    let output = config
        .add_variables(&mut Command::new(built::levee().unwrap()))
        .args(arguments)
        .arg("--config")
        .arg(config.write(folder.path()).unwrap())
        .output()
        .expect("run levee");
    let all = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&all).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_pooler_in_transaction_mode_is_refused_before_anything_is_set() {
    is_refused_and_nobody_inherits("transaction", 0);
}

#[test]
fn a_pooler_in_statement_mode_is_refused_before_anything_is_set() {
    is_refused_and_nobody_inherits("statement", 0);
}

#[test]
fn a_pooler_with_a_single_session_is_refused() {
    is_refused_and_nobody_inherits("transaction\ndefault_pool_size = 1", 0);
}

#[test]
fn a_pooler_that_gives_sessions_in_turn_to_busy_services_is_refused() {
    is_refused_and_nobody_inherits("transaction\nserver_round_robin = 1", 6);
}

#[test]
fn a_busy_pooler_with_few_sessions_is_refused() {
    is_refused_and_nobody_inherits("transaction\ndefault_pool_size = 2", 6);
    let in_turn = "transaction\nserver_round_robin = 1\ndefault_pool_size = 2";
    is_refused_and_nobody_inherits(in_turn, 6);
}

#[test]
fn a_pooler_that_ignores_what_shows_it_is_refused() {
    let ignores = "transaction\nignore_startup_parameters = options";
    is_refused_and_nobody_inherits(ignores, 0);
}

#[test]
fn a_pooler_that_gives_two_idle_sessions_in_turn_is_refused() {
    let postgres = Postgres::with_tables().unwrap();
    for turn in [0, 1] {
        let settings = format!("pool_mode = transaction\nserver_round_robin = {turn}");
        let bouncer = PgBouncer::before(&postgres, &settings).unwrap();
        let mut clients = [0, 1].map(|_| bouncer.client_as("levee").unwrap());
        for command in ["BEGIN", "COMMIT"] {
            for client in &mut clients {
                client.batch_execute(command).expect("a transaction");
            }
        }
        let (code, said) = levee(&bouncer.url_of("levee"), &["db", "limits"]);
        assert!(code == Some(1) && said.contains(REFUSAL), "{said}");
        for client in &mut clients {
            assert_eq!(left_behind(client), ["0 0", "0 0", "0 0"]);
        }
    }
}

#[test]
fn a_pooler_that_refuses_a_second_connection_is_not_taken_for_the_database() {
    let postgres = Postgres::with_tables().unwrap();
    let settings = "pool_mode = transaction\nmax_client_conn = 1";
    let bouncer = PgBouncer::before(&postgres, settings).unwrap();
    let (code, said) = levee(&bouncer.url_of("levee"), &["db", "limits"]);
    assert_eq!(code, Some(1), "{said}");
    let why = "it is not known yet whether it keeps a session for each connection: it refused a second connection";
    assert!(said.contains(why), "{said}");
    let mut client = bouncer.client_as("levee").unwrap();
    assert_eq!(left_behind(&mut client), ["0 0", "0 0", "0 0"]);
}

#[test]
fn the_database_itself_is_known_by_a_single_connection() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute("ALTER ROLE levee CONNECTION LIMIT 1")
        .unwrap();
    for url in [
        postgres.url_of("levee"),
        format!("{}?options=-c%20geqo%3Doff", postgres.url_of("levee")),
    ] {
        let (code, said) = levee(&url, &["db", "limits"]);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn through_a_pooler_in_session_mode_all_works() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(10, 0).unwrap();
    // For the watchdog, the readiness and one job: no session is left to tell a pooler by.
    for more in ["", "\ndefault_pool_size = 3"] {
        let bouncer = PgBouncer::before(&postgres, &format!("pool_mode = session{more}")).unwrap();
        let sidecar = sidecar(&bouncer);
        let (took, code) = ask(
            &mut bouncer.client_as("app").unwrap(),
            "SELECT pg_sleep(60)",
        );
        assert_eq!(code, "57014", "{took:?}");
        let (status, report) = sidecar.post("/v1/auth/cleanup?wait=1m").unwrap();
        assert_eq!(status, 200, "{report}");
    }
    assert_eq!(postgres.expired_tokens().unwrap(), 0);
}

#[test]
fn services_behind_a_pooler_are_watched_by_a_levee_that_is_not() {
    let postgres = Postgres::with_tables().unwrap();
    let bouncer = PgBouncer::before(&postgres, "pool_mode = transaction").unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", KEYS).unwrap();
    let mut service = bouncer.client_as("app").unwrap();
    let waited = Stopwatch::start();
    assert!(service.simple_query("SELECT pg_sleep(60)").is_err());
    assert!(waited.elapsed() < Duration::from_secs(10));
    assert!(service.simple_query("SELECT 1").is_ok());
    sidecar.wait_for_log("cancelled: ").unwrap();
    let page: Value = serde_json::from_str(&sidecar.get("/v1/watchdog").unwrap().1).expect("JSON");
    assert_eq!(page["problem"], Value::Null);
}
