//! The section `database`: where it is, which jobs there are, what the watchdog watches.

use super::{MILLISECOND, Secret};
use crate::database::dialect::Dialect;
use crate::database::preset::{PRESETS, Preset};
use crate::database::sql::{Action, Condition, Identifier, Spec, Value};
use crate::database::watchdog::{Class, Rule, WatchdogSettings};
use crate::jobs::pace::PaceSettings;
use crate::jobs::settings::JobSettings;
use levee_config::LONGEST;
use levee_config::reader::Section;
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_hours(24 * 365);

/// How long ago may be meant: further back there is no data to clean up.
const TEN_YEARS: Duration = Duration::from_hours(24 * 3650);

/// What a URL may have behind its question mark. The driver would pass by others, `ssl_mode` say, and log their values.
const PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// A database, and what is done there.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its label in metrics.
    pub name: String,
    /// Where it is, and how Levee logs in. Not shown: it may hold a password.
    pub url: Secret,
    /// How it speaks.
    pub dialect: Dialect,
    /// The most connections of Levee's own, besides the watchdog's one.
    pub connections: u32,
    /// The longest that a statement of Levee's own may take.
    pub statement_timeout: Duration,
    /// Cleanup jobs, by name.
    pub jobs: Vec<Job>,
    /// The watchdog.
    pub watchdog: Option<Watchdog>,
    /// How long statements wait for locks, for `levee db limits`.
    pub lock_timeout: Duration,
}

impl Database {
    /// Where it is, and how Levee logs in.
    ///
    /// # Panics
    /// Never: it was read before.
    pub fn options(&self) -> PgConnectOptions {
        self.url
            .reveal()
            .parse()
            .expect("the URL was read when the configuration was")
    }
}

/// A cleanup job.
#[derive(Clone, Debug)]
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

/// The watchdog.
#[derive(Clone, Debug)]
pub struct Watchdog {
    /// What it watches, and what it does.
    pub settings: WatchdogSettings,
    /// How often it looks.
    pub every: Duration,
    /// Whether it only says what it would do.
    pub dry_run: bool,
}

/// Reads the section. `None`: there is none.
pub fn read(root: &mut Section<'_>) -> Option<Database> {
    root.section("database", |s| (!s.is_absent()).then(|| read_database(s)))
}

fn read_database(s: &mut Section<'_>) -> Database {
    let url = super::secret(s, "url_env", "url_file");
    if url.is_none() {
        // What is wrong with those that are there was told already.
        if !s.has("url_env") && !s.has("url_file") {
            s.error(
                "url_env",
                "is missing: the environment variable with the URL, such as DATABASE_URL; or give url_file",
            );
        }
    }
    let is_ours = |url: &&Secret| {
        let scheme = url.reveal().split("://").next();
        matches!(scheme, Some("postgres" | "postgresql"))
    };
    let options: Option<PgConnectOptions> = url
        .as_ref()
        .filter(is_ours)
        .and_then(|url| url.reveal().parse().ok());
    if let Some(url) = &url {
        let field = if s.has("url_env") {
            "url_env"
        } else {
            "url_file"
        };
        // Not shown: it may hold a password.
        if options.is_none() {
            s.error(
                field,
                "the URL is not one of PostgreSQL; it must be postgres://user:password@host:5432/database, with one host, \
                 and with % codes for special characters, such as %23 for #",
            );
        }
        for name in unknown_parameters(url.reveal()) {
            s.error(
                field,
                &format!("the URL has a parameter {name:?} that Levee does not know; take it out, known are: {}", PARAMETERS.join(", ")),
            );
        }
    }
    let database = options
        .as_ref()
        .and_then(PgConnectOptions::get_database)
        .unwrap_or("default")
        .to_owned();
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
        if job.preset.is_some() && jobs[..place].iter().any(is_second) {
            let path = format!("jobs.{}.preset", job.name);
            s.error(&path, "is used twice; its metrics have one name");
        }
    }
    let dialect = s
        .choice("dialect", &Dialect::ALL)
        .unwrap_or(Dialect::Postgres);
    let watchdog = s.section("watchdog", |s| {
        if !dialect.ends_sessions() && s.has("terminate_after") {
            s.error("terminate_after", "is for dialect postgres only");
        }
        (!s.is_absent()).then(|| read_watchdog(s))
    });
    Database {
        name: s.text("name").unwrap_or(database),
        url: url.unwrap_or_else(|| Secret(String::new())),
        dialect,
        connections: s.integer("connections", 1..=100).unwrap_or(4),
        statement_timeout: s
            .duration("statement_timeout", 100 * MILLISECOND..=LONGEST)
            .unwrap_or(30 * SECOND),
        jobs,
        watchdog,
        lock_timeout: s
            .section("limits", |s| {
                s.duration("lock_timeout", MILLISECOND..=LONGEST)
            })
            .unwrap_or(2 * SECOND),
    }
}

