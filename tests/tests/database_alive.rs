//! Whatever the table, its zone and its rows: a row that is alive is never taken.
//!
//! The model knows at which moment each row is over, as its writer meant it. It has no notion of zones: the writer's own
//! session turns the moment into what the column holds, as a service's does.
#![allow(missing_docs)]

use std::env;
use std::time::Duration;

use levee::database::identifier::Identifier;
use levee::database::reading::{Reading, Unit, Zone};
use levee::database::spec::{Action, Condition, Spec};
use levee::database::sql::{Begin, Parameter, Statement, Which};
use levee::database::table::{Reach, Table, Type, Types};
use levee_harness::postgres::Postgres;
use levee_policy::random::SplitMix64;
use postgres::types::ToSql;
use postgres::{Client, Transaction};

/// Cases in one table before the next is made.
const CASES_OF_A_TABLE: u32 = 100;

const ROWS: u64 = 12;

/// Zones with all kinds of rules: none, east and west, half hours, negative daylight saving (Dublin), midnight there twice
/// (Havana), half an hour of it (Lord Howe), a day that is missing (Apia), rules that were dropped (São Paulo, Moscow).
const ZONES: [&str; 12] = [
    "UTC",
    "America/New_York",
    "Asia/Tokyo",
    "Asia/Kolkata",
    "Europe/Dublin",
    "America/Havana",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Europe/Moscow",
    "Africa/Casablanca",
    "Pacific/Chatham",
];

/// How a column holds its times.
#[derive(Clone, Copy, Debug)]
enum Held {
    Instant,
    Local,
    Day,
    Number(Unit),
}

impl Held {
    const ALL: [Self; 5] = [
        Self::Instant,
        Self::Local,
        Self::Day,
        Self::Number(Unit::Seconds),
        Self::Number(Unit::Milliseconds),
    ];

    const fn of(self) -> &'static str {
        match self {
            Self::Instant => "timestamp with time zone",
            Self::Local => "timestamp without time zone",
            Self::Day => "date",
            Self::Number(_) => "bigint",
        }
    }

    /// What the writer's session makes of a moment, in microseconds since 1970.
    fn written(self, moment: i64) -> String {
        let moment = format!("(to_timestamp(0) + {moment}::int8 * interval '1 microsecond')");
        match self {
            Self::Instant | Self::Local | Self::Day => format!("{moment}::{}", self.of()),
            Self::Number(unit) => format!(
                "floor(extract(epoch FROM {moment}) * {})::bigint",
                unit.per_second()
            ),
        }
    }

    /// For how long after its moment a row may stay: the resolution of its column, and an hour that is there twice.
    const fn slack(self) -> i64 {
        match self {
            Self::Instant => 0,
            Self::Local => 3_600_000_000,
            Self::Day => 2 * 86_400_000_000,
            Self::Number(_) => 1_000_000,
        }
    }
}

/// The kind of table.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Plain,
    Partitioned,
    WithHeir,
}

/// A row and the moment at which it is over. `None`: never.
#[derive(Clone, Copy, Debug)]
struct Row {
    key: i64,
    over: Option<i64>,
    is_wanted: bool,
    is_heirs: bool,
}

struct Case<'a> {
    random: &'a mut SplitMix64,
    held: Held,
    shape: Shape,
    zone: &'static str,
    now: i64,
}

impl Case<'_> {
    fn draw(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    /// The age that the job asks for: often such that the cut falls on a day on which the zone's clocks are changed.
    fn ago(&mut self, changes: &[i64]) -> i64 {
        let hour = 3_600_000_000;
        if changes.is_empty() || self.draw(3) == 0 {
            return i64::try_from(self.draw(9 * 365 * 24)).unwrap() * hour;
        }
        let place = usize::try_from(self.draw(changes.len() as u64)).unwrap();
        let near = i64::try_from(self.draw(6 * 3600)).unwrap() * 1_000_000 - 3 * hour;
        (self.now - changes[place] + near).max(0)
    }

    /// Rows around the cut, and some that are never over.
    fn rows(&mut self, cut: i64) -> Vec<Row> {
        (1..=ROWS)
            .map(|key| {
                let spread: i64 =
                    [10, 7_200, 200_000, 40_000_000][usize::try_from(self.draw(4)).unwrap()];
                let away = self.draw(2 * 1_000_000 * spread.unsigned_abs());
                let away = i64::try_from(away).unwrap() - 1_000_000 * spread;
                Row {
                    key: i64::try_from(key).unwrap(),
                    over: (self.draw(12) != 0).then_some(cut + away),
                    is_wanted: self.draw(5) != 0,
                    is_heirs: matches!(self.shape, Shape::WithHeir) && self.draw(4) == 0,
                }
            })
            .collect()
    }
}

