//! Replies: passed on whole and in order, and bounded.

use crate::play::{Play, settings};
use levee_redis_session::resp::encode;

#[test]
fn a_reply_of_which_a_part_has_gone_out_is_never_continued_by_another() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    let part = format!("$200000\r\n{}", "v".repeat(100_000));
    assert_eq!(play.upstream(&part).said(), part);
    assert_eq!(play.lost().said(), "");
    assert!(play.session.is_over());
}

#[test]
fn a_long_reply_ends_the_keeping_back_of_what_stands_before_it() {
    let mut play = Play::new();
    play.client(&["SET a 1", "GET b"]).connect();
    play.upstream("-READONLY x\r\n$500000\r\n");
    while play.session.wants_upstream() {
        play.upstream(&"v".repeat(50_000));
    }
    assert!(play.session.replies().len() < 2 * settings().buffered_bytes);
    assert!(play.said().starts_with("-READONLY x\r\n$500000\r\nvvv"));
}

#[test]
fn pushes_pass_between_replies_and_answer_nothing() {
    let mut play = Play::new();
    play.client(&["HELLO 3"]).connect();
    play.upstream("%0\r\n").said();
    play.client(&["GET a"]).sent();
    let push = ">2\r\n+invalidate\r\n_\r\n";
    assert_eq!(play.upstream(push).said(), push);
    assert_eq!(play.lost().pass(100).connect(), "*2 HELLO 3");
}

#[test]
fn a_reply_of_our_own_is_not_put_inside_a_long_push() {
    let mut play = Play::refusing();
    play.client(&["HELLO 3"]).connect();
    play.upstream("%0\r\n").said();
    let head = format!(">2\r\n+message\r\n$100000\r\n{}", "v".repeat(70_000));
    assert_eq!(play.upstream(&head).said(), head);
    assert_eq!(play.client(&["MONITOR"]).said(), "");
    let rest = format!("{}\r\n", "v".repeat(30_000));
    let said = play.upstream(&rest).said();
    assert!(said.starts_with(&rest), "the push ends first");
    assert!(said.contains("MONITOR"), "and then Levee answers");
}

#[test]
fn replies_of_our_own_are_bounded_and_go_on_when_they_are_taken() {
    let mut play = Play::refusing();
    let many = encode(&["MONITOR"]).repeat(20_000);
    let mut taken = 0;
    play.raw(&many);
    while taken < 20_000 {
        let held = play.session.to_client().len();
        assert!(held < 2 * settings().buffered_bytes, "{held}");
        let said = play.said();
        assert!(!said.is_empty(), "after {taken}");
        taken += said.matches("-ERR").count();
    }
}

#[test]
fn a_client_that_takes_no_replies_is_read_no_further() {
    let mut play = Play::refusing();
    play.raw(&encode(&["MONITOR"]).repeat(6000));
    assert!(!play.session.wants_client());
    play.said();
    assert!(play.session.wants_client());
}

#[test]
fn a_message_is_no_reply_to_a_command_that_was_not_sent_yet() {
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n";
    let confirmed = |name: &str| format!("*3\r\n$9\r\nsubscribe\r\n$1\r\n{name}\r\n:1\r\n");
    let mut play = Play::new();
    play.client(&["SUBSCRIBE a"]).connect();
    play.upstream(&confirmed("a")).said();
    play.client(&["SUBSCRIBE b"]);
    assert_eq!(play.upstream(message).said(), message);
    assert_eq!(play.sent(), "*2 SUBSCRIBE b");
    assert_eq!(play.upstream(&confirmed("b")).said(), confirmed("b"));
}

#[test]
fn what_is_for_subscribers_lets_what_others_have_sent_go_first() {
    for (line, lets) in [
        ("PUBLISH a 1", true),
        ("spublish a 1", true),
        ("PUBSUB NUMSUB a", true),
        ("SUBSCRIBE a", false),
        ("GET a", false),
    ] {
        let mut play = Play::new();
        play.client(&[line]);
        assert_eq!(play.session.lets_others_go_first(), lets, "{line}");
        play.connect();
        assert!(!play.session.lets_others_go_first());
    }
}
