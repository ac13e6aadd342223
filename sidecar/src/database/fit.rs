//! Whether a job fits its table.

use super::identifier::Identifier;
use super::reading::Unreadable;
use super::spec::{Assignment, Condition, Spec, Value};
use super::table::Table;

/// Why a job doesn't fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The table does not have these columns.
    Missing(Vec<Identifier>),
    /// It would be set to, or compared with, a word such as `now`.
    Moving(Identifier),
    /// Its times can't be read, or written.
    Unreadable { column: Identifier, why: Unreadable },
}

/// What keeps `spec` from being carried out at `table`. Nothing is guessed: a time that can be read in several ways can't be
/// read.
pub fn misfit(spec: &Spec, table: &Table) -> Option<Misfit> {
    let columns = spec.columns();
    let missing: Vec<Identifier> = columns
        .into_iter()
        .filter(|column| !table.types.contains_key(column.as_str()))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Some(Misfit::Missing(missing));
    }
    if let Some(column) = moving(spec, table) {
        return Some(Misfit::Moving(column.clone()));
    }
    times(spec).into_iter().find_map(|(column, wants)| {
        let of = table.type_of(column);
        let why = spec.reading.of(of).err()?;
        // The database refuses to assign the current time to a column of another type, but for a time of day, whose zone
        // it would guess.
        let is_free = wants == Wants::Write && why == Unreadable::Type && !of.starts_with("time");
        (!is_free).then(|| Misfit::Unreadable {
            column: column.clone(),
            why,
        })
    })
}

/// What is done with a column of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    Read,
    Write,
}

fn times(spec: &Spec) -> Vec<(&Identifier, Wants)> {
    let conditions = spec
        .conditions
        .iter()
        .filter_map(|condition| match condition {
            Condition::Before(column, _) => Some((column, Wants::Read)),
            Condition::In(..) | Condition::IsNull(_) | Condition::IsNotNull(_) => None,
        });
    let values = spec.assignments().iter();
    let values = values.filter_map(|Assignment { column, value }| match value {
        Value::Ago(_) => Some((column, Wants::Write)),
        Value::SecondsSince(source) => Some((source, Wants::Read)),
        Value::Text(_) | Value::Null => None,
    });
    conditions.chain(values).collect()
}

/// A column of a time, or of a range of times, that would be set to, or compared with, a word such as `now`
/// (<https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-DATETIME-SPECIAL-VALUES>). It means something
/// else on every evaluation, so a row would never have its target value. In text columns it is an ordinary string.
fn moving<'a>(spec: &'a Spec, table: &Table) -> Option<&'a Identifier> {
    let is_time = |column: &Identifier| {
        let of = table.type_of(column);
        let kinds = ["time", "ts", "date"];
        kinds.iter().any(|kind| of.starts_with(kind))
    };
    let is_moving = |text: &str| {
        let text = text.to_ascii_lowercase();
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| matches!(word, "now" | "today" | "tomorrow" | "yesterday"))
    };
    let set = spec.assignments().iter().filter_map(|it| match &it.value {
        Value::Text(text) => Some((&it.column, text)),
        Value::Null | Value::Ago(_) | Value::SecondsSince(_) => None,
    });
    let compared = spec.conditions.iter().flat_map(|condition| {
        let (column, values) = match condition {
            Condition::In(column, values) => (column, values.as_slice()),
            other => (other.column(), &[][..]),
        };
        values.iter().map(move |value| (column, value))
    });
    let mut all = set.chain(compared);
    let moving = all.find(|(column, text)| is_moving(text) && is_time(column));
    moving.map(|(column, _)| column)
}