fn make_table(client: &mut Client, held: Held, shape: Shape) {
    let columns = format!("k bigint, part int NOT NULL, status text, at {}", held.of());
    let table = match shape {
        Shape::Plain => format!("CREATE TABLE t ({columns}, PRIMARY KEY (k)); CREATE INDEX ON t (at)"),
        Shape::Partitioned => format!(
            "CREATE TABLE t ({columns}, PRIMARY KEY (part, k)) PARTITION BY LIST (part);
             CREATE TABLE t0 PARTITION OF t FOR VALUES IN (0); CREATE TABLE t1 PARTITION OF t DEFAULT"
        ),
        Shape::WithHeir => {
            format!("CREATE TABLE t ({columns}, PRIMARY KEY (k)); CREATE TABLE heir () INHERITS (t)")
        }
    };
    client
        .batch_execute(&format!("DROP TABLE IF EXISTS t CASCADE; {table}"))
        .unwrap();
}

fn spec(held: Held, shape: Shape, zone: &str, ago: i64) -> Spec {
    let name = |text: &str| Identifier::new(text).unwrap();
    Spec {
        schema: None,
        table: name("t"),
        key: match shape {
            Shape::Partitioned => vec![name("k"), name("part")],
            Shape::Plain | Shape::WithHeir => vec![name("k")],
        },
        order: name("at"),
        conditions: vec![
            Condition::Before(name("at"), Duration::from_micros(ago.unsigned_abs())),
            Condition::In(name("status"), vec!["done".to_owned(), "old".to_owned()]),
        ],
        action: Action::Delete,
        reading: Reading {
            zone: Zone::new(zone).ok(),
            unit: match held {
                Held::Number(unit) => Some(unit),
                Held::Instant | Held::Local | Held::Day => None,
            },
        },
    }
}

fn table(held: Held, shape: Shape) -> Table {
    let columns = [
        ("k", "bigint"),
        ("part", "integer"),
        ("status", "text"),
        ("at", held.of()),
    ];
    let types: Types = columns
        .map(|(name, of)| {
            let (plain, exact) = (of.to_owned(), of.to_owned());
            (name.to_owned(), Type { plain, exact })
        })
        .into();
    Table {
        name: "t".to_owned(),
        oid: String::new(),
        reach: match shape {
            Shape::Partitioned => Reach::Own,
            Shape::Plain | Shape::WithHeir => Reach::WithHeirs,
        },
        types,
    }
}

/// The statement that inserts the row.
fn insert(case: &mut Case<'_>, row: Row) -> String {
    let at = match row.over {
        Some(over) => case.held.written(over),
        None => match (case.draw(3), case.held) {
            (0, _) => "null".to_owned(),
            (1, Held::Number(_)) => "0".to_owned(),
            (_, Held::Number(_)) => "9223372036854775807".to_owned(),
            (1, _) => "'-infinity'".to_owned(),
            (_, _) => "'infinity'".to_owned(),
        },
    };
    let status = match (row.is_wanted, case.draw(3)) {
        (true, 0) => "'old'",
        (true, _) => "'done'",
        (false, 0) => "null",
        (false, _) => "'live'",
    };
    let into = if row.is_heirs { "heir" } else { "t" };
    let (key, part) = (row.key, row.key % 3);
    format!("INSERT INTO {into} (k, part, status, at) VALUES ({key}, {part}, {status}, {at});")
}

/// Runs batches until one finds nothing.
fn run(transaction: &mut Transaction<'_>, statement: &Statement) {
    let values: Vec<&(dyn ToSql + Sync)> = statement
        .parameters
        .iter()
        .map(|parameter| match parameter {
            Parameter::Value(value) => value as &(dyn ToSql + Sync),
            Parameter::Size => &5_i64,
            Parameter::From | Parameter::Keys => unreachable!("it begins at the first row"),
        })
        .collect();
    loop {
        let done = transaction
            .query_one(&statement.text, &values)
            .unwrap_or_else(|error| panic!("{}: {error}", statement.text));
        if done.get::<_, i64>(1) == 0 {
            return;
        }
    }
}

