//! The statements of cleanup jobs, as text. Identifiers are quoted and values are bound.
//!
//! All values are bound as text and cast to the type of their column, which the database reports. So columns of
//! enumerations, numbers and times need no code of their own.

use super::identifier::Identifier;
use super::spec::{Action, Assignment, Condition, Spec, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// A statement with its parameters, in the order in which they are bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    /// `$1` and so on.
    pub parameters: Vec<Parameter>,
}

/// What is bound to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    Value(String),
    /// The maximum number of rows of the batch.
    Size,
    /// Where the batch begins, as text.
    From,
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the first row.
    First,
    /// At [`Parameter::From`]: a value of the column by which rows are ordered.
    From,
}

/// The type of a column, as the database writes it; of a domain, its base type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Without length and precision: a cast to it truncates nothing.
    pub plain: String,
    /// With them: a cast to it gives the value that the column would store.
    pub exact: String,
}

/// The types of a table's columns.
pub type Types = BTreeMap<String, Type>;

impl Spec {
    /// Counts the rows that a run would handle.
    pub fn count(&self, types: &Types) -> Statement {
        let mut writer = Writer::new(types);
        let rows = writer.rows(self, Begin::First);
        writer.statement(format!(
            "SELECT count(*) FROM {} WHERE {rows}",
            self.quoted_table()
        ))
    }

    /// Handles up to [`Parameter::Size`] rows, in order, and skips those that are locked. Returns one row: how many were
    /// handled, how many were found, and the last one's value of the order column, as text. Fewer are handled than found
    /// if a trigger keeps some. `SKIP LOCKED` works in both dialects
    /// (<https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE>,
    /// <https://www.cockroachlabs.com/docs/stable/select-for-update>).
    ///
    /// Deleted rows stay in the index until the table is vacuumed. A batch that begins where the previous one ended
    /// neither plans nor scans over those deleted before it.
    pub fn batch(&self, types: &Types, begin: Begin) -> Statement {
        let mut writer = Writer::new(types);
        let (table, key, order) = (self.quoted_table(), self.key.quoted(), self.order.quoted());
        let rows = writer.rows(self, begin);
        let limit = writer.bind(Parameter::Size);
        let change = match &self.action {
            Action::Delete => format!("DELETE FROM {table}"),
            Action::Set(assignments) => {
                format!("UPDATE {table} SET {}", writer.assignments(assignments))
            }
        };
        // The conditions are in it twice, so no other row changes even if the key is not unique after all. The last ORDER
        // BY is qualified: the bare name would be the output column, which is text.
        writer.statement(format!(
            "WITH levee_batch AS (SELECT {key} AS levee_key, {order} AS levee_order FROM {table} WHERE {rows} \
             ORDER BY {order} LIMIT {limit} FOR UPDATE SKIP LOCKED), levee_done AS ({change} WHERE {key} IN (SELECT \
             levee_key FROM levee_batch) AND {rows} RETURNING 1) SELECT (SELECT count(*) FROM levee_done), \
             (SELECT count(*) FROM levee_batch), (SELECT CAST(levee_order AS text) FROM levee_batch ORDER BY levee_batch.levee_order DESC LIMIT 1)"
        ))
    }
}

/// A column of a time that would be set to a word such as `now`
/// (<https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-DATETIME-SPECIAL-VALUES>). It means something
/// else on every evaluation, so a row would never have its target value. In text columns it is an ordinary string.
pub fn moving_column<'a>(spec: &'a Spec, types: &Types) -> Option<&'a Identifier> {
    let is_time = |column: &Identifier| {
        let of = types.get(column.as_str());
        of.is_some_and(|it| it.plain == "date" || it.plain.starts_with("time"))
    };
    let is_moving = |text: &str| {
        let text = text.to_ascii_lowercase();
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| matches!(word, "now" | "today" | "tomorrow" | "yesterday"))
    };
    let mut assignments = spec.assignments().iter();
    let moving = assignments.find(|Assignment { column, value }| {
        matches!(value, Value::Text(text) if is_moving(text)) && is_time(column)
    });
    moving.map(|assignment| &assignment.column)
}

