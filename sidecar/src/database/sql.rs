//! Statements of cleanup jobs, as text. Identifiers are quoted, values are bound.
//!
//! All values are bound as text and cast to the type of their column, which the database told: so a column of
//! an enumeration, a number or a time needs nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

/// The longest identifier in bytes (`NAMEDATALEN - 1`,
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>). Longer ones would be
/// cut, and then name something else.
pub const MAX_IDENTIFIER: usize = 63;

/// A table, or a column, or a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identifier(String);

impl Identifier {
    /// A name as the database knows it, in its own case.
    ///
    /// # Errors
    /// What it must be.
    pub fn new(name: &str) -> Result<Self, String> {
        if name.is_empty() || name.len() > MAX_IDENTIFIER || name.contains('\0') {
            return Err(format!(
                "must be a name of 1 to {MAX_IDENTIFIER} bytes, without a zero byte"
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// As it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in a statement.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// Which rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The column's time is more than so long ago.
    Before(Identifier, Duration),
    /// The column is one of these.
    In(Identifier, Vec<String>),
    /// The column is null, or is not.
    Null(Identifier, bool),
}

impl Condition {
    const fn column(&self) -> &Identifier {
        match self {
            Self::Before(column, _) | Self::In(column, _) | Self::Null(column, _) => column,
        }
    }
}

/// What a column is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// This, in the column's type.
    Text(String),
    /// Null.
    Null,
    /// The time so long ago.
    Ago(Duration),
    /// Whole seconds since the time in that column.
    SecondsSince(Identifier),
}

/// What is done to the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// They are deleted.
    Delete,
    /// Columns are set.
    Set(Vec<(Identifier, Value)>),
}

/// What a cleanup job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The table's schema. `None`: where the search path finds the table.
    pub schema: Option<Identifier>,
    /// The table.
    pub table: Identifier,
    /// Its key: one column that is unique.
    pub key: Identifier,
    /// The column that says which rows come first.
    pub order: Identifier,
    /// Which rows: all conditions hold.
    pub conditions: Vec<Condition>,
    /// What is done to them.
    pub action: Action,
}

/// A statement with its parameters, in the order in which they are bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The text.
    pub text: String,
    /// `$1` and so on.
    pub parameters: Vec<Parameter>,
}

/// What is bound to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// This text.
    Value(String),
    /// The most rows of the batch, a number.
    Size,
    /// Where the batch begins, as text.
    From,
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the first row.
    First,
    /// At [`Parameter::From`]: a value of the column by which the rows are ordered.
    From,
}

/// The type of a column, as the database writes it; of a domain, the one below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Without length and precision. A cast to it cuts nothing.
    pub plain: String,
    /// With them. A cast to it makes of a value what the column would hold.
    pub exact: String,
}

/// The type of each column.
pub type Types = BTreeMap<String, Type>;

