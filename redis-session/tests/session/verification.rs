//! A SET whose reply was lost undoes nothing that others have written.

use crate::play::{Play, settings};
use levee_policy::budget::BudgetSettings;
use levee_redis_session::idempotency::Idempotency;

/// The reply to `SET a new` was lost, and a connection is there again.
fn lost() -> Play {
    let mut play = Play::new();
    play.client(&["SET a new"]).connect();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*2 WATCH a *2 EXISTS a *4 GETRANGE a 0 3");
    play
}

#[test]
fn it_is_executed_over_nothing_and_over_itself() {
    for held in [":0\r\n$0\r\n\r\n", ":1\r\n$3\r\nnew\r\n"] {
        let mut play = lost();
        play.upstream("+OK\r\n").upstream(held);
        assert_eq!(play.sent(), "*1 MULTI");
        assert_eq!(play.upstream("+OK\r\n").sent(), "*3 SET a new *1 EXEC");
        play.upstream("+QUEUED\r\n*1\r\n+OK\r\n");
        assert_eq!(play.said(), "+OK\r\n");
        assert_eq!(play.client(&["INCR b"]).sent(), "*2 INCR b");
    }
}

#[test]
fn over_anything_else_it_is_an_error_and_what_follows_goes_on() {
    let mut play = lost();
    play.client(&["GET a"]);
    assert_eq!(
        play.upstream("+OK\r\n:1\r\n$3\r\nold\r\n").sent(),
        "*1 UNWATCH"
    );
    let sent = play.upstream("+OK\r\n").sent();
    let said = play.said();
    assert!(
        said.contains("its key holds something else by now"),
        "{said}"
    );
    assert!(said.contains("may or may not have been executed"), "{said}");
    assert_eq!(sent, "*2 GET a");
    assert!(!play.session.is_over());
}

#[test]
fn if_its_key_is_written_meanwhile_it_is_looked_at_again_up_to_the_attempts() {
    let mut play = lost();
    play.upstream("+OK\r\n:0\r\n$0\r\n\r\n+OK\r\n").sent();
    let sent = play.upstream("+QUEUED\r\n*-1\r\n").sent();
    assert_eq!(sent, "*2 WATCH a *2 EXISTS a *4 GETRANGE a 0 3");
    play.upstream("+OK\r\n:1\r\n$3\r\nnew\r\n+OK\r\n").sent();
    let said = play.upstream("+QUEUED\r\n_\r\n").said();
    assert!(said.contains("may or may not have been executed"), "{said}");
    assert!(said.contains("3 attempts were made"), "{said}");
}

#[test]
fn if_its_reply_is_lost_again_it_is_looked_at_again_up_to_the_attempts() {
    let mut play = lost();
    play.upstream("+OK\r\n:0\r\n$0\r\n\r\n").sent();
    play.lost().pass(200);
    assert_eq!(play.connect(), "*2 WATCH a *2 EXISTS a *4 GETRANGE a 0 3");
    let said = play.lost().said();
    assert!(said.contains("may or may not have been executed"), "{said}");
    assert!(said.contains("3 attempts were made"), "{said}");
}

#[test]
fn it_may_have_been_executed_though_redis_can_not_be_reached_now() {
    let mut play = Play::new();
    play.client(&["SET a new"]).connect();
    play.lost();
    for _ in 0..3000 {
        if play.session.wants_connection() {
            play.session.not_connected("refused", play.now);
        }
        play.pass(1);
    }
    let said = play.said();
    assert!(said.contains("may or may not have been executed"), "{said}");
}

#[test]
fn commands_between_are_sent_in_order() {
    let mut play = Play::new();
    play.client(&["SET a 1", "GET a", "SET b 2", "GET b", "GET c"])
        .connect();
    play.lost().pass(100);
    assert!(play.connect().starts_with("*2 WATCH a"));
    play.upstream("+OK\r\n:0\r\n$0\r\n\r\n+OK\r\n").sent();
    let sent = play.upstream("+QUEUED\r\n*1\r\n+OK\r\n").sent();
    assert_eq!(sent, "*2 GET a");
    let sent = play.upstream("$1\r\n1\r\n").sent();
    assert!(sent.starts_with("*2 WATCH b"), "{sent}");
    play.upstream("+OK\r\n:1\r\n$1\r\n2\r\n+OK\r\n").sent();
    let sent = play.upstream("+QUEUED\r\n*1\r\n+OK\r\n").sent();
    assert_eq!(sent, "*2 GET b *2 GET c");
    assert_eq!(play.said(), "+OK\r\n$1\r\n1\r\n+OK\r\n");
}

