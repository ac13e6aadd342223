//! Which commands may be sent again when nobody knows whether they were executed.
//!
//! A command that is not in these tables is sent once, so what a later Redis adds is treated with care until somebody
//! has thought about it.

use crate::resp::arguments;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Commands that only read: sent again, the answer is right at the time of the second execution. Redis flags all of
/// them `readonly`, or they touch no data at all.
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

/// Commands that write the same data and give the same answer if executed again, unless somebody else has written in
/// between: that would be undone. So they are executed again only if their key holds nothing else, which can be seen.
///
/// What can't be seen as cheaply (`MSET`, `EXPIRE`, ...) is not repeated. `DEL`, `SADD`, `HSET` and their like leave the
/// same data, too, but answer differently the second time: a service that asks "was I first?" would get a wrong answer.
/// `retry.also` can add all of them.
pub const OVERWRITES: [(&str, Condition); 3] = [
    ("PSETEX", Condition::None),
    ("SET", Condition::PlainSet),
    ("SETEX", Condition::None),
];

/// Whether a command may be executed again when nobody knows whether it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeat {
    #[default]
    Never,
    /// If its key holds nothing, or just its value already.
    Verified,
    Always,
}

/// What the arguments of a command must be for it to be repeatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    None,
    /// SET without options that depend on what is there (NX, XX, GET, ...).
    PlainSet,
}

impl Condition {
    fn holds(self, command: &[u8]) -> bool {
        match self {
            Self::None => true,
            Self::PlainSet => {
                let mut options = arguments(command).skip(3);
                while let Some(option) = options.next() {
                    let is = |word: &&str| option.eq_ignore_ascii_case(word.as_bytes());
                    if ["EX", "PX", "EXAT", "PXAT"].iter().any(is) {
                        options.next();
                    } else if !is(&"KEEPTTL") {
                        return false;
                    }
                }
                true
            }
        }
    }
}

/// The tables, with what the configuration adds and removes.
#[derive(Clone, Debug, Default)]
pub struct Idempotency(HashMap<Vec<u8>, Entry, BuildHasherDefault<Fnv1a>>);

/// FNV-1a: for short names it takes a fraction of the instructions of the standard library's hash. Clients can't fill the
/// table, so they can't make it slow.
#[derive(Clone, Copy, Debug)]
struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// A slice's length, which comes before its bytes.
    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    only_reads: bool,
    repeat: Repeat,
    condition: Condition,
}

/// What is known of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idempotent {
    pub repeat: Repeat,
    /// It changes no data, so nobody needs to know whether it was executed.
    pub only_reads: bool,
}

impl Idempotency {
    /// The tables with the names in `also` and without those in `never`, in any case.
    pub fn new(also: &[String], never: &[String]) -> Self {
        let mut names = HashMap::default();
        let mut add = |name: &str, repeat, condition| {
            let name = name.to_ascii_uppercase();
            let entry = Entry {
                only_reads: READS.contains(&&*name),
                repeat,
                condition,
            };
            names.insert(name.into_bytes(), entry);
        };
        for name in READS {
            add(name, Repeat::Always, Condition::None);
        }
        for (name, condition) in OVERWRITES {
            add(name, Repeat::Verified, condition);
        }
        for name in also {
            add(name, Repeat::Always, Condition::None);
        }
        for name in never {
            add(name, Repeat::Never, Condition::None);
        }
        Self(names)
    }

    /// Of a complete `command` with this `name`, in upper case.
    pub fn of(&self, name: &[u8], command: &[u8]) -> Idempotent {
        let Some(entry) = self.0.get(name) else {
            return Idempotent::default();
        };
        Idempotent {
            repeat: if entry.condition.holds(command) {
                entry.repeat
            } else {
                Repeat::Never
            },
            only_reads: entry.only_reads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;

    fn of(table: &Idempotency, line: &str) -> Idempotent {
        let words: Vec<&str> = line.split(' ').collect();
        let name = line.split(' ').next().unwrap_or_default();
        table.of(name.as_bytes(), &encode(&words))
    }

    #[test]
    fn a_command_is_repeatable_only_if_its_arguments_allow_it() {
        let table = Idempotency::new(&[], &[]);
        for (line, repeat) in [
            ("GET a", Repeat::Always),
            ("INCR a", Repeat::Never),
            ("SET a b", Repeat::Verified),
            ("SET a b ex 10 KEEPTTL", Repeat::Verified),
            ("SETEX a 10 b", Repeat::Verified),
            ("SET a b NX", Repeat::Never),
            ("SET a b EX 1 NX", Repeat::Never),
            ("SET a b GET", Repeat::Never),
            ("MSET a b", Repeat::Never),
            ("EXPIRE a 1", Repeat::Never),
        ] {
            assert_eq!(of(&table, line).repeat, repeat, "{line}");
        }
    }

    #[test]
    fn the_configuration_adds_without_conditions_and_removes() {
        let lines = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let table = Idempotency::new(&lines(&["del", "set", "get"]), &lines(&["Mget"]));
        assert_eq!(of(&table, "DEL a").repeat, Repeat::Always);
        assert_eq!(of(&table, "SET a b NX").repeat, Repeat::Always);
        assert!(of(&table, "GET a").only_reads);
        let mget = of(&table, "MGET a");
        assert!(mget.repeat == Repeat::Never && mget.only_reads);
    }

    #[test]
    fn the_tables_are_sorted() {
        assert!(READS.is_sorted() && OVERWRITES.is_sorted_by_key(|(name, _)| *name));
    }
}
