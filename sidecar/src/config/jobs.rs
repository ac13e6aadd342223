//! The section `database.jobs`.

use crate::database::identifier::Identifier;
use crate::database::preset::{PRESETS, Preset};
use crate::database::reading::{Reading, Unit, Zone};
use crate::database::spec::{Action, Assignment, Condition, Spec, Value};
use crate::jobs::pace::{PaceSettings, Rest};
use crate::jobs::settings::JobSettings;
use levee_config::LONGEST;
use levee_config::reader::Section;
use levee_policy::ratio::Ratio;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The share of time in which a batch runs while others use the database.
const SHARE: Ratio = Ratio::percent(2);

const YEAR: Duration = Duration::from_hours(24 * 365);

/// The longest ago that a condition may name: further back there is no data to clean up.
const TEN_YEARS: Duration = Duration::from_hours(24 * 3650);

/// A cleanup job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Which preset it is, if it is one.
    pub preset: Option<&'static Preset>,
    /// What it does.
    pub spec: Spec,
    /// When and how it is run.
    pub settings: JobSettings,
}

/// Reads all jobs, by name.
pub(super) fn read_jobs(s: &mut Section<'_>) -> Vec<Job> {
    let mut jobs: Vec<Job> = s
        .entries("jobs", read_job)
        .into_iter()
        .map(|(name, job)| Job { name, ..job })
        .collect();
    jobs.sort_by(|a, b| a.name.cmp(&b.name));
    for (place, job) in jobs.iter().enumerate() {
        if job.name.len() > 64 || job.name.chars().any(char::is_control) || job.name.is_empty() {
            s.error(
                "jobs",
                "names must have 1 to 64 bytes and no control characters",
            );
        }
        let is_second = |other: &Job| other.preset == job.preset;
        if job.preset.is_some() && jobs.iter().take(place).any(is_second) {
            let path = format!("jobs.{}.preset", job.name);
            s.error(&path, "is used twice; its metrics have one name");
        }
    }
    jobs
}

fn read_job(s: &mut Section<'_>) -> Job {
    let preset = s.choice("preset", &PRESETS.each_ref().map(|it| (it.name, it)));
    let mut spec = match preset {
        Some(preset) => preset.spec(
            preset
                .older_than
                .and_then(|_| s.duration("older_than", Duration::ZERO..=TEN_YEARS)),
        ),
        None => read_spec(s),
    };
    spec.schema = s.has("schema").then(|| identifier(s, "schema"));
    spec.reading = read_reading(s);
    let mut settings = JobSettings {
        every: Some(
            s.duration("every", SECOND..=YEAR)
                .unwrap_or(Duration::from_hours(1)),
        ),
        pace: read_pace(s),
        max_rows: s
            .integer("max_rows", 1..=u32::MAX)
            .map_or(10_000_000, u64::from),
        max_time: s
            .duration("max_time", SECOND..=LONGEST)
            .unwrap_or(Duration::from_mins(30)),
        dry_run: s.flag("dry_run").unwrap_or(false),
    };
    if s.flag("scheduled") == Some(false) {
        settings.every = None;
    }
    Job {
        name: String::new(),
        preset,
        spec,
        settings,
    }
}

fn read_pace(s: &mut Section<'_>) -> PaceSettings {
    let pause = s.duration("pause", Duration::ZERO..=LONGEST);
    let share = s.ratio("share").unwrap_or(SHARE);
    if share == Ratio::ZERO {
        s.error("share", "must be more than 0; 0.02 is a share of 2 %");
    }
    let rest = match pause {
        Some(Duration::ZERO) => Rest::Never,
        pause => Rest::Beside {
            pause: pause.unwrap_or_default(),
            share,
        },
    };
    PaceSettings {
        batch: s.integer("batch", 1..=1_000_000).unwrap_or(10_000),
        aim: s
            .duration("batch_aim", MILLISECOND..=LONGEST)
            .unwrap_or(250 * MILLISECOND),
        rest,
        max_lag: s
            .duration("max_lag", Duration::ZERO..=LONGEST)
            .unwrap_or(10 * SECOND),
    }
}

/// A job without a preset.
fn read_spec(s: &mut Section<'_>) -> Spec {
    let presets = PRESETS.each_ref().map(|preset| preset.name).join(", ");
    let table = format!("the table, or choose a preset: {presets}");
    for (field, what) in [
        ("table", table.as_str()),
        (
            "key",
            "the column that is the table's key, or a list of them",
        ),
        (
            "where",
            "which rows, such as {column: expires_at, before: 0s}",
        ),
        (
            "action",
            "\"delete\", or \"set\" with the columns under set",
        ),
    ] {
        s.require(field, what);
    }
    let key = read_key(s);
    let first = key.first().cloned().unwrap_or_else(placeholder);
    let conditions = s.objects("where", read_condition);
    if s.has("where") && conditions.is_empty() {
        s.error("where", "is empty; name at least one condition");
    }
    let conditions: Vec<Condition> = conditions.into_iter().flatten().collect();
    let by_time = conditions.iter().find_map(|condition| match condition {
        Condition::Before(column, _) => Some(column.clone()),
        _ => None,
    });
    let assignments = read_assignments(s);
    let action = read_action(s, assignments);
    let spec = Spec {
        schema: None,
        table: identifier(s, "table"),
        order: first,
        key,
        conditions,
        action,
        reading: Reading::default(),
    };
    if !spec.comes_to_an_end() {
        s.error(
            "set",
            "would set the same rows again and again: give one column a fixed value, or set a column that where looks at",
        );
    }
    let order = s.has("order").then(|| identifier(s, "order"));
    Spec {
        order: order.or(by_time).unwrap_or(spec.order),
        ..spec
    }
}

