//! Client state that a new connection to Redis gets first, since the last one had it.

use crate::commands::Effect;
use crate::resp::{arguments, encode};
use std::collections::BTreeMap;

/// The longest command that is kept for replaying.
const MAX_COMMAND: usize = 16 * 1024;

/// State of a connection that can be set again: who the client is, its protocol version, its database, its name.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Arguments of AUTH, from AUTH or from HELLO.
    identity: Option<Vec<Vec<u8>>>,
    protocol: Option<Vec<u8>>,
    database: Option<Vec<u8>>,
    /// CLIENT SETNAME and its like, by what they set.
    settings: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

/// The commands that set the state again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preamble {
    pub bytes: Vec<u8>,
    /// As many replies come before those of the client's commands.
    pub commands: u32,
    /// As many of the commands, the first ones, say who the client is and which protocol it speaks.
    pub identity: u32,
}

/// A command is too long to be kept, so the state that it set can't be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Replay {
    /// Keeps what `command` has set. Call it when Redis has executed the command.
    pub fn adopt(&mut self, effect: Effect, command: &[u8]) -> Result<(), TooLong> {
        if command.len() > MAX_COMMAND {
            return Err(TooLong);
        }
        let words: Vec<Vec<u8>> = arguments(command).map(<[u8]>::to_vec).collect();
        match effect {
            Effect::Auth => self.identity = Some(words.into_iter().skip(1).collect()),
            Effect::Hello => self.adopt_hello(&words),
            Effect::Select => self.database = words.into_iter().nth(1),
            Effect::ClientSetting => self.adopt_setting(words),
            Effect::Reset => *self = Self::default(),
            _ => {}
        }
        Ok(())
    }

    /// The client has said who it is.
    pub const fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    fn adopt_hello(&mut self, words: &[Vec<u8>]) {
        if let Some(protocol) = words.get(1) {
            self.protocol = Some(protocol.clone());
        }
        let mut rest = words.iter().skip(2);
        while let Some(word) = rest.next() {
            if word.eq_ignore_ascii_case(b"AUTH") {
                self.identity = Some(rest.by_ref().take(2).cloned().collect());
            } else if word.eq_ignore_ascii_case(b"SETNAME")
                && let Some(name) = rest.next()
            {
                let words = [b"CLIENT".to_vec(), b"SETNAME".to_vec(), name.clone()];
                self.settings.insert(b"SETNAME".to_vec(), words.to_vec());
            }
        }
    }

    fn adopt_setting(&mut self, words: Vec<Vec<u8>>) {
        let upper = |place: usize| words.get(place).map(|word| word.to_ascii_uppercase());
        let Some(mut key) = upper(1) else {
            return;
        };
        if key == b"SETINFO" {
            key.extend(upper(2).unwrap_or_default());
        }
        self.settings.insert(key, words);
    }

    pub fn preamble(&self) -> Preamble {
        let mut preamble = Preamble {
            bytes: Vec::new(),
            commands: 0,
            identity: 0,
        };
        let mut add = |words: &[Vec<u8>]| {
            preamble.bytes.extend(encode(words));
            preamble.commands += 1;
        };
        if let Some(identity) = &self.identity {
            add(&[&[b"AUTH".to_vec()], &identity[..]].concat());
        }
        if let Some(protocol) = &self.protocol {
            add(&[b"HELLO".to_vec(), protocol.clone()]);
        }
        let identity = usize::from(self.identity.is_some()) + usize::from(self.protocol.is_some());
        if let Some(database) = &self.database {
            add(&[b"SELECT".to_vec(), database.clone()]);
        }
        for words in self.settings.values() {
            add(words);
        }
        preamble.identity = u32::try_from(identity).unwrap_or_default();
        preamble
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn replayed(commands: &[(Effect, &str)]) -> String {
        let mut replay = Replay::default();
        for (effect, line) in commands {
            let words: Vec<&str> = line.split(' ').collect();
            replay.adopt(*effect, &encode(&words)).unwrap();
        }
        let Preamble {
            bytes, commands, ..
        } = replay.preamble();
        let lines = String::from_utf8(bytes).unwrap().replace("\r\n", " ");
        format!("{commands}: {lines}")
    }

    #[test]
    fn the_last_of_each_is_replayed_and_the_identity_comes_first() {
        let seen = replayed(&[
            (Effect::Hello, "HELLO 3 AUTH u p SETNAME n"),
            (Effect::Select, "SELECT 1"),
            (Effect::ClientSetting, "CLIENT SETINFO lib-name a"),
            (Effect::ClientSetting, "CLIENT SETINFO LIB-VER 1"),
            (Effect::Auth, "AUTH v q"),
            (Effect::Select, "SELECT 2"),
            (Effect::ClientSetting, "client setname m"),
        ]);
        assert_eq!(
            seen,
            "6: *3 $4 AUTH $1 v $1 q *2 $5 HELLO $1 3 *2 $6 SELECT $1 2 \
             *4 $6 CLIENT $7 SETINFO $8 lib-name $1 a *4 $6 CLIENT $7 SETINFO $7 LIB-VER $1 1 \
             *3 $6 client $7 setname $1 m "
        );
    }

    #[test]
    fn a_reset_drops_all() {
        assert_eq!(
            replayed(&[(Effect::Select, "SELECT 1"), (Effect::Reset, "RESET")]),
            "0: "
        );
    }
}
