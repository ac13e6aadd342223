//! Commands that are longer than the buffers.

use crate::play::Play;
use levee_redis_session::proof::Proof;

#[test]
fn a_long_command_goes_out_as_it_comes_and_only_once() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000\r\n");
    for _ in 0..6 {
        play.raw(&vec![b'v'; 100_000]);
        if play.session.wants_connection() {
            play.session
                .connected(Proof::Answered { at: play.now }, play.now);
        }
        play.sent();
        assert!(play.session.inbox().len() <= 256 * 1024);
    }
    play.raw(b"\r\n").sent();
    assert_eq!(play.upstream("+OK\r\n").said(), "+OK\r\n");
    play.client(&["GET b"]);
    assert_eq!(play.sent(), "*2 GET b");
}

#[test]
fn a_long_command_whose_connection_is_lost_ends_the_clients() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000\r\n")
        .raw(&vec![b'v'; 200_000]);
    play.session
        .connected(Proof::Answered { at: play.now }, play.now);
    play.sent();
    let said = play.lost().said();
    assert!(said.contains("may or may not have been executed"), "{said}");
    assert!(play.session.is_over());
}

#[test]
fn a_long_command_behind_a_slow_one_goes_on() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000000\r\n");
    let mut left = 1_000_000;
    while play.session.wants_client() {
        play.raw(&[b'v'; 10_000]).sent();
        left -= 10_000;
    }
    assert!(left > 0);
    play.upstream("$-1\r\n");
    while left > 0 {
        assert!(
            play.session.wants_client(),
            "{left} bytes are still to come"
        );
        play.raw(&[b'v'; 10_000]).sent();
        left -= 10_000;
    }
    play.raw(b"\r\n").sent();
    assert_eq!(play.upstream("+OK\r\n").said(), "$-1\r\n+OK\r\n");
}

#[test]
fn a_command_over_the_limit_is_refused_by_its_announced_length() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2000000\r\n");
    let said = play.said();
    assert!(said.contains("command_bytes (1048576)"), "{said}");
    assert!(play.session.is_over() && !play.session.wants_client());
}

#[test]
fn an_argument_that_redis_refuses_too_is_refused_in_its_words() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870913\r\n");
    assert_eq!(play.said(), "-ERR Protocol error: invalid bulk length\r\n");
    assert!(play.session.is_over() && !play.session.wants_client());
    play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n");
    assert!(play.said().contains("command_bytes"));
}

#[test]
fn a_command_that_is_refused_while_it_comes_ends_the_connection() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000\r\n")
        .raw(&vec![b'v'; 200_000]);
    play.session
        .connected(Proof::Answered { at: play.now }, play.now);
    play.sent();
    play.upstream("-ERR Protocol error: unauthenticated bulk length\r\n");
    assert!(play.said().contains("unauthenticated"));
    assert!(play.session.is_over());
    assert_eq!(play.sent(), "");

    let mut play = Play::new();
    play.raw(b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$200000\r\n")
        .raw(&vec![b'v'; 200_000]);
    play.session
        .connected(Proof::Answered { at: play.now }, play.now);
    play.sent();
    play.raw(b"\r\n$1\r\nb\r\n$9000000\r\n");
    assert!(play.said().contains("command_bytes"));
    assert!(play.session.is_over());
}
