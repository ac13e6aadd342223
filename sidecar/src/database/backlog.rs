//! What is left to do, and whether batches find it by an index. Both are the planner's view: it costs no more than planning.

use super::connect::Database;
use super::error::Error;
use super::identifier::Identifier;
use super::query::{Values, bound, unexpected};
use super::spec::Spec;
use super::sql::{Begin, End, Statement, Which};
use super::table::Table;
use crate::jobs::Backlog;
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use std::time::Duration;

/// Tables with fewer rows than this need no index.
const LARGE: u64 = 10_000;

/// The oldest row is not looked for if the planner expects this to cost more: about a scan of 100 MB.
const MAX_COST: f64 = 20_000.0;

/// Estimates what is left of the job. `None`: the dialect has no such estimate.
///
/// # Errors
/// The database refused, or did not answer in time.
pub async fn estimate(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
    table: &Table,
) -> Result<Option<Backlog>, Error> {
    let Some(plan) = plan(database, connection, &spec.matching(table)).await? else {
        return Ok(None);
    };
    let rows = plan.rows();
    let end = spec.end(table, End::Oldest);
    let cost = self::plan(database, connection, &end).await?;
    if cost.is_none_or(|plan| plan.cost() > MAX_COST) {
        return Ok(Some(Backlog { rows, oldest: None }));
    }
    let oldest = bound(&end, Values::default()).fetch_optional(connection);
    let Some(oldest) = database.bounded(oldest).await? else {
        return Ok(Some(Backlog::default()));
    };
    let age: Option<f64> = oldest.try_get(2).map_err(|error| unexpected(&error))?;
    Ok(Some(Backlog {
        rows: rows.max(1),
        oldest: age.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    }))
}

/// Has the database plan the batches. Says so if each reads a large table from one end to the other, and which index mends that.
///
/// # Errors
/// The database can't plan them, the role may not execute them, or there was no answer in time.
pub async fn plan_batches(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
    table: &Table,
) -> Result<Option<String>, Error> {
    let [first, later] =
        [Begin::First, Begin::From].map(|begin| spec.batch(table, begin, Which::All));
    check(database, connection, &later).await?;
    let Some(plan) = plan(database, connection, &first).await? else {
        check(database, connection, &first).await?;
        return Ok(None);
    };
    let scanned = plan.scanned();
    if scanned.is_empty() {
        return Ok(None);
    }
    let all = Statement {
        text: format!("SELECT 1 FROM {}", table.own_rows()),
        parameters: Vec::new(),
    };
    let rows = self::plan(database, connection, &all).await?;
    let rows = rows.map_or(0, |plan| plan.rows());
    if rows < LARGE {
        return Ok(None);
    }
    let order = spec.order.quoted();
    let indexes: Vec<String> = scanned
        .iter()
        .map(|relation| format!("CREATE INDEX CONCURRENTLY ON {relation} ({order});"))
        .collect();
    Ok(Some(format!(
        "each batch reads all of the about {rows} rows of {}, since no index has them in the order of {order}; create one: {}",
        table.name,
        indexes.join(" ")
    )))
}

/// Refuses a statement that the database can't plan, or that the role may not execute.
async fn check(
    database: &Database,
    connection: &mut PgConnection,
    statement: &Statement,
) -> Result<(), Error> {
    let explain = Statement {
        text: format!("EXPLAIN {}", statement.text),
        parameters: statement.parameters.clone(),
    };
    let values = Values {
        size: 1,
        ..Values::default()
    };
    let explained = bound(&explain, values).execute(connection);
    database.bounded(explained).await?;
    Ok(())
}

/// How the database would execute a statement, as `EXPLAIN` reports it.
#[derive(Clone, Debug, PartialEq)]
struct Plan(Value);

/// `None`: the dialect shows no plans that could be read.
async fn plan(
    database: &Database,
    connection: &mut PgConnection,
    statement: &Statement,
) -> Result<Option<Plan>, Error> {
    let Some(explain) = database.dialect.explain() else {
        return Ok(None);
    };
    let explain = Statement {
        text: format!("{explain} {}", statement.text),
        parameters: statement.parameters.clone(),
    };
    // With a batch of one row, any index that has the rows in order is used.
    let values = Values {
        size: 1,
        ..Values::default()
    };
    let row = bound(&explain, values).fetch_one(connection);
    let row = database.bounded(row).await?;
    let text: String = row
        .try_get_unchecked(0)
        .map_err(|error| unexpected(&error))?;
    let plan: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Permanent(format!("an unexpected plan: {error}")))?;
    Ok(Some(Plan(plan[0]["Plan"].clone())))
}

impl Plan {
    /// How many rows it is expected to return.
    fn rows(&self) -> u64 {
        self.0["Plan Rows"].as_u64().unwrap_or(0)
    }

    /// In the planner's units: 1 is a page that is read in sequence.
    fn cost(&self) -> f64 {
        self.0["Total Cost"].as_f64().unwrap_or(f64::INFINITY)
    }

    /// The tables that are read from one end to the other, with their schemas.
    fn scanned(&self) -> Vec<String> {
        let mut scanned = Vec::new();
        let mut open = vec![&self.0];
        while let Some(node) = open.pop() {
            open.extend(node["Plans"].as_array().into_iter().flatten());
            if node["Node Type"] != "Seq Scan" {
                continue;
            }
            let name = |key: &str| Identifier::new(node[key].as_str()?).ok();
            if let (Some(schema), Some(relation)) = (name("Schema"), name("Relation Name")) {
                scanned.push(format!("{}.{}", schema.quoted(), relation.quoted()));
            }
        }
        scanned.sort_unstable();
        scanned.dedup();
        scanned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_table_that_is_scanned_is_found_in_a_plan() {
        let scan = |name: &str| json!({"Node Type": "Seq Scan", "Schema": "public", "Relation Name": name});
        let plan = Plan(json!({
            "Node Type": "ModifyTable",
            "Plan Rows": 1,
            "Plans": [
                {"Node Type": "Sort", "Plans": [{"Node Type": "Append", "Plans": [scan("b"), scan("a")]}]},
                {"Node Type": "Index Scan", "Schema": "public", "Relation Name": "c"},
                scan("a"),
            ],
        }));
        assert_eq!(plan.scanned(), ["\"public\".\"a\"", "\"public\".\"b\""]);
        assert_eq!(plan.rows(), 1);
    }

    #[test]
    fn a_plan_that_says_nothing_is_costly() {
        let plan = Plan(Value::Null);
        assert!(plan.cost() > MAX_COST && plan.rows() == 0);
        assert!(plan.scanned().is_empty());
    }
}
