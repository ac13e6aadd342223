//! What the clients of one history do, and what goes wrong, by a seed.

use std::time::Duration;

use levee_harness::linear::{Action, Reply};
use levee_policy::random::SplitMix64;

/// What a key holds. Each kind has its own commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Counter,
    /// A field of a hash.
    Field,
    /// An element of a list.
    Element,
    /// When a key expires, in steps of [`STEP_SECONDS`].
    Expiry,
}

/// Far more than a history takes, so a time that is left says which step it was.
const STEP_SECONDS: u64 = 10_000;

/// Whether commands remove keys. A `SET` whose reply was lost is repeated if its key holds nothing, so it may undo another
/// client's `DEL`: `docs/reference/redis.md` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    None,
    Some,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Each value once, so that a read shows what it has seen.
    Unique,
    /// Two clients may write the same.
    Few,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub keys: Vec<Key>,
    pub players: Vec<Player>,
    pub values: Values,
    /// How many of 1,000 commands meet trouble.
    pub trouble: u64,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ThroughLevee,
    /// To Redis itself, without trouble.
    Direct,
}

/// One client.
#[derive(Clone, Debug)]
pub struct Player {
    pub way: Way,
    pub steps: Vec<Step>,
}

/// Commands that are sent together, after a pause.
#[derive(Clone, Debug)]
pub struct Step {
    pub pause: Duration,
    pub commands: Vec<Command>,
}

#[derive(Clone, Debug)]
pub struct Command {
    pub line: String,
    /// What it does to each of its keys, by their places.
    pub actions: Vec<(usize, Action)>,
    pub answers: Answers,
}

/// How its reply is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Plainly,
    /// With 1 if it was done, and 0 if not.
    WithFlag,
    /// With the seconds that are left, less than [`STEP_SECONDS`] after they were set.
    WithSeconds,
}

impl Answers {
    /// A reply of Redis that is no error.
    pub fn read(self, reply: &str) -> Reply {
        let mut lines = reply.lines();
        let first = lines.next().unwrap_or_default();
        let number = first.strip_prefix(':').and_then(|text| text.parse().ok());
        match (self, number) {
            (Self::WithFlag, Some(1)) => Reply::Done,
            (Self::WithFlag, Some(0)) | (Self::WithSeconds, Some(-1)) => Reply::Nothing,
            (Self::WithSeconds, Some(left)) => {
                let left = u64::try_from(left).expect("a key that is there");
                Reply::Text(left.div_ceil(STEP_SECONDS).to_string())
            }
            (_, Some(number)) => Reply::Number(number),
            (_, None) if first == "+OK" => Reply::Done,
            (_, None) if first == "$-1" => Reply::Nothing,
            (_, None) => Reply::Text(lines.next().expect("a value").to_owned()),
        }
    }
}

impl Key {
    /// What sets it up, and what it holds then.
    pub fn setup(&self) -> Option<(String, Option<String>)> {
        let name = &self.name;
        match self.kind {
            Kind::Text | Kind::Counter | Kind::Field => None,
            Kind::Element => Some((format!("RPUSH {name} first"), Some("first".to_owned()))),
            Kind::Expiry => Some((format!("SET {name} kept"), None)),
        }
    }

    /// What reads it.
    pub fn read(&self) -> (String, Answers) {
        let name = &self.name;
        match self.kind {
            Kind::Text | Kind::Counter => (format!("GET {name}"), Answers::Plainly),
            Kind::Field => (format!("HGET {name} f"), Answers::Plainly),
            Kind::Element => (format!("LINDEX {name} 0"), Answers::Plainly),
            Kind::Expiry => (format!("TTL {name}"), Answers::WithSeconds),
        }
    }
}

impl Plan {
    pub fn new(seed: u64, deletes: Deletes) -> Self {
        let mut author = Author {
            random: SplitMix64::new(seed),
            deletes,
            written: 0,
            values: Values::Unique,
            keys: Vec::new(),
        };
        author.plan(seed)
    }
}

struct Author {
    random: SplitMix64,
    deletes: Deletes,
    written: u64,
    values: Values,
    keys: Vec<Key>,
}

impl Author {
    fn draw(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        let place = self.draw(all.len() as u64);
        all[usize::try_from(place).expect("a place")]
    }

