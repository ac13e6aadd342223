//! What is done by hand on the command line: jobs, and limits at the role.

use crate::admin::describe_report;
use crate::clock::Clock;
use crate::config::database as config;
use crate::database::connect::Database;
use crate::database::sql::{Action, Identifier};
use crate::database::{Part, limits};
use crate::jobs::report::Report;
use crate::jobs::{Job, Run};
use crate::logging;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use prometheus::Registry;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

/// How often a progress bar is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// Prints the jobs.
pub fn list(database: &config::Database) {
    for job in &database.jobs {
        let what = match job.spec.action {
            Action::Delete => "delete from",
            Action::Set(_) => "set columns of",
        };
        let every = match job.settings.every {
            Some(every) => format!("every {}", humantime::format_duration(every)),
            None => "by hand only".to_owned(),
        };
        println!("{}: {what} {}, {every}", job.name, job.spec.table());
    }
}

/// Runs the job `name` once, and prints the result as JSON. Progress goes to standard error, if that is a terminal.
///
/// # Errors
/// There is no such job.
pub async fn run(database: &config::Database, name: &str, dry_run: bool) -> Result<Report> {
    let (stop, stopped) = watch::channel(false);
    let part = Part::new(database, &Registry::new(), Clock::start(), &stopped)?;
    let Some(job) = part.jobs.iter().find(|job| job.name == name) else {
        let names: Vec<&str> = part.jobs.iter().map(|job| job.name.as_str()).collect();
        bail!("there is no job {name:?}; there are: {}", names.join(", "));
    };
    let dry_run = dry_run || job.settings.dry_run;
    // Draws nothing where standard error is no terminal.
    let bar = ProgressBar::new_spinner()
        .with_message(job.name.clone())
        .with_style(
            ProgressStyle::with_template(
                "{spinner} {msg} {wide_bar} {human_pos}/{human_len} rows, {eta}",
            )
            .context("the progress bar's template")?,
        );
    if dry_run {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    logging::stand_above_progress(!bar.is_hidden());
    if !bar.is_hidden() {
        // Without it the bar has no end, and that is all.
        if let Ok(mut run) = job.job.begin().await
            && let Ok(rows) = run.count().await
        {
            bar.set_length(rows);
        }
    }
    let mut run = std::pin::pin!(job.run(job.turn()?, dry_run));
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let report = loop {
        tokio::select! {
            report = &mut run => break report,
            _ = interrupt.recv() => { let _ = stop.send(true); }
            _ = terminate.recv() => { let _ = stop.send(true); }
            () = tokio::time::sleep(GLANCE) => {
                bar.set_position(job.status().running.map_or(0, |(_, rows)| rows));
                bar.tick();
            }
        }
    };
    bar.finish_and_clear();
    logging::stand_above_progress(false);
    let mut value = describe_report(&report);
    value["job"] = json!(name);
    println!("{value:#}");
    Ok(report)
}

/// What is to be done with limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// They are printed.
    Print,
    /// They are applied, and what undoes that is written down.
    Apply,
    /// What was applied is undone.
    Rollback,
}

const MAY_NOT: &str = "nothing was changed, which needs a superuser, or a role with CREATEROLE and, from PostgreSQL 16 on, \
                       ADMIN OPTION on the roles; let the URL log in as one for this command";

