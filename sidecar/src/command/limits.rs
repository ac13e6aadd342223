//! `levee db limits`: prints the limits of the watched roles, applies them, or rolls them back.

use crate::config::database as config;
use crate::database::connect::Database;
use crate::database::levels::{self, SETTINGS};
use crate::database::limits::{self, Change, Limit, Need};
use crate::database::undo::{UndoEntry, UndoFile};
use crate::parts::database::connect;
use anyhow::{Context, Result, bail};
use sqlx::postgres::PgConnection;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitsAction {
    Print,
    /// Applies the limits, and records how to undo them.
    Apply,
    Rollback,
}

/// Whether a limit may replace a stricter value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loosening {
    Refused,
    Allowed,
}

/// The server, and the connection of this command.
struct Link {
    database: Database,
    connection: PgConnection,
}

const MAY_NOT: &str = "nothing was changed: this needs a superuser, or a role with CREATEROLE and, from PostgreSQL 16 on, \
                       ADMIN OPTION on the roles; let the URL log in as one for this command";

/// # Errors
/// The database could not be queried or refused the changes, or the undo file can't be used.
pub async fn run(
    database: &config::Database,
    action: LimitsAction,
    loosening: Loosening,
    undo: &Path,
) -> Result<()> {
    let server = connect(database, 1);
    let mut link = Link {
        connection: server.connect().await?,
        database: server,
    };
    let undo = UndoFile {
        path: undo,
        server: address(database),
    };
    if action == LimitsAction::Rollback {
        // The undo file names the roles, so this works even if the watchdog is no longer configured.
        return rollback(&mut link, &undo).await;
    }
    let limits = print(&mut link, database).await?;
    let (mut needed, mut left) = (Vec::new(), 0);
    for Limit { change, need, .. } in limits {
        match (need, loosening) {
            (Need::Apply, _) | (Need::Loosens(_), Loosening::Allowed) => needed.push(change),
            (Need::Loosens(_), Loosening::Refused) => left += 1,
            (Need::Nothing | Need::Unknown, _) => {}
        }
    }
    let stricter = match left {
        0 => String::new(),
        left => format!("; {left} are stricter now and left alone, unless --loosen is given"),
    };
    if action == LimitsAction::Print || needed.is_empty() {
        eprintln!(
            "{} of them differ from what is in force{stricter}",
            needed.len()
        );
        return Ok(());
    }
    apply(&mut link, &needed, &undo).await?;
    if !stricter.is_empty() {
        eprintln!("{}", stricter.trim_start_matches("; "));
    }
    Ok(())
}

/// Prints all limits of the watched roles, what is in force, and where that comes from.
async fn print(link: &mut Link, database: &config::Database) -> Result<Vec<Limit>> {
    let watchdog = database
        .watchdog
        .as_ref()
        .context("database.watchdog names no roles, so there is no role to limit")?;
    let roles = &watchdog.settings.roles;
    if roles.is_empty() {
        bail!("database.watchdog.roles is empty, so there is no role to limit");
    }
    let unknown = limits::unknown_roles(&link.database, &mut link.connection, roles).await?;
    if !unknown.is_empty() {
        bail!("the database has no role {}", unknown.join(", "));
    }
    let levels = levels::read(&link.database, &mut link.connection).await?;
    let limits = limits::limits(&watchdog.settings, &database.limits, &levels);
    for limit in &limits {
        println!("{}", describe(limit));
    }
    for role in roles {
        for setting in SETTINGS {
            let is_it = |limit: &Limit| {
                limit.change.of.role.as_str() == role && limit.change.of.setting == setting
            };
            let now = levels
                .in_force(role, setting)
                .filter(|now| now.value != "0");
            if let Some(now) = now
                && !limits.iter().any(is_it)
            {
                println!("-- not configured: {setting} of {role}; now {now}");
            }
        }
    }
    for other in levels.overrides(roles) {
        println!("-- {other}, which comes first there");
    }
    Ok(limits)
}

fn describe(Limit { change, now, need }: &Limit) -> String {
    let now = now
        .as_ref()
        .map_or_else(|| "not known".to_owned(), ToString::to_string);
    let statement = change.statement();
    match need {
        Need::Apply => format!("{statement}; -- now {now}"),
        Need::Nothing => format!("-- as it is: {statement}; -- now {now}"),
        Need::Loosens(stricter) => {
            format!("-- would loosen {stricter}: {statement}; -- now {now}")
        }
        Need::Unknown => format!("-- this server does not have it: {statement}"),
    }
}

async fn apply(link: &mut Link, needed: &[Change], undo: &UndoFile<'_>) -> Result<()> {
    // Before the changes, so they can be undone even if this process dies in between.
    undo.record(needed)?;
    limits::apply(&link.database, &mut link.connection, needed)
        .await
        .context(MAY_NOT)?;
    eprintln!(
        "{} applied, for new sessions; `--rollback` undoes them from {}",
        needed.len(),
        undo.path.display()
    );
    Ok(())
}

async fn rollback(link: &mut Link, undo: &UndoFile<'_>) -> Result<()> {
    let levels = levels::read(&link.database, &mut link.connection).await?;
    let mut undone = Vec::new();
    for entry in undo.read()? {
        let UndoEntry {
            of,
            before,
            applied,
        } = entry;
        let now = levels.of_role(of.role.as_str(), &of.setting);
        if now == before {
            // Never applied, or already undone.
            continue;
        }
        if now.as_ref().is_some_and(|now| applied.contains(now)) {
            let back = Change {
                from: now,
                to: before,
                of,
            };
            println!("{};", back.statement());
            undone.push(back);
        } else {
            // Somebody else has changed it since.
            println!(
                "-- left as it is, since it was changed after it was applied: {} of {}, now {}",
                of.setting,
                of.role.quoted(),
                now.as_deref().unwrap_or("not set")
            );
        }
    }
    limits::apply(&link.database, &mut link.connection, &undone)
        .await
        .context(MAY_NOT)?;
    undo.remove()?;
    eprintln!("{} undone, for new sessions", undone.len());
    Ok(())
}

fn address(database: &config::Database) -> String {
    let options = database.options();
    format!("{}:{}", options.get_host(), options.get_port())
}
