//! The harness' `PostgreSQL` starts, answers, restarts with its data, and leaves nothing behind.

use levee_harness::clock::Stopwatch;
use levee_harness::postgres::Postgres;
use levee_harness::process::{Signal, is_running};
use levee_harness::wait::GENEROUS;
use postgres::{Client, NoTls};

fn count(postgres: &Postgres) -> i64 {
    postgres.number("SELECT count(*) FROM t").unwrap()
}

#[test]
fn it_answers_roles_of_its_own_and_leaves_nothing() {
    let started = Stopwatch::start();
    let postgres = Postgres::start_with(&["log_min_duration_statement=0"]).unwrap();
    println!("ready after {:?}", started.elapsed());
    postgres
        .execute("CREATE ROLE guard LOGIN IN ROLE pg_read_all_stats, pg_signal_backend")
        .unwrap();
    assert!(Client::connect(&postgres.url_of("nobody"), NoTls).is_err());
    let mut guard = postgres.client_as("guard").unwrap();
    let row = guard
        .query_one("SELECT current_user::text, current_database()::text", &[])
        .expect("ask who one is");
    let (user, database): (String, String) = (row.get(0), row.get(1));
    assert_eq!((user.as_str(), database.as_str()), ("guard", "app"));
    assert!(postgres.log().contains("SELECT current_user"));
    assert!(
        postgres
            .url_of("guard")
            .starts_with("postgres://guard@127.0.0.1:")
    );
    let (id, data) = (postgres.id().unwrap(), postgres.data());
    assert!(is_running(id) && data.is_dir());
    // A connected client keeps nothing alive.
    drop(postgres);
    assert!(!is_running(id) && !data.exists());
}

#[test]
fn it_starts_again_with_its_data_however_it_ended() {
    let mut postgres = Postgres::start().unwrap();
    postgres
        .execute("CREATE TABLE t AS SELECT generate_series(1, 1000)")
        .unwrap();
    let port = postgres.port();
    for (signal, written) in [
        (Signal::Quit, 1001),
        (Signal::Interrupt, 1002),
        (Signal::Terminate, 1003),
        (Signal::Kill, 1004),
    ] {
        postgres.execute("INSERT INTO t VALUES (0)").unwrap();
        // A shutdown would wait for it.
        let client = (signal != Signal::Terminate).then(|| postgres.client().unwrap());
        postgres.stop_with(signal).unwrap();
        assert!(Client::connect(&postgres.url_of("postgres"), NoTls).is_err());
        postgres.start_again().unwrap();
        assert_eq!(postgres.port(), port);
        assert_eq!(count(&postgres), written, "after {signal:?}");
        assert!(client.is_none_or(|mut client| client.simple_query("SELECT 1").is_err()));
    }
}

#[test]
fn two_know_nothing_of_each_other() {
    let (mut one, two) = (Postgres::start().unwrap(), Postgres::start().unwrap());
    assert_ne!(one.port(), two.port());
    one.execute("CREATE TABLE t AS SELECT 1").unwrap();
    two.execute("CREATE TABLE t AS SELECT generate_series(1, 2)")
        .unwrap();
    assert_eq!((count(&one), count(&two)), (1, 2));
    one.stop().unwrap();
    assert_eq!(count(&two), 2);
}

#[test]
fn it_stands_still_and_goes_on_and_ends_while_it_stands_still() {
    let mut postgres = Postgres::start().unwrap();
    postgres.execute("CREATE TABLE t AS SELECT 1").unwrap();
    let mut open = postgres.client().unwrap();
    // Open connections have processes of their own.
    postgres.signal(Signal::Stop).unwrap();
    assert!(open.simple_query("SELECT 1").is_ok());
    postgres.signal(Signal::Continue).unwrap();
    assert_eq!(count(&postgres), 1);

    postgres.signal_all(Signal::Stop).unwrap();
    let (sent, answered) = std::sync::mpsc::channel();
    let asking = std::thread::spawn(move || {
        let answer = open.simple_query("SELECT 1").is_ok();
        sent.send(answer).expect("the test waits for it");
        open
    });
    let span = std::time::Duration::from_millis(300);
    assert!(answered.recv_timeout(span).is_err());
    postgres.signal_all(Signal::Continue).unwrap();
    assert_eq!(answered.recv_timeout(GENEROUS), Ok(true));

    postgres.signal_all(Signal::Stop).unwrap();
    let ending = Stopwatch::start();
    postgres.stop().unwrap();
    println!("ended after {:?}", ending.elapsed());
    let mut open = asking.join().expect("it has sent its answer");
    assert!(open.simple_query("SELECT 1").is_err());
}
