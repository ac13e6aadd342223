//! Statements of jobs, bound, and their answers.

use super::error::Error;
use super::sql::{Parameter, Statement};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row};

/// The values of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    pub size: u32,
    pub from: Option<&'a str>,
    pub keys: &'a [String],
}

/// The statement with its parameters.
pub fn bound(
    statement: &Statement,
    values: Values<'_>,
) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    // Not prepared, so it is planned with the values each time: a plan without them may sort all rows for each batch.
    let mut query = sqlx::query(AssertSqlSafe(statement.text.clone())).persistent(false);
    for parameter in &statement.parameters {
        query = match parameter {
            Parameter::Value(value) => query.bind(value.clone()),
            Parameter::Size => query.bind(i64::from(values.size)),
            Parameter::From => query.bind(values.from.map(str::to_owned)),
            Parameter::Keys => query.bind(values.keys.to_vec()),
        };
    }
    query
}

/// The number in a column of a row.
///
/// # Errors
/// There is none.
pub fn number(row: &PgRow, column: usize) -> Result<u64, Error> {
    let number: i64 = row.try_get(column).map_err(|error| unexpected(&error))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

/// An answer of another form than the statement has.
pub fn unexpected(error: &sqlx::Error) -> Error {
    Error::Permanent(format!("an unexpected answer: {error}"))
}
