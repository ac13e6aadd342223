//! What a command means to a session: what it does to its connection, and whether it may be sent again.

use crate::idempotency::{Idempotency, Repeat};
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
    Raw(Raw),
}

/// After these commands, commands and replies don't pair up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw {
    /// MONITOR: replies without commands.
    Monitor,
    /// SYNC, PSYNC: no replies.
    Replication,
    /// REPLCONF: a replica introduces itself. These have replies.
    Replconf,
    /// CLIENT REPLY, REPLCONF ACK: commands without replies.
    Silence(Silence),
}

/// For how long Redis gives no replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// CLIENT REPLY OFF: until CLIENT REPLY ON or RESET.
    Lasting,
    /// CLIENT REPLY SKIP: about the next command.
    Once,
    /// REPLCONF ACK, GETACK: about this command.
    Now,
}

impl Raw {
    /// What a client is told that may not have it.
    pub const fn refusal(self) -> &'static str {
        match self {
            Self::Monitor => "MONITOR is not passed on: connect to Redis itself",
            Self::Replication | Self::Replconf | Self::Silence(Silence::Now) => {
                "replication is not passed on: connect to Redis itself"
            }
            Self::Silence(_) => {
                "CLIENT REPLY OFF and SKIP are not passed on: each command must have its reply"
            }
        }
    }

    /// Redis answers it as it answers other commands.
    pub const fn is_answered(self) -> bool {
        matches!(self, Self::Monitor | Self::Replconf)
    }
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
                | Self::Raw(_)
        )
    }

    /// Redis executes it for clients that have not logged in, too.
    pub const fn needs_no_login(self) -> bool {
        matches!(self, Self::Auth | Self::Hello | Self::Reset | Self::Quit)
    }

    /// Redis executes it while it is busy with a script; it drops what the connection has.
    pub const fn needs_no_state(self) -> bool {
        matches!(self, Self::Reset | Self::Quit)
    }

    /// Whether a command with this effect means the same when sent again on another connection. `None`: that depends
    /// on the command.
    const fn repeat(self) -> Option<Repeat> {
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
            | Self::Quit
            | Self::Raw(Raw::Monitor) => Some(Repeat::Always),
            Self::Exec | Self::Subscribe | Self::Attach | Self::Http | Self::Raw(_) => {
                Some(Repeat::Never)
            }
        }
    }
}

/// Who does what a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Redis,
    /// A script or function: it may take long, and an error may have any words, whatever was executed.
    Script,
    /// Redis, with its scripts or functions: SCRIPT, FUNCTION.
    Scripts,
    /// The way out of a script that takes too long. Redis does it while it is busy, whatever state the connection has.
    Rescue,
    /// Redis, for clients that subscribe: PUBLISH, SPUBLISH, PUBSUB.
    Subscribers,
    /// A module: an error may have any words, whatever was executed.
    Module,
}

impl Work {
    fn of(name: &[u8], command: &[u8]) -> Self {
        match name {
            b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => {
                Self::Script
            }
            b"SCRIPT" | b"FUNCTION" if is_rescue(name, command) => Self::Rescue,
            b"SHUTDOWN" => Self::Rescue,
            b"PUBLISH" | b"SPUBLISH" | b"PUBSUB" => Self::Subscribers,
            b"SCRIPT" | b"FUNCTION" => Self::Scripts,
            // Commands of modules have a dot in their names.
            _ if name.contains(&b'.') => Self::Module,
            _ => Self::Redis,
        }
    }

    /// It may be long on purpose.
    pub const fn takes_long(self) -> bool {
        matches!(self, Self::Script | Self::Scripts | Self::Rescue)
    }
}

/// What a session needs to know of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whether it may be executed again when nobody knows whether it was.
    pub repeat: Repeat,
    /// It changes no data, so nobody needs to know whether it was executed.
    pub only_reads: bool,
    pub work: Work,
    pub effect: Effect,
}

impl Class {
    /// It changes what Redis holds, not only what its connection has.
    pub fn changes_data(self) -> bool {
        !self.only_reads && self.effect.repeat() != Some(Repeat::Always)
    }