/// How times are read where the types of their columns leave it open.
fn read_reading(s: &mut Section<'_>) -> Reading {
    let zone = s
        .text("zone")
        .and_then(|name| Zone::new(&name).map_err(|must| s.error("zone", &must)).ok());
    Reading {
        zone,
        unit: s.choice("unit", &Unit::ALL),
    }
}

fn read_action(s: &mut Section<'_>, assignments: Vec<Assignment>) -> Action {
    #[derive(Clone, Copy)]
    enum Word {
        Delete,
        Set,
    }
    match s.choice("action", &[("delete", Word::Delete), ("set", Word::Set)]) {
        Some(Word::Set) if assignments.is_empty() => {
            s.error("set", "is missing: the columns, such as {status: ended}");
            Action::Delete
        }
        Some(Word::Set) => Action::Set(assignments),
        Some(Word::Delete) | None => {
            if !assignments.is_empty() {
                s.error("set", "has no meaning where action is not \"set\"");
            }
            Action::Delete
        }
    }
}

fn identifier(s: &mut Section<'_>, field: &'static str) -> Identifier {
    let Some(text) = s.text(field) else {
        return placeholder();
    };
    Identifier::new(&text).unwrap_or_else(|must| {
        s.error(field, &must);
        placeholder()
    })
}

/// The columns of the key: one, or a list.
fn read_key(s: &mut Section<'_>) -> Vec<Identifier> {
    let names = s.word_or_words("key");
    if s.is_list("key") && names.is_empty() {
        s.error(
            "key",
            "is empty; name the column, or the columns, of the table's key",
        );
    }
    let mut key = Vec::new();
    for name in names {
        match Identifier::new(&name) {
            Ok(column) if key.contains(&column) => s.error("key", "names a column twice"),
            Ok(column) => key.push(column),
            Err(must) => s.error("key", &must),
        }
    }
    key
}

/// Stands for a name that is missing or wrong, which is an error already.
fn placeholder() -> Identifier {
    Identifier::new("x").expect("it is a name")
}

fn read_condition(s: &mut Section<'_>) -> Option<Condition> {
    s.require("column", "the column that the condition looks at");
    let column = identifier(s, "column");
    let before = s.duration("before", Duration::ZERO..=TEN_YEARS);
    let any = s.has("in").then(|| s.scalars("in"));
    let is_null = s.flag("is_null");
    if any.as_ref().is_some_and(Vec::is_empty) {
        s.error("in", "is empty; name at least one value");
    }
    match (before, any, is_null) {
        (Some(before), None, None) => Some(Condition::Before(column, before)),
        (None, Some(any), None) => Some(Condition::In(column, any)),
        (None, None, Some(is_null)) => Some(if is_null {
            Condition::IsNull(column)
        } else {
            Condition::IsNotNull(column)
        }),
        _ => {
            if !s.has("before") || s.has("in") || s.has("is_null") {
                s.error(
                    "",
                    "must have just one of: before (a duration), in (a list), is_null (true or false)",
                );
            }
            None
        }
    }
}

fn read_assignments(s: &mut Section<'_>) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    for (name, value) in s.values("set") {
        let path = format!("set.{name}");
        let column = match Identifier::new(&name) {
            Ok(column) => column,
            Err(must) => {
                s.error(&path, &must);
                continue;
            }
        };
        match read_value(&value) {
            Some(value) => assignments.push(Assignment { column, value }),
            None => s.error(
                &path,
                "must be a string, a number, true, false, null, {ago: 0s} or {seconds_since: column}",
            ),
        }
    }
    assignments
}

fn read_value(value: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    match value {
        Json::Null => Some(Value::Null),
        Json::String(text) => Some(Value::Text(text.clone())),
        Json::Number(number) => Some(Value::Text(number.to_string())),
        Json::Bool(flag) => Some(Value::Text(flag.to_string())),
        Json::Object(fields) if fields.len() == 1 => {
            let text = |name: &str| fields.get(name)?.as_str();
            match (text("ago"), text("seconds_since")) {
                (Some(ago), _) => humantime::parse_duration(ago)
                    .ok()
                    .filter(|ago| *ago <= TEN_YEARS)
                    .map(Value::Ago),
                (_, Some(column)) => Identifier::new(column).ok().map(Value::SecondsSince),
                _ => None,
            }
        }
        _ => None,
    }
}
