//! The section `database.watchdog`.

use crate::database::dialect::Dialect;
use crate::database::identifier::Identifier;
use crate::database::watchdog::{BlockerPolicy, Class, Rule, WatchdogSettings};
use levee_config::LONGEST;
use levee_config::reader::Section;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const CLASSES: [(&str, Class); 2] = [("query", Class::Query), ("long_query", Class::LongQuery)];

const BLOCKERS: [(&str, BlockerPolicy); 2] = [
    ("report", BlockerPolicy::Report),
    ("cancel", BlockerPolicy::Cancel),
];

/// The watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// What it watches, and what it does.
    pub settings: WatchdogSettings,
    /// How often it looks.
    pub every: Duration,
    /// Whether it only says what it would do.
    pub dry_run: bool,
}

/// Reads the section. `None`: it is absent.
pub(super) fn read_watchdog(s: &mut Section<'_>, dialect: Dialect) -> Option<Watchdog> {
    for key in ["terminate_after", "transaction", "blockers"] {
        if !dialect.ends_sessions() && s.has(key) {
            s.error(key, "is for dialect postgres only");
        }
    }
    (!s.is_absent()).then(|| read_present(s))
}

fn read_present(s: &mut Section<'_>) -> Watchdog {
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
    let transaction = read_transaction(s, query.max(long_query));
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
            transaction,
            blockers: s.choice("blockers", &BLOCKERS).unwrap_or_default(),
            terminate_after: s.duration("terminate_after", MILLISECOND..=LONGEST),
        },
        every: every.unwrap_or(SECOND.min(shortest)),
        dry_run: s.flag("dry_run").unwrap_or(false),
    }
}

/// The limit of transactions, at least `longest`, the longest class.
fn read_transaction(s: &mut Section<'_>, longest: Duration) -> Option<Duration> {
    let transaction = s.duration("transaction", 10 * MILLISECOND..=LONGEST)?;
    if transaction < longest {
        let longest = humantime::format_duration(longest);
        let must =
            format!("must be at least {longest}, the longest of classes, or statements end early");
        s.error("transaction", &must);
    }
    Some(transaction)
}