#[test]
fn a_read_does_not_see_what_a_later_command_of_its_pipeline_has_written() {
    let mut play = Play::new();
    play.client(&["GET a", "GET b", "MGET x a", "SET a 1", "GET a"])
        .connect();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*2 GET b");
    let said = play.said();
    assert!(
        said.contains("a later command may have changed what it reads"),
        "{said}"
    );
    let sent = play.upstream("$-1\r\n").sent();
    assert!(sent.starts_with("*2 WATCH a"), "{sent}");
    let said = play.said();
    assert_eq!(said.matches("a later command").count(), 1, "{said}");
    play.upstream("+OK\r\n:1\r\n$1\r\n1\r\n+OK\r\n").sent();
    let sent = play.upstream("+QUEUED\r\n*1\r\n+OK\r\n").sent();
    assert_eq!(sent, "*2 GET a");
}

#[test]
fn a_long_value_is_not_looked_at() {
    let mut play = Play::new();
    let line = format!("SET a {}", "v".repeat(65 * 1024));
    play.client(&[&line]).connect();
    play.lost().pass(100).connect();
    let said = play.said();
    assert!(said.contains("longer than 65536 bytes"), "{said}");
    assert!(said.contains("may or may not have been executed"), "{said}");
}

#[test]
fn what_was_sent_and_answered_with_not_now_is_not_in_doubt() {
    let mut play = Play::new();
    play.client(&["SET a 1"]).connect();
    play.upstream("-LOADING x\r\n");
    assert_eq!(play.pass(100).connect(), "*3 SET a 1");
}

#[test]
fn redis_that_can_not_do_it_now_is_asked_again_later() {
    let mut play = lost();
    play.upstream("+OK\r\n-LOADING x\r\n-LOADING x\r\n");
    assert!(!play.session.keeps_connection());
    play.pass(200);
    assert_eq!(play.connect(), "*2 WATCH a *2 EXISTS a *4 GETRANGE a 0 3");
}

#[test]
fn a_database_is_no_key() {
    let mut play = Play::new();
    play.client(&["GET 1", "SELECT 1", "GET a"]).connect();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*2 GET 1 *2 SELECT 1 *2 GET a");
}

#[test]
fn all_keys_of_what_may_be_repeated_by_configuration_count() {
    let mut settings = settings();
    settings.idempotency = Idempotency::new(&["MSET".to_owned()], &[]);
    let mut play = Play::with(settings, BudgetSettings::default());
    play.client(&["GET b", "MSET a 1 b 2"]).connect();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*5 MSET a 1 b 2");
    let said = play.said();
    assert!(said.contains("a later command may have changed"), "{said}");
}

#[test]
fn a_command_in_a_transaction_that_was_not_executed_is_not_in_doubt() {
    let mut play = Play::new();
    play.client(&["MULTI", "SET a 1"]).connect();
    play.lost().pass(100);
    play.client(&["EXEC"]);
    assert_eq!(play.connect(), "*1 MULTI *3 SET a 1 *1 EXEC");
    play.upstream("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(play.said(), "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
}

#[test]
fn a_look_at_its_key_does_not_end_what_the_client_watches() {
    let mut play = Play::new();
    play.client(&["WATCH b", "SET a new"]).connect();
    play.lost().pass(100);
    assert_eq!(play.connect(), "*2 WATCH b");
    let sent = play.upstream("+OK\r\n").sent();
    assert_eq!(sent, "");
    let said = play.said();
    assert!(said.contains("would end the client's WATCH"), "{said}");
    assert_eq!(play.client(&["GET b"]).sent(), "*2 GET b");
}

#[test]
fn a_connection_that_may_still_watch_the_key_is_left() {
    for (held, asked, refusal) in [
        (":1\r\n$3\r\nold\r\n", "*1 UNWATCH", "-NOPERM x\r\n"),
        (
            ":0\r\n$0\r\n\r\n",
            "*1 MULTI",
            "+OK\r\n+QUEUED\r\n-NOPERM x\r\n",
        ),
    ] {
        let mut play = lost();
        play.client(&["GET a"]).upstream("+OK\r\n").upstream(held);
        assert_eq!(play.sent(), asked);
        play.upstream(refusal);
        assert!(play.said().contains("may or may not have been executed"));
        assert!(!play.session.keeps_connection());
        assert_eq!(play.connect(), "*2 GET a");
    }
}

#[test]
fn once_it_is_executed_older_words_of_redis_answer_nothing() {
    let mut play = lost();
    play.upstream("+OK\r\n-LOADING x\r\n-LOADING x\r\n")
        .pass(200);
    play.connect();
    play.upstream("+OK\r\n:0\r\n$0\r\n\r\n+OK\r\n").sent();
    play.upstream("+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(play.said(), "+OK\r\n");
    play.lost().client(&["INCR b"]);
    play.session.not_connected("refused", play.now);
    let said = play.pass(3000).said();
    assert!(
        said.contains("can't be reached within 3s (refused)"),
        "{said}"
    );
}
