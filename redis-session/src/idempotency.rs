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

/// Commands that write the same data and give the same answer if executed again, and under which condition.
///
/// `DEL`, `SADD`, `HSET` and their like leave the same data, but answer differently the second time: a service that
/// asks "was I first?" would get a wrong answer. `retry.also` can add them.
pub const OVERWRITES: [(&str, Condition); 9] = [
    ("EXPIRE", Condition::LaterExpiry),
    ("HMSET", Condition::None),
    ("LSET", Condition::None),
    ("MSET", Condition::None),
    ("PEXPIRE", Condition::LaterExpiry),
    ("PSETEX", Condition::None),
    ("SET", Condition::PlainSet),
    ("SETEX", Condition::None),
    ("SETRANGE", Condition::None),
];

/// What the arguments of a command must be for it to be repeatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    None,
    /// SET without options that depend on what is there (NX, XX, GET, ...).
    PlainSet,
    /// EXPIRE without options, in the future: a key that expires at once is gone the second time.
    LaterExpiry,
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
            Self::LaterExpiry => {
                let mut rest = arguments(command).skip(2);
                let is_later = |time: &[u8]| time != b"0" && time.iter().all(u8::is_ascii_digit);
                rest.next().is_some_and(is_later) && rest.next().is_none()
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
    /// `None`: never repeated.
    repeatable: Option<Condition>,
}

/// What is known of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idempotent {
    /// It may be executed twice.
    pub repeatable: bool,
    /// It changes no data, so nobody needs to know whether it was executed.
    pub only_reads: bool,
}

impl Idempotency {
    /// The tables with the names in `also` and without those in `never`, in any case.
    pub fn new(also: &[String], never: &[String]) -> Self {
        let mut names = HashMap::default();
        let upper = |name: &str| name.to_ascii_uppercase().into_bytes();
        let mut add = |name: &str, only_reads, repeatable| {
            let entry = Entry {
                only_reads,
                repeatable,
            };
            names.insert(upper(name), entry);
        };
        for name in READS {
            add(name, true, Some(Condition::None));
        }
        for (name, condition) in OVERWRITES {
            add(name, false, Some(condition));
        }
        for name in also {
            add(
                name,
                READS.contains(&&*name.to_ascii_uppercase()),
                Some(Condition::None),
            );
        }
        for name in never {
            add(name, READS.contains(&&*name.to_ascii_uppercase()), None);
        }
        Self(names)
    }

    /// Of a complete `command` with this `name`, in upper case.
    pub fn of(&self, name: &[u8], command: &[u8]) -> Idempotent {
        let Some(entry) = self.0.get(name) else {
            return Idempotent::default();
        };
        let condition = entry.repeatable;
        Idempotent {
            repeatable: condition.is_some_and(|condition| condition.holds(command)),
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
        for (line, repeatable) in [
            ("GET a", true),
            ("INCR a", false),
            ("SET a b", true),
            ("SET a b ex 10 KEEPTTL", true),
            ("SET a b NX", false),
            ("SET a b EX 1 NX", false),
            ("SET a b GET", false),
            ("EXPIRE a 1", true),
            ("EXPIRE a 1 GT", false),
            ("EXPIRE a 0", false),
            ("EXPIRE a -1", false),
        ] {
            assert_eq!(of(&table, line).repeatable, repeatable, "{line}");
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
        assert!(of(&table, "DEL a").repeatable);
        assert!(of(&table, "SET a b NX").repeatable);
        assert!(of(&table, "GET a").only_reads);
        let mget = of(&table, "MGET a");
        assert!(!mget.repeatable && mget.only_reads);
    }

    #[test]
    fn the_tables_are_sorted() {
        assert!(READS.is_sorted() && OVERWRITES.is_sorted_by_key(|(name, _)| *name));
    }
}
