//! What a time could mean, where a job doesn't say it: shown with the refusal.

use super::connect::Database;
use super::error::Error;
use super::identifier::Identifier;
use super::query::{Values, bound, number};
use super::reading::{Form, Reading, Unit, Unreadable, Zone};
use super::spec::Spec;
use super::table::Table;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, FromRow, Row};
use std::fmt::Write as _;

/// The most zones that rows are counted for.
const MAX_ZONES: usize = 6;

/// The most rows that are counted in each reading: a job that refuses does so at each of its runs.
const MOST_COUNTED: u64 = 100_000;

/// A zone that somebody could have written in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Writer {
    zone: String,
    /// Who: a role, a database, the server.
    who: String,
}

#[derive(Clone, Debug)]
struct Setting {
    role: Option<String>,
    is_of_database: bool,
    zone: String,
}

impl FromRow<'_, PgRow> for Setting {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            role: row.try_get("role")?,
            is_of_database: row.try_get("is_of_database")?,
            zone: row.try_get("zone")?,
        })
    }
}

/// The refusal of a job whose `column` can't be read, with what it could mean.
///
/// # Errors
/// A statement failed that can't fail for the table's sake.
pub async fn refusal(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
    table: &Table,
    column: &Identifier,
    why: Unreadable,
) -> Result<String, Error> {
    let of = table.type_of(column);
    let (column, name) = (column.quoted(), &table.name);
    let mut text = match why {
        Unreadable::Small => {
            return Ok(format!(
                "column {column} of table {name} is of type {of}, which is too small for milliseconds; is it unit: seconds?"
            ));
        }
        Unreadable::Type => {
            return Ok(format!(
                "column {column} of table {name} is of type {of}, which holds no time; it must be timestamptz, timestamp or \
                 date (with the key zone), or bigint or integer (with the key unit)"
            ));
        }
        Unreadable::Zone => format!(
            "column {column} of table {name} is of type {of}, and so doesn't say in which zone its times are; give the \
             zone that it is written in, such as zone: UTC or zone: Europe/Paris."
        ),
        Unreadable::Unit => format!(
            "column {column} of table {name} is of type {of}; say what it counts since 1970, by unit: seconds or unit: \
             milliseconds."
        ),
    };
    let newest = newest(database, connection, table, &column, of).await?;
    let now = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')";
    let now: String = database
        .bounded(
            sqlx::query_scalar(now)
                .persistent(false)
                .fetch_one(&mut *connection),
        )
        .await?;
    let _ = write!(text, " Its newest value is {newest}; now is {now} UTC.");
    let mut readings = readings(database, connection, why).await?;
    readings.retain(|(reading, _)| reading.of(of).is_ok());
    let others = readings.len().saturating_sub(MAX_ZONES);
    for (reading, label) in readings.into_iter().take(MAX_ZONES) {
        let spec = Spec {
            reading,
            ..spec.clone()
        };
        let rows = rows(database, connection, &spec, table).await?;
        let _ = write!(text, " Read as {label}: {rows}.");
    }
    if others > 0 {
        let _ = write!(text, " {others} more zones are configured.");
    }
    Ok(text)
}

/// The ways in which the column could be read.
async fn readings(
    database: &Database,
    connection: &mut PgConnection,
    why: Unreadable,
) -> Result<Vec<(Reading, String)>, Error> {
    if why == Unreadable::Unit {
        let units = Unit::ALL.into_iter().map(|(name, unit)| {
            let reading = Reading {
                zone: None,
                unit: Some(unit),
            };
            (reading, name.to_owned())
        });
        return Ok(units.collect());
    }
    let mut readings = Vec::new();
    for Writer { zone, who } in writers(database, connection).await? {
        let Ok(name) = Zone::new(&zone) else {
            continue;
        };
        let reading = Reading {
            zone: Some(name),
            unit: None,
        };
        readings.push((reading, format!("{zone}{who}")));
    }
    Ok(readings)
}

/// The zones of the server, of the database and of its roles, each once. A client may have set another one.
async fn writers(database: &Database, connection: &mut PgConnection) -> Result<Vec<Writer>, Error> {
    let settings = sqlx::query_as::<_, Setting>(
        "SELECT CAST(r.rolname AS text) AS role, s.setdatabase <> 0 AS is_of_database, split_part(c.entry, '=', 2) AS zone \
         FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
         LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase CROSS JOIN LATERAL unnest(s.setconfig) AS c(entry) \
         WHERE lower(split_part(c.entry, '=', 1)) = 'timezone' \
         AND (s.setdatabase = 0 OR d.datname = current_database()) ORDER BY 2 DESC, 1",
    )
    .persistent(false)
    .fetch_all(&mut *connection);
    let settings = database.bounded(settings).await?;
    let log_zone = sqlx::query_scalar::<_, String>("SELECT current_setting('log_timezone', true)")
        .persistent(false)
        .fetch_one(connection);
    // A server that doesn't have it can't say it.
    let log_zone = database.bounded(log_zone).await.ok();
    let mut writers: Vec<Writer> = vec![Writer {
        zone: "UTC".to_owned(),
        who: String::new(),
    }];
    let mut add =
        |zone: String, who: String| match writers.iter_mut().find(|writer| writer.zone == zone) {
            Some(known) if known.who.is_empty() => known.who = who,
            Some(known) => known.who.push_str(&who),
            None => writers.push(Writer { zone, who }),
        };
    // Drivers say which zone their session has, this one too, so the server's own can't be asked for.
    if let Some(zone) = log_zone {
        add(zone, " (of the server's log)".to_owned());
    }
    for Setting {
        role,
        is_of_database,
        zone,
    } in settings
    {
        let who = match (role, is_of_database) {
            (Some(role), true) => format!(" (of role {role:?} in this database)"),
            (Some(role), false) => format!(" (of role {role:?})"),
            (None, _) => " (of this database)".to_owned(),
        };
        add(zone, who);
    }
    Ok(writers)
}

