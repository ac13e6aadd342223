//! What a client has told its connection, so that it can be told to the next one.

use crate::commands::Kind;
use crate::resp::{arguments, encode};
use std::collections::BTreeMap;

/// The longest command that is kept for replaying.
const MAX_COMMAND: usize = 16 * 1024;

/// The state of a connection that can be made anew: who the client is, which protocol it speaks,
/// which database it uses, what it is called.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Arguments of AUTH, from AUTH or from HELLO.
    identity: Option<Vec<Vec<u8>>>,
    protocol: Option<Vec<u8>>,
    database: Option<Vec<u8>>,
    /// CLIENT SETNAME and its like, by what they set.
    settings: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Replay {
    /// `command`, of this kind, was answered well. False: it can't be kept.
    pub fn adopt(&mut self, kind: Kind, command: &[u8]) -> bool {
        if command.len() > MAX_COMMAND {
            return false;
        }
        let words: Vec<Vec<u8>> = arguments(command).map(<[u8]>::to_vec).collect();
        match kind {
            Kind::Auth => self.identity = Some(words[1..].to_vec()),
            Kind::Hello => self.adopt_hello(&words),
            Kind::Select => self.database = words.get(1).cloned(),
            Kind::ClientSetting => {
                let mut key = words[1].to_ascii_uppercase();
                if key == b"SETINFO" {
                    key.extend(
                        words
                            .get(2)
                            .map(|what| what.to_ascii_uppercase())
                            .unwrap_or_default(),
                    );
                }
                self.settings.insert(key, words);
            }
            Kind::Reset => *self = Self::default(),
            _ => {}
        }
        true
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

    /// The commands to send, and how many they are.
    pub fn commands(&self) -> (Vec<u8>, u32) {
        let mut bytes = Vec::new();
        let mut count = 0;
        let mut add = |words: &[Vec<u8>]| {
            bytes.extend(encode(words));
            count += 1;
        };
        if let Some(identity) = &self.identity {
            add(&[&[b"AUTH".to_vec()], &identity[..]].concat());
        }
        if let Some(protocol) = &self.protocol {
            add(&[b"HELLO".to_vec(), protocol.clone()]);
        }
        if let Some(database) = &self.database {
            add(&[b"SELECT".to_vec(), database.clone()]);
        }
        for words in self.settings.values() {
            add(words);
        }
        (bytes, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(commands: &[(Kind, &str)]) -> String {
        let mut replay = Replay::default();
        for (kind, line) in commands {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(replay.adopt(*kind, &encode(&words)));
        }
        let (bytes, count) = replay.commands();
        let lines = String::from_utf8(bytes).unwrap().replace("\r\n", " ");
        format!("{count}: {lines}")
    }

    #[test]
    fn the_last_of_each_is_told_and_who_the_client_is_comes_first() {
        let seen = told(&[
            (Kind::Hello, "HELLO 3 AUTH u p SETNAME n"),
            (Kind::Select, "SELECT 1"),
            (Kind::ClientSetting, "CLIENT SETINFO lib-name a"),
            (Kind::ClientSetting, "CLIENT SETINFO LIB-VER 1"),
            (Kind::Auth, "AUTH v q"),
            (Kind::Select, "SELECT 2"),
            (Kind::ClientSetting, "client setname m"),
        ]);
        assert_eq!(
            seen,
            "6: *3 $4 AUTH $1 v $1 q *2 $5 HELLO $1 3 *2 $6 SELECT $1 2 \
             *4 $6 CLIENT $7 SETINFO $8 lib-name $1 a *4 $6 CLIENT $7 SETINFO $7 LIB-VER $1 1 \
             *3 $6 client $7 setname $1 m "
        );
    }

    #[test]
    fn a_reset_forgets_all() {
        assert_eq!(
            told(&[(Kind::Select, "SELECT 1"), (Kind::Reset, "RESET")]),
            "0: "
        );
    }
}
