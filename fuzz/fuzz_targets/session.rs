//! Whatever client, upstream and time do to a session: nothing panics, and no command stays in flight.
#![no_main]

use levee_policy::backoff::{Backoff, Jitter};
use levee_policy::breaker::BreakerSettings;
use levee_policy::budget::BudgetSettings;
use levee_policy::time::Instant;
use levee_redis_session::counts::Counts;
use levee_redis_session::gate::{Check, Gate};
use levee_redis_session::idempotency::Idempotency;
use levee_redis_session::proof::Proof;
use levee_redis_session::session::{RawPolicy, Session, SessionSettings};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::time::Duration;

const COMMANDS: [&[u8]; 19] = [
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n",
    b"*1\r\n$5\r\nMULTI\r\n",
    b"*1\r\n$4\r\nEXEC\r\n",
    b"*2\r\n$5\r\nWATCH\r\n$1\r\na\r\n",
    b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n",
    b"*1\r\n$5\r\nRESET\r\n",
    b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n",
    b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n",
    b"*1\r\n$7\r\nMONITOR\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$2\r\nON\r\n",
    b"*1\r\n$4\r\nSYNC\r\n",
    b"*2\r\n$6\r\nSCRIPT\r\n$4\r\nKILL\r\n",
    b"*1\r\n$4\r\nQUIT\r\n",
    b"PING\r\n",
    b"PI",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$3000\r\n",
];

const REPLIES: [&[u8]; 11] = [
    b"+OK\r\n",
    b"+RESET\r\n",
    b"-ERR x\r\n",
    b"-NOAUTH x\r\n",
    b"-BUSY x\r\n",
    b"-LOADING x\r\n",
    b"-TRYAGAIN x\r\n",
    b"$3\r\nabc\r\n",
    b">1\r\n+x\r\n",
    b"$80000\r\n",
    b"-ERR max number of clients reached\r\n",
];

fn settings() -> SessionSettings {
    SessionSettings {
        name: "x".to_owned(),
        deadline: Duration::from_secs(3),
        script_deadline: Duration::from_secs(30),
        attempts: 3,
        backoff: Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_secs(1),
            factor: 2,
            jitter: Jitter::NONE,
        },
        idempotency: Idempotency::new(&[], &[]),
        command_bytes: 1 << 16,
        buffered_bytes: 4096,
        idle: Some(Duration::from_mins(10)),
        raw: RawPolicy::Allow,
        attempt_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
    }
}

fn client_sends(session: &mut Session, bytes: &[u8], now: Instant) {
    if session.wants_client() {
        session.inbox().extend_from_slice(bytes);
        session.client_sent(now);
    }
}

fn upstream_sends(session: &mut Session, bytes: &[u8], now: Instant) {
    if session.wants_upstream() {
        session.replies().extend_from_slice(bytes);
        session.upstream_sent(bytes.len(), now);
    }
}

/// All of `length`, or half of it.
fn part(length: usize, how: u8) -> usize {
    length * (1 + usize::from(how % 2)) / 2
}

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::from_nanos(1_000_000_000_000);
    let gate = Arc::new(Gate::new(
        "x",
        BreakerSettings::default(),
        BudgetSettings::default(),
        Arc::new(Counts::default()),
        7,
        now,
    ));
    let mut session = Session::new(Arc::new(settings()), gate.clone(), now);
    let mut rest = bytes;
    while let [what, how, after @ ..] = rest {
        rest = after;
        let choice = usize::from(*how);
        match what % 16 {
            0..=3 => client_sends(&mut session, COMMANDS[choice % COMMANDS.len()], now),
            4 => {
                let (raw, behind) = after.split_at(choice.min(after.len()));
                client_sends(&mut session, raw, now);
                rest = behind;
            }
            5..=7 => upstream_sends(&mut session, REPLIES[choice % REPLIES.len()], now),
            8 => upstream_sends(&mut session, &vec![*how; 256 * choice], now),
            9 if session.wants_connection() => {
                let proof = if how % 2 == 0 {
                    Proof::None
                } else {
                    Proof::Answered { at: now }
                };
                session.connected(proof, now);
            }
            10 if session.wants_connection() => session.not_connected("refused", now),
            11 if session.keeps_connection() => session.lost("reset", now),
            12 if session.wants_second() && how % 3 == 0 => {
                session.second_connected(now);
            }
            12 if session.wants_second() && how % 3 == 1 => {
                session.second_failed(Check::Silent { why: "refused" }, now);
            }
            12 | 13 => match part(session.to_upstream().len(), *how) {
                0 => {}
                sent => session.upstream_took(sent, now),
            },
            14 => match part(session.to_client().len(), *how) {
                0 => {}
                took => session.client_took(took, now),
            },
            15 => {
                now = now.after(Duration::from_millis(20 * u64::from(*how)));
                match how {
                    254 => session.stop(),
                    255 => session.client_ended(),
                    _ => {}
                }
                session.wake(now);
            }
            _ => {}
        }
        if session.is_over() {
            break;
        }
    }
    session.abandon(now);
    assert_eq!(gate.status(now).attempts_in_flight, 0);
});