    fn plan(&mut self, seed: u64) -> Plan {
        const KINDS: [Kind; 8] = [
            Kind::Text,
            Kind::Text,
            Kind::Text,
            Kind::Counter,
            Kind::Counter,
            Kind::Field,
            Kind::Element,
            Kind::Expiry,
        ];
        if self.draw(4) == 0 {
            self.values = Values::Few;
        }
        for number in 0..=self.draw(3) {
            let kind = self.pick(&KINDS);
            let name = format!("{seed}:{number}");
            self.keys.push(Key { name, kind });
        }
        let direct = self.draw(2) == 0;
        let players = (0..2 + self.draw(3))
            .map(|number| Player {
                way: if number == 0 && direct {
                    Way::Direct
                } else {
                    Way::ThroughLevee
                },
                steps: self.steps(),
            })
            .collect();
        Plan {
            seed,
            keys: self.keys.clone(),
            players,
            values: self.values,
            trouble: self.pick(&[50, 150, 300]),
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        let mut left = 3 + self.draw(6);
        let mut steps = Vec::new();
        while left > 0 {
            let together = if self.draw(4) == 0 {
                1 + self.draw(left)
            } else {
                1
            };
            left -= together;
            let pause = self.pick(&[0, 0, 500, 2000, 5000]);
            steps.push(Step {
                pause: Duration::from_micros(pause),
                commands: (0..together).map(|_| self.command()).collect(),
            });
        }
        steps
    }

    fn command(&mut self) -> Command {
        let place = usize::try_from(self.draw(self.keys.len() as u64)).expect("a place");
        let key = self.keys[place].clone();
        if self.deletes == Deletes::Some && key.kind == Kind::Text && self.draw(8) == 0 {
            let line = format!("DEL {}", key.name);
            return one(place, line, Action::Delete, Answers::Plainly);
        }
        if self.draw(3) == 0 {
            let (line, answers) = key.read();
            return one(place, line, Action::Get, answers);
        }
        let name = &key.name;
        match key.kind {
            Kind::Text => self.write_text(place, name),
            Kind::Counter => {
                let more = self.pick(&[1, 1, 1, 5]);
                let line = match more {
                    1 => format!("INCR {name}"),
                    _ => format!("INCRBY {name} {more}"),
                };
                one(place, line, Action::Add(more), Answers::Plainly)
            }
            Kind::Field => {
                let value = self.value();
                let line = format!("HMSET {name} f {value}");
                one(place, line, Action::Set(value), Answers::Plainly)
            }
            Kind::Element => {
                let value = self.value();
                let line = format!("LSET {name} 0 {value}");
                one(place, line, Action::Set(value), Answers::Plainly)
            }
            Kind::Expiry => {
                self.written += 1;
                let seconds = self.written * STEP_SECONDS;
                let line = match self.draw(2) {
                    0 => format!("EXPIRE {name} {seconds}"),
                    _ => format!("PEXPIRE {name} {seconds}000"),
                };
                let value = self.written.to_string();
                one(place, line, Action::Set(value), Answers::WithFlag)
            }
        }
    }

    fn write_text(&mut self, place: usize, name: &str) -> Command {
        let value = self.value();
        let (line, action) = match self.draw(20) {
            0..=5 => (format!("SET {name} {value}"), Action::Set(value)),
            6 => (format!("SET {name} {value} EX 90000"), Action::Set(value)),
            7 => (format!("SETEX {name} 90000 {value}"), Action::Set(value)),
            8 => (
                format!("PSETEX {name} 90000000 {value}"),
                Action::Set(value),
            ),
            9 | 10 => (format!("GETSET {name} {value}"), Action::SetAndGet(value)),
            11 => (format!("SET {name} {value} GET"), Action::SetAndGet(value)),
            12 => (format!("SET {name} {value} NX"), Action::SetIfAbsent(value)),
            13 => {
                let line = format!("SETNX {name} {value}");
                let action = Action::SetIfAbsent(value);
                return one(place, line, action, Answers::WithFlag);
            }
            14..=16 => (format!("APPEND {name} {value}"), Action::Append(value)),
            17 => (
                format!("SETRANGE {name} 0 {value}"),
                Action::Overwrite(value),
            ),
            _ => return self.write_several(&value),
        };
        one(place, line, action, Answers::Plainly)
    }

    /// MSET of all keys that hold text.
    fn write_several(&self, value: &str) -> Command {
        let (mut line, mut actions) = ("MSET".to_owned(), Vec::new());
        for (place, key) in self.keys.iter().enumerate() {
            if key.kind == Kind::Text {
                line.extend([" ", &key.name, " ", value]);
                actions.push((place, Action::Set(value.to_owned())));
            }
        }
        Command {
            line,
            actions,
            answers: Answers::Plainly,
        }
    }

    fn value(&mut self) -> String {
        if self.values == Values::Few {
            return self.pick(&["x", "y"]).to_owned();
        }
        self.written += 1;
        format!("v{}", self.written)
    }
}

fn one(place: usize, line: String, action: Action, answers: Answers) -> Command {
    Command {
        line,
        actions: vec![(place, action)],
        answers,
    }
}
