//! Clients that have not logged in, where Redis asks for that.

use crate::play::Play;
use levee_redis_session::session::Session;
use std::sync::Arc;

const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";

/// A new client of a Redis that has told another one to log in.
fn stranger() -> Play {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    assert_eq!(play.upstream(NOAUTH).said(), NOAUTH);
    another(play)
}

/// Another client of the same Redis.
fn another(play: Play) -> Play {
    let settings = Arc::new(crate::play::settings());
    Play {
        session: Session::new(settings, play.gate.clone(), play.now),
        ..play
    }
}

#[test]
fn who_has_not_logged_in_sends_no_more_than_redis_would_take() {
    for (bytes, error) in [
        (&b"*11\r\n"[..], "unauthenticated multibulk length"),
        (
            b"*2\r\n$3\r\nGET\r\n$16385\r\n",
            "unauthenticated bulk length",
        ),
        (b"*2\r\n$3\r\nGET\r\n$x\r\n", "invalid bulk length"),
    ] {
        let mut play = stranger();
        play.raw(bytes);
        assert_eq!(play.said(), format!("-ERR Protocol error: {error}\r\n"));
        assert!(play.session.is_over());
    }
    let mut play = stranger();
    play.raw(b"*10\r\n$16384\r\n");
    assert!(play.said().is_empty() && !play.session.is_over());
}

#[test]
fn what_is_sent_behind_a_login_waits_for_its_answer() {
    let long = [
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$20000\r\n",
        "v".repeat(20_000).as_bytes(),
        b"\r\n",
    ]
    .concat();
    for login in ["AUTH p", "HELLO 3 AUTH default p"] {
        let mut play = stranger();
        play.client(&[login]).raw(&long).connect();
        play.upstream("+OK\r\n").said();
        assert!(play.sent().starts_with("*3 SET a"), "{login}");
    }
    let mut play = stranger();
    play.client(&["AUTH wrong"]).raw(&long).connect();
    let said = play.upstream("-WRONGPASS x\r\n").said();
    assert_eq!(
        said,
        "-WRONGPASS x\r\n-ERR Protocol error: unauthenticated bulk length\r\n"
    );
}

#[test]
fn a_redis_that_answers_strangers_is_remembered_as_such() {
    for (reply, is_forgotten) in [
        ("$-1\r\n", true),
        ("-NOPERM x\r\n", true),
        ("-ERR unknown command\r\n", false),
    ] {
        let mut play = stranger();
        play.client(&["GET a"]).connect();
        play.upstream(reply).said();
        let said = play.raw(b"*11\r\n").said();
        assert_eq!(said.is_empty(), is_forgotten, "{reply}");
    }
    // What Redis answers to everybody says nothing.
    let mut play = stranger();
    play.client(&["HELLO 3"]).connect();
    play.upstream("%0\r\n").said();
    assert!(!play.raw(b"*11\r\n").said().is_empty());
}

#[test]
fn a_script_can_not_make_others_log_in() {
    let mut play = Play::new();
    play.client(&["EVAL x 0"]).connect();
    play.upstream(NOAUTH).said();
    assert!(another(play).raw(b"*11\r\n").said().is_empty());
}

#[test]
fn a_reset_makes_a_stranger() {
    let mut play = stranger();
    play.client(&["AUTH p", "RESET"]).connect();
    play.upstream("+OK\r\n+RESET\r\n").said();
    assert!(!play.raw(b"*11\r\n").said().is_empty());
}