/// Prints the limits of the watched roles, applies them, or undoes that.
///
/// # Errors
/// The database could not be asked, or said no.
pub async fn limits(database: &config::Database, wish: Wish, undo: &Path) -> Result<()> {
    let connection = Database::new(
        database.options(),
        database.dialect,
        1,
        database.statement_timeout,
    );
    if wish == Wish::Rollback {
        // What was applied says for whom: the watchdog may be gone by now.
        let current = limits::current(&connection).await?;
        return rollback(&connection, &server(database), &current, undo).await;
    }
    let watchdog = database
        .watchdog
        .as_ref()
        .context("database.watchdog names no roles, so there is nobody to limit")?;
    let roles = &watchdog.settings.roles;
    if roles.is_empty() {
        bail!("database.watchdog.roles is empty, so there is nobody to limit");
    }
    let unknown = limits::unknown_roles(&connection, roles).await?;
    if !unknown.is_empty() {
        bail!("the database has no role {}", unknown.join(", "));
    }
    let current = limits::current(&connection).await?;
    let wanted = limits::wanted(&watchdog.settings, database.lock_timeout);
    let changes = limits::changes(wanted, &current);
    for change in &changes {
        let now = change.from.as_deref().unwrap_or("not set");
        let mark = if change.is_needed() {
            ""
        } else {
            "-- as it is: "
        };
        println!("{mark}{}; -- now {now}", change.statement());
    }
    for other in limits::overrides(&connection, roles).await? {
        println!("-- {other}, which comes first there");
    }
    let needed: Vec<limits::Change> = changes
        .into_iter()
        .filter(limits::Change::is_needed)
        .collect();
    if wish == Wish::Print || needed.is_empty() {
        eprintln!("{} of them differ from what is in force", needed.len());
        return Ok(());
    }
    // First what undoes it, so that nothing is lost if this process ends in between, or the database says no.
    let server = server(database);
    let mut all = if undo.exists() {
        read_undo(undo, &server)?
    } else {
        Vec::new()
    };
    for change in &needed {
        let is_it =
            |known: &&mut Undo| (&known.role, &known.setting) == (&change.role, &change.setting);
        let to = change.to.clone().unwrap_or_default();
        match all.iter_mut().find(is_it) {
            // What was there before the first time is what is to be had again.
            Some(known) => known.applied.push(to),
            None => all.push(Undo {
                role: change.role.clone(),
                setting: change.setting.clone(),
                before: change.from.clone(),
                applied: vec![to],
            }),
        }
    }
    write_undo(undo, &server, &all)?;
    limits::apply(&connection, &needed).await.context(MAY_NOT)?;
    eprintln!(
        "{} applied, for sessions that begin from now on; `--rollback` undoes them by {}",
        needed.len(),
        undo.display()
    );
    Ok(())
}

/// What was there before, and all that was put in its place.
struct Undo {
    role: Identifier,
    setting: String,
    before: Option<String>,
    applied: Vec<String>,
}

/// Whose roles they are.
fn server(database: &config::Database) -> String {
    let options = database.options();
    format!("{}:{}", options.get_host(), options.get_port())
}

async fn rollback(
    connection: &Database,
    server: &str,
    current: &std::collections::BTreeMap<(String, String), String>,
    undo: &Path,
) -> Result<()> {
    let mut undone = Vec::new();
    for Undo {
        role,
        setting,
        before,
        applied,
    } in read_undo(undo, server)?
    {
        let now = current.get(&(role.as_str().to_owned(), setting.clone()));
        if now == before.as_ref() {
            // It was never applied, or somebody has undone it.
            continue;
        }
        if now.is_some_and(|now| applied.contains(now)) {
            let back = limits::Change {
                role,
                setting,
                from: now.cloned(),
                to: before,
            };
            println!("{};", back.statement());
            undone.push(back);
        } else {
            // Somebody else has changed it meanwhile: it is theirs.
            println!(
                "-- left as it is, since it is not what was applied: {setting} of {}, now {}",
                role.quoted(),
                now.map_or("not set", String::as_str)
            );
        }
    }
    limits::apply(connection, &undone).await.context(MAY_NOT)?;
    fs::remove_file(undo).with_context(|| format!("{} can't be removed", undo.display()))?;
    eprintln!(
        "{} undone, for sessions that begin from now on",
        undone.len()
    );
    Ok(())
}

fn write_undo(file: &Path, server: &str, undo: &[Undo]) -> Result<()> {
    let entry = |undo: &Undo| json!({"role": undo.role.as_str(), "setting": undo.setting, "before": undo.before, "applied": undo.applied});
    let entries: Vec<Value> = undo.iter().map(entry).collect();
    let text = format!("{:#}\n", json!({"server": server, "changes": entries}));
    // As a whole or not at all.
    let new = file.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| {
            format!(
                "{} can't be written, and so nothing was applied",
                file.display()
            )
        })
}

fn read_undo(file: &Path, server: &str) -> Result<Vec<Undo>> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("{} can't be read; it says what was applied", file.display()))?;
    let all: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `--apply` wrote", file.display()))?;
    let other = all["server"].as_str().unwrap_or_default();
    if other != server {
        bail!(
            "{} was written for the server {other}, not for {server}; choose another by --undo-file",
            file.display()
        );
    }
    let undo = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().map(str::to_owned);
        let setting = text("setting").filter(|it| limits::SETTINGS.contains(&it.as_str()))?;
        let applied = entry["applied"].as_array()?.iter();
        Some(Undo {
            role: Identifier::new(&text("role")?).ok()?,
            setting,
            before: text("before"),
            applied: applied
                .filter_map(|it| it.as_str().map(str::to_owned))
                .collect(),
        })
    };
    let entries = all["changes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    entries
        .iter()
        .map(|entry| undo(entry).with_context(|| format!("{}: {entry}", file.display())))
        .collect()
}
