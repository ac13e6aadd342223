//! `levee db limits`: prints the limits of the watched roles, applies them, or rolls them back.

use crate::config::database as config;
use crate::database::connect::Database;
use crate::database::limits::{self, Change};
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

/// The server, and the connection of this command.
struct Link {
    database: Database,
    connection: PgConnection,
}

const MAY_NOT: &str = "nothing was changed: this needs a superuser, or a role with CREATEROLE and, from PostgreSQL 16 on, \
                       ADMIN OPTION on the roles; let the URL log in as one for this command";

/// # Errors
/// The database could not be queried or refused the changes, or the undo file can't be used.
pub async fn run(database: &config::Database, action: LimitsAction, undo: &Path) -> Result<()> {
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
    let changes = changes(&mut link, database).await?;
    let needed: Vec<Change> = changes.into_iter().filter(Change::is_needed).collect();
    if action == LimitsAction::Print || needed.is_empty() {
        eprintln!("{} of them differ from what is in force", needed.len());
        return Ok(());
    }
    apply(&mut link, &needed, &undo).await
}

/// Prints all limits of the watched roles, and settings that override them.
async fn changes(link: &mut Link, database: &config::Database) -> Result<Vec<Change>> {
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
    let current = limits::current(&link.database, &mut link.connection).await?;
    let changes = limits::changes(&watchdog.settings, database.lock_timeout, &current);
    for change in &changes {
        let now = change.from.as_deref().unwrap_or("not set");
        let mark = if change.is_needed() {
            ""
        } else {
            "-- as it is: "
        };
        println!("{mark}{}; -- now {now}", change.statement());
    }
    for other in limits::overrides(&link.database, &mut link.connection, roles).await? {
        println!("-- {other}, which comes first there");
    }
    Ok(changes)
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
    let current = limits::current(&link.database, &mut link.connection).await?;
    let mut undone = Vec::new();
    for entry in undo.read()? {
        let UndoEntry {
            of,
            before,
            applied,
        } = entry;
        let now = current.get(&of);
        if now == before.as_ref() {
            // Never applied, or already undone.
            continue;
        }
        if now.is_some_and(|now| applied.contains(now)) {
            let back = Change {
                from: now.cloned(),
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
                now.map_or("not set", String::as_str)
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
