//! Whether an overwriting command may be executed again whose reply was lost.
//!
//! Executed again blindly, it could undo what somebody else has written since, and was told so. So its key is watched and
//! looked at, and the command is executed again in a transaction, which Redis refuses if anybody writes to the key
//! meanwhile. It is executed only if the key holds nothing, or just its value already.

use super::not_now::{says_not_executed, words};
use crate::resp::{arguments, encode, encode_bulk};

/// Longer commands are not verified, since what is compared must be held.
pub(super) const LONGEST: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Verification {
    step: Step,
    value: Vec<u8>,
    /// To the questions of this step, as far as they have come.
    replies: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// WATCH, EXISTS, GETRANGE.
    Look,
    /// MULTI. Without it, the command would be executed whatever was written to its key meanwhile.
    Begin,
    /// The command, EXEC.
    Execute,
    /// UNWATCH, since the command is not executed, for this reason.
    Forget(String),
}

/// What SET, SETEX or PSETEX writes.
#[derive(Clone, Copy, Debug)]
struct Write<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Write<'a> {
    /// `None` if key and value of `command` can't be told.
    fn of(command: &'a [u8]) -> Option<Self> {
        let mut words = arguments(command);
        let is_set = words.next()?.eq_ignore_ascii_case(b"SET");
        Some(Self {
            key: words.next()?,
            // The others have an expiry before it.
            value: words.nth(usize::from(!is_set))?,
        })
    }
}

/// What follows a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More replies of the same question.
    Wait,
    /// This question.
    Ask(Vec<u8>),
    /// The command was executed, with this reply.
    Executed(Vec<u8>),
    /// Somebody wrote to its key meanwhile. It was not executed this time.
    Again,
    /// Redis can't do it at the moment, in these words. It was not executed this time.
    NotNow(Vec<u8>),
    /// Nobody knows whether it was executed, and it is not executed again, for this reason.
    Unsure(String),
    /// The same, and the connection may still watch the key.
    Unclean(String),
}

impl Verification {
    /// Of a complete SET, SETEX or PSETEX, and what to ask first. `None` if its key and value can't be told.
    pub fn of(command: &[u8]) -> Option<(Self, Vec<u8>)> {
        let Write { key, value } = Write::of(command)?;
        // One byte more than the value, which shows whether there is more.
        let last = value.len().to_string();
        let question = [
            encode(&[b"WATCH", key]),
            encode(&[b"EXISTS", key]),
            encode(&[b"GETRANGE", key, b"0", last.as_bytes()]),
        ]
        .concat();
        let verification = Self {
            step: Step::Look,
            value: value.to_vec(),
            replies: Vec::new(),
        };
        Some((verification, question))
    }

    /// What it holds, in bytes.
    pub fn held_bytes(&self) -> usize {
        let replies: usize = self.replies.iter().map(Vec::capacity).sum();
        self.value.capacity() + replies
    }

    /// The next reply has come. `command` is the one that is verified.
    pub fn on_reply(&mut self, reply: &[u8], command: &[u8]) -> Progress {
        self.replies.push(reply.to_vec());
        let expected = match self.step {
            Step::Look => 3,
            Step::Execute => 2,
            Step::Begin | Step::Forget(_) => 1,
        };
        if self.replies.len() < expected {
            return Progress::Wait;
        }
        let replies = std::mem::take(&mut self.replies);
        let [first, second, third] = [0, 1, 2].map(|place| replies.get(place).map(Vec::as_slice));
        if let Some(refusal) = replies.iter().find(|reply| says_not_executed(reply)) {
            return Progress::NotNow(refusal.clone());
        }
        match &self.step {
            Step::Look if first != Some(b"+OK\r\n") => Progress::Unsure(said("WATCH", first)),
            Step::Look => self.looked(second.unwrap_or_default(), third.unwrap_or_default()),
            Step::Begin if first == Some(b"+OK\r\n") => {
                self.step = Step::Execute;
                Progress::Ask([command, &encode(&["EXEC"])].concat())
            }
            Step::Begin => self.forget(said("MULTI", first)),
            Step::Execute => executed(first, second.unwrap_or_default()),
            Step::Forget(why) if first == Some(b"+OK\r\n") => Progress::Unsure(why.clone()),
            Step::Forget(why) => Progress::Unclean(why.clone()),
        }
    }

    fn looked(&mut self, exists: &[u8], held: &[u8]) -> Progress {
        let holds_nothing = exists == b":0\r\n";
        let holds_it = exists == b":1\r\n" && held == encode_bulk(&self.value);
        if holds_nothing || holds_it {
            self.step = Step::Begin;
            return Progress::Ask(encode(&["MULTI"]));
        }
        let errors = [exists, held]
            .into_iter()
            .find(|reply| reply.starts_with(b"-"));
        self.forget(match errors {
            Some(error) => said("a look at its key", Some(error)),
            None => "its key holds something else by now".to_owned(),
        })
    }

    fn forget(&mut self, why: String) -> Progress {
        self.step = Step::Forget(why);
        Progress::Ask(encode(&["UNWATCH"]))
    }
}

