//! Bytes from the client: commands, inline commands, and neither.

use crate::play::{Play, settings};
use levee_policy::budget::BudgetSettings;

#[test]
fn inline_commands_go_out_as_arrays() {
    let mut play = Play::new();
    play.raw(b"\r\nSET a \"b c\"\r\n\r\nPI");
    assert_eq!(play.connect(), "*3 SET a b c");
    play.upstream("+OK\r\n").raw(b"NG\r\n");
    assert_eq!(play.sent(), "*1 PING");
}

#[test]
fn lines_without_a_command_leave_nothing_behind() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    for _ in 0..64 {
        assert!(play.session.wants_client());
        play.raw(&[b'\n'; 16 * 1024]);
    }
    play.raw(b"PING\nPING x\n");
    assert_eq!(play.sent(), "*1 PING *2 PING x");
}

#[test]
fn an_incomplete_line_behind_a_full_pipeline_may_end_later() {
    let mut play = Play::new();
    let line = format!("SET a {}\r\n", "v".repeat(1000));
    let limit = settings().buffered_bytes;
    play.raw(line.repeat(limit / line.len() + 1).as_bytes())
        .raw(b"PI");
    assert!(!play.session.wants_client());
    let sent = play.connect().matches("SET").count();
    assert_eq!(
        play.upstream(&"+OK\r\n".repeat(sent)).said().len(),
        5 * sent
    );
    assert_eq!(play.raw(b"NG\r\n").sent(), "*1 PING");
}

#[test]
fn a_line_that_does_not_end_is_refused_when_it_is_too_long_to_be_held() {
    let mut small = settings();
    small.buffered_bytes = 4096;
    let mut play = Play::with(small, BudgetSettings::default());
    play.raw(&[b'a'; 5000]);
    assert!(play.said().starts_with("-ERR Protocol error"));
    assert!(play.session.is_over());
}

#[test]
fn lines_of_http_end_the_connection_and_nothing_behind_them_is_sent() {
    for line in ["POST / HTTP/1.1", "host: x"] {
        let mut play = Play::new();
        play.raw(format!("{line}\r\nSET pwned 1\r\n").as_bytes());
        assert!(
            play.session.is_over() && !play.session.wants_connection(),
            "{line}"
        );
    }
}

#[test]
fn a_command_without_a_name_is_for_redis_to_answer() {
    let mut play = Play::new();
    play.raw(b"*0\r\n*1\r\n$0\r\n\r\n");
    assert_eq!(play.connect(), "*1");
}

#[test]
fn what_is_no_command_is_answered_in_order_and_ends_the_connection() {
    let mut play = Play::new();
    play.client(&["GET a"]).raw(b"*1\r\n*1\r\n");
    play.connect();
    assert!(!play.session.is_over());
    play.upstream("$-1\r\n");
    assert_eq!(
        play.said(),
        "$-1\r\n-ERR Protocol error: expected '$', got '*'\r\n"
    );
    assert!(play.session.is_over());
}

#[test]
fn refused_commands_are_answered_in_their_turn() {
    let mut play = Play::refusing();
    play.client(&["GET a", "MONITOR", "GET b"]).connect();
    assert_eq!(play.upstream("$-1\r\n").said().lines().count(), 2);
    assert_eq!(play.sent(), "*2 GET b");
}

#[test]
fn what_stands_behind_quit_is_not_sent() {
    let mut play = Play::new();
    assert_eq!(play.client(&["QUIT", "INCR a"]).connect(), "*1 QUIT");
}
