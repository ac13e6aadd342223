//! Whether what several clients saw can be explained by one order of their commands: linearizability, after Herlihy and
//! Wing, "Linearizability: a correctness condition for concurrent objects" (1990).
//!
//! Each command must have taken effect at one moment between its invocation and its reply. One without a reply may have
//! taken effect at any moment after its invocation, or never. A history is linearizable if each of its keys is (their theorem
//! of locality), so keys are checked one by one.
//!
//! The search is that of Wing and Gong, "Testing and verifying concurrent objects" (1993), with Lowe's memory of what was
//! tried already, "Testing for linearizability" (2017).

mod model;

pub use model::{Action, Reply};

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};

/// One command of a client, about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whose it is. What was answered to one client took effect in the order of `operations`, within a pipeline too.
    pub client: usize,
    /// Its key.
    pub key: String,
    /// The command as it was sent, for people.
    pub command: String,
    /// What it does.
    pub action: Action,
    /// When it was sent, by a counter that all clients share.
    pub invoked: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, at this time of the shared counter.
    Answered(Reply, u64),
    /// It may take effect at any moment after it was sent, or never. With what the client was told, for people.
    Unknown(String),
    /// It never takes effect. With what the client was told, for people.
    NotExecuted(String),
}

impl Operation {
    const fn answered_at(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Answered(_, at) => Some(at),
            Outcome::Unknown(_) | Outcome::NotExecuted(_) => None,
        }
    }

    fn is_excluded(&self) -> bool {
        matches!(self.outcome, Outcome::NotExecuted(_))
    }

    /// The same, as it was known at `time`.
    fn at(&self, time: u64) -> Self {
        let mut operation = self.clone();
        if self.answered_at().is_some_and(|at| at > time) {
            operation.outcome = Outcome::Unknown("not answered yet".to_owned());
        }
        operation
    }
}

impl Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, result) = match &self.outcome {
            Outcome::Answered(reply, at) => (format!("{at:>3}"), format!("{reply:?}")),
            Outcome::Unknown(why) => ("   ".to_owned(), format!("unknown: {why}")),
            Outcome::NotExecuted(why) => ("   ".to_owned(), format!("not executed: {why}")),
        };
        let (from, client, command) = (self.invoked, self.client, &self.command);
        write!(
            f,
            "{from:>3} ..{to}  client {client}  {command}  ->  {result}"
        )
    }
}

/// A key whose operations have no order. `Display` shows it as a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// Its value at the beginning.
    pub initial: Option<String>,
    /// Its operations up to the first that can't be explained, without reads that don't matter.
    pub operations: Vec<Operation>,
    /// The places of as many of them as could be put in order.
    pub longest: Vec<usize>,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| match value {
            Some(text) => format!("{text:?}"),
            None => "nothing".to_owned(),
        };
        writeln!(f, "{} holds {} at first", self.key, value(&self.initial))?;
        for operation in &self.operations {
            writeln!(f, "  {operation}")?;
        }
        writeln!(f, "the longest order:")?;
        let mut held = self.initial.clone();
        for operation in self
            .longest
            .iter()
            .filter_map(|at| self.operations.get(*at))
        {
            held = operation.action.apply(held.as_deref()).0;
            writeln!(f, "  client {}  {}", operation.client, operation.command)?;
        }
        write!(
            f,
            "leaves {}, after which none of the others fits",
            value(&held)
        )
    }
}

/// Looks for an order of the operations of each key; `initial` has the keys that hold something at first.
///
/// # Errors
/// The first key without one.
pub fn check(
    initial: &BTreeMap<String, String>,
    operations: &[Operation],
) -> Result<(), Box<Violation>> {
    let mut keys: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        let of_key = keys.entry(&operation.key).or_default();
        if operation.answered_at().is_some() || !operation.action.only_reads() {
            of_key.push(operation.clone());
        }
    }
    for (key, operations) in keys {
        let initial = initial.get(key).cloned();
        if Search::run(&operations, initial.as_deref()).is_none() {
            let operations = essence(operations, initial.as_deref());
            return Err(Box::new(Violation {
                key: key.to_owned(),
                longest: Search::longest(&operations, initial.as_deref()),
                initial,
                operations,
            }));
        }
    }
    Ok(())
}

