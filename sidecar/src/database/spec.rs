//! What a cleanup job does: which rows of which table it deletes or changes.

use super::identifier::Identifier;
use super::reading::Reading;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `None`: the only table of that name that the search path finds.
    pub schema: Option<Identifier>,
    pub table: Identifier,
    /// Columns that are unique together and not null.
    pub key: Vec<Identifier>,
    /// Rows are handled in ascending order of this column.
    pub order: Identifier,
    /// A row matches if all of them hold.
    pub conditions: Vec<Condition>,
    pub action: Action,
    pub reading: Reading,
}

/// A condition on one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its time is longer ago than this.
    Before(Identifier, Duration),
    /// It is one of these values.
    In(Identifier, Vec<String>),
    IsNull(Identifier),
    IsNotNull(Identifier),
}

/// What is done to matching rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Delete,
    Set(Vec<Assignment>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub column: Identifier,
    pub value: Value,
}

/// What a column is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Cast to the column's type.
    Text(String),
    Null,
    /// The current time minus this.
    Ago(Duration),
    /// Whole seconds since the time in that column.
    SecondsSince(Identifier),
}

impl Condition {
    pub const fn column(&self) -> &Identifier {
        match self {
            Self::Before(column, _)
            | Self::In(column, _)
            | Self::IsNull(column)
            | Self::IsNotNull(column) => column,
        }
    }

    /// Whether a row that meets the condition no longer does once its column is set to `value`.
    fn is_ended_by(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Before(_, limit), Value::Ago(ago)) => ago < limit,
            (Self::IsNull(_), Value::Ago(_) | Value::SecondsSince(_)) => true,
            _ => false,
        }
    }
}

impl Spec {
    /// The table as the configuration names it.
    pub fn quoted_table(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", schema.quoted(), self.table.quoted()),
            None => self.table.quoted(),
        }
    }

    /// All columns that it names.
    pub fn columns(&self) -> BTreeSet<&Identifier> {
        let mut columns: BTreeSet<&Identifier> = self.key.iter().collect();
        columns.insert(&self.order);
        columns.extend(self.conditions.iter().map(Condition::column));
        for Assignment { column, value } in self.assignments() {
            columns.insert(column);
            if let Value::SecondsSince(source) = value {
                columns.insert(source);
            }
        }
        columns
    }

    /// What it sets; nothing if it deletes.
    pub fn assignments(&self) -> &[Assignment] {
        match &self.action {
            Action::Delete => &[],
            Action::Set(assignments) => assignments,
        }
    }

    /// Whether a run handles each row at most once: a handled row is gone, has its target values, or no longer matches.
    pub fn comes_to_an_end(&self) -> bool {
        if self.action == Action::Delete {
            return true;
        }
        self.assignments()
            .iter()
            .any(|Assignment { column, value }| {
                let mut conditions = self.conditions.iter().filter(|it| it.column() == column);
                matches!(value, Value::Text(_) | Value::Null)
                    || conditions.any(|condition| condition.is_ended_by(value))
            })
    }
}