impl Spec {
    /// The table as it stands in a statement.
    pub fn table(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", schema.quoted(), self.table.quoted()),
            None => self.table.quoted(),
        }
    }

    /// All columns that are named.
    pub fn columns(&self) -> BTreeSet<&Identifier> {
        let mut columns = BTreeSet::from([&self.key, &self.order]);
        columns.extend(self.conditions.iter().map(Condition::column));
        if let Action::Set(assignments) = &self.action {
            for (column, value) in assignments {
                columns.insert(column);
                if let Value::SecondsSince(source) = value {
                    columns.insert(source);
                }
            }
        }
        columns
    }

    /// Whether a row that was handled is not handled again: it is deleted, or gets a fixed value, or one by which it is
    /// not meant any more.
    pub fn comes_to_an_end(&self) -> bool {
        let Action::Set(assignments) = &self.action else {
            return true;
        };
        let is_no_more = |column: &Identifier, value: &Value| {
            let mut conditions = self.conditions.iter().filter(|it| it.column() == column);
            conditions.any(|condition| match (condition, value) {
                (Condition::Before(_, limit), Value::Ago(ago)) => ago < limit,
                (Condition::Null(_, is_null), Value::Ago(_) | Value::SecondsSince(_)) => *is_null,
                _ => false,
            })
        };
        assignments.iter().any(|(column, value)| {
            matches!(value, Value::Text(_) | Value::Null) || is_no_more(column, value)
        })
    }

    /// A column that is to be set to a word such as `now`, which is another time at each look
    /// (<https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-DATETIME-SPECIAL-VALUES>): no row would
    /// ever be as it is to be. To a column of text it is a word.
    pub fn moves(&self, types: &Types) -> Option<&Identifier> {
        let is_time = |column: &Identifier| {
            let of = types
                .get(column.as_str())
                .map_or("", |it| it.plain.as_str());
            of == "date" || of.starts_with("time")
        };
        let is_moving = |text: &str| {
            let text = text.to_ascii_lowercase();
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
            words.any(|word| matches!(word, "now" | "today" | "tomorrow" | "yesterday"))
        };
        let Action::Set(assignments) = &self.action else {
            return None;
        };
        let mut columns = assignments.iter().filter_map(|(column, value)| {
            let moves = matches!(value, Value::Text(text) if is_moving(text)) && is_time(column);
            moves.then_some(column)
        });
        columns.next()
    }

    /// Counts the rows.
    pub fn count(&self, types: &Types) -> Statement {
        let mut writer = Writer::new(types);
        let conditions = writer.rows(self, Begin::First);
        writer.statement(format!(
            "SELECT count(*) FROM {} WHERE {conditions}",
            self.table()
        ))
    }

    /// Handles as many rows as [`Parameter::Size`] says, first those that come first, and answers with one row: how many
    /// were handled, how many were found, and the last one's value of the column that orders them, as text. A trigger may
    /// keep what was found. Rows that somebody else has locked are passed by. Both dialects have it
    /// (<https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE>,
    /// <https://www.cockroachlabs.com/docs/stable/select-for-update>).
    ///
    /// Until the table is vacuumed, a deleted row stays in the index. A batch that begins where the last one ended
    /// doesn't walk over all that were deleted before it, neither when it is planned nor when it is executed.
    pub fn batch(&self, types: &Types, begin: Begin) -> Statement {
        let mut writer = Writer::new(types);
        let (table, key, order) = (self.table(), self.key.quoted(), self.order.quoted());
        let conditions = writer.rows(self, begin);
        let limit = writer.bind(Parameter::Size);
        let change = match &self.action {
            Action::Delete => format!("DELETE FROM {table}"),
            Action::Set(assignments) => {
                format!("UPDATE {table} SET {}", writer.assignments(assignments))
            }
        };
        // The conditions stand twice, so that no other row goes even where the key is not unique after all. The order at the
        // end is by the column of the batch: by its bare name it would be that of the answer, a text.
        writer.statement(format!(
            "WITH levee_batch AS (SELECT {key} AS levee_key, {order} AS levee_order FROM {table} WHERE {conditions} \
             ORDER BY {order} LIMIT {limit} FOR UPDATE SKIP LOCKED), levee_done AS ({change} WHERE {key} IN (SELECT \
             levee_key FROM levee_batch) AND {conditions} RETURNING 1) SELECT (SELECT count(*) FROM levee_done), \
             (SELECT count(*) FROM levee_batch), (SELECT CAST(levee_order AS text) FROM levee_batch ORDER BY levee_batch.levee_order DESC LIMIT 1)"
        ))
    }
}

struct Writer<'a> {
    types: &'a Types,
    parameters: Vec<Parameter>,
}

impl<'a> Writer<'a> {
    const fn new(types: &'a Types) -> Self {
        Self {
            types,
            parameters: Vec::new(),
        }
    }

    fn statement(self, text: String) -> Statement {
        Statement {
            text,
            parameters: self.parameters,
        }
    }

    fn bind(&mut self, parameter: Parameter) -> String {
        self.parameters.push(parameter);
        format!("${}", self.parameters.len())
    }

    /// The text that is bound, cast to `to`.
    fn cast(&mut self, parameter: Parameter, to: &str) -> String {
        // Through text, or the driver would have to know the type.
        format!("CAST(CAST({} AS text) AS {to})", self.bind(parameter))
    }

    /// The text that is bound, in the column's type.
    fn cast_for(&mut self, column: &Identifier, parameter: Parameter) -> String {
        let types = self.types;
        let to = types
            .get(column.as_str())
            .map_or("text", |it| it.plain.as_str());
        self.cast(parameter, to)
    }

    /// `value` as the column would hold it: 7 is 7.00 to a `numeric(10,2)`.
    fn cast_as_held(&mut self, column: &Identifier, value: &str) -> String {
        let types = self.types;
        let to = types
            .get(column.as_str())
            .map_or("text", |it| it.exact.as_str());
        self.cast(Parameter::Value(value.to_owned()), to)
    }

    fn ago(&mut self, ago: Duration) -> String {
        if ago.is_zero() {
            return "now()".to_owned();
        }
        let interval = format!("{}.{:06} seconds", ago.as_secs(), ago.subsec_micros());
        format!(
            "now() - {}",
            self.cast(Parameter::Value(interval), "interval")
        )
    }