/// Writes one statement and collects its parameters.
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

    /// The parameter, cast to the type `to`.
    fn cast(&mut self, parameter: Parameter, to: &str) -> String {
        // By way of text: otherwise the driver would have to know the type.
        format!("CAST(CAST({} AS text) AS {to})", self.bind(parameter))
    }

    /// The parameter in the column's type.
    fn cast_for(&mut self, column: &Identifier, parameter: Parameter) -> String {
        let of = self.types.get(column.as_str());
        self.cast(parameter, of.map_or("text", |it| it.plain.as_str()))
    }

    /// `value` as the column would store it: 7 is 7.00 in a `numeric(10,2)`.
    fn cast_as_stored(&mut self, column: &Identifier, value: &str) -> String {
        let of = self.types.get(column.as_str());
        let to = of.map_or("text", |it| it.exact.as_str());
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

    /// Rows that match the conditions and don't have their target values yet. Without the latter, a row would be set
    /// again and again if the assignments change none of its conditions.
    fn rows(&mut self, spec: &Spec, begin: Begin) -> String {
        let from = (begin == Begin::From).then_some(&spec.order);
        let mut all = Vec::new();
        for condition in &spec.conditions {
            let mut text = self.condition(condition);
            // `-infinity` is excluded: no interval can be computed from it. A batch that begins at a value has that bound
            // instead: with two, PostgreSQL's planner would look up the column's minimum, past all that was deleted.
            if matches!(condition, Condition::Before(column, _) if from != Some(column)) {
                text.push_str(&not_infinite(condition.column()));
            }
            all.push(text);
        }
        if let Some(order) = from {
            let from = self.cast_for(order, Parameter::From);
            all.push(format!("{} >= {from}", order.quoted()));
        }
        let differences: Vec<String> = spec
            .assignments()
            .iter()
            .filter_map(|assignment| self.difference(assignment))
            .collect();
        if !differences.is_empty() {
            all.push(format!("({})", differences.join(" OR ")));
        }
        all.join(" AND ")
    }

    fn condition(&mut self, condition: &Condition) -> String {
        let quoted = condition.column().quoted();
        match condition {
            Condition::Before(_, ago) => format!("{quoted} < {}", self.ago(*ago)),
            Condition::In(column, values) => {
                let bound: Vec<String> = values
                    .iter()
                    .map(|value| self.cast_for(column, Parameter::Value(value.clone())))
                    .collect();
                format!("{quoted} IN ({})", bound.join(", "))
            }
            Condition::IsNull(_) => format!("{quoted} IS NULL"),
            Condition::IsNotNull(_) => format!("{quoted} IS NOT NULL"),
        }
    }

    /// Whether the column differs from its target value. `None`: the target changes with time.
    fn difference(&mut self, Assignment { column, value }: &Assignment) -> Option<String> {
        let quoted = column.quoted();
        match value {
            // As text, since not all types can be compared.
            Value::Text(value) => {
                let value = self.cast_as_stored(column, value);
                Some(format!(
                    "CAST({quoted} AS text) IS DISTINCT FROM CAST({value} AS text)"
                ))
            }
            Value::Null => Some(format!("{quoted} IS NOT NULL")),
            Value::Ago(_) | Value::SecondsSince(_) => None,
        }
    }

    fn assignments(&mut self, assignments: &[Assignment]) -> String {
        let mut all = Vec::new();
        for Assignment { column, value } in assignments {
            let value = match value {
                Value::Text(text) => self.cast_for(column, Parameter::Value(text.clone())),
                Value::Null => "NULL".to_owned(),
                Value::Ago(ago) => self.ago(*ago),
                // Clamped to what an `int` holds.
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

fn not_infinite(column: &Identifier) -> String {
    format!(
        " AND {} >= TIMESTAMPTZ '0001-01-01 00:00:00+00'",
        column.quoted()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::preset::Preset;
    use crate::database::spec::Action;

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
                Condition::IsNotNull(name("n")),
            ],
            action: Action::Set(vec![Assignment {
                column: name("t"),
                value: Value::Null,
            }]),
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
}
