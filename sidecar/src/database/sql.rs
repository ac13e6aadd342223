//! The statements of cleanup jobs, as text. Identifiers are quoted and values are bound.
//!
//! All values are bound as text and cast to the type of their column, which the database reports. So columns of
//! enumerations, numbers and times need no code of their own.

use super::identifier::Identifier;
use super::reading::{Moment, Reading};
use super::spec::{Action, Assignment, Condition, Spec, Value};
use super::table::Table;
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
    /// The keys of [`Which`], each as one text.
    Keys,
}

/// Which of the matching rows a batch may handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// All but those of [`Parameter::Keys`].
    Others,
    /// Only those of [`Parameter::Keys`].
    These,
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the first row.
    First,
    /// At [`Parameter::From`]: a value of the column by which rows are ordered.
    From,
}

/// One end of the rows that a run would handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Oldest,
    Newest,
}

impl Spec {
    /// Counts the rows that a run would handle.
    pub fn count(&self, table: &Table) -> Statement {
        let mut writer = Writer::new(self, table);
        let rows = writer.rows(Begin::First);
        writer.statement(format!(
            "SELECT count(*) FROM {} WHERE {rows}",
            table.own_rows()
        ))
    }

    /// The rows that a run would handle, for the planner to estimate.
    pub fn matching(&self, table: &Table) -> Statement {
        let mut writer = Writer::new(self, table);
        let rows = writer.rows(Begin::First);
        writer.statement(format!("SELECT 1 FROM {} WHERE {rows}", table.own_rows()))
    }

    /// Counts the rows that a run would handle, up to `most`.
    pub fn count_up_to(&self, table: &Table, most: u64) -> Statement {
        let mut writer = Writer::new(self, table);
        let rows = writer.rows(Begin::First);
        writer.statement(format!(
            "SELECT count(*) FROM (SELECT 1 FROM {} WHERE {rows} LIMIT {most}) AS levee_rows",
            table.own_rows()
        ))
    }

    /// The row at one end of those that a run would handle. (Without the names of the results, ORDER BY would mean these, as
    /// text.) Its key, its value of the column that the end is of, and, if
    /// that is a time, for how many seconds it has been over.
    pub fn end(&self, table: &Table, end: End) -> Statement {
        let mut writer = Writer::new(self, table);
        let rows = writer.rows(Begin::First);
        let column = self.time().unwrap_or(&self.order);
        let quoted = column.quoted();
        let since = match self.reading.of(table.type_of(column)) {
            Ok(moment) => format!("extract(epoch FROM now() - {})", moment.over(&quoted)),
            Err(_) => "NULL".to_owned(),
        };
        let direction = match end {
            End::Oldest => "ASC",
            End::Newest => "DESC",
        };
        writer.statement(format!(
            "SELECT {} AS levee_key, CAST({quoted} AS text) AS levee_value, CAST({since} AS float8) AS levee_age FROM {} WHERE {rows} ORDER BY {quoted} {direction} \
             LIMIT 1",
            self.shown_key(),
            table.own_rows()
        ))
    }

    /// Handles up to [`Parameter::Size`] rows, in order, and skips those that are locked. Returns one row: how many were
    /// handled, how many were found, the last one's value of the order column as text, if a trigger keeps some of the rows
    /// their keys, and how many seconds it has taken so far. `SKIP LOCKED` works in both dialects
    /// (<https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE>,
    /// <https://www.cockroachlabs.com/docs/stable/select-for-update>).
    ///
    /// Deleted rows stay in the index until the table is vacuumed. A batch that begins where the previous one ended
    /// neither plans nor scans over those deleted before it.
    pub fn batch(&self, table: &Table, begin: Begin, which: Which) -> Statement {
        let mut writer = Writer::new(self, table);
        let (from, order) = (table.own_rows(), self.order.quoted());
        let rows = writer.rows(begin);
        let which = writer.which(which);
        let limit = writer.bind(Parameter::Size);
        let change = match &self.action {
            Action::Delete => format!("DELETE FROM {from}"),
            Action::Set(assignments) => {
                format!("UPDATE {from} SET {}", writer.assignments(assignments))
            }
        };
        let key = list(self.key.iter().map(Identifier::quoted));
        let names = (1..=self.key.len()).map(|place| format!("levee_key{place}"));
        let aliased = self.key.iter().zip(names.clone());
        let aliased = list(aliased.map(|(column, name)| format!("{} AS {name}", column.quoted())));
        let names = list(names);
        // The conditions are in it twice, so no other row changes even if the key is not unique after all. The last ORDER
        // BY is qualified: the bare name would be the output column, which is text.
        writer.statement(format!(
            "WITH levee_batch AS (SELECT {aliased}, {order} AS levee_order FROM {from} WHERE {rows}{which} \
             ORDER BY {order} LIMIT {limit} FOR UPDATE SKIP LOCKED), levee_done AS ({change} WHERE ({key}) IN (SELECT \
             {names} FROM levee_batch) AND {rows} RETURNING {key}) SELECT (SELECT count(*) FROM levee_done), \
             (SELECT count(*) FROM levee_batch), (SELECT CAST(levee_order AS text) FROM levee_batch ORDER BY levee_batch.levee_order DESC LIMIT 1), \
             CASE WHEN (SELECT count(*) FROM levee_done) < (SELECT count(*) FROM levee_batch) THEN \
             (SELECT array_agg(CAST(ROW({names}) AS text)) FROM levee_batch WHERE ({names}) NOT IN (SELECT {key} FROM levee_done)) END, \
             CAST(extract(epoch FROM clock_timestamp() - statement_timestamp()) AS float8)"
        ))
    }

