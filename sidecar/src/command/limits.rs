//! `levee db limits`: prints the limits of the watched roles, applies them, or rolls them back.

use crate::config::database::{self as config, Watchdog};
use crate::database::connect::Database;
use crate::database::levels::{self, Levels, SETTINGS};
use crate::database::limits::{self, Change, Changing, Limit, Need};
use crate::database::undo::{UndoEntry, UndoFile};
use crate::parts::database::connect;
use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitsAction {
    Print,
    /// Applies the limits, and records how to undo them.
    Apply,
    Rollback,
}

/// Whether a limit may replace a stricter value, or one that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loosening {
    Refused,
    Allowed,
}

/// # Errors
/// The database could not be queried or refused the changes, or the undo file can't be used, or limits were to be applied and
/// it is not known whether that would loosen one.
pub async fn run(
    database: &config::Database,
    action: LimitsAction,
    loosening: Loosening,
    undo: &Path,
) -> Result<()> {
    let mut link = Link::to(database).await?;
    let undo = UndoFile {
        path: undo,
        server: address(database),
    };
    match action {
        // The undo file names the roles, so this works even if the watchdog is no longer configured.
        LimitsAction::Rollback => rollback(&mut link, &undo).await,
        LimitsAction::Print => {
            let found = print(&mut link, database).await?;
            let LeftAlone { stricter, hidden } = LeftAlone::of(&found, loosening);
            let differ = needed(&found, loosening).len();
            let differ = format!("{differ} of them differ from what is in force");
            let all = [Some(differ), stricter, hidden];
            eprintln!(
                "{}",
                all.into_iter().flatten().collect::<Vec<_>>().join("; ")
            );
            Ok(())
        }
        LimitsAction::Apply => apply(&mut link, database, loosening, &undo).await,
    }
}

/// The server, and the connection of this command.
struct Link {
    database: Database,
    connection: PgConnection,
    /// Logs in as `database` does, without settings of the connection.
    plain: PgConnectOptions,
}

impl Link {
    async fn to(config: &config::Database) -> Result<Self> {
        let database = connect(config, 1);
        Ok(Self {
            connection: database.connect().await?,
            database,
            plain: config.options_without_settings(),
        })
    }

    async fn levels(&mut self) -> Result<Levels> {
        Ok(levels::read(&self.database, &mut self.connection, &self.plain).await?)
    }

    /// Makes `changes`, if they are what `plan` still finds then. Calls `record` before they take force.
    async fn change(
        &mut self,
        plan: impl Fn(&Levels) -> Vec<Change>,
        changes: &[Change],
        record: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        const NOTHING: &str = "nothing was changed";
        let database = &self.database;
        let changing = Changing::begin(database, &mut self.connection).await;
        let mut changing = changing.context(NOTHING)?;
        let before = if database.dialect.serializes_settings() {
            let before = levels::read(database, changing.connection(), &self.plain).await;
            changing.make(changes).await.context(NOTHING)?;
            before
        } else {
            // Then nobody else can change what these roles have, and another connection sees it without the changes.
            changing.make(changes).await.context(NOTHING)?;
            let mut other = database.connect().await.context(NOTHING)?;
            levels::read(database, &mut other, &self.plain).await
        };
        if plan(&before.context(NOTHING)?) != changes {
            bail!(
                "{NOTHING}, since somebody else has changed a setting meanwhile; see what `levee db limits` prints now"
            );
        }
        record().context(NOTHING)?;
        changing.commit().await.context(
            "it is not known whether anything was changed; `levee db limits` prints what is in force",
        )
    }
}

fn watchdog(database: &config::Database) -> Result<&Watchdog> {
    let watchdog = database
        .watchdog
        .as_ref()
        .context("database.watchdog names no roles, so there is no role to limit")?;
    if watchdog.settings.roles.is_empty() {
        bail!("database.watchdog.roles is empty, so there is no role to limit");
    }
    Ok(watchdog)
}

/// Prints all limits of the watched roles, what is in force, and where that comes from.
async fn print(link: &mut Link, database: &config::Database) -> Result<Vec<Limit>> {
    let settings = &watchdog(database)?.settings;
    let roles = &settings.roles;
    let unknown = limits::unknown_roles(&link.database, &mut link.connection, roles).await?;
    if !unknown.is_empty() {
        bail!("the database has no role {}", unknown.join(", "));
    }
    let levels = link.levels().await?;
    let limits = limits::limits(settings, &database.limits, &levels);
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
        Need::MayLoosen(hidden) => format!(
            "-- might loosen the server's value, which can't be seen: {hidden}: {statement}; -- now {now}"
        ),
        Need::NoSuchSetting => format!("-- this server does not have it: {statement}"),
    }
}

