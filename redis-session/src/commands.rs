//! What a command means to a session: what it does to its connection, and whether it may be sent again.

use crate::idempotency::Idempotency;
use crate::resp::arguments;
use std::time::Duration;

/// What a command does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// Waits in Redis for at most this long. `None`: without a limit.
    Blocks(Option<Duration>),
    /// AUTH. Replayed.
    Auth,
    /// HELLO. Replayed.
    Hello,
    /// SELECT. Replayed.
    Select,
    /// CLIENT SETNAME, SETINFO, NO-EVICT, NO-TOUCH. Each is replayed.
    ClientSetting,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// SUBSCRIBE and its like: answered by pushes.
    Subscribe,
    /// CLIENT TRACKING: leaves state that can't be replayed.
    Attach,
    /// RESET: drops all state.
    Reset,
    Quit,
    /// A line of HTTP: somebody makes a browser send commands. Redis closes the connection too.
    Http,
    /// Not passed on, for this reason.
    Refused(&'static str),
}

impl Effect {
    /// Later commands on the connection may rely on its execution.
    pub const fn sets_state(self) -> bool {
        matches!(
            self,
            Self::Auth
                | Self::Hello
                | Self::Select
                | Self::ClientSetting
                | Self::Multi
                | Self::Watch
                | Self::Subscribe
                | Self::Attach
                | Self::Reset
        )
    }

    /// Whether a command with this effect means the same when sent again on another connection. `None`: that depends
    /// on the command.
    const fn repeatable(self) -> Option<bool> {
        match self {
            Self::None | Self::Blocks(_) => None,
            Self::Auth
            | Self::Hello
            | Self::Select
            | Self::ClientSetting
            | Self::Multi
            | Self::Watch
            | Self::Unwatch
            | Self::Discard
            | Self::Reset
            | Self::Quit => Some(true),
            Self::Exec | Self::Subscribe | Self::Attach | Self::Http | Self::Refused(_) => {
                Some(false)
            }
        }
    }
}

/// What a session needs to know of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// It may be sent again when nobody knows whether it was executed.
    pub repeatable: bool,
    /// It changes no data, so nobody needs to know whether it was executed.
    pub only_reads: bool,
    /// A script, function or module answers: an error may have any words, whatever was executed.
    pub scripted: bool,
    pub effect: Effect,
}

impl Class {
    /// Of a command that can't be looked at as a whole.
    pub const UNKNOWN: Self = Self {
        repeatable: false,
        only_reads: false,
        scripted: false,
        effect: Effect::None,
    };

    /// Of a complete `command`.
    pub fn of(command: &[u8], idempotency: &Idempotency) -> Self {
        let mut space = [0; 32];
        let name = upper_case(arguments(command).next().unwrap_or_default(), &mut space);
        let effect = effect(name, command);
        let idempotent = idempotency.of(name, command);
        Self {
            repeatable: effect.repeatable().unwrap_or(idempotent.repeatable),
            only_reads: idempotent.only_reads,
            scripted: is_scripted(name),
            effect,
        }
    }
}

/// Commands of modules have a dot in their names.
fn is_scripted(name: &[u8]) -> bool {
    name.starts_with(b"EVAL") || name.starts_with(b"FCALL") || name.contains(&b'.')
}

/// `name` in upper case; empty if it is longer than any command.
fn upper_case<'a>(name: &[u8], space: &'a mut [u8; 32]) -> &'a [u8] {
    let Some(space) = space.get_mut(..name.len()) else {
        return &[];
    };
    space.copy_from_slice(name);
    space.make_ascii_uppercase();
    space
}

fn effect(name: &[u8], command: &[u8]) -> Effect {
    match name {
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BZPOPMIN" | b"BZPOPMAX" => {
            Effect::Blocks(seconds(arguments(command).last()))
        }
        b"BLMPOP" | b"BZMPOP" => Effect::Blocks(seconds(arguments(command).nth(1))),
        b"XREAD" | b"XREADGROUP" => stream_read(command),
        b"WAIT" => Effect::Blocks(millis(arguments(command).nth(2))),
        b"WAITAOF" => Effect::Blocks(millis(arguments(command).nth(3))),
        b"POST" | b"HOST:" => Effect::Http,
        b"AUTH" => Effect::Auth,
        b"HELLO" => Effect::Hello,
        b"SELECT" => Effect::Select,
        b"MULTI" => Effect::Multi,
        b"EXEC" => Effect::Exec,
        b"DISCARD" => Effect::Discard,
        b"WATCH" => Effect::Watch,
        b"UNWATCH" => Effect::Unwatch,
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE"
        | b"SUNSUBSCRIBE" => Effect::Subscribe,
        b"RESET" => Effect::Reset,
        b"QUIT" => Effect::Quit,
        b"CLIENT" => client(command),
        b"MONITOR" => Effect::Refused("MONITOR is not passed on: connect to Redis itself"),
        b"SYNC" | b"PSYNC" | b"REPLCONF" => {
            Effect::Refused("replication is not passed on: connect to Redis itself")
        }
        _ => Effect::None,
    }
}

