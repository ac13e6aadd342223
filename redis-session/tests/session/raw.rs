//! MONITOR, SYNC and CLIENT REPLY OFF: sessions that only pass bytes on.

use crate::play::{Play, settings};
use levee_policy::breaker::Phase;
use std::time::Duration;

/// A session that MONITOR has made a pipe.
fn monitor() -> Play {
    let mut play = Play::new();
    play.client(&["MONITOR"]).connect();
    assert_eq!(play.upstream("+OK\r\n").said(), "+OK\r\n");
    play
}

#[test]
fn a_monitor_hears_others_until_its_reset_is_answered() {
    let mut play = monitor();
    let line = "+1.2 [0 127.0.0.1:1] \"set\" \"a\" \"1\"\r\n";
    assert_eq!(play.upstream(line).said(), line);
    assert_eq!(
        play.client(&["PING", "RESET", "SELECT 1", "GET a"]).sent(),
        "*1 PING *1 RESET"
    );
    assert_eq!(
        play.upstream(&format!("+PONG\r\n{line}+RESET\r\n")).said(),
        format!("+PONG\r\n{line}+RESET\r\n")
    );
    // It is a session again, with all that it promises.
    assert_eq!(play.sent(), "*2 SELECT 1 *2 GET a");
    play.upstream("+OK\r\n").said();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*2 SELECT 1");
    play.upstream("+OK\r\n");
    assert_eq!(play.sent(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\n1\r\n").said(), "$1\r\n1\r\n");
}

#[test]
fn a_monitor_begins_when_all_before_it_is_answered_and_is_repeated_until_then() {
    let mut play = Play::new();
    play.client(&["GET a", "MONITOR", "PING"]).connect();
    play.upstream("$-1\r\n").said();
    assert_eq!(play.sent(), "*1 MONITOR", "and nothing behind it");
    play.lost().pass(100);
    assert_eq!(play.connect(), "*1 MONITOR");
    play.upstream("+OK\r\n").said();
    assert_eq!(play.sent(), "*1 PING");
}

#[test]
fn a_monitor_that_redis_refuses_leaves_a_session() {
    for (before, after) in [(&[][..], "*2 GET a"), (&["MULTI"], "*2 GET a")] {
        let mut play = Play::new();
        play.client(before).client(&["MONITOR", "GET a"]).connect();
        play.upstream(&"+OK\r\n".repeat(before.len())).sent();
        play.upstream("-NOPERM x\r\n").said();
        // It is repeated, or says that it isn't.
        play.sent();
        play.lost().pass(100);
        let is_repeated = play.session.wants_connection() && play.connect() == after;
        assert_eq!(is_repeated, before.is_empty(), "{before:?}");
    }
}

#[test]
fn nothing_is_repeated_and_a_lost_connection_is_the_end() {
    let mut play = monitor();
    play.client(&["PING"]).sent();
    play.upstream("+1.2 [0 x] \"pi");
    assert_eq!(play.lost().said(), "+1.2 [0 x] \"pi");
    assert!(play.session.is_over() && !play.session.wants_connection());
    assert_eq!(play.gate.phase_now(), Phase::Closed);
}

#[test]
fn a_pipe_has_no_deadline_and_is_not_idle() {
    let mut play = monitor();
    play.client(&["PING"]).sent();
    play.pass(10_000_000);
    assert!(!play.session.is_over() && play.session.keeps_connection());
    assert_eq!(play.gate.status(play.now).attempts_in_flight, 0);
    // But one that takes nothing is.
    play.session.replies().extend(b"+1.2 [0 x] \"ping\"\r\n");
    play.session.upstream_sent(20, play.now);
    play.pass(600_000);
    assert!(!play.session.keeps_connection());
}

#[test]
fn replication_is_bytes_in_both_directions() {
    let mut play = Play::new();
    play.client(&["REPLCONF listening-port 1"]).connect();
    play.upstream("+OK\r\n").said();
    assert_eq!(play.client(&["PSYNC ? -1"]).sent(), "*3 PSYNC ? -1");
    for bytes in [
        "\n",
        "\n",
        "+FULLRESYNC x 0\r\n",
        "$10\r\nREDIS",
        "0011xxxxx",
        "*1\r\n",
    ] {
        assert_eq!(play.upstream(bytes).said(), bytes);
    }
    play.raw(b"\n*3\r\n$8\r\nREPLC");
    assert_eq!(play.session.to_upstream(), b"\n*3\r\n$8\r\nREPLC");
    assert_eq!(play.client(&["RESET"]).sent(), "\n*3 REPLC*1 RESET");
    assert_eq!(play.upstream("+RESET\r\n").said(), "+RESET\r\n");
    assert_eq!(
        play.raw(b"\xff").session.to_upstream(),
        b"\xff",
        "still a pipe"
    );
    assert_eq!(play.gate.status(play.now).attempts_in_flight, 0);
    assert!(play.lost().session.is_over());
}

#[test]
fn a_slow_side_stops_the_other_and_memory_is_bounded() {
    let most = settings().buffered_bytes;
    let mut play = Play::new();
    play.client(&["SYNC"]).connect();
    let mut held = 0;
    while play.session.wants_upstream() {
        play.session.replies().extend([b'x'; 10_000]);
        play.session.upstream_sent(10_000, play.now);
        held += 10_000;
        assert!(held <= most + 10_000);
    }
    assert!(!play.session.wants_client());
    play.said();
    assert!(play.session.wants_client() && play.session.wants_upstream());
    let mut held = 0;
    while play.session.wants_client() {
        play.raw(&[b'x'; 10_000]);
        held += 10_000;
        assert!(held <= most + 10_000);
    }
    play.sent();
    assert!(play.session.wants_client());
    assert!(play.session.held_bytes() < 4 * most);
}

#[test]
fn client_reply_on_makes_a_session_of_it() {
    let mut play = Play::new();
    play.client(&["CLIENT REPLY OFF"]).connect();
    assert_eq!(
        play.client(&["INCR a", "INCR a"]).sent(),
        "*2 INCR a *2 INCR a"
    );
    play.pass(100_000);
    assert_eq!(
        play.client(&["CLIENT REPLY ON"]).sent(),
        "*3 CLIENT REPLY ON"
    );
    assert_eq!(play.upstream("+OK\r\n").said(), "+OK\r\n");
    play.client(&["GET a"]).sent();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*2 GET a", "it is repeated");
}

#[test]
fn a_connection_whose_state_was_changed_in_silence_stays_a_pipe() {
    for state in [
        "SELECT 1",
        "MULTI",
        "SUBSCRIBE a",
        "CLIENT SETNAME n",
        "AUTH p",
    ] {
        let mut play = Play::new();
        play.client(&["CLIENT REPLY OFF"]).connect();
        play.client(&[state, "CLIENT REPLY ON"]).sent();
        play.upstream("+OK\r\n").said();
        play.client(&["GET a"]).sent();
        assert!(play.lost().session.is_over(), "{state}");
    }
}

#[test]
fn what_redis_answers_in_spite_of_client_reply_off_is_not_taken_for_the_end_of_silence() {
    let mut play = Play::new();
    play.client(&["CLIENT REPLY OFF"]).connect();
    play.client(&["SET a 1", "CLIENT REPLY ON"]).sent();
    // OFF was refused, SET and ON were not.
    assert_eq!(
        play.upstream("-NOPERM x\r\n+OK\r\n+OK\r\n").said(),
        "-NOPERM x\r\n+OK\r\n+OK\r\n"
    );
    assert!(play.lost().session.is_over());
}

#[test]
fn client_reply_skip_is_about_one_command_and_then_a_session() {
    let mut play = Play::new();
    play.client(&["CLIENT REPLY SKIP", "INCR a", "GET a"])
        .connect();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*2 GET a", "which alone is repeated");
    assert_eq!(play.upstream("$1\r\n1\r\n").said(), "$1\r\n1\r\n");
}

#[test]
fn a_client_that_leaves_in_silence_has_what_it_sent_passed_on() {
    let mut play = Play::new();
    play.client(&["CLIENT REPLY OFF", "INCR a"]);
    play.session.client_ended();
    assert!(!play.session.is_over());
    assert!(play.connect().starts_with("*3 CLIENT REPLY OFF"));
    play.sent();
    assert!(play.session.hangs_up() && !play.session.is_over());
    assert!(play.lost().session.is_over());
}

#[test]
fn a_stop_of_the_process_ends_a_pipe_whatever_redis_does() {
    let mut play = monitor();
    play.session.stop();
    assert!(play.session.hangs_up());
    assert!(play.session.wake_at() <= play.now.after(Duration::from_secs(3)));
    play.pass(3000);
    assert!(play.session.is_over());
}

#[test]
fn what_is_no_command_goes_through_for_redis_to_answer() {
    let mut play = monitor();
    assert_eq!(
        play.raw(b"*1\r\n*1\r\n").session.to_upstream(),
        b"*1\r\n*1\r\n"
    );
    let error = "-ERR Protocol error: expected '$', got '*'\r\n";
    assert_eq!(play.upstream(error).said(), error);
}