/// The moments at which the zone's clocks were changed in the last nine years, in microseconds since 1970.
fn changes(client: &mut Client, zone: &str) -> Vec<i64> {
    let rows = client
        .query(
            "SELECT (extract(epoch FROM h) * 1000000)::int8 FROM (SELECT h, h AT TIME ZONE $1 - lag(h AT TIME ZONE $1) OVER \
             (ORDER BY h) AS step FROM generate_series(date_trunc('hour', now()) - interval '3280 days', now(), '1 h') h) s \
             WHERE step <> interval '1 h'",
            &[&zone],
        )
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_row_that_is_alive_is_never_taken() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let cases: u32 = number("LEVEE_CASES").map_or(10_000, |cases: u64| cases.try_into().unwrap());
    let seed = number("LEVEE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("LEVEE_SEED={seed}");
    let mut random = SplitMix64::new(seed);
    let postgres = Postgres::start().unwrap();
    let mut client = postgres.client().unwrap();
    let (mut taken, mut alive) = (0, 0);
    for table in 0..cases.div_ceil(CASES_OF_A_TABLE) {
        let draw = |random: &mut SplitMix64, of: usize| {
            usize::try_from(random.next_u64() % of as u64).unwrap()
        };
        let held = Held::ALL[draw(&mut random, Held::ALL.len())];
        let shape = [Shape::Plain, Shape::Partitioned, Shape::WithHeir][draw(&mut random, 3)];
        let zone = ZONES[draw(&mut random, ZONES.len())];
        make_table(&mut client, held, shape);
        let changes = changes(&mut client, zone);
        for _ in 0..CASES_OF_A_TABLE.min(cases - table * CASES_OF_A_TABLE) {
            let (was_taken, was_alive) =
                check(&mut client, &mut random, held, shape, zone, &changes);
            taken += was_taken;
            alive += was_alive;
        }
    }
    println!("{cases} cases: {taken} rows were taken, {alive} were alive");
    assert!(taken > cases && alive > cases, "the rows are of both kinds");
}

/// One case. Returns how many rows were taken, and how many were alive.
fn check(
    client: &mut Client,
    random: &mut SplitMix64,
    held: Held,
    shape: Shape,
    zone: &'static str,
    changes: &[i64],
) -> (u32, u32) {
    // Within a transaction now() is one moment.
    let mut transaction = client.transaction().unwrap();
    let now = transaction
        .query_one("SELECT (extract(epoch FROM now()) * 1000000)::int8", &[])
        .unwrap()
        .get(0);
    let mut case = Case {
        random,
        held,
        shape,
        zone,
        now,
    };
    let ago = case.ago(changes);
    let cut = now - ago;
    let rows = case.rows(cut);
    let inserts: String = rows.iter().map(|row| insert(&mut case, *row)).collect();
    // The sidecar's driver sets UTC.
    transaction
        .batch_execute(&format!(
            "SET LOCAL timezone = '{zone}'; {inserts} SET LOCAL timezone = 'UTC'"
        ))
        .unwrap();
    let spec = spec(held, shape, zone, ago);
    run(
        &mut transaction,
        &spec.batch(&table(held, shape), Begin::First, Which::All),
    );
    let left: Vec<i64> = transaction
        .query("SELECT k FROM t", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    transaction.rollback().unwrap();
    let (mut taken, mut alive) = (0, 0);
    for row in rows {
        let is_left = left.contains(&row.key);
        let is_alive = row.is_heirs || !row.is_wanted || row.over.is_none_or(|over| over >= cut);
        let is_over = !is_alive && row.over.is_some_and(|over| over < cut - held.slack());
        let shown = || {
            format!(
                "{row:?} of {held:?}, {shape:?}, {}, cut {cut}, ago {ago}",
                case.zone
            )
        };
        assert!(is_left || !is_alive, "it was alive: {}", shown());
        assert!(!is_left || !is_over, "it is left: {}", shown());
        taken += u32::from(!is_left);
        alive += u32::from(is_alive);
    }
    (taken, alive)
}