async fn newest(
    database: &Database,
    connection: &mut PgConnection,
    table: &Table,
    column: &str,
    of: &str,
) -> Result<String, Error> {
    let finite = match Form::of(of) {
        Some(Form::Number) | None => String::new(),
        Some(_) => format!(" AND {column} < 'infinity'"),
    };
    let newest = format!(
        "SELECT CAST({column} AS text) AS levee_value FROM {} WHERE {column} IS NOT NULL{finite} ORDER BY {column} DESC LIMIT 1",
        table.own_rows()
    );
    let newest = sqlx::query_scalar::<_, String>(AssertSqlSafe(newest))
        .persistent(false)
        .fetch_optional(connection);
    match database.bounded(newest).await {
        Ok(newest) => Ok(newest.unwrap_or_else(|| "not there (no rows)".to_owned())),
        Err(Error::Timeout(_)) => Ok("not known (it takes too long to look for)".to_owned()),
        Err(error) => Err(error),
    }
}

/// How many rows a run would handle, and the newest of them.
async fn rows(
    database: &Database,
    connection: &mut PgConnection,
    spec: &Spec,
    table: &Table,
) -> Result<String, Error> {
    let count = spec.count_up_to(table, MOST_COUNTED + 1);
    let counted = bound(&count, Values::default()).fetch_one(connection);
    match database.bounded(counted).await {
        Ok(row) => Ok(match number(&row, 0)? {
            rows if rows > MOST_COUNTED => format!("more than {MOST_COUNTED} rows"),
            rows => format!("{rows} rows"),
        }),
        Err(Error::Timeout(_)) => Ok("not counted (it takes too long)".to_owned()),
        Err(error) => Err(error),
    }
}

/// Refuses a zone that the database doesn't know, or knows by two meanings.
///
/// # Errors
/// What is wrong with it.
pub async fn check_zone(
    database: &Database,
    connection: &mut PgConnection,
    zone: &Zone,
) -> Result<(), Error> {
    let name = zone.as_str();
    if zone.is_utc() {
        return Ok(());
    }
    if !database.dialect.reads_later_hour() {
        return Err(Error::Permanent(format!(
            "zone {name}: this database doesn't define which moment an hour means that is there twice, when clocks are set \
             back; only UTC is supported"
        )));
    }
    let known = sqlx::query_as::<_, (bool, bool)>(
        "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_timezone_names WHERE lower(name) = lower($1)), \
         EXISTS (SELECT 1 FROM pg_catalog.pg_timezone_abbrevs WHERE lower(abbrev) = lower($1))",
    )
    .bind(name)
    .persistent(false)
    .fetch_one(connection);
    match database.bounded(known).await? {
        // An abbreviation comes first, and has no daylight saving time: CET is not the zone of that name.
        (_, true) => Err(Error::Permanent(format!(
            "zone {name} is an abbreviation, and the same all year; give the zone's name, such as Europe/Paris"
        ))),
        (false, false) => Err(Error::Permanent(format!(
            "the database knows no zone {name}; its table pg_timezone_names has their names, such as Europe/Paris"
        ))),
        (true, false) => Ok(()),
    }
}

/// What is less than this, in milliseconds since 1970, is before March 1973; and what is more, in seconds, after the year
/// 5000.
const BETWEEN_THE_UNITS: i64 = 100_000_000_000;

/// Refuses a unit by which the newest time would be of 1973 or earlier, or of a far future. Rows that a wrong unit would
/// show as long over are left alone all the same: see [`Moment::least`](super::reading::Moment::least).
///
/// # Errors
/// The unit is another.
pub async fn check_unit(
    database: &Database,
    connection: &mut PgConnection,
    table: &Table,
    column: &Identifier,
    unit: Unit,
) -> Result<(), Error> {
    let (quoted, name) = (column.quoted(), &table.name);
    let newest = newest(database, connection, table, &quoted, table.type_of(column)).await?;
    let Ok(value) = newest.parse::<i64>() else {
        return Ok(());
    };
    let (is_wrong, counted, right) = match unit {
        Unit::Seconds => {
            // Not the greatest number, which stands for no end.
            let is_wrong = (BETWEEN_THE_UNITS..i64::MAX / 1000).contains(&value);
            (is_wrong, "seconds", "milliseconds")
        }
        Unit::Milliseconds => {
            let is_wrong = (1..BETWEEN_THE_UNITS).contains(&value);
            (is_wrong, "milliseconds", "seconds")
        }
    };
    if is_wrong {
        return Err(Error::Permanent(format!(
            "column {quoted} of table {name} can't count {counted}: its newest value is {newest}; is it unit: {right}?"
        )));
    }
    Ok(())
}
