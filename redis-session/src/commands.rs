//! What a command means to the proxy: whether it may be sent twice, and what it does to the connection.
//!
//! A command that is not in these tables is sent once. So a command that a later Redis brings is
//! treated with care until somebody has thought about it.

use crate::resp::arguments;
use std::collections::HashMap;
use std::time::Duration;

/// Commands that read: sent twice, they give an answer that is right at the time of the second.
/// All of them have Redis' flag `readonly`, or touch no data at all.
pub const READS: &[&str] = &[
    "BITCOUNT",
    "BITFIELD_RO",
    "BITPOS",
    "COMMAND",
    "DBSIZE",
    "DUMP",
    "ECHO",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXISTS",
    "EXPIRETIME",
    "FCALL_RO",
    "GEODIST",
    "GEOHASH",
    "GEOPOS",
    "GEORADIUSBYMEMBER_RO",
    "GEORADIUS_RO",
    "GEOSEARCH",
    "GET",
    "GETBIT",
    "GETRANGE",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HRANDFIELD",
    "HSCAN",
    "HSTRLEN",
    "HVALS",
    "INFO",
    "KEYS",
    "LCS",
    "LINDEX",
    "LLEN",
    "LOLWUT",
    "LPOS",
    "LRANGE",
    "MGET",
    "OBJECT",
    "PEXPIRETIME",
    "PFCOUNT",
    "PING",
    "PTTL",
    "RANDOMKEY",
    "SCAN",
    "SCARD",
    "SDIFF",
    "SINTER",
    "SINTERCARD",
    "SISMEMBER",
    "SMEMBERS",
    "SMISMEMBER",
    "SORT_RO",
    "SRANDMEMBER",
    "SSCAN",
    "STRLEN",
    "SUBSTR",
    "SUNION",
    "TIME",
    "TOUCH",
    "TTL",
    "TYPE",
    "XINFO",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "ZCARD",
    "ZCOUNT",
    "ZDIFF",
    "ZINTER",
    "ZINTERCARD",
    "ZLEXCOUNT",
    "ZMSCORE",
    "ZRANDMEMBER",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE",
    "ZREVRANK",
    "ZSCAN",
    "ZSCORE",
    "ZUNION",
];

/// Commands that write: sent twice, they leave the same data and give the same answer. `SET` and
/// `EXPIRE` only without options that look at what is there.
///
/// `DEL`, `SADD`, `HSET` and their like leave the same data, but answer otherwise the second time:
/// a service that asks "was I first?" would be told a lie. They can be added by `retry.also`.
pub const OVERWRITES: &[&str] = &[
    "EXPIRE", "HMSET", "LSET", "MSET", "PEXPIRE", "PSETEX", "SET", "SETEX", "SETRANGE",
];

/// What a command does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Waits in the server, at most for this long. `None`: without an end.
    Blocking(Option<Duration>),
    /// AUTH: is replayed.
    Auth,
    /// HELLO: is replayed.
    Hello,
    /// SELECT: is replayed.
    Select,
    /// CLIENT SETNAME, SETINFO, NO-EVICT, NO-TOUCH: is replayed, each of its own.
    ClientSetting,
    /// Begins a transaction.
    Multi,
    /// Ends one: with its execution.
    Exec,
    /// Ends one: without.
    Discard,
    /// Watches keys.
    Watch,
    /// Ends all watching.
    Unwatch,
    /// SUBSCRIBE and its like: its answers are pushes.
    Subscribe,
    /// Leaves state behind that can't be replayed: CLIENT TRACKING.
    Attach,
    /// Forgets all state.
    Reset,
    /// Ends the connection.
    Quit,
    /// A line of HTTP: somebody has a browser send commands. Redis ends the connection too.
    Http,
    /// Is not passed on, for this reason.
    Refused(&'static str),
}

impl Kind {
    /// Whether what comes after it on a connection may rely on its having been executed.
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
}

/// What the proxy goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whether it may be sent again when its fate is unknown.
    pub repeatable: bool,
    /// Whether it only reads, so that nobody need ask whether it was executed.
    pub reads: bool,
    /// A script, a function or a module answers it: an error may have any words, whatever was executed.
    pub scripted: bool,
    /// What it does to the connection.
    pub kind: Kind,
}

/// The tables, with what the configuration adds and takes away.
#[derive(Clone, Debug, Default)]
pub struct Repeatable(HashMap<Vec<u8>, Known>);

/// What is known of a command by its name.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    reads: bool,
    repeatable: bool,
    /// Whatever its options are.
    always: bool,
}

impl Repeatable {
    /// The tables with `also`, without `never`; names in any case.
    pub fn new(also: &[String], never: &[String]) -> Self {
        let mut names: HashMap<Vec<u8>, Known> = HashMap::new();
        let upper = |name: &str| name.to_ascii_uppercase().into_bytes();
        for name in READS {
            names.entry(upper(name)).or_default().reads = true;
        }
        for name in READS.iter().chain(OVERWRITES) {
            names.entry(upper(name)).or_default().repeatable = true;
        }
        for name in also {
            let known = names.entry(upper(name)).or_default();
            (known.repeatable, known.always) = (true, true);
        }
        for name in never {
            names.entry(upper(name)).or_default().repeatable = false;
        }
        Self(names)
    }

