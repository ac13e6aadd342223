//! What a session promises, without sockets and without waiting.

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::{BreakerSettings, Phase};
use levee_policy::budget::BudgetSettings;
use levee_policy::time::Instant;
use levee_redis_session::counts::Counts;
use levee_redis_session::gate::Gate;
use levee_redis_session::idempotency::Idempotency;
use levee_redis_session::resp::encode;
use levee_redis_session::session::{Session, SessionSettings};
use std::sync::Arc;
use std::time::Duration;

/// A session between a client and an upstream that say what a test wants.
struct Play {
    session: Session,
    gate: Arc<Gate>,
    now: Instant,
}

fn settings() -> SessionSettings {
    SessionSettings {
        name: "x".to_owned(),
        deadline: Duration::from_secs(3),
        attempts: 3,
        backoff: Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_secs(1),
            factor: 2,
            jitter: Jitter::NONE,
        },
        idempotency: Idempotency::new(&[], &[]),
        command_bytes: 1 << 20,
        buffered_bytes: 256 * 1024,
        idle: Duration::from_mins(10),
        connect_timeout: Duration::from_secs(1),
    }
}

impl Play {
    fn new() -> Self {
        Self::with(settings(), BudgetSettings::default())
    }

    fn with(settings: SessionSettings, budget: BudgetSettings) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let gate = Arc::new(Gate::new(
            "x",
            BreakerSettings::default(),
            budget,
            Arc::new(Counts::default()),
            7,
            now,
        ));
        let session = Session::new(Arc::new(settings), gate.clone(), now);
        Self { session, gate, now }
    }

    /// The client sends commands, a line each.
    fn client(&mut self, lines: &[&str]) -> &mut Self {
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            self.session.inbox().extend(encode(&words));
        }
        self.session.client_sent(self.now);
        self
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.session.inbox().extend(bytes);
        self.session.client_sent(self.now);
        self
    }

    /// A connection is made, and what goes out on it is read: the names and arguments of commands.
    fn connect(&mut self) -> String {
        assert!(self.session.wants_connection());
        self.session.connected();
        self.sent()
    }

    fn sent(&mut self) -> String {
        let mut all = Vec::new();
        while !self.session.to_upstream().is_empty() {
            let bytes = self.session.to_upstream().to_vec();
            self.session.upstream_took(bytes.len(), self.now);
            all.extend(bytes);
        }
        let text = String::from_utf8_lossy(&all).into_owned();
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|line| !line.starts_with('$') && !line.is_empty())
            .collect();
        words.join(" ")
    }

    fn upstream(&mut self, bytes: &str) -> &mut Self {
        self.session.replies().extend(bytes.as_bytes());
        self.session.upstream_sent(bytes.len(), self.now);
        self
    }

    /// What has come to the client since the last call.
    fn said(&mut self) -> String {
        let bytes = self.session.to_client().to_vec();
        self.session.client_took(bytes.len(), self.now);
        String::from_utf8(bytes).unwrap()
    }

    fn lost(&mut self) -> &mut Self {
        self.session.lost("reset", self.now);
        self
    }

    fn pass(&mut self, millis: u64) -> &mut Self {
        self.now = self.now.after(Duration::from_millis(millis));
        self.session.wake(self.now);
        self
    }
}