fn unknown_parameters(url: &str) -> Vec<String> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes())
        .map(|(name, _)| name.into_owned())
        .filter(|name| !PARAMETERS.contains(&name.as_str()))
        .collect()
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
    let mut settings = JobSettings {
        every: Some(
            s.duration("every", SECOND..=YEAR)
                .unwrap_or(Duration::from_hours(1)),
        ),
        pace: PaceSettings {
            batch: s.integer("batch", 1..=1_000_000).unwrap_or(50),
            aim: s
                .duration("batch_aim", MILLISECOND..=LONGEST)
                .unwrap_or(250 * MILLISECOND),
            pause: s
                .duration("pause", Duration::ZERO..=LONGEST)
                .unwrap_or(50 * MILLISECOND),
            max_lag: s
                .duration("max_lag", Duration::ZERO..=LONGEST)
                .unwrap_or(10 * SECOND),
        },
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

/// A job of the user's own.
fn read_spec(s: &mut Section<'_>) -> Spec {
    let presets = PRESETS.each_ref().map(|preset| preset.name).join(", ");
    let table = format!("the table, or choose a preset: {presets}");
    for (field, what) in [
        ("table", table.as_str()),
        ("key", "the column that is the table's key"),
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
    let key = identifier(s, "key");
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
    let action = match s.choice("action", &[("delete", false), ("set", true)]) {
        Some(true) if assignments.is_empty() => {
            s.error("set", "is missing: the columns, such as {status: ended}");
            Action::Delete
        }
        Some(true) => Action::Set(assignments),
        _ => {
            if !assignments.is_empty() {
                s.error("set", "has no meaning where action is not \"set\"");
            }
            Action::Delete
        }
    };
    let spec = Spec {
        schema: None,
        table: identifier(s, "table"),
        key: key.clone(),
        order: key.clone(),
        conditions,
        action,
    };
    if !spec.comes_to_an_end() {
        s.error(
            "set",
            "would set the same rows again and again: give one column a fixed value, or set a column that where looks at",
        );
    }
    let order = s.has("order").then(|| identifier(s, "order"));
    Spec {
        order: order.or(by_time).unwrap_or(key),
        ..spec
    }
}

fn identifier(s: &mut Section<'_>, field: &'static str) -> Identifier {
    let text = s.text(field).unwrap_or_else(|| "x".to_owned());
    Identifier::new(&text).unwrap_or_else(|must| {
        s.error(field, &must);
        Identifier::new("x").expect("it is a name")
    })
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
        (None, None, Some(is_null)) => Some(Condition::Null(column, is_null)),
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

fn read_assignments(s: &mut Section<'_>) -> Vec<(Identifier, Value)> {
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
            Some(value) => assignments.push((column, value)),
            None => s.error(
                &path,
                "must be a text, a number, true, false, null, {ago: 0s} or {seconds_since: column}",
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

const CLASSES: [(&str, Class); 2] = [("query", Class::Query), ("long_query", Class::LongQuery)];

fn read_watchdog(s: &mut Section<'_>) -> Watchdog {
    let (roles, applications) = (s.words("roles"), s.words("applications"));
    if roles.is_empty() && applications.is_empty() {
        s.error(
            "roles",
            "is missing: the roles whose statements are watched (or give applications)",
        );
    }
    for role in &roles {
        if let Err(must) = Identifier::new(role) {
            s.error("roles", &must);
        }
    }
    let (query, long_query) = s.section("classes", |s| {
        (
            s.duration("query", 10 * MILLISECOND..=LONGEST)
                .unwrap_or(5 * SECOND),
            s.duration("long_query", 10 * MILLISECOND..=LONGEST)
                .unwrap_or(30 * SECOND),
        )
    });
    let exceptions = s.list("rules", |s| {
        let (role, application) = (s.text("role"), s.text("application"));
        if role.is_none() && application.is_none() {
            s.error("", "must name a role, an application, or both");
        }
        if let Some(role) = &role
            && !roles.contains(role)
            && applications.is_empty()
        {
            s.error(
                "role",
                "is not one of those that are watched; add it to roles",
            );
        }
        s.require("class", "query or long_query");
        Rule {
            role,
            application,
            class: s.choice("class", &CLASSES).unwrap_or(Class::Query),
        }
    });
    let idle_in_transaction = s
        .duration("idle_in_transaction", 10 * MILLISECOND..=LONGEST)
        .unwrap_or(Duration::from_mins(1));
    // A statement that began just after a look is first seen by the next one.
    let shortest = query.min(long_query).min(idle_in_transaction);
    let every = s.duration("every", 10 * MILLISECOND..=LONGEST);
    if every.is_some_and(|every| every > shortest) {
        let shortest = humantime::format_duration(shortest);
        let must = format!(
            "must be at most {shortest}, the shortest of classes and idle_in_transaction, or statements end late"
        );
        s.error("every", &must);
    }
    Watchdog {
        settings: WatchdogSettings {
            roles,
            applications,
            query,
            long_query,
            rules: exceptions,
            idle_in_transaction,
            terminate_after: s.duration("terminate_after", MILLISECOND..=LONGEST),
        },
        every: every.unwrap_or(SECOND.min(shortest)),
        dry_run: s.flag("dry_run").unwrap_or(false),
    }
}