/// As little of a history without an order as still has none: its beginning, up to the first reply that can't be explained,
/// without reads. A history with an order would still have one without them.
fn essence(operations: Vec<Operation>, initial: Option<&str>) -> Vec<Operation> {
    let has_none = |operations: &[Operation]| Search::run(operations, initial).is_none();
    let mut times: Vec<u64> = operations
        .iter()
        .filter_map(Operation::answered_at)
        .collect();
    times.sort_unstable();
    let known_at = |time: u64| -> Vec<Operation> {
        let begun = operations
            .iter()
            .filter(|operation| operation.invoked < time);
        begun.map(|operation| operation.at(time)).collect()
    };
    let beginnings = times.into_iter().map(known_at);
    let first = beginnings.into_iter().find(|beginning| has_none(beginning));
    let mut left = first.unwrap_or(operations);
    let mut place = 0;
    while place < left.len() {
        let mut without = left.clone();
        without.remove(place);
        let is_read = left
            .get(place)
            .is_some_and(|operation| operation.action.only_reads());
        if is_read && has_none(&without) {
            left = without;
        } else {
            place += 1;
        }
    }
    left
}

/// Looks for an order of the operations of one key, depth first.
struct Search<'a> {
    operations: &'a [Operation],
    /// What was tried already, without success: the operations that are done, and the value.
    tried: HashSet<(Vec<bool>, Option<String>)>,
    /// The operations that are in the order, or never will be.
    done: Vec<bool>,
    order: Vec<usize>,
    longest: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        Self {
            operations,
            tried: HashSet::new(),
            done: operations.iter().map(Operation::is_excluded).collect(),
            order: Vec::new(),
            longest: Vec::new(),
        }
    }

    /// An order, if there is one.
    fn run(operations: &'a [Operation], initial: Option<&str>) -> Option<Vec<usize>> {
        let mut search = Self::new(operations);
        search.extend(initial).then_some(search.order)
    }

    /// The longest order of some of them.
    fn longest(operations: &'a [Operation], initial: Option<&str>) -> Vec<usize> {
        let mut search = Self::new(operations);
        search.extend(initial);
        search.longest
    }

    /// Extends the order, after which the key holds `value`, until it has all operations that were answered.
    fn extend(&mut self, value: Option<&str>) -> bool {
        if self.order.len() > self.longest.len() {
            self.longest.clone_from(&self.order);
        }
        let Some(first_answer) = self.first_answer() else {
            return true;
        };
        if !self
            .tried
            .insert((self.done.clone(), value.map(ToOwned::to_owned)))
        {
            return false;
        }
        for (place, operation) in self.operations.iter().enumerate() {
            // What was sent after somebody's reply comes after what that reply belongs to.
            if self.done[place] || operation.invoked > first_answer || self.must_wait(place) {
                continue;
            }
            let (next, reply) = operation.action.apply(value);
            let fits = match &operation.outcome {
                Outcome::Answered(seen, _) => *seen == reply,
                // Without an effect it may as well be left out.
                _ => next.as_deref() != value,
            };
            if !fits {
                continue;
            }
            self.done[place] = true;
            self.order.push(place);
            if self.extend(next.as_deref()) {
                return true;
            }
            self.order.pop();
            self.done[place] = false;
        }
        false
    }

    /// When the first reply came to what is not in the order yet; none if all replies are explained.
    fn first_answer(&self) -> Option<u64> {
        let open = self
            .operations
            .iter()
            .zip(&self.done)
            .filter(|(_, done)| !**done);
        open.filter_map(|(operation, _)| operation.answered_at())
            .min()
    }

    /// It was answered, and so was an earlier one of its client that is not in the order yet.
    fn must_wait(&self, place: usize) -> bool {
        let operation = &self.operations[place];
        let earlier = self.operations.iter().zip(&self.done).take(place);
        operation.answered_at().is_some()
            && earlier.into_iter().any(|(other, done)| {
                !done && other.client == operation.client && other.answered_at().is_some()
            })
    }
}

#[cfg(test)]
mod tests;