    /// Finds and locks the next row that a batch would handle: its key as one text, and its value of the order column.
    pub fn pick(&self, table: &Table, begin: Begin, which: Which) -> Statement {
        let mut writer = Writer::new(self, table);
        let rows = writer.rows(begin);
        let which = writer.which(which);
        let order = self.order.quoted();
        writer.statement(format!(
            "SELECT {} AS levee_key, CAST({order} AS text) AS levee_value FROM {} WHERE {rows}{which} ORDER BY {order} LIMIT 1 FOR UPDATE SKIP LOCKED",
            self.key_text(),
            table.own_rows()
        ))
    }

    /// The column whose age the first condition on a time is about.
    pub fn time(&self) -> Option<&Identifier> {
        self.conditions
            .iter()
            .find_map(|condition| match condition {
                Condition::Before(column, _) => Some(column),
                Condition::In(..) | Condition::IsNull(_) | Condition::IsNotNull(_) => None,
            })
    }

    /// A row's key as one text, of one column as it is.
    fn shown_key(&self) -> String {
        match self.key.as_slice() {
            [column] => format!("CAST({} AS text)", column.quoted()),
            _ => self.key_text(),
        }
    }

    /// A row's key as one text that no other row has.
    fn key_text(&self) -> String {
        let key = list(self.key.iter().map(Identifier::quoted));
        format!("CAST(ROW({key}) AS text)")
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Writes one statement and collects its parameters.
struct Writer<'a> {
    spec: &'a Spec,
    table: &'a Table,
    parameters: Vec<Parameter>,
}

impl<'a> Writer<'a> {
    const fn new(spec: &'a Spec, table: &'a Table) -> Self {
        Self {
            spec,
            table,
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
        let of = self.table.types.get(column.as_str());
        self.cast(parameter, of.map_or("text", |it| it.plain.as_str()))
    }

    /// `value` as the column would store it: 7 is 7.00 in a `numeric(10,2)`.
    fn cast_as_stored(&mut self, column: &Identifier, value: &str) -> String {
        let of = self.table.types.get(column.as_str());
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
    fn rows(&mut self, begin: Begin) -> String {
        let spec = self.spec;
        let from = (begin == Begin::From).then_some(&spec.order);
        let mut all = Vec::new();
        for condition in &spec.conditions {
            all.extend(self.condition(condition));
            // A batch that begins at a value has that bound instead: with two, PostgreSQL's planner would look up the
            // column's minimum, past all that was deleted.
            if let Condition::Before(column, _) = condition
                && from != Some(column)
            {
                let least = self.moment(column).least();
                all.push(format!("{} >= {least}", column.quoted()));
            }
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

    /// The condition that makes the choice.
    fn which(&mut self, which: Which) -> String {
        let operator = match which {
            Which::All => return String::new(),
            Which::Others => "<> ALL",
            Which::These => "= ANY",
        };
        let key = self.spec.key_text();
        format!(
            " AND {key} {operator}(CAST({} AS text[]))",
            self.bind(Parameter::Keys)
        )
    }

    /// How the column is read as a time.
    fn moment(&self, column: &Identifier) -> Moment<'a> {
        let reading: &'a Reading = &self.spec.reading;
        // A job whose times can't be read is refused before.
        reading
            .of(self.table.type_of(column))
            .unwrap_or(Moment::Instant)
    }

    /// What holds for rows that match.
    fn condition(&mut self, condition: &Condition) -> Vec<String> {
        let quoted = condition.column().quoted();
        let text = match condition {
            Condition::Before(column, ago) => {
                let cut = self.ago(*ago);
                return self.moment(column).is_before(column, &cut);
            }
            Condition::In(column, values) => {
                let bound: Vec<String> = values
                    .iter()
                    .map(|value| self.cast_for(column, Parameter::Value(value.clone())))
                    .collect();
                format!("{quoted} IN ({})", bound.join(", "))
            }
            Condition::IsNull(_) => format!("{quoted} IS NULL"),
            Condition::IsNotNull(_) => format!("{quoted} IS NOT NULL"),
        };
        vec![text]
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
                Value::Ago(ago) => {
                    let moment = self.ago(*ago);
                    self.moment(column).written(&moment)
                }
                // Clamped to what an `int` holds.
                Value::SecondsSince(source) => format!(
                    "CAST(LEAST(GREATEST(floor(extract(epoch FROM now() - {})), 0), 2147483647) AS int)",
                    self.moment(source).read(&source.quoted())
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
    use crate::database::reading::{Unit, Zone};
    use crate::database::spec::Action;
    use crate::database::table::{Reach, Type, Types};

    fn table(name: &str, columns: &[(&str, &str)]) -> Table {
        let types: Types = columns
            .iter()
            .map(|(name, of)| {
                let (plain, exact) = ((*of).to_owned(), (*of).to_owned());
                ((*name).to_owned(), Type { plain, exact })
            })
            .collect();
        Table {
            name: name.to_owned(),
            oid: String::new(),
            reach: Reach::Own,
            types,
        }
    }

    fn values(statement: &Statement) -> Vec<&str> {
        let values = statement.parameters.iter().filter_map(|it| match it {
            Parameter::Value(value) => Some(value.as_str()),
            Parameter::Size | Parameter::From | Parameter::Keys => None,
        });
        values.collect()
    }

    #[test]
    fn expired_tokens_are_deleted_by_key_in_order_and_past_locked_rows() {
        let spec = Preset::find("expired_tokens").unwrap().spec(None);
        let text = |rows: &str, limit: &str, again: &str| {
            format!(
                "WITH levee_batch AS (SELECT \"token_id\" AS levee_key1, \"expires_at\" AS levee_order FROM \
                 \"email_verification_tokens\" WHERE {rows} ORDER BY \"expires_at\" LIMIT {limit} FOR UPDATE SKIP \
                 LOCKED), levee_done AS (DELETE FROM \"email_verification_tokens\" WHERE (\"token_id\") IN (SELECT \
                 levee_key1 FROM levee_batch) AND {again} RETURNING \"token_id\") SELECT (SELECT count(*) FROM levee_done), \
                 (SELECT count(*) FROM levee_batch), (SELECT CAST(levee_order AS text) FROM levee_batch ORDER BY levee_batch.levee_order DESC LIMIT 1), \
                 CASE WHEN (SELECT count(*) FROM levee_done) < (SELECT count(*) FROM levee_batch) THEN \
                 (SELECT array_agg(CAST(ROW(levee_key1) AS text)) FROM levee_batch WHERE (levee_key1) NOT IN (SELECT \"token_id\" FROM levee_done)) END, \
                 CAST(extract(epoch FROM clock_timestamp() - statement_timestamp()) AS float8)"
            )
        };
        let rows =
            "\"expires_at\" < now() AND \"expires_at\" >= TIMESTAMPTZ '0001-01-03 00:00:00+00'";
        let of = [("expires_at", "timestamp with time zone")];
        let table = table("\"email_verification_tokens\"", &of);
        let first = spec.batch(&table, Begin::First, Which::All);
        assert_eq!(first.text, text(rows, "$1", rows));
        assert_eq!(first.parameters, [Parameter::Size]);
        let rows = "\"expires_at\" < now() AND \"expires_at\" >= CAST(CAST($1 AS text) AS timestamp with time zone)";
        let next = spec.batch(&table, Begin::From, Which::All);
        assert_eq!(next.text, text(rows, "$2", rows));
        assert_eq!(next.parameters, [Parameter::From, Parameter::Size]);
    }

    #[test]
    fn stale_calls_are_ended_with_values_of_their_columns_types() {
        let spec = Preset::find("stale_calls").unwrap().spec(None);
        let table = table("\"calls\"", &[("status", "call_status")]);
        let statement = spec.batch(&table, Begin::First, Which::All);
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
                    '0001-01-03 00:00:00+00' AND (CAST(\"status\" AS text) IS DISTINCT FROM CAST(CAST(CAST($4 AS text) \
                    AS call_status) AS text))";
        assert_eq!(
            statement.text,
            format!(
                "WITH levee_batch AS (SELECT \"call_id\" AS levee_key1, \"started_at\" AS levee_order FROM \"calls\" \
                 WHERE {rows} ORDER BY \"started_at\" LIMIT $5 FOR UPDATE SKIP LOCKED), levee_done AS (UPDATE \"calls\" \
                 SET \"status\" = CAST(CAST($6 AS text) AS call_status), \"ended_at\" = now(), \"duration\" = \
                 CAST(LEAST(GREATEST(floor(extract(epoch FROM now() - \"started_at\")), 0), 2147483647) AS int) WHERE \
                 (\"call_id\") IN (SELECT levee_key1 FROM levee_batch) AND {rows} RETURNING \"call_id\") SELECT (SELECT count(*) \
                 FROM levee_done), (SELECT count(*) FROM levee_batch), (SELECT CAST(levee_order AS text) FROM levee_batch ORDER BY levee_batch.levee_order DESC LIMIT 1), \
                 CASE WHEN (SELECT count(*) FROM levee_done) < (SELECT count(*) FROM levee_batch) THEN \
                 (SELECT array_agg(CAST(ROW(levee_key1) AS text)) FROM levee_batch WHERE (levee_key1) NOT IN (SELECT \"call_id\" FROM levee_done)) END, \
                 CAST(extract(epoch FROM clock_timestamp() - statement_timestamp()) AS float8)"
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
            key: vec![name("k\"k")],
            order: name("k\"k"),
            conditions: vec![
                Condition::In(name("s"), vec!["'; drop table y; --".to_owned()]),
                Condition::IsNotNull(name("n")),
            ],
            action: Action::Set(vec![Assignment {
                column: name("t"),
                value: Value::Null,
            }]),
            reading: Reading::default(),
        };
        let table = table(&spec.quoted_table(), &[]);
        for statement in [
            spec.batch(&table, Begin::First, Which::All),
            spec.batch(&table, Begin::From, Which::All),
            spec.count(&table),
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

    fn before(of: &str, reading: Reading) -> Statement {
        let name = |text: &str| Identifier::new(text).unwrap();
        let spec = Spec {
            schema: None,
            table: name("t"),
            key: vec![name("a"), name("b")],
            order: name("at"),
            conditions: vec![Condition::Before(name("at"), Duration::ZERO)],
            action: Action::Delete,
            reading,
        };
        spec.count(&table("t", &[("at", of)]))
    }

    #[test]
    fn a_time_is_compared_as_its_column_is_read() {
        let zone = Reading {
            zone: Zone::new("Europe/Paris").ok(),
            unit: None,
        };
        let unit = Reading {
            zone: None,
            unit: Some(Unit::Milliseconds),
        };
        for (of, reading, rows) in [
            (
                "timestamp without time zone",
                &zone,
                "\"at\" < ((now()) AT TIME ZONE 'Europe/Paris') AND (\"at\" AT TIME ZONE 'Europe/Paris') < now() AND \
                 \"at\" >= TIMESTAMP '0001-01-03 00:00:00'",
            ),
            (
                "bigint",
                &unit,
                "\"at\" < CAST(floor(extract(epoch FROM now()) * 1000) AS bigint) AND \"at\" >= 100000000000",
            ),
        ] {
            let statement = before(of, reading.clone());
            assert_eq!(
                statement.text,
                format!("SELECT count(*) FROM t WHERE {rows}")
            );
        }
    }

    #[test]
    fn rows_of_tables_that_inherit_are_left_alone() {
        let spec = Preset::find("expired_tokens").unwrap().spec(None);
        let table = Table {
            reach: Reach::WithHeirs,
            ..table("t", &[])
        };
        let statement = spec.batch(&table, Begin::First, Which::All);
        assert_eq!(statement.text.matches("FROM ONLY t").count(), 2);
    }
}