async fn apply(
    link: &mut Link,
    database: &config::Database,
    loosening: Loosening,
    undo: &UndoFile<'_>,
) -> Result<()> {
    let found = print(link, database).await?;
    let changes = needed(&found, loosening);
    if changes.is_empty() {
        eprintln!("0 of them differ from what is in force");
    } else {
        let settings = &watchdog(database)?.settings;
        let plan = |levels: &Levels| {
            let limits = limits::limits(settings, &database.limits, levels);
            needed(&limits, loosening)
        };
        link.change(plan, &changes, || undo.record(&changes))
            .await?;
        eprintln!(
            "{} applied, for new sessions; `--rollback` undoes them from {}",
            changes.len(),
            undo.path.display()
        );
    }
    let LeftAlone { stricter, hidden } = LeftAlone::of(&found, loosening);
    if let Some(stricter) = stricter {
        eprintln!("{stricter}");
    }
    hidden.map_or(Ok(()), |hidden| bail!("{hidden}"))
}

/// The changes that may be made.
fn needed(found: &[Limit], loosening: Loosening) -> Vec<Change> {
    let may_be = |limit: &&Limit| match limit.need {
        Need::Apply => true,
        Need::Loosens(_) | Need::MayLoosen(_) => loosening == Loosening::Allowed,
        Need::Nothing | Need::NoSuchSetting => false,
    };
    let needed = found.iter().filter(may_be);
    needed.map(|limit| limit.change.clone()).collect()
}

/// What is left alone without `--loosen`, in words.
struct LeftAlone {
    stricter: Option<String>,
    hidden: Option<String>,
}

impl LeftAlone {
    fn of(found: &[Limit], loosening: Loosening) -> Self {
        let count = |is_it: fn(&Need) -> bool| {
            let count = found.iter().filter(|limit| is_it(&limit.need)).count();
            Some(count).filter(|count| *count > 0 && loosening == Loosening::Refused)
        };
        let stricter = count(|need| matches!(need, Need::Loosens(_)));
        let hidden = count(|need| matches!(need, Need::MayLoosen(_)));
        Self {
            stricter: stricter.map(|count| {
                format!("{count} are stricter now and left alone, unless --loosen is given")
            }),
            hidden: hidden.map(|count| {
                format!(
                    "{count} left alone, since the server's value can't be seen and may be stricter, unless --loosen is given"
                )
            }),
        }
    }
}

async fn rollback(link: &mut Link, undo: &UndoFile<'_>) -> Result<()> {
    let entries = undo.read()?;
    let levels = link.levels().await?;
    // Asked after the values: a role that goes away in between must not count as already undone.
    let roles: BTreeSet<_> = entries.iter().map(|it| it.of.role.as_str()).collect();
    let roles: Vec<String> = roles.into_iter().map(str::to_owned).collect();
    let missing = limits::unknown_roles(&link.database, &mut link.connection, &roles).await?;
    let is_missing = |entry: &UndoEntry| missing.iter().any(|it| it == entry.of.role.as_str());
    let (kept, present): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_missing);
    for entry in &present {
        let now = levels.of_role(entry.of.role.as_str(), &entry.of.setting);
        match restored(entry, now.clone()) {
            Some(change) => println!("{};", change.statement()),
            // Never applied, or already undone.
            None if now == entry.before => {}
            None => {
                let why = "-- left as it is, since it was changed after it was applied";
                let now = now.as_deref().unwrap_or("not set");
                println!("{why}: {}, now {now}; {}", name(entry), before(entry));
            }
        }
    }
    for entry in &kept {
        let why = "-- not undone, since the role is missing";
        println!("{why}: {}; {}", name(entry), before(entry));
    }
    let plan = |levels: &Levels| {
        let restored = present.iter().filter_map(|entry| {
            let UndoEntry { of, .. } = entry;
            restored(entry, levels.of_role(of.role.as_str(), &of.setting))
        });
        restored.collect::<Vec<Change>>()
    };
    let changes = plan(&levels);
    if !changes.is_empty() {
        link.change(plan, &changes, || Ok(())).await?;
    }
    eprintln!("{} undone, for new sessions", changes.len());
    undo.keep(&kept)?;
    if !kept.is_empty() {
        bail!(
            "the database has no role {}, so {} settings were not undone and stay in {}. Was a role renamed? Then it still has its \
             limits: write its new name into that file, and run `--rollback` again. Was it dropped? Then nothing is left to undo: \
             delete its entries, or the file",
            missing.join(", "),
            kept.len(),
            undo.path.display()
        );
    }
    Ok(())
}

fn name(UndoEntry { of, .. }: &UndoEntry) -> String {
    format!("{} of {}", of.setting, of.role.quoted())
}

fn before(entry: &UndoEntry) -> String {
    let before = entry.before.as_deref().unwrap_or("not set");
    format!("before it was {before}")
}

/// The change that undoes what was applied. `None`: the present value is not one of those.
fn restored(entry: &UndoEntry, now: Option<String>) -> Option<Change> {
    let is_ours = now.as_ref().is_some_and(|now| entry.applied.contains(now));
    (is_ours && now != entry.before).then(|| Change {
        of: entry.of.clone(),
        from: now,
        to: entry.before.clone(),
    })
}

fn address(database: &config::Database) -> String {
    let options = database.options();
    format!("{}:{}", options.get_host(), options.get_port())
}