    /// The rows that are meant and not yet as they are to be. Without the latter, a column that no condition looks at
    /// would be set again and again.
    fn rows(&mut self, spec: &Spec, begin: Begin) -> String {
        let from = (begin == Begin::From).then_some(&spec.order);
        let mut text = self.conditions(&spec.conditions, from);
        if let Some(order) = from {
            let from = self.cast_for(order, Parameter::From);
            let _ = write!(text, " AND {} >= {from}", order.quoted());
        }
        let Action::Set(assignments) = &spec.action else {
            return text;
        };
        let mut differences = Vec::new();
        for (column, value) in assignments {
            let quoted = column.quoted();
            match value {
                // As text, since not all types can be compared.
                Value::Text(value) => {
                    let value = self.cast_as_held(column, value);
                    differences.push(format!(
                        "CAST({quoted} AS text) IS DISTINCT FROM CAST({value} AS text)"
                    ));
                }
                Value::Null => differences.push(format!("{quoted} IS NOT NULL")),
                Value::Ago(_) | Value::SecondsSince(_) => {}
            }
        }
        if !differences.is_empty() {
            let _ = write!(text, " AND ({})", differences.join(" OR "));
        }
        text
    }

    /// `from`: the column that is bounded from below besides. A second bound would let the planner of `PostgreSQL` look
    /// for the column's least value, past all that was deleted.
    fn conditions(&mut self, conditions: &[Condition], from: Option<&Identifier>) -> String {
        let mut text = String::new();
        for condition in conditions {
            if !text.is_empty() {
                text.push_str(" AND ");
            }
            let quoted = condition.column().quoted();
            match condition {
                Condition::Before(_, ago) => {
                    let limit = self.ago(*ago);
                    let _ = write!(text, "{quoted} < {limit}");
                    if from != Some(condition.column()) {
                        // Not what is infinitely long ago: no span of time can be told from it.
                        let _ = write!(
                            text,
                            " AND {quoted} >= TIMESTAMPTZ '0001-01-01 00:00:00+00'"
                        );
                    }
                }
                Condition::In(column, values) => {
                    let bound: Vec<String> = values
                        .iter()
                        .map(|value| self.cast_for(column, Parameter::Value(value.clone())))
                        .collect();
                    let _ = write!(text, "{quoted} IN ({})", bound.join(", "));
                }
                Condition::Null(_, is_null) => {
                    let _ = write!(
                        text,
                        "{quoted} IS {}NULL",
                        if *is_null { "" } else { "NOT " }
                    );
                }
            }
        }
        text
    }

