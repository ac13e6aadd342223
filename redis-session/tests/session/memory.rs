//! What a session holds while memory is scarce, and how it gives it up.

use crate::play::Play;
use levee_redis_session::session::Memory;

/// Longer than what may wait while memory is scarce, shorter than what may wait otherwise.
const LONG: usize = 100_000;

fn scarce(play: &mut Play) {
    play.session.set_memory(Memory::Scarce, play.now);
}

fn ample(play: &mut Play) {
    play.session.set_memory(Memory::Ample, play.now);
}

fn long_reply() -> String {
    format!("${LONG}\r\n{}\r\n", "v".repeat(LONG))
}

#[test]
fn a_client_that_takes_no_replies_gets_few_of_them_while_memory_is_scarce() {
    let mut play = Play::new();
    play.client(&["GET a", "GET b"]).connect();
    play.upstream(&long_reply());
    assert!(play.session.wants_upstream() && play.session.wants_client());
    scarce(&mut play);
    assert!(!play.session.wants_upstream() && !play.session.wants_client());
    assert_eq!(play.said(), long_reply());
    assert!(play.session.wants_upstream() && play.session.wants_client());
    play.upstream("$1\r\nb\r\n");
    assert_eq!(play.said(), "$1\r\nb\r\n");
}

#[test]
fn commands_that_waited_for_memory_go_out_when_it_is_back() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    scarce(&mut play);
    play.upstream(&long_reply());
    play.client(&["GET b"]);
    assert_eq!(play.sent(), "");
    ample(&mut play);
    assert_eq!(play.sent(), "*2 GET b");
    assert!(play.session.wants_upstream());
}

#[test]
fn a_long_command_arrives_while_memory_is_scarce() {
    let mut play = Play::new();
    scarce(&mut play);
    let value = "v".repeat(LONG);
    play.raw(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${LONG}\r\n{value}").as_bytes());
    assert!(play.session.wants_client(), "its end is to come");
    play.raw(b"\r\n");
    assert!(!play.session.wants_client(), "others wait behind it");
    assert_eq!(play.connect(), format!("*3 SET a {value}"));
    play.upstream("+OK\r\n");
    assert_eq!(play.said(), "+OK\r\n");
    assert!(play.session.wants_client());
}

#[test]
fn giving_up_memory_releases_it_with_an_error_if_nothing_else_is_owed() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.raw(b"*2\r\n$3\r\nGET\r\n$100000\r\n")
        .raw(&vec![b'v'; LONG]);
    assert!(play.session.held_bytes() > LONG);
    play.session.give_up_memory(play.now);
    assert!(play.session.held_bytes() < 1000);
    assert!(play.said().starts_with("-ERR levee: out of memory"));
    assert!(play.session.is_over());
    let counts = &play.gate.counts;
    assert_eq!((counts.refused_memory.get(), counts.neutral.get()), (1, 1));
    assert_eq!(counts.failure.get(), 0);
}

#[test]
fn no_error_is_put_into_a_reply_that_the_client_has_taken_in_part() {
    for taken in [0, 10] {
        let mut play = Play::new();
        play.client(&["GET a"]).connect();
        play.upstream(&long_reply());
        play.session.client_took(taken, play.now);
        play.session.give_up_memory(play.now);
        assert_eq!(play.said(), "");
        assert!(play.session.is_over());
    }
    // The reply streams, and the client has taken all that has come.
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.upstream(&format!("$200000\r\n{}", "v".repeat(LONG)));
    assert!(!play.said().is_empty());
    play.session.give_up_memory(play.now);
    assert_eq!(play.said(), "");
    assert!(play.session.is_over());
}

#[test]
fn shrinking_keeps_what_is_in_use() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.upstream(&long_reply()).said();
    play.client(&["GET b"]);
    play.session.shrink();
    assert!(play.session.held_bytes() < 1000);
    play.sent();
    play.upstream("$1\r\nb\r\n");
    assert_eq!(play.said(), "$1\r\nb\r\n");
}

#[test]
fn what_levee_asks_on_its_own_account_is_counted() {
    let mut play = Play::new();
    let value = "v".repeat(60_000);
    play.client(&[&format!("SET a {value}")]).connect();
    let before = play.session.held_bytes();
    play.lost().pass(100).connect();
    let held = format!("+OK\r\n:1\r\n$60000\r\n{value}\r\n");
    play.upstream(&held);
    assert!(play.session.held_bytes() >= before + value.len());
    assert_eq!(play.sent(), "*1 MULTI");
    play.session.give_up_memory(play.now);
    assert!(play.session.held_bytes() < 1000);
}

#[test]
fn what_redis_said_in_place_of_executing_a_command_is_counted_while_it_is_kept() {
    let mut play = Play::new();
    let words = format!("-LOADING {}\r\n", "v".repeat(20_000));
    play.client(&["GET a"]).connect();
    play.upstream(&words).session.shrink();
    assert!(play.session.held_bytes() > words.len());
    play.session.give_up_memory(play.now);
    assert!(play.session.held_bytes() < 1000);
}
