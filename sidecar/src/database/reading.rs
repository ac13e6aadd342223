//! How columns hold times. Only `timestamptz` says by itself which moment a value is.

use super::identifier::Identifier;

/// How the columns of a table hold times, where their types leave it open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Of columns without a zone.
    pub zone: Option<Zone>,
    /// Of whole numbers.
    pub unit: Option<Unit>,
}

/// The name of a time zone, as in the database's table of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(String);

/// What a whole number since the beginning of 1970 counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Milliseconds,
}

/// What a column can hold of a time, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A moment.
    Instant,
    /// Date and time, in an unknown zone.
    Local,
    /// A date, in an unknown zone.
    Day,
    /// A whole number, in an unknown unit.
    Number,
}

/// How a column is read as a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment<'a> {
    Instant,
    Local(&'a Zone),
    /// A date lasts until its end.
    Day(&'a Zone),
    Number(Unit),
}

/// Why a column can't be read as a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The key `zone` is needed.
    Zone,
    /// The key `unit` is needed.
    Unit,
    /// Its type holds no time.
    Type,
    /// An `integer` is too small for milliseconds.
    Small,
}

impl Zone {
    /// # Errors
    /// What the name must be.
    pub fn new(name: &str) -> Result<Self, String> {
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte));
        // These are files of the database's machine, which may say anything.
        let is_local = ["localtime", "posixrules", "factory"]
            .iter()
            .any(|local| name.eq_ignore_ascii_case(local));
        if name.is_empty() || name.len() > 64 || !is_name || is_local {
            return Err("must be UTC or a name such as Europe/Paris".to_owned());
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_utc(&self) -> bool {
        self.0.eq_ignore_ascii_case("UTC")
    }

    /// As part of a statement. It has no quotes in it.
    pub fn quoted(&self) -> String {
        format!("'{}'", self.0)
    }
}

impl Unit {
    /// The units by their names in the configuration.
    pub const ALL: [(&'static str, Self); 2] = [
        ("seconds", Self::Seconds),
        ("milliseconds", Self::Milliseconds),
    ];

    pub const fn per_second(self) -> u32 {
        match self {
            Self::Seconds => 1,
            Self::Milliseconds => 1000,
        }
    }
}

impl Form {
    /// By the name of the type, as the database writes it. `None`: it holds no time.
    pub fn of(plain: &str) -> Option<Self> {
        match plain {
            "timestamp with time zone" => Some(Self::Instant),
            "timestamp without time zone" => Some(Self::Local),
            "date" => Some(Self::Day),
            "bigint" | "integer" => Some(Self::Number),
            _ => None,
        }
    }
}

impl Reading {
    /// How a column of the type `plain` is read.
    ///
    /// # Errors
    /// What is missing to read it.
    pub fn of(&self, plain: &str) -> Result<Moment<'_>, Unreadable> {
        let zone = || self.zone.as_ref().ok_or(Unreadable::Zone);
        match Form::of(plain).ok_or(Unreadable::Type)? {
            Form::Instant => Ok(Moment::Instant),
            Form::Local => zone().map(Moment::Local),
            Form::Day => zone().map(Moment::Day),
            Form::Number => match self.unit.ok_or(Unreadable::Unit)? {
                Unit::Milliseconds if plain == "integer" => Err(Unreadable::Small),
                unit => Ok(Moment::Number(unit)),
            },
        }
    }
}

impl Moment<'_> {
    /// The moments before `cut`, which is one, as conditions on `column`. The first ones can be looked up in an index.
    ///
    /// An hour that is there twice, when clocks are set back, is read as the later one: `AT TIME ZONE` does so
    /// (`DetermineTimeZoneOffset` in `PostgreSQL`). But a moment between the two has a local time that comes again, so
    /// the comparison with the local time alone is not enough.
    pub fn is_before(self, column: &Identifier, cut: &str) -> Vec<String> {
        let column = column.quoted();
        match self {
            Self::Instant => vec![format!("{column} < {cut}")],
            Self::Local(_) => {
                let local = self.written(cut);
                vec![
                    format!("{column} < {local}"),
                    format!("{} < {cut}", self.read(&column)),
                ]
            }
            Self::Day(zone) => {
                let (zone, day) = (zone.quoted(), self.written(cut));
                // Midnight, too, may be there twice.
                vec![format!(
                    "{column} < CASE WHEN CAST({day} AS timestamp) AT TIME ZONE {zone} <= {cut} THEN {day} ELSE {day} - 1 END"
                )]
            }
            Self::Number(_) => vec![format!("{column} < {}", self.written(cut))],
        }
    }

    /// The least value that is a time. What is less stands for something else: `-infinity`, the zero of a language's
    /// library (year 1), the number 0.
    pub const fn least(self) -> &'static str {
        match self {
            Self::Instant => "TIMESTAMPTZ '0001-01-03 00:00:00+00'",
            Self::Local(_) => "TIMESTAMP '0001-01-03 00:00:00'",
            Self::Day(_) => "DATE '0001-01-03'",
            Self::Number(Unit::Seconds) => "1",
            // The beginning of March 1973. What is less would be a time of now in seconds.
            Self::Number(Unit::Milliseconds) => "100000000000",
        }
    }

    /// `moment` as the column holds it.
    pub fn written(self, moment: &str) -> String {
        match self {
            Self::Instant => moment.to_owned(),
            Self::Local(zone) => format!("(({moment}) AT TIME ZONE {})", zone.quoted()),
            Self::Day(zone) => {
                format!("CAST(({moment}) AT TIME ZONE {} AS date)", zone.quoted())
            }
            Self::Number(unit) => format!(
                "CAST(floor(extract(epoch FROM {moment}) * {}) AS bigint)",
                unit.per_second()
            ),
        }
    }

    /// The value `held` of the column, as a moment; of a date, its beginning.
    pub fn read(self, held: &str) -> String {
        match self {
            Self::Instant => held.to_owned(),
            Self::Local(zone) => format!("({held} AT TIME ZONE {})", zone.quoted()),
            Self::Day(zone) => {
                format!("(CAST({held} AS timestamp) AT TIME ZONE {})", zone.quoted())
            }
            Self::Number(unit) => format!("to_timestamp({held} / {}.0)", unit.per_second()),
        }
    }

    /// The moment at which the value `held` of the column is over.
    pub fn over(self, held: &str) -> String {
        match self {
            Self::Day(_) => self.read(&format!("({held} + 1)")),
            Self::Instant | Self::Local(_) | Self::Number(_) => self.read(held),
        }
    }
}