    fn assignments(&mut self, assignments: &[(Identifier, Value)]) -> String {
        let mut all = Vec::new();
        for (column, value) in assignments {
            let value = match value {
                Value::Text(text) => self.cast_for(column, Parameter::Value(text.clone())),
                Value::Null => "NULL".to_owned(),
                Value::Ago(ago) => self.ago(*ago),
                // Within what an `int` holds, whatever the time is.
                Value::SecondsSince(source) => format!(
                    "CAST(LEAST(GREATEST(floor(extract(epoch FROM now() - {})), 0), 2147483647) AS int)",
                    source.quoted()
                ),
            };
            all.push(format!("{} = {value}", column.quoted()));
        }
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::preset::Preset;

    fn types(columns: &[(&str, &str)]) -> Types {
        columns
            .iter()
            .map(|(name, of)| {
                let (plain, exact) = ((*of).to_owned(), (*of).to_owned());
                ((*name).to_owned(), Type { plain, exact })
            })
            .collect()
    }

    fn values(statement: &Statement) -> Vec<&str> {
        let values = statement.parameters.iter().filter_map(|it| match it {
            Parameter::Value(value) => Some(value.as_str()),
            Parameter::Size | Parameter::From => None,
        });
        values.collect()
    }

    #[test]
    fn expired_tokens_are_deleted_by_key_in_order_and_past_locked_rows() {
        let spec = Preset::find("expired_tokens").unwrap().spec(None);
        let text = |rows: &str, limit: &str, again: &str| {
            format!(
                "WITH levee_batch AS (SELECT \"token_id\" AS levee_key, \"expires_at\" AS levee_order FROM \
                 \"email_verification_tokens\" WHERE {rows} ORDER BY \"expires_at\" LIMIT {limit} FOR UPDATE SKIP \
                 LOCKED), levee_done AS (DELETE FROM \"email_verification_tokens\" WHERE \"token_id\" IN (SELECT \
                 levee_key FROM levee_batch) AND {again} RETURNING 1) SELECT (SELECT count(*) FROM levee_done), \
                 (SELECT count(*) FROM levee_batch), (SELECT CAST(levee_order AS text) FROM levee_batch ORDER BY levee_batch.levee_order DESC LIMIT 1)"
            )
        };
        let rows =
            "\"expires_at\" < now() AND \"expires_at\" >= TIMESTAMPTZ '0001-01-01 00:00:00+00'";
        let first = spec.batch(&Types::new(), Begin::First);
        assert_eq!(first.text, text(rows, "$1", rows));
        assert_eq!(first.parameters, [Parameter::Size]);
        let rows =
            "\"expires_at\" < now() AND \"expires_at\" >= CAST(CAST($1 AS text) AS timestamptz)";
        let next = spec.batch(&types(&[("expires_at", "timestamptz")]), Begin::From);
        assert_eq!(next.text, text(rows, "$2", rows));
        assert_eq!(next.parameters, [Parameter::From, Parameter::Size]);
    }

    #[test]
    fn stale_calls_are_ended_with_values_of_their_columns_types() {
        let spec = Preset::find("stale_calls").unwrap().spec(None);
        let statement = spec.batch(&types(&[("status", "call_status")]), Begin::First);
        assert_eq!(
            values(&statement),
            [
                "ringing",
                "active",
                "86400.000000 seconds",
                "ended",
                "ended"
            ]
        );
        assert_eq!(statement.parameters[4], Parameter::Size);
        let rows = "\"status\" IN (CAST(CAST($1 AS text) AS call_status), CAST(CAST($2 AS text) AS call_status)) AND \
                    \"started_at\" < now() - CAST(CAST($3 AS text) AS interval) AND \"started_at\" >= TIMESTAMPTZ \
                    '0001-01-01 00:00:00+00' AND (CAST(\"status\" AS text) IS DISTINCT FROM CAST(CAST(CAST($4 AS text) \
                    AS call_status) AS text))";
        assert_eq!(
            statement.text,
            format!(
                "WITH levee_batch AS (SELECT \"call_id\" AS levee_key, \"started_at\" AS levee_order FROM \"calls\" \
                 WHERE {rows} ORDER BY \"started_at\" LIMIT $5 FOR UPDATE SKIP LOCKED), levee_done AS (UPDATE \"calls\" \
                 SET \"status\" = CAST(CAST($6 AS text) AS call_status), \"ended_at\" = now(), \"duration\" = \
                 CAST(LEAST(GREATEST(floor(extract(epoch FROM now() - \"started_at\")), 0), 2147483647) AS int) WHERE \
                 \"call_id\" IN (SELECT levee_key FROM levee_batch) AND {rows} RETURNING 1) SELECT (SELECT count(*) \
                 FROM levee_done), (SELECT count(*) FROM levee_batch), (SELECT CAST(levee_order AS text) FROM levee_batch ORDER BY levee_batch.levee_order DESC LIMIT 1)"
            )
        );
        assert!(spec.comes_to_an_end());
    }

    #[test]
    fn names_are_quoted_and_values_never_stand_in_the_text() {
        let name = |text: &str| Identifier::new(text).unwrap();
        let spec = Spec {
            schema: Some(name("a.b")),
            table: name("x\"; drop table y; --"),
            key: name("k\"k"),
            order: name("k\"k"),
            conditions: vec![
                Condition::In(name("s"), vec!["'; drop table y; --".to_owned()]),
                Condition::Null(name("n"), false),
            ],
            action: Action::Set(vec![(name("t"), Value::Null)]),
        };
        let types = Types::new();
        for statement in [
            spec.batch(&types, Begin::First),
            spec.batch(&types, Begin::From),
            spec.count(&types),
        ] {
            assert_eq!(values(&statement), ["'; drop table y; --"]);
            assert!(!statement.text.contains('\''), "{}", statement.text);
            assert!(
                statement
                    .text
                    .contains("\"a.b\".\"x\"\"; drop table y; --\"")
            );
        }
        assert_eq!(
            spec.columns()
                .iter()
                .map(|c| c.as_str())
                .collect::<Vec<_>>(),
            ["k\"k", "n", "s", "t"]
        );
    }

    #[test]
    fn names_that_would_be_cut_are_refused() {
        for bad in ["", "a\0b", &"x".repeat(64)] {
            assert!(Identifier::new(bad).is_err());
        }
        assert!(Identifier::new(&"x".repeat(63)).is_ok());
    }
}