fn executed(queued: Option<&[u8]>, exec: &[u8]) -> Progress {
    match exec.strip_prefix(b"*1\r\n") {
        Some(reply) if !reply.starts_with(b"-") => Progress::Executed(reply.to_vec()),
        Some(error) => Progress::Unsure(said("it", Some(error))),
        // EXEC ends what it refuses to execute.
        None if exec.starts_with(b"-EXECABORT") => {
            let error = queued.filter(|reply| reply.starts_with(b"-"));
            Progress::Unsure(said("it", error.or(Some(exec))))
        }
        None if matches!(exec, b"*-1\r\n" | b"_\r\n") => Progress::Again,
        None => Progress::Unclean(said("EXEC", Some(exec))),
    }
}

fn said(what: &str, reply: Option<&[u8]>) -> String {
    format!("{what} was answered {}", words(reply.unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// What follows when these are the replies.
    fn after(line: &str, replies: &[&str]) -> Progress {
        let words: Vec<&str> = line.split(' ').collect();
        let command = encode(&words);
        let (mut verification, _) = Verification::of(&command).unwrap();
        let mut last = Progress::Wait;
        for reply in replies {
            last = verification.on_reply(reply.as_bytes(), &command);
        }
        last
    }

    #[test]
    fn it_is_executed_again_over_nothing_or_over_its_own_value() {
        let again = [encode(&["SET", "k", "new"]), encode(&["EXEC"])].concat();
        for held in [[":0\r\n", "$0\r\n\r\n"], [":1\r\n", "$3\r\nnew\r\n"]] {
            let [exists, value] = held;
            let looked = ["+OK\r\n", exists, value];
            let multi = Progress::Ask(encode(&["MULTI"]));
            assert_eq!(after("SET k new", &looked), multi);
            let begun = after("SET k new", &[&looked[..], &["+OK\r\n"]].concat());
            assert_eq!(begun, Progress::Ask(again.clone()));
        }
    }

    #[test]
    fn it_is_not_executed_again_over_anything_else() {
        for (line, held) in [
            ("SET k new", "$3\r\nold\r\n"),
            ("SET k new", "$4\r\nnewe\r\n"),
            ("SET k new", "$0\r\n\r\n"),
            ("SETEX k 10 new", "$2\r\n10\r\n"),
            ("SET k new", "-WRONGTYPE x\r\n"),
        ] {
            let looked = after(line, &["+OK\r\n", ":1\r\n", held]);
            assert_eq!(looked, Progress::Ask(encode(&["UNWATCH"])), "{held}");
            let told = after(line, &["+OK\r\n", ":1\r\n", held, "+OK\r\n"]);
            assert!(matches!(told, Progress::Unsure(_)), "{held}");
        }
        // An empty value is not nothing.
        let empty = ["+OK\r\n", ":1\r\n", "$0\r\n\r\n"];
        let multi = Progress::Ask(encode(&["MULTI"]));
        assert_eq!(after("SET k ", &empty), multi);
    }

    #[test]
    fn it_is_not_executed_again_outside_a_transaction() {
        let refused = [
            "+OK\r\n",
            ":0\r\n",
            "$0\r\n\r\n",
            "-NOPERM this user has no permissions to run the 'multi' command\r\n",
        ];
        let unwatch = Progress::Ask(encode(&["UNWATCH"]));
        assert_eq!(after("SET k v", &refused), unwatch);
        let told = after("SET k v", &[&refused[..], &["+OK\r\n"]].concat());
        assert!(
            matches!(told, Progress::Unsure(why) if why.contains("MULTI was answered -NOPERM"))
        );
    }

    #[test]
    fn its_reply_is_that_of_the_transaction() {
        let looked = ["+OK\r\n", ":0\r\n", "$0\r\n\r\n", "+OK\r\n", "+QUEUED\r\n"];
        let with = |exec: &'static str| after("PSETEX k 10 v", &[&looked[..], &[exec]].concat());
        assert_eq!(
            with("*1\r\n+OK\r\n"),
            Progress::Executed(b"+OK\r\n".to_vec())
        );
        for exec in ["*-1\r\n", "_\r\n"] {
            assert_eq!(with(exec), Progress::Again, "{exec}");
        }
        for exec in ["*1\r\n-ERR x\r\n", "-EXECABORT x\r\n"] {
            let told = with(exec);
            let quotes = |why: &String| why.contains('-');
            assert!(
                matches!(&told, Progress::Unsure(why) if quotes(why)),
                "{exec}: {told:?}"
            );
        }
        for strange in ["*0\r\n", "+OK\r\n", "-NOPERM x\r\n"] {
            assert!(matches!(with(strange), Progress::Unclean(_)), "{strange}");
        }
    }

    #[test]
    fn what_redis_can_not_do_now_is_tried_later() {
        let busy = ["+OK\r\n", "-LOADING x\r\n", "-LOADING x\r\n"];
        let words = b"-LOADING x\r\n".to_vec();
        assert_eq!(after("SET k v", &busy), Progress::NotNow(words));
    }
}