fn stream_read(command: &[u8]) -> Effect {
    let mut rest = arguments(command)
        .take_while(|word| !word.eq_ignore_ascii_case(b"STREAMS"))
        .skip_while(|word| !word.eq_ignore_ascii_case(b"BLOCK"));
    match rest.next() {
        Some(_) => Effect::Blocks(millis(rest.next())),
        None => Effect::None,
    }
}

fn client(command: &[u8]) -> Effect {
    let mut words = arguments(command).skip(1);
    let what = words.next().unwrap_or_default();
    let is = |word: &&str| what.eq_ignore_ascii_case(word.as_bytes());
    if ["SETNAME", "SETINFO", "NO-EVICT", "NO-TOUCH"]
        .iter()
        .any(is)
    {
        return Effect::ClientSetting;
    }
    if is(&"TRACKING") {
        return Effect::Attach;
    }
    let mode = words.next().unwrap_or_default();
    let is_quiet = mode.eq_ignore_ascii_case(b"OFF") || mode.eq_ignore_ascii_case(b"SKIP");
    if is(&"REPLY") && is_quiet {
        return Effect::Refused(
            "CLIENT REPLY OFF and SKIP are not passed on: each command must have its reply",
        );
    }
    Effect::None
}

/// Seconds, perhaps with a fraction. Zero means no limit.
fn seconds(argument: Option<&[u8]>) -> Option<Duration> {
    let value: f64 = std::str::from_utf8(argument?).ok()?.parse().ok()?;
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|wait| !wait.is_zero())
}

fn millis(argument: Option<&[u8]>) -> Option<Duration> {
    let value: u64 = std::str::from_utf8(argument?).ok()?.parse().ok()?;
    (value > 0).then(|| Duration::from_millis(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;

    fn class(line: &str) -> Class {
        let words: Vec<&str> = line.split(' ').collect();
        Class::of(&encode(&words), &Idempotency::new(&[], &[]))
    }

    #[test]
    fn what_would_be_applied_twice_is_not_repeated() {
        for line in [
            "INCR a",
            "LPUSH a b",
            "SET a b NX",
            "SET a b GET",
            "SET a b EX 1 NX",
            "SET a b IFEQ x",
            "EXEC",
            "EVAL x 0",
            "DEL a",
            "SADD a b",
            "GETDEL a",
            "EXPIRE a 1 GT",
            "EXPIRE a 0",
            "EXPIRE a -1",
            "PUBLISH a b",
            "NEWCOMMAND a",
            "SETNX a b",
            "XREADGROUP GROUP g c STREAMS s >",
            "SUBSCRIBE a",
        ] {
            assert!(!class(line).repeatable, "{line}");
        }
        for line in [
            "GET a",
            "get a",
            "SET a b",
            "SET a b ex 10 KEEPTTL",
            "MSET a b",
            "EXPIRE a 1",
            "XREAD STREAMS s 0",
        ] {
            assert!(class(line).repeatable, "{line}");
        }
    }

    #[test]
    fn the_configuration_adds_and_removes() {
        let table = Idempotency::new(&["del".to_owned()], &["Set".to_owned()]);
        assert!(Class::of(&encode(&["DEL", "a"]), &table).repeatable);
        assert!(!Class::of(&encode(&["SET", "a", "b"]), &table).repeatable);
    }

    #[test]
    fn blocking_commands_say_for_how_long() {
        let second = Some(Duration::from_secs(1));
        for (line, wait) in [
            ("BLPOP a b 1", second),
            ("BLPOP a 0", None),
            ("blmove a b LEFT LEFT 1", second),
            ("BLMPOP 1 1 a LEFT", second),
            ("XREAD COUNT 1 BLOCK 1000 STREAMS s $", second),
            ("WAIT 1 1000", second),
            ("WAITAOF 1 1 1000", second),
            ("BLPOP a 0.5", Some(Duration::from_millis(500))),
            ("BLPOP a -1", None),
            ("BLPOP a x", None),
        ] {
            assert_eq!(class(line).effect, Effect::Blocks(wait), "{line}");
        }
        assert_eq!(class("XREAD STREAMS s 0").effect, Effect::None);
        assert_eq!(class("XREAD STREAMS block 0").effect, Effect::None);
    }

    #[test]
    fn names_of_any_length_are_accepted() {
        assert_eq!(class(&"X".repeat(500)).effect, Effect::None);
        assert_eq!(class("").effect, Effect::None);
    }
}
