//! The section `database`: where the database is, and what is done there.

use super::jobs::read_jobs;
use super::secret::{Secret, secret};
use super::watchdog::read_watchdog;
use crate::database::dialect::Dialect;
use crate::database::limits::RoleLimits;
use levee_config::LONGEST;
use levee_config::reader::Section;
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;
use url::Url;

pub use super::jobs::Job;
pub use super::watchdog::Watchdog;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Parameters that a URL may have. The driver ignores others, such as `ssl_mode`, and logs their values.
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// What `levee db limits` sets besides the watchdog's limits.
    pub limits: RoleLimits,
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

    /// The same without the settings that the URL has for sessions.
    ///
    /// # Panics
    /// Never: it was read before.
    pub fn options_without_settings(&self) -> PgConnectOptions {
        let mut url: Url = self
            .url
            .reveal()
            .parse()
            .expect("the URL was read when the configuration was");
        let kept: Vec<_> = url
            .query_pairs()
            .filter(|(name, _)| name != "options")
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        url.query_pairs_mut().clear().extend_pairs(kept);
        url.as_str()
            .parse()
            .expect("it differs from a URL that was read by a parameter")
    }
}

/// Reads the section. `None`: it is absent.
pub(super) fn read(root: &mut Section<'_>) -> Option<Database> {
    root.section("database", |s| (!s.is_absent()).then(|| read_database(s)))
}

fn read_database(s: &mut Section<'_>) -> Database {
    let url = secret(s, "url_env", "url_file");
    // If either key is present, `secret` has reported what is wrong with it.
    if url.is_none() && !s.has("url_env") && !s.has("url_file") {
        s.error(
            "url_env",
            "is missing: the environment variable with the URL, such as DATABASE_URL; or give url_file",
        );
    }
    let database = url.as_ref().and_then(|url| database_of(s, url));
    let jobs = read_jobs(s);
    let dialect = s
        .choice("dialect", &Dialect::ALL)
        .unwrap_or(Dialect::Postgres);
    Database {
        name: s
            .text("name")
            .or(database)
            .unwrap_or_else(|| "default".to_owned()),
        url: url.unwrap_or_else(|| Secret(String::new())),
        dialect,
        connections: s.integer("connections", 1..=100).unwrap_or(4),
        statement_timeout: s
            .duration("statement_timeout", 100 * MILLISECOND..=LONGEST)
            .unwrap_or(30 * SECOND),
        jobs,
        watchdog: s.section("watchdog", |s| read_watchdog(s, dialect)),
        limits: s.section("limits", |s| {
            let mut limit = |key| s.duration(key, MILLISECOND..=LONGEST);
            RoleLimits {
                lock_timeout: limit("lock_timeout").unwrap_or(2 * SECOND),
                transaction_timeout: limit("transaction_timeout"),
                idle_session_timeout: limit("idle_session_timeout"),
            }
        }),
    }
}

/// Checks the URL, and returns the name of its database if it has one. Messages don't repeat the URL, which may contain a
/// password.
fn database_of(s: &mut Section<'_>, url: &Secret) -> Option<String> {
    let field = if s.has("url_env") {
        "url_env"
    } else {
        "url_file"
    };
    let scheme = url.reveal().split("://").next();
    let options: Option<PgConnectOptions> = match scheme {
        Some("postgres" | "postgresql") => url.reveal().parse().ok(),
        _ => None,
    };
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
    options?.get_database().map(str::to_owned)
}

fn unknown_parameters(url: &str) -> Vec<String> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes())
        .map(|(name, _)| name.into_owned())
        .filter(|name| !PARAMETERS.contains(&name.as_str()))
        .collect()
}
