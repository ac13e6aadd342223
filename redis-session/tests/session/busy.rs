//! Redis that says "not now": a script that takes long, data that is being loaded, a cluster that is down.

use crate::play::{Play, settings};
use levee_policy::breaker::Phase;
use levee_policy::callers::Caller;
use levee_redis_session::gate::Check;
use levee_redis_session::session::{Session, SessionSettings};
use std::sync::Arc;
use std::time::Duration;

const BUSY: &str =
    "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n";

/// A client with a database and a name, whose connection to Redis is lost.
fn with_state() -> Play {
    let mut play = Play::new();
    play.client(&["AUTH p", "SELECT 9", "CLIENT SETNAME n"])
        .connect();
    play.upstream("+OK\r\n+OK\r\n+OK\r\n").said();
    play.lost();
    play
}

#[test]
fn busy_at_the_replay_of_state_is_an_answer_and_the_connection_stays() {
    let mut play = with_state();
    play.client(&["GET a", "GET b"]).connect();
    play.upstream("+OK\r\n").upstream(BUSY).upstream(BUSY);
    assert_eq!(play.said(), format!("{BUSY}{BUSY}"));
    assert!(!play.session.is_over() && !play.session.keeps_connection());
    // The next command tries again, and goes out once the state is set.
    play.client(&["GET a"]);
    assert_eq!(play.connect(), "*2 AUTH p *2 SELECT 9 *3 CLIENT SETNAME n");
    play.upstream("+OK\r\n+OK\r\n+OK\r\n");
    assert_eq!(play.sent(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\n1\r\n").said(), "$1\r\n1\r\n");
}

#[test]
fn what_redis_allows_while_it_is_busy_goes_out_though_the_state_could_not_be_set() {
    for kill in ["SCRIPT KILL", "function kill", "SHUTDOWN NOSAVE"] {
        let mut play = with_state();
        play.client(&["GET a", kill, "GET b"]).connect();
        play.upstream("+OK\r\n").upstream(BUSY).upstream(BUSY);
        assert_eq!(play.said(), BUSY);
        assert_eq!(play.sent(), format!("*2 {kill}"), "and nothing behind it");
        assert_eq!(play.upstream("+OK\r\n").said(), "+OK\r\n");
        // What is behind it gets a connection with all of the state.
        play.connect();
        play.upstream("+OK\r\n+OK\r\n+OK\r\n");
        assert_eq!(play.sent(), "*2 GET b");
    }
}

#[test]
fn nothing_goes_out_where_redis_is_too_busy_to_know_who_the_client_is() {
    let mut play = with_state();
    play.client(&["SCRIPT KILL"]).connect();
    assert_eq!(play.upstream(BUSY).said(), BUSY);
    assert!(!play.session.keeps_connection() && !play.session.is_over());
}

#[test]
fn a_transaction_that_could_not_begin_while_redis_was_busy_is_refused_to_its_end() {
    let mut play = with_state();
    play.client(&["MULTI"]).connect();
    play.upstream("+OK\r\n").upstream(BUSY).upstream(BUSY);
    assert_eq!(play.said(), BUSY);
    play.client(&["INCR a", "EXEC", "GET a"]);
    assert_eq!(
        play.said().matches("-ERR levee: the transaction").count(),
        2
    );
    assert!(play.session.wants_connection(), "GET a");
}

#[test]
fn loading_at_the_replay_of_state_is_tried_again_until_the_deadline_and_then_said() {
    let loading = "-LOADING Redis is loading the dataset in memory\r\n";
    let mut play = with_state();
    play.client(&["GET a"]);
    for _ in 0..40 {
        if play.session.wants_connection() {
            play.connect();
            play.upstream(loading);
        }
        play.pass(100);
    }
    assert_eq!(play.said(), loading);
    assert!(!play.session.is_over());
    play.client(&["GET a"]).connect();
    play.upstream("+OK\r\n+OK\r\n+OK\r\n").sent();
    assert_eq!(play.upstream("$1\r\n1\r\n").said(), "$1\r\n1\r\n");
}

#[test]
fn what_redis_said_last_is_the_answer_to_a_command_that_waits() {
    let down = "-CLUSTERDOWN Hash slot not served\r\n";
    let mut play = Play::new();
    play.client(&["BLPOP a 0"]);
    for _ in 0..40 {
        if play.session.wants_connection() {
            play.connect();
            play.upstream(down);
        }
        play.pass(100);
    }
    assert_eq!(play.said(), down);
    assert!(!play.session.is_over());
}

#[test]
fn what_was_executed_since_is_not_answered_by_older_words() {
    let mut play = Play::new();
    play.client(&["INCR a"]).connect();
    play.upstream("-LOADING x\r\n").pass(100).connect();
    let said = play.pass(3000).said();
    assert!(said.contains("may or may not have been executed"), "{said}");
}

#[test]
fn scripts_have_a_limit_of_their_own_whose_error_says_what_goes_on() {
    for script in ["EVAL x 0", "evalsha x 0", "EVAL_RO x 0", "FCALL f 0"] {
        let mut play = Play::new();
        play.client(&[script, "GET a"]).connect();
        assert_eq!(play.pass(29_000).said(), "", "{script}");
        assert_eq!(play.upstream("+OK\r\n").said(), "+OK\r\n");
        // What waited behind it has its own time yet.
        assert_eq!(play.pass(100).upstream("$1\r\n1\r\n").said(), "$1\r\n1\r\n");

        let mut play = Play::new();
        play.client(&[script]).connect();
        let said = play.pass(30_000).said();
        assert!(said.contains("within 30s"), "{said}");
        assert!(said.contains("SCRIPT KILL"), "{said}");
    }
    for (line, millis) in [("INCR a", 3000), ("SCRIPT FLUSH", 30_000)] {
        let mut play = Play::new();
        play.client(&[line]).connect();
        assert_eq!(play.pass(millis - 1).said(), "", "{line}");
        assert!(play.pass(1).said().contains("no answer"), "{line}");
    }
}

#[test]
fn a_transaction_with_a_script_has_the_time_of_scripts() {
    let mut play = Play::new();
    play.client(&["MULTI", "EVAL x 0", "EXEC"]).connect();
    play.upstream("+OK\r\n+QUEUED\r\n");
    assert_eq!(play.pass(29_000).said(), "+OK\r\n+QUEUED\r\n");
    play.upstream("*1\r\n+OK\r\n").said();
    play.client(&["MULTI", "GET a", "EXEC"]).sent();
    play.upstream("+OK\r\n+QUEUED\r\n").said();
    assert!(play.pass(3000).said().contains("within 3s"));
}

#[test]
fn the_way_out_of_a_script_goes_out_in_an_outage_and_through_an_open_breaker() {
    for line in ["SCRIPT KILL", "function kill", "FUNCTION STATS", "SHUTDOWN"] {
        let mut play = Play::in_an_outage();
        play.session = play.another();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(
            play.client(&[line]).connect(),
            format!("*{} {line}", words.len())
        );
    }
    let mut play = Play::in_an_outage();
    let said = play.client(&["SCRIPT EXISTS x"]).said();
    assert!(said.contains("circuit open"), "{said}");
}

/// A script of another client is under way.
fn held_up() -> (Play, Session) {
    let mut play = Play::new();
    play.client(&["EVAL x 0"]).connect();
    let another = play.another();
    let script = std::mem::replace(&mut play.session, another);
    (play, script)
}

const SILENT: Check<'_> = Check::Silent { why: "no answer" };

#[test]
fn silence_while_a_script_is_under_way_is_no_outage() {
    let (mut play, _script) = held_up();
    for _ in 0..5 {
        play.check(SILENT);
        assert!(play.gate.is_reachable());
        play.pass(1000);
    }
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
    // Redis would say that it is busy by now.
    play.pass(1000).check(SILENT);
    assert!(!play.gate.is_reachable());
}

#[test]
fn a_script_that_is_answered_explains_no_silence() {
    let (mut play, mut script) = held_up();
    script.replies().extend(b"+OK\r\n");
    script.upstream_sent(5, play.now);
    play.check(SILENT);
    assert!(!play.gate.is_reachable());
}

#[test]
fn nor_is_the_silence_of_another_connection() {
    let (mut play, _script) = held_up();
    play.client(&["GET a"]).connect();
    play.pass(1000);
    assert!(play.session.wants_second());
    play.session.second_failed(SILENT, play.now);
    assert!(play.gate.is_reachable());
}

#[test]
fn that_nothing_can_be_connected_is_an_outage_whatever_is_under_way() {
    let (mut play, _script) = held_up();
    play.check(Check::Failed { why: "refused" });
    assert!(!play.gate.is_reachable());
}

#[test]
fn scripts_in_one_pipeline_are_under_way_until_the_last_is_answered() {
    let mut play = Play::new();
    play.client(&["EVAL x 0", "GET a", "EVAL x 0"]).connect();
    play.upstream("+OK\r\n$-1\r\n").check(SILENT);
    assert!(play.gate.is_reachable());
    play.upstream("+OK\r\n").check(SILENT);
    assert!(!play.gate.is_reachable());
}

#[test]
fn a_transaction_that_calls_a_script_is_one() {
    let mut play = Play::new();
    play.client(&["MULTI", "EVAL x 0"]).connect();
    assert_eq!(play.gate.held_up_until(), None);
    play.upstream("+OK\r\n+QUEUED\r\n");
    play.client(&["EXEC"]).sent();
    assert!(play.gate.is_held_up(play.now));
    play.upstream("*1\r\n+OK\r\n");
    assert!(!play.gate.is_held_up(play.now));
}

#[test]
fn what_waits_for_somebodys_script_says_nothing_about_redis_and_its_error_says_why() {
    let (mut play, _script) = held_up();
    for _ in 0..10 {
        play.check(Check::Answered);
        play.gate.script_sent(play.now);
        play.session = play.another();
        play.client(&["INCR a"]).connect();
        let said = play.pass(3000).said();
        assert!(said.contains("within 3s: a script may run there"), "{said}");
    }
    assert_eq!(play.gate.phase_now(), Phase::Closed);
}

#[test]
fn a_script_that_takes_too_long_is_weak_evidence_of_its_caller() {
    let take_too_long = |callers: &[u32]| {
        let mut play = Play::new();
        let settings = Arc::new(SessionSettings {
            script_deadline: Duration::from_millis(500),
            ..settings()
        });
        for caller in callers.iter().cycle().take(10) {
            if play.gate.phase_now() == Phase::Open {
                break;
            }
            play.session = Session::new(settings.clone(), play.gate.clone(), play.now)
                .called_by(Caller::from_hash(*caller));
            play.client(&["EVAL x 0"]).connect();
            play.pass(500);
        }
        play.gate.phase_now()
    };
    assert_eq!(take_too_long(&[1]), Phase::Closed);
    assert_eq!(take_too_long(&[1, 2]), Phase::Open);
}

#[test]
fn the_way_out_waits_until_redis_says_that_it_is_busy() {
    for line in ["SCRIPT KILL", "FUNCTION STATS"] {
        let mut play = Play::new();
        play.client(&[line]);
        assert_eq!(play.accepted(), "*1 PING");
        play.pass(8000).upstream(BUSY);
        assert_eq!(play.sent(), format!("*2 {line}"));
        assert_eq!(play.upstream("+OK\r\n").said(), "+OK\r\n");
    }
    let mut play = Play::new();
    play.client(&["SCRIPT KILL"]).accepted();
    assert_eq!(play.pass(8499).said(), "");
    let said = play.pass(1).said();
    assert!(
        said.contains("no answer from Redis within 8s 500ms"),
        "{said}"
    );
}

#[test]
fn the_way_out_finds_another_connection_where_one_is_dead() {
    let mut play = Play::new();
    play.client(&["PING"]).connect();
    play.upstream("+PONG\r\n").said();
    play.pass(5000).client(&["SCRIPT KILL"]);
    assert_eq!(play.sent(), "*1 PING");
    play.pass(1000);
    assert_eq!(play.second(), "*2 SCRIPT KILL");
}

#[test]
fn what_waits_for_proof_waits_as_long_as_a_script_explains_the_silence() {
    let (mut play, _script) = held_up();
    play.pass(1000).client(&["EVAL y 0"]);
    assert_eq!(play.accepted(), "*1 PING");
    assert_eq!(play.pass(4499).said(), "");
    let said = play.pass(1).said();
    assert!(
        said.contains("within 4s 500ms: a script may run there"),
        "{said}"
    );
    // Without one, as long as other commands.
    let mut play = Play::new();
    play.client(&["EVAL y 0"]).accepted();
    let said = play.pass(3000).said();
    assert!(said.contains("no answer from Redis within 3s"), "{said}");
}

#[test]
fn scripts_that_go_out_while_redis_is_silent_explain_no_more_of_it() {
    let mut play = Play::new();
    let mut silent = Vec::new();
    for second in 0..=6 {
        let mut session = play.another();
        std::mem::swap(&mut play.session, &mut session);
        silent.push(session);
        play.client(&["EVAL_RO x 0"]).connect();
        assert_eq!(play.gate.is_held_up(play.now), second < 6, "{second}");
        play.check(SILENT);
        play.pass(1000);
    }
    assert!(!play.gate.is_reachable());
    // An answer moves the time, and what clients have left behind explains nothing then.
    play.check(Check::Answered);
    assert!(play.gate.is_held_up(play.now));
    for session in silent.iter_mut().chain([&mut play.session]) {
        session.abandon(play.now);
    }
    assert!(play.gate.is_held_up(play.now));
    play.check(Check::Answered);
    assert!(!play.gate.is_held_up(play.now));
}

#[test]
fn scripts_of_one_pipeline_each_have_their_time() {
    let mut play = Play::new();
    play.client(&["EVAL x 0", "EVAL y 0"]).connect();
    play.pass(4000).upstream("+OK\r\n");
    play.pass(4000).check(SILENT);
    assert!(play.gate.is_reachable());
}

#[test]
fn scripts_that_wait_for_each_other_each_have_their_time() {
    let (mut play, mut first) = held_up();
    play.pass(10).client(&["EVAL y 0"]).connect();
    play.pass(4000);
    first.replies().extend(b"+OK\r\n");
    first.upstream_sent(5, play.now);
    play.pass(4000).check(SILENT);
    assert!(play.gate.is_reachable());
    play.upstream("+OK\r\n").check(SILENT);
    assert!(!play.gate.is_reachable());
}

#[test]
fn commands_behind_a_transaction_that_is_refused_as_a_whole_have_their_own_time() {
    let mut play = with_state();
    play.client(&["MULTI", "SET a 1", "EXEC"]);
    for tenth in 0..30 {
        if tenth == 20 {
            play.client(&["GET a", "GET b"]);
        }
        if play.session.wants_connection() {
            play.connect();
            play.upstream("-LOADING x\r\n");
        }
        play.pass(100);
    }
    assert_eq!(play.said(), "-LOADING x\r\n".repeat(3));
}

#[test]
fn nothing_of_a_transaction_that_could_not_begin_goes_out() {
    for inside in ["SHUTDOWN NOSAVE", "SCRIPT KILL", "RESETS"] {
        let mut play = with_state();
        play.client(&["MULTI", inside, "EXEC", "SCRIPT KILL"])
            .connect();
        play.upstream("+OK\r\n").upstream(BUSY).upstream(BUSY);
        assert_eq!(play.said(), BUSY.repeat(3), "{inside}");
        assert_eq!(play.sent(), "*2 SCRIPT KILL", "what is behind it");
    }
}

#[test]
fn a_select_that_was_lost_and_meets_a_busy_redis_is_answered_so_and_the_client_stays() {
    let mut play = with_state();
    play.client(&["SELECT 3"]).connect();
    play.upstream("+OK\r\n+OK\r\n+OK\r\n").sent();
    play.lost().pass(100).connect();
    play.upstream("+OK\r\n").upstream(BUSY).upstream(BUSY);
    assert_eq!(play.said(), BUSY);
    assert!(!play.session.is_over());
}