    /// Of a command that can't be looked at as a whole, by its beginning.
    pub fn of_beginning(command: &[u8]) -> Self {
        let mut space = [0; 32];
        let name = upper_case(arguments(command).next().unwrap_or_default(), &mut space);
        Self {
            repeat: Repeat::Never,
            only_reads: false,
            work: Work::of(name, &[]),
            effect: Effect::None,
        }
    }

    /// Of a complete `command`.
    pub fn of(command: &[u8], idempotency: &Idempotency) -> Self {
        let mut space = [0; 32];
        let name = upper_case(arguments(command).next().unwrap_or_default(), &mut space);
        let effect = effect(name, command);
        let idempotent = idempotency.of(name, command);
        Self {
            repeat: effect.repeat().unwrap_or(idempotent.repeat),
            only_reads: idempotent.only_reads,
            work: Work::of(name, command),
            effect,
        }
    }
}

/// SCRIPT KILL, FUNCTION KILL and FUNCTION STATS.
fn is_rescue(name: &[u8], command: &[u8]) -> bool {
    let what = arguments(command).nth(1).unwrap_or_default();
    what.eq_ignore_ascii_case(b"KILL")
        || (name == b"FUNCTION" && what.eq_ignore_ascii_case(b"STATS"))
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
        b"MONITOR" => Effect::Raw(Raw::Monitor),
        b"SYNC" | b"PSYNC" => Effect::Raw(Raw::Replication),
        b"REPLCONF" => replconf(command),
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
    // With more or fewer words it is an error, which has its reply.
    match (is(&"REPLY"), words.next(), words.next()) {
        (true, Some(mode), None) if mode.eq_ignore_ascii_case(b"OFF") => {
            Effect::Raw(Raw::Silence(Silence::Lasting))
        }
        (true, Some(mode), None) if mode.eq_ignore_ascii_case(b"SKIP") => {
            Effect::Raw(Raw::Silence(Silence::Once))
        }
        _ => Effect::None,
    }
}

fn replconf(command: &[u8]) -> Effect {
    let is_quiet = arguments(command)
        .skip(1)
        .step_by(2)
        .any(|word| word.eq_ignore_ascii_case(b"ACK") || word.eq_ignore_ascii_case(b"GETACK"));
    Effect::Raw(if is_quiet {
        Raw::Silence(Silence::Now)
    } else {
        Raw::Replconf
    })
}

/// What a complete `command` does to its connection.
pub fn effect_of(command: &[u8]) -> Effect {
    let mut space = [0; 32];
    let name = upper_case(arguments(command).next().unwrap_or_default(), &mut space);
    effect(name, command)
}

/// Whether `command` is a name only.
pub fn is_bare(command: &[u8]) -> bool {
    arguments(command).count() == 1
}

/// Whether `command` makes Redis give replies again.
pub fn ends_silence(command: &[u8]) -> bool {
    let mut words = arguments(command);
    ["CLIENT", "REPLY", "ON"].iter().all(|wanted| {
        words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case(wanted.as_bytes()))
    }) && words.next().is_none()
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
            "EXPIRE a 1",
            "MSET a b",
            "PUBLISH a b",
            "NEWCOMMAND a",
            "SETNX a b",
            "XREADGROUP GROUP g c STREAMS s >",
            "SUBSCRIBE a",
        ] {
            assert_eq!(class(line).repeat, Repeat::Never, "{line}");
        }
        for line in ["GET a", "get a", "XREAD STREAMS s 0"] {
            assert_eq!(class(line).repeat, Repeat::Always, "{line}");
        }
        for line in ["SET a b", "SET a b ex 10 KEEPTTL", "psetex a 1 b"] {
            assert_eq!(class(line).repeat, Repeat::Verified, "{line}");
        }
    }

    #[test]
    fn the_configuration_adds_and_removes() {
        let table = Idempotency::new(&["del".to_owned()], &["Set".to_owned()]);
        let repeat = |words: &[&str]| Class::of(&encode(words), &table).repeat;
        assert_eq!(repeat(&["DEL", "a"]), Repeat::Always);
        assert_eq!(repeat(&["SET", "a", "b"]), Repeat::Never);
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
