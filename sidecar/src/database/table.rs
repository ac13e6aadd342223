//! A job's table, as the database has it.

use super::connect::Database;
use super::error::Error;
use super::identifier::Identifier;
use super::spec::Spec;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use std::collections::BTreeMap;

/// A table that can be cleaned up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// With its schema.
    pub name: String,
    pub oid: String,
    pub reach: Reach,
    pub types: Types,
}

/// Which rows a statement finds that names the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Also those of tables that inherit from it, at any time.
    WithHeirs,
    /// Its own, or those of its partitions.
    Own,
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

impl Table {
    /// As a statement names it, without the rows of tables that inherit from it.
    pub fn own_rows(&self) -> String {
        match self.reach {
            Reach::WithHeirs => format!("ONLY {}", self.name),
            Reach::Own => self.name.clone(),
        }
    }

    /// The name of the column's type. Empty: there is no such column.
    pub fn type_of(&self, column: &Identifier) -> &str {
        let of = self.types.get(column.as_str());
        of.map_or("", |of| of.plain.as_str())
    }
}

/// A relation of the table's name.
#[derive(Clone, Debug)]
struct Relation {
    oid: String,
    schema: String,
    /// As in `pg_class.relkind`.
    kind: String,
    is_visible: bool,
}

impl FromRow<'_, PgRow> for Relation {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            oid: row.try_get("oid")?,
            schema: row.try_get("schema")?,
            kind: row.try_get("kind")?,
            is_visible: row.try_get("is_visible")?,
        })
    }
}

/// The table of `spec`, if there is just one that can be meant.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub async fn find(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
) -> Result<Table, Error> {
    let relations = relations(database, connection, spec).await?;
    let relation = the_one(spec, relations)?;
    let name = format!(
        "{}.{}",
        // It exists, so its name is one.
        Identifier::new(&relation.schema)
            .map_err(Error::Permanent)?
            .quoted(),
        spec.table.quoted()
    );
    let has_heirs = relation.kind == "r" && database.dialect.has_inheritance();
    let table = Table {
        types: types(database, connection, &relation).await?,
        reach: if has_heirs {
            Reach::WithHeirs
        } else {
            Reach::Own
        },
        oid: relation.oid,
        name,
    };
    check_key(database, connection, spec, &table).await?;
    Ok(table)
}

/// What a run relies on while it lasts: which table its name means, and the types of its columns. To be
/// compared with another one.
///
/// In the transaction of a batch, after it, it can't be outdated: the table is locked against changes then.
pub async fn shape(
    connection: &mut PgConnection,
    spec: &Spec,
    table: &Table,
) -> Result<Option<String>, sqlx::Error> {
    let columns: Vec<&str> = spec.columns().into_iter().map(Identifier::as_str).collect();
    sqlx::query_scalar(
        "SELECT concat(CAST(attrelid AS text), ' ', string_agg(concat(CAST(attname AS text), ' ', CAST(attnum AS text), ' ', \
         CAST(CAST(atttypid AS oid) AS text), ' ', CAST(atttypmod AS text)), ' ' ORDER BY attnum)) \
         FROM pg_catalog.pg_attribute WHERE attrelid = CAST(CAST(CAST($1 AS text) AS regclass) AS oid) \
         AND attnum > 0 AND NOT attisdropped AND CAST(attname AS text) = ANY (CAST($2 AS text[])) GROUP BY attrelid",
    )
    .bind(&table.name)
    .bind(columns)
    .fetch_optional(connection)
    .await
}

async fn relations(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
) -> Result<Vec<Relation>, Error> {
    let relations = sqlx::query_as::<_, Relation>(
        "SELECT CAST(c.oid AS text) AS oid, CAST(n.nspname AS text) AS schema, CAST(c.relkind AS text) AS kind, \
         pg_catalog.pg_table_is_visible(c.oid) AS is_visible \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND ($2 IS NULL OR n.nspname = $2) \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\\_temp\\_%' \
         ORDER BY n.nspname",
    )
    .bind(spec.table.as_str())
    .bind(spec.schema.as_ref().map(Identifier::as_str))
    .persistent(false)
    .fetch_all(connection);
    database.bounded(relations).await
}