    /// What `command`, which is complete, means.
    pub fn classify(&self, command: &[u8]) -> Class {
        let mut arguments = arguments(command);
        let mut upper = [0; 32];
        let name = upper_case(arguments.next().unwrap_or_default(), &mut upper);
        let known = self.0.get(name).copied().unwrap_or_default();
        let kind = kind(name, command);
        let repeatable = match kind {
            Kind::Plain | Kind::Blocking(_) => {
                known.repeatable && (known.always || is_unconditional(name, command))
            }
            // What only concerns the connection means the same on the next one.
            Kind::Auth
            | Kind::Hello
            | Kind::Select
            | Kind::ClientSetting
            | Kind::Multi
            | Kind::Watch
            | Kind::Unwatch
            | Kind::Discard
            | Kind::Reset
            | Kind::Quit => true,
            Kind::Exec | Kind::Subscribe | Kind::Attach | Kind::Http | Kind::Refused(_) => false,
        };
        Class {
            repeatable,
            reads: known.reads,
            scripted: is_scripted(name),
            kind,
        }
    }
}

/// Modules have a point in the names of their commands.
fn is_scripted(name: &[u8]) -> bool {
    name.starts_with(b"EVAL") || name.starts_with(b"FCALL") || name.contains(&b'.')
}

/// `name` in upper case, or nothing where it is longer than any command.
fn upper_case<'a>(name: &[u8], space: &'a mut [u8; 32]) -> &'a [u8] {
    let Some(space) = space.get_mut(..name.len()) else {
        return &[];
    };
    space.copy_from_slice(name);
    space.make_ascii_uppercase();
    space
}

fn kind(name: &[u8], command: &[u8]) -> Kind {
    let argument = |place: usize| arguments(command).nth(place);
    let is = |place: usize, words: &[&str]| {
        argument(place).is_some_and(|found| {
            words
                .iter()
                .any(|word| found.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    match name {
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BZPOPMIN" | b"BZPOPMAX" => {
            Kind::Blocking(seconds(arguments(command).last()))
        }
        b"BLMPOP" | b"BZMPOP" => Kind::Blocking(seconds(argument(1))),
        b"XREAD" | b"XREADGROUP" => {
            let mut rest = arguments(command)
                .take_while(|word| !word.eq_ignore_ascii_case(b"STREAMS"))
                .skip_while(|word| !word.eq_ignore_ascii_case(b"BLOCK"));
            match rest.next() {
                Some(_) => Kind::Blocking(millis(rest.next())),
                None => Kind::Plain,
            }
        }
        b"WAIT" => Kind::Blocking(millis(argument(2))),
        b"WAITAOF" => Kind::Blocking(millis(argument(3))),
        b"POST" | b"HOST:" => Kind::Http,
        b"AUTH" => Kind::Auth,
        b"HELLO" => Kind::Hello,
        b"SELECT" => Kind::Select,
        b"MULTI" => Kind::Multi,
        b"EXEC" => Kind::Exec,
        b"DISCARD" => Kind::Discard,
        b"WATCH" => Kind::Watch,
        b"UNWATCH" => Kind::Unwatch,
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE"
        | b"SUNSUBSCRIBE" => Kind::Subscribe,
        b"RESET" => Kind::Reset,
        b"QUIT" => Kind::Quit,
        b"CLIENT" if is(1, &["SETNAME", "SETINFO", "NO-EVICT", "NO-TOUCH"]) => Kind::ClientSetting,
        b"CLIENT" if is(1, &["TRACKING"]) => Kind::Attach,
        b"CLIENT" if is(1, &["REPLY"]) && is(2, &["OFF", "SKIP"]) => Kind::Refused(
            "CLIENT REPLY OFF and SKIP are not passed on: each command must have its reply",
        ),
        b"MONITOR" => Kind::Refused("MONITOR is not passed on: connect to Redis itself"),
        b"SYNC" | b"PSYNC" | b"REPLCONF" => {
            Kind::Refused("replication is not passed on: connect to Redis itself")
        }
        _ => Kind::Plain,
    }
}

/// Whether a command of the tables has no options that look at what is there.
fn is_unconditional(name: &[u8], command: &[u8]) -> bool {
    match name {
        b"SET" => {
            let mut options = arguments(command).skip(3);
            while let Some(option) = options.next() {
                let is = |words: &[&str]| {
                    words
                        .iter()
                        .any(|word| option.eq_ignore_ascii_case(word.as_bytes()))
                };
                if is(&["EX", "PX", "EXAT", "PXAT"]) {
                    options.next();
                } else if !is(&["KEEPTTL"]) {
                    return false;
                }
            }
            true
        }
        b"EXPIRE" | b"PEXPIRE" => {
            // What has expired at once is deleted, and not there the second time.
            let is_later = |time: &[u8]| time != b"0" && time.iter().all(u8::is_ascii_digit);
            arguments(command).count() == 3 && arguments(command).nth(2).is_some_and(is_later)
        }
        _ => true,
    }
}

/// How long a command blocks: seconds, perhaps with a fraction. Zero is without an end.
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
        Repeatable::new(&[], &[]).classify(&encode(&words))
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
    fn the_configuration_adds_and_takes_away() {
        let table = Repeatable::new(&["del".to_owned()], &["Set".to_owned()]);
        assert!(table.classify(&encode(&["DEL", "a"])).repeatable);
        assert!(!table.classify(&encode(&["SET", "a", "b"])).repeatable);
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
            assert_eq!(class(line).kind, Kind::Blocking(wait), "{line}");
        }
        assert_eq!(class("XREAD STREAMS s 0").kind, Kind::Plain);
        assert_eq!(class("XREAD STREAMS block 0").kind, Kind::Plain);
    }

    #[test]
    fn the_tables_are_sorted() {
        assert!(READS.is_sorted() && OVERWRITES.is_sorted());
    }

    #[test]
    fn names_of_any_length_are_read() {
        assert_eq!(class(&"X".repeat(500)).kind, Kind::Plain);
        assert_eq!(class("").kind, Kind::Plain);
    }
}
