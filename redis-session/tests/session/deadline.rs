//! How long a command may take.

use crate::play::Play;

#[test]
fn connecting_goes_on_until_the_deadline() {
    let mut play = Play::new();
    play.client(&["INCR a"]);
    let mut attempts = 0;
    for _ in 0..3000 {
        if play.session.wants_connection() {
            attempts += 1;
            play.session.not_connected("refused", play.now);
        }
        play.pass(1);
    }
    let said = play.said();
    assert!(said.contains("can't be reached within 3s"), "{said}");
    assert!(!said.contains("may or may not"), "{said}");
    // At once, and after 100, 200, 400, 800 and 1000 ms.
    assert_eq!(attempts, 6);
}

#[test]
fn a_hung_server_fails_the_command_at_its_deadline() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.pass(2999);
    assert_eq!(play.said(), "");
    let said = play.pass(1).said();
    assert!(said.contains("no answer from Redis within 3s"), "{said}");
    assert!(!play.session.keeps_connection());
}

#[test]
fn a_blocking_command_has_its_own_time_and_what_waits_behind_it_too() {
    let mut play = Play::new();
    play.client(&["BLPOP a 5", "GET a"]).connect();
    assert_eq!(play.pass(7999).said(), "");
    play.upstream("*-1\r\n");
    assert_eq!(play.said(), "*-1\r\n");
    assert_eq!(play.pass(2000).upstream("$-1\r\n").said(), "$-1\r\n");

    let mut play = Play::new();
    play.client(&["BLPOP a 5"]).connect();
    let said = play.pass(8000).said();
    assert!(said.contains("no answer"), "{said}");

    let mut play = Play::new();
    play.client(&["BLPOP a 0"]).connect();
    assert_eq!(play.pass(100_000).said(), "");
}

#[test]
fn what_redis_said_before_the_deadline_is_passed_on() {
    let mut play = Play::new();
    play.client(&["INCR a", "INCR b"]).connect();
    play.upstream("-READONLY x\r\n");
    let said = play.pass(3000).said();
    assert!(
        said.starts_with("-READONLY x\r\n-ERR levee: no answer"),
        "{said}"
    );
}