/// The one that is meant, unless there could be a doubt.
fn the_one(spec: &Spec, mut relations: Vec<Relation>) -> Result<Relation, Error> {
    let table = spec.quoted_table();
    let schemas: Vec<&str> = relations.iter().map(|it| it.schema.as_str()).collect();
    let schemas = schemas.join(", ");
    let is_in_one = relations.len() == 1;
    let wrong = match relations.pop() {
        None if spec.schema.is_some() => format!("there is no table {table}"),
        None => format!(
            "there is no table {table} where the search path looks; give its schema by itself, under schema"
        ),
        Some(_) if !is_in_one => format!(
            "there is a table {table} in each of the schemas {schemas}; say which one is meant, under schema"
        ),
        Some(only) if spec.schema.is_none() && !only.is_visible => format!(
            "there is no table {table} where the search path looks, but one in schema {schemas}; if that is meant, give \
             schema: {schemas}"
        ),
        Some(only) => match only.kind.as_str() {
            "r" | "p" => return Ok(only),
            "f" => format!("{table} is a foreign table; clean it up at its own server"),
            _ => format!("{table} is a view; name the table that has the rows"),
        },
    };
    Err(Error::Permanent(wrong))
}

/// The types of the columns, with and without their lengths: a cast to `varchar(3)`, or to a domain of it, truncates a value
/// silently, where an assignment or a comparison does not. `"char"` and `name` (18 and 19) always truncate, so they are
/// treated as text.
async fn types(
    database: &Database,
    connection: &mut PgConnection,
    relation: &Relation,
) -> Result<Types, Error> {
    let all = sqlx::query_as::<_, (String, String, String)>(
        "WITH RECURSIVE c (name, type, modifier) AS (\
         SELECT CAST(attname AS text), atttypid, atttypmod FROM pg_catalog.pg_attribute \
         WHERE attrelid = CAST(CAST($1 AS text) AS oid) AND attnum > 0 AND NOT attisdropped \
         UNION ALL SELECT c.name, t.typbasetype, t.typtypmod FROM c JOIN pg_catalog.pg_type t ON t.oid = c.type \
         WHERE t.typtype = 'd') \
         SELECT c.name, CASE WHEN c.type IN (18, 19) THEN 'text' ELSE format_type(c.type, -1) END, \
         CASE WHEN c.type IN (18, 19) THEN 'text' ELSE format_type(c.type, c.modifier) END \
         FROM c JOIN pg_catalog.pg_type t ON t.oid = c.type WHERE t.typtype <> 'd'",
    )
    .bind(&relation.oid)
    .persistent(false)
    .fetch_all(connection);
    let all = database.bounded(all).await?.into_iter();
    Ok(all
        .map(|(name, plain, exact)| (name, Type { plain, exact }))
        .collect())
}

/// Refuses a key that could stand for several rows.
async fn check_key(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
    table: &Table,
) -> Result<(), Error> {
    let key: Vec<&str> = spec.key.iter().map(Identifier::as_str).collect();
    let keys = sqlx::query_as::<_, (bool, String)>(
        "SELECT bool_and(CAST(a.attname AS text) = ANY($2)) AND count(*) = cardinality($2), \
         string_agg(quote_ident(CAST(a.attname AS text)), ', ' ORDER BY k.place) \
         FROM pg_catalog.pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
         WHERE i.indrelid = CAST(CAST($1 AS text) AS oid) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL \
         AND k.place <= i.indnkeyatts AND a.attnotnull \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint n WHERE n.conrelid = i.indrelid AND n.contype = 'n' \
         AND NOT n.convalidated AND a.attnum = ANY(n.conkey)) \
         GROUP BY i.indexrelid, i.indnkeyatts HAVING count(*) = i.indnkeyatts ORDER BY i.indexrelid",
    )
    .bind(&table.oid)
    .bind(&key)
    .persistent(false)
    .fetch_all(connection);
    let keys = database.bounded(keys).await?;
    if keys.iter().any(|(is_it, _)| *is_it) {
        return Ok(());
    }
    let known: Vec<String> = keys
        .into_iter()
        .map(|(_, columns)| format!("[{columns}]"))
        .collect();
    let known = match known.as_slice() {
        [] => "it has no such key, so its rows can't be told apart; add a primary key".to_owned(),
        known => format!("give one of its keys: {}", known.join(" or ")),
    };
    let quoted: Vec<String> = spec.key.iter().map(Identifier::quoted).collect();
    let columns = quoted.join(", ");
    let wrong = match quoted.len() {
        1 => format!(
            "column {columns} of table {} is not unique by itself",
            table.name
        ),
        _ => format!(
            "columns {columns} of table {} are not unique together",
            table.name
        ),
    };
    Err(Error::Permanent(format!(
        "{wrong}, or may be null; the key must be unique and NOT NULL; {known}"
    )))
}