#[test]
fn a_lost_read_is_sent_again_after_a_wait() {
    let mut play = Play::new();
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
    play.lost();
    assert!(!play.session.wants_connection());
    assert_eq!(play.pass(100).connect(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\nv\r\n").said(), "$1\r\nv\r\n");
}

#[test]
fn a_write_that_may_have_been_executed_is_not_sent_again() {
    let mut play = Play::new();
    play.client(&["INCR a"]).connect();
    let said = play.lost().said();
    assert!(said.starts_with("-ERR levee: connection lost"), "{said}");
    assert!(said.contains("may or may not have been executed"), "{said}");
    play.pass(5000);
    assert!(!play.session.wants_connection() && !play.session.is_over());
}

#[test]
fn a_write_of_which_a_byte_was_not_sent_is_sent_again() {
    let mut play = Play::new();
    play.client(&["INCR a"]);
    play.session.connected();
    let bytes = play.session.to_upstream().len();
    play.session.upstream_took(bytes - 1, play.now);
    play.lost();
    assert_eq!(play.said(), "");
    assert_eq!(play.pass(100).connect(), "*2 INCR a");
}

#[test]
fn what_stands_before_a_lost_write_fails_with_it_and_what_stands_behind_is_sent_again() {
    let mut play = Play::new();
    play.client(&["GET a", "INCR a", "GET b", "SET b 1"])
        .connect();
    let said = play.lost().said();
    assert_eq!(said.matches("-ERR levee").count(), 2, "{said}");
    assert_eq!(play.pass(100).connect(), "*2 GET b *3 SET b 1");
    assert_eq!(play.upstream("$-1\r\n+OK\r\n").said(), "$-1\r\n+OK\r\n");
}

#[test]
fn what_was_answered_is_not_sent_again() {
    let mut play = Play::new();
    play.client(&["INCR a", "GET a"]).connect();
    assert_eq!(play.upstream(":1\r\n$1\r\n").said(), ":1\r\n");
    play.lost();
    assert_eq!(play.pass(100).connect(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\n1\r\n").said(), "$1\r\n1\r\n");
}

#[test]
fn a_command_is_sent_three_times_at_most() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    for wait in [100, 200] {
        play.lost().pass(wait).connect();
    }
    let said = play.lost().said();
    assert!(said.contains("3 attempts"), "{said}");
}

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
fn a_spent_budget_fails_at_once_and_says_so() {
    let budget = BudgetSettings {
        per_second: 0,
        ..BudgetSettings::default()
    };
    let mut play = Play::with(settings(), budget);
    play.client(&["GET a"]).connect();
    let said = play.lost().said();
    assert!(said.contains("retry budget is spent"), "{said}");
}

#[test]
fn one_client_at_a_time_tries_for_all_whether_redis_is_back_and_that_costs_no_budget() {
    const CLIENTS: usize = 200;
    let mut play = Play::with(
        settings(),
        BudgetSettings {
            per_second: 0,
            ..BudgetSettings::default()
        },
    );
    let mut sessions: Vec<Session> = (0..CLIENTS)
        .map(|_| {
            let mut session = Session::new(Arc::new(settings()), play.gate.clone(), play.now);
            session.inbox().extend(encode(&["INCR", "a"]));
            session.client_sent(play.now);
            session.not_connected("refused", play.now);
            session
        })
        .collect();
    let mut attempts = 0;
    for _ in 0..2000 {
        play.now = play.now.after(Duration::from_millis(1));
        for session in &mut sessions {
            session.wake(play.now);
            if session.wants_connection() {
                attempts += 1;
                session.not_connected("refused", play.now);
            }
        }
    }
    // After 100, 300, 700 and 1500 ms.
    assert_eq!(attempts, 4);
    assert!(
        sessions
            .iter()
            .all(|session| session.to_client().is_empty())
    );

    // A new client need not wait for its turn; it tells all others that Redis is back.
    play.client(&["GET a"]).connect();
    play.now = play.now.after(Duration::from_millis(100));
    for session in &mut sessions {
        session.wake(play.now);
        assert!(session.wants_connection());
    }
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
fn five_commands_that_fail_open_the_breaker_and_then_no_byte_goes_out() {
    let mut play = Play::new();
    for _ in 0..5 {
        assert_eq!(play.gate.phase_now(), Phase::Closed);
        play.client(&["INCR a"]).connect();
        play.lost().said();
    }
    assert_eq!(play.gate.phase_now(), Phase::Open);
    let said = play.client(&["INCR a", "GET a"]).said();
    assert_eq!(said.matches("circuit open for x").count(), 2, "{said}");
    assert!(!play.session.wants_connection() && !play.session.is_over());
}

#[test]
fn a_client_that_leaves_decides_nothing() {
    let mut play = Play::new();
    for _ in 0..20 {
        let mut session = Session::new(Arc::new(settings()), play.gate.clone(), play.now);
        std::mem::swap(&mut session, &mut play.session);
        play.client(&["GET a"]).connect();
        play.session.abandon(play.now);
    }
    assert_eq!(play.gate.phase_now(), Phase::Closed);
    assert_eq!(play.gate.status(play.now).attempts_in_flight, 0);
}

#[test]
fn who_the_client_is_and_where_it_works_is_told_to_the_next_connection() {
    let mut play = Play::new();
    play.client(&[
        "HELLO 3 AUTH u p",
        "SELECT 2",
        "SELECT 99",
        "CLIENT SETNAME n",
    ])
    .connect();
    play.upstream("%0\r\n+OK\r\n-ERR out of range\r\n+OK\r\n")
        .said();
    play.lost().client(&["GET a"]);
    assert_eq!(
        play.connect(),
        "*3 AUTH u p *2 HELLO 3 *2 SELECT 2 *3 CLIENT SETNAME n"
    );
    play.upstream("+OK\r\n%0\r\n+OK\r\n+OK\r\n");
    assert_eq!(play.said(), "");
    assert_eq!(play.sent(), "*2 GET a");
    assert_eq!(play.upstream("$-1\r\n").said(), "$-1\r\n");
}

#[test]
fn a_connection_that_can_not_be_made_the_clients_is_not_used() {
    let mut play = Play::new();
    play.client(&["AUTH p"]).connect();
    play.upstream("+OK\r\n").said();
    play.lost().client(&["GET a"]).connect();
    let said = play.upstream("-WRONGPASS\r\n").said();
    assert!(
        said.starts_with("-ERR levee: the connection's state"),
        "{said}"
    );
    assert!(play.session.is_over());
}

#[test]
fn watch_multi_subscriptions_and_tracking_end_with_their_connection() {
    for (commands, replies) in [
        (&["WATCH a"][..], "+OK\r\n"),
        (&["MULTI", "INCR a"], "+OK\r\n+QUEUED\r\n"),
        (
            &["SUBSCRIBE a"],
            "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
        ),
        (&["CLIENT TRACKING ON"], "+OK\r\n"),
    ] {
        let mut play = Play::new();
        play.client(commands).connect();
        play.upstream(replies).said();
        assert!(play.lost().session.is_over(), "{commands:?}");

        let mut play = Play::new();
        play.client(commands).connect();
        play.upstream(replies).said();
        play.client(&["GET a"]).sent();
        let said = play.lost().said();
        assert!(
            said.starts_with("-ERR levee: connection lost"),
            "{commands:?} {said}"
        );
        assert!(play.session.is_over(), "{commands:?}");
    }
}

#[test]
fn a_transaction_that_was_not_sent_is_sent_whole() {
    let mut play = Play::new();
    play.client(&["MULTI", "INCR a", "EXEC"]);
    play.session.not_connected("refused", play.now);
    assert_eq!(play.pass(100).connect(), "*1 MULTI *2 INCR a *1 EXEC");
}

#[test]
fn what_follows_a_multi_that_may_have_failed_is_not_taken_for_queued() {
    let mut play = Play::new();
    play.client(&["MULTI x", "INCR a"]).connect();
    let said = play.lost().said();
    assert_eq!(said.matches("-ERR levee").count(), 2, "{said}");
    play.pass(5000);
    assert!(!play.session.wants_connection());
}

#[test]
fn an_exec_outside_of_a_transaction_leaves_the_watch() {
    let mut play = Play::new();
    play.client(&["WATCH a", "EXEC"]).connect();
    play.upstream("+OK\r\n-ERR EXEC without MULTI\r\n").said();
    assert!(play.lost().session.is_over());
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
fn what_stands_behind_quit_is_not_sent() {
    let mut play = Play::new();
    assert_eq!(play.client(&["QUIT", "INCR a"]).connect(), "*1 QUIT");
}

#[test]
fn a_command_without_a_name_is_for_redis_to_answer() {
    let mut play = Play::new();
    play.raw(b"*0\r\n*1\r\n$0\r\n\r\n");
    assert_eq!(play.connect(), "*1");
}

#[test]
fn a_transaction_that_may_have_been_executed_fails_and_leaves_a_clean_connection() {
    let mut play = Play::new();
    play.client(&["WATCH a", "MULTI", "INCR a", "EXEC", "GET b"])
        .connect();
    let said = play.lost().said();
    assert_eq!(said.matches("-ERR levee").count(), 4, "{said}");
    assert!(!play.session.is_over());
    assert_eq!(play.pass(100).connect(), "*2 GET b");
}

#[test]
fn a_reply_that_says_not_executed_is_tried_again_whatever_the_command() {
    let mut play = Play::new();
    play.client(&["INCR a", "INCR b"]).connect();
    play.upstream("-LOADING Redis is loading\r\n-LOADING Redis is loading\r\n");
    assert_eq!(play.said(), "");
    assert_eq!(play.pass(100).connect(), "*2 INCR a *2 INCR b");
    assert_eq!(play.upstream(":1\r\n:1\r\n").said(), ":1\r\n:1\r\n");
}

#[test]
fn a_pipeline_of_which_a_part_was_executed_is_answered_as_it_is() {
    let mut play = Play::new();
    play.client(&["SET a 1", "SET a 2"]).connect();
    let replies = "-TRYAGAIN x\r\n+OK\r\n";
    assert_eq!(play.upstream(replies).said(), replies);
}

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
fn a_short_reply_of_which_a_part_has_come_is_asked_for_again() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    assert_eq!(play.upstream("$5\r\nhal").said(), "");
    assert_eq!(play.lost().pass(100).connect(), "*2 GET a");
    assert_eq!(play.upstream("$5\r\nwhole\r\n").said(), "$5\r\nwhole\r\n");
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
fn a_long_command_goes_out_as_it_comes_and_only_once() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000\r\n");
    for _ in 0..6 {
        play.raw(&vec![b'v'; 100_000]);
        if play.session.wants_connection() {
            play.session.connected();
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
    play.session.connected();
    play.sent();
    let said = play.lost().said();
    assert!(said.contains("may or may not have been executed"), "{said}");
    assert!(play.session.is_over());
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
fn an_incomplete_line_is_dropped_at_a_stop() {
    let mut play = Play::new();
    play.client(&["INCR a"]).raw(b"PIN").connect();
    play.session.stop();
    play.upstream(":1\r\n");
    assert_eq!(play.said(), ":1\r\n");
    assert!(play.session.is_over());
    assert_eq!(play.gate.counts.refused_protocol.get(), 0);
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
fn inline_commands_go_out_as_arrays() {
    let mut play = Play::new();
    play.raw(b"\r\nSET a \"b c\"\r\n\r\nPI");
    assert_eq!(play.connect(), "*3 SET a b c");
    play.upstream("+OK\r\n").raw(b"NG\r\n");
    assert_eq!(play.sent(), "*1 PING");
}

#[test]
fn refused_commands_are_answered_in_their_turn() {
    let mut play = Play::new();
    play.client(&["GET a", "MONITOR", "GET b"]).connect();
    assert_eq!(play.upstream("$-1\r\n").said().lines().count(), 2);
    assert_eq!(play.sent(), "*2 GET b");
}

#[test]
fn an_idle_client_is_closed_and_a_subscriber_is_not() {
    let mut play = Play::new();
    play.pass(600_000);
    assert!(play.session.is_over());

    let mut play = Play::new();
    play.client(&["SUBSCRIBE a"]).connect();
    play.upstream("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        .said();
    play.pass(600_000);
    assert!(!play.session.is_over());
}

#[test]
fn a_stop_waits_for_what_is_owed() {
    let mut play = Play::new();
    play.client(&["INCR a"]).connect();
    play.session.stop();
    assert!(!play.session.is_over() && !play.session.wants_client());
    play.upstream(":1\r\n");
    assert!(!play.session.is_over());
    assert_eq!(play.said(), ":1\r\n");
    assert!(play.session.is_over());
}

#[test]
fn the_upstreams_lack_of_places_is_told_word_for_word_once_the_budget_is_spent() {
    let full = "-ERR max number of clients reached\r\n";
    let budget = BudgetSettings {
        per_second: 0,
        ..BudgetSettings::default()
    };
    let mut play = Play::with(settings(), budget);
    play.client(&["GET a"]).connect();
    assert_eq!(play.upstream(full).said(), full);

    let mut play = Play::new();
    play.client(&["INCR a", "INCR b"]).connect();
    assert_eq!(play.upstream(full).lost().said(), "");
    assert_eq!(play.pass(100).connect(), "*2 INCR a *2 INCR b");
}

/// Opens the breaker, and lets its time pass.
fn after_an_outage() -> Play {
    let mut play = Play::new();
    for _ in 0..5 {
        play.client(&["INCR a"]).connect();
        play.lost().said();
    }
    assert_eq!(play.gate.phase_now(), Phase::Open);
    play.pass(60_000);
    play
}

#[test]
fn nothing_is_executed_after_a_state_that_could_not_be_set() {
    for state in [
        "SELECT 1",
        "AUTH bob pw",
        "HELLO 3",
        "CLIENT SETNAME n",
        "MULTI",
        "WATCH k",
    ] {
        let mut play = Play::new();
        play.client(&[state, "INCR a", "SET x 1"]).connect();
        let said = play.lost().said();
        assert_eq!(said.matches("-ERR").count(), 3, "{state}: {said}");
        assert!(play.session.is_over(), "{state}");
        assert!(!play.session.wants_connection(), "{state}");

        // The same where it is time that ends it.
        let mut play = Play::new();
        play.client(&[state]);
        play.session.not_connected("refused", play.now);
        play.pass(2500).client(&["SET x 1"]).pass(500);
        assert_eq!(play.said().matches("-ERR").count(), 2, "{state}");
        assert!(play.session.is_over(), "{state}");

        // And where it is the budget.
        let none = BudgetSettings {
            per_second: 0,
            ..BudgetSettings::default()
        };
        let mut play = Play::with(settings(), none);
        play.client(&[state]).connect();
        assert!(play.lost().said().starts_with("-ERR"), "{state}");
        assert!(play.session.is_over(), "{state}");
    }
}

#[test]
fn a_transaction_whose_begin_is_too_late_fails_as_a_whole() {
    let mut play = Play::new();
    play.client(&["MULTI"]);
    play.session.not_connected("refused", play.now);
    play.pass(2500).client(&["INCR a", "EXEC", "GET b"]);
    play.session.not_connected("refused", play.now);
    assert_eq!(play.pass(500).said().matches("-ERR").count(), 3);
    assert_eq!(play.pass(1000).connect(), "*2 GET b");
}

#[test]
fn a_refused_transaction_is_refused_to_its_end() {
    let mut play = after_an_outage();
    play.client(&[
        "GET a", "GET b", "GET c", "MULTI", "INCR x", "INCR y", "EXEC", "GET d",
    ]);
    assert_eq!(play.connect(), "*2 GET a *2 GET b *2 GET c");
    play.upstream("$-1\r\n$-1\r\n$-1\r\n");
    assert_eq!(play.gate.phase_now(), Phase::Closed);
    let said = play.said();
    assert_eq!(
        said.matches("-ERR levee: circuit open").count(),
        1,
        "{said}"
    );
    let refused = said.matches("-ERR levee: the transaction was refused");
    assert_eq!(refused.count(), 3, "{said}");
    assert_eq!(play.sent(), "*2 GET d");
}

#[test]
fn after_a_refused_select_nothing_goes_to_the_other_database() {
    let mut play = after_an_outage();
    play.client(&["GET a", "GET b", "GET c", "SELECT 1", "SET x 1"]);
    play.connect();
    play.upstream("$-1\r\n$-1\r\n$-1\r\n");
    let said = play.said();
    assert_eq!(said.matches("-ERR").count(), 1, "{said}");
    assert_eq!(play.sent(), "");
    assert!(play.session.is_over());
}

#[test]
fn a_command_that_is_not_passed_on_ends_a_transaction_unexecuted() {
    let mut play = Play::new();
    play.client(&["MULTI", "INCR a", "MONITOR", "EXEC"]);
    assert_eq!(play.connect(), "*1 MULTI *2 INCR a");
    play.upstream("+OK\r\n+QUEUED\r\n");
    assert_eq!(play.sent(), "");
    assert!(play.said().contains("MONITOR"));
    assert!(play.session.is_over());
}

#[test]
fn a_command_that_is_refused_while_it_comes_ends_the_connection() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000\r\n")
        .raw(&vec![b'v'; 200_000]);
    play.session.connected();
    play.sent();
    play.upstream("-ERR Protocol error: unauthenticated bulk length\r\n");
    assert!(play.said().contains("unauthenticated"));
    assert!(play.session.is_over());
    assert_eq!(play.sent(), "");

    let mut play = Play::new();
    play.raw(b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$200000\r\n")
        .raw(&vec![b'v'; 200_000]);
    play.session.connected();
    play.sent();
    play.raw(b"\r\n$1\r\nb\r\n$9000000\r\n");
    assert!(play.said().contains("command_bytes"));
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
fn a_client_that_does_not_complete_its_command_is_idle() {
    let mut play = Play::new();
    play.raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$600000\r\n")
        .raw(&vec![b'v'; 200_000]);
    play.session.connected();
    play.sent();
    for _ in 0..599 {
        play.pass(1000);
    }
    assert!(!play.session.is_over());
    play.pass(1000);
    assert!(play.session.is_over());
}

#[test]
fn a_client_that_takes_no_replies_is_closed_without_a_panic() {
    let mut play = Play::new();
    play.client(&["GET a", "GET b", "GET c"]).connect();
    let (first, half) = ("v".repeat(100_000), "v".repeat(200_000));
    play.upstream(&format!("$100000\r\n{first}\r\n$300000\r\n{half}"));
    play.pass(600_000);
    assert!(play.session.is_over());
    assert!(!play.session.wants_upstream());
}

#[test]
fn replies_of_our_own_are_bounded_and_go_on_when_they_are_taken() {
    let mut play = Play::new();
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
    let mut play = Play::new();
    play.raw(&encode(&["MONITOR"]).repeat(6000));
    assert!(!play.session.wants_client());
    play.said();
    assert!(play.session.wants_client());
}

#[test]
fn what_a_script_says_is_not_taken_for_redis_own_words() {
    for script in ["EVAL x 0", "EVALSHA_RO x 0", "FCALL f 0", "FT.ADD x"] {
        let mut play = Play::new();
        play.client(&[script]).connect();
        assert_eq!(
            play.upstream("-TRYAGAIN mine\r\n").said(),
            "-TRYAGAIN mine\r\n"
        );
        assert_eq!(play.pass(100).sent(), "");
    }
}

#[test]
fn a_lost_connection_is_one_failure_whatever_was_in_flight() {
    let mut play = Play::new();
    for loss in 1..=5 {
        play.client(&["INCR a", "INCR b", "INCR c", "INCR d", "INCR e"]);
        play.connect();
        play.lost().said();
        let phase = play.gate.phase_now();
        assert_eq!(phase == Phase::Open, loss == 5, "after {loss}: {phase:?}");
    }
    assert_eq!(play.gate.counts.failure.get(), 25);
}

#[test]
fn commands_that_wait_take_no_probe_from_others() {
    let mut play = after_an_outage();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut session = Session::new(Arc::new(settings()), play.gate.clone(), play.now);
        session.inbox().extend(encode(&["BLPOP", "q", "0"]));
        session.client_sent(play.now);
        session.connected();
        let sent = session.to_upstream().len();
        session.upstream_took(sent, play.now);
        waiting.push(session);
    }
    play.client(&["GET a", "GET b", "GET c"]).connect();
    play.upstream("$-1\r\n$-1\r\n$-1\r\n");
    assert_eq!(play.said(), "$-1\r\n$-1\r\n$-1\r\n");
    assert_eq!(play.gate.phase_now(), Phase::Closed);
    for mut session in waiting {
        session.replies().extend(b"*-1\r\n");
        session.upstream_sent(5, play.now);
    }
    assert_eq!(play.gate.status(play.now).attempts_in_flight, 0);
}

#[test]
fn the_end_of_a_client_is_noticed_behind_a_command_that_waits() {
    let mut play = Play::new();
    play.client(&["BLPOP q 0", "MONITOR"]).connect();
    assert!(play.session.wants_client());
    play.session.client_ended();
    assert!(play.session.is_over());
}

#[test]
fn a_subscription_behind_a_reset_is_not_forgotten() {
    let mut play = Play::new();
    play.client(&["RESET", "SUBSCRIBE a"]).connect();
    play.upstream("+RESET\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        .said();
    assert!(play.lost().session.is_over());
}

#[test]
fn a_reset_within_a_transaction_resets() {
    let mut play = Play::new();
    play.client(&["AUTH a b"]).connect();
    play.upstream("+OK\r\n").said();
    play.client(&["MULTI", "RESET"]).sent();
    play.upstream("+OK\r\n+RESET\r\n").said();
    play.lost();
    assert!(!play.session.is_over());
    assert_eq!(play.client(&["GET a"]).connect(), "*2 GET a");
}

#[test]
fn at_a_stop_a_command_beside_a_subscription_is_answered() {
    let mut play = Play::new();
    play.client(&["HELLO 3", "SUBSCRIBE a"]).connect();
    play.upstream("%0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        .said();
    play.client(&["INCR a"]).sent();
    play.session.stop();
    assert!(!play.session.is_over());
    assert_eq!(play.upstream(":1\r\n").said(), ":1\r\n");
    assert!(play.session.is_over());
}

#[test]
fn replies_to_a_replay_that_was_refused_are_not_taken_for_those_of_the_next() {
    let mut play = Play::new();
    play.client(&["SELECT 1", "CLIENT SETNAME n"]).connect();
    play.upstream("+OK\r\n+OK\r\n").said();
    play.lost().client(&["GET a"]).connect();
    play.upstream("-LOADING x\r\n-LOADING x\r\n");
    play.pass(100).connect();
    play.upstream("+OK\r\n+OK\r\n");
    assert_eq!(play.sent(), "*2 GET a");
    assert_eq!(play.upstream("$1\r\nv\r\n").said(), "$1\r\nv\r\n");
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

#[test]
fn all_that_is_sent_again_is_paid_for() {
    let mut play = Play::new();
    play.client(&["GET a"]).connect();
    play.pass(10).client(&["GET b"; 50]).sent();
    let before = play.gate.status(play.now).budget_left;
    play.pass(2990);
    assert_eq!(play.said().matches("-ERR").count(), 1);
    assert_eq!(before - play.gate.status(play.now).budget_left, 50);
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
fn a_line_that_does_not_end_is_refused_when_it_is_too_long_to_be_held() {
    let mut small = settings();
    small.buffered_bytes = 4096;
    let mut play = Play::with(small, BudgetSettings::default());
    play.raw(&[b'a'; 5000]);
    assert!(play.said().starts_with("-ERR Protocol error"));
    assert!(play.session.is_over());
}

#[test]
fn a_reply_of_our_own_is_not_put_inside_a_long_push() {
    let mut play = Play::new();
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
