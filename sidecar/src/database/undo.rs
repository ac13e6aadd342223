//! The file that says how to undo applied limits.

use super::identifier::Identifier;
use super::levels::SETTINGS;
use super::limits::{Change, RoleSetting};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[derive(Clone, Debug)]
pub struct UndoFile<'a> {
    pub path: &'a Path,
    /// The server whose roles were changed. A file of another server is refused.
    pub server: String,
}

/// One setting of one role.
#[derive(Clone, Debug)]
pub struct UndoEntry {
    pub of: RoleSetting,
    /// The value before the first apply. `None`: it was not set.
    pub before: Option<String>,
    /// All values applied since.
    pub applied: Vec<String>,
}

impl UndoFile<'_> {
    /// Adds `changes` to the file, which need not exist.
    ///
    /// # Errors
    /// The file can't be read or written, or belongs to another server.
    pub fn record(&self, changes: &[Change]) -> Result<()> {
        let mut entries = if self.path.exists() {
            self.read()?
        } else {
            Vec::new()
        };
        for change in changes {
            let is_it = |known: &&mut UndoEntry| known.of == change.of;
            let to = change.to.clone().unwrap_or_default();
            match entries.iter_mut().find(is_it) {
                // Rollback restores the value from before the first apply.
                Some(known) => known.applied.push(to),
                None => entries.push(UndoEntry {
                    of: change.of.clone(),
                    before: change.from.clone(),
                    applied: vec![to],
                }),
            }
        }
        self.write(&entries)
    }

    /// # Errors
    /// The file can't be read, or belongs to another server.
    pub fn read(&self) -> Result<Vec<UndoEntry>> {
        let (path, server) = (self.path.display(), &self.server);
        let text = fs::read_to_string(self.path)
            .with_context(|| format!("{path} can't be read; it says what was applied"))?;
        let all: Value = serde_json::from_str(&text)
            .with_context(|| format!("{path} is not what `--apply` wrote"))?;
        let other = all["server"].as_str().unwrap_or_default();
        if other != server {
            bail!(
                "{path} was written for the server {other}, not for {server}; choose another by --undo-file"
            );
        }
        let entries = all["changes"].as_array().map(Vec::as_slice);
        entries
            .unwrap_or_default()
            .iter()
            .map(|entry| UndoEntry::read(entry).with_context(|| format!("{path}: {entry}")))
            .collect()
    }

    /// # Errors
    /// The file can't be removed.
    pub fn remove(&self) -> Result<()> {
        fs::remove_file(self.path)
            .with_context(|| format!("{} can't be removed", self.path.display()))
    }

    /// Replaces the file atomically.
    fn write(&self, entries: &[UndoEntry]) -> Result<()> {
        let changes: Vec<Value> = entries.iter().map(UndoEntry::write).collect();
        let text = format!("{:#}\n", json!({"server": self.server, "changes": changes}));
        let new = self.path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.path))
            .with_context(|| {
                format!(
                    "{} can't be written, and so nothing was applied",
                    self.path.display()
                )
            })
    }
}

impl UndoEntry {
    fn write(&self) -> Value {
        json!({
            "role": self.of.role.as_str(),
            "setting": self.of.setting,
            "before": self.before,
            "applied": self.applied,
        })
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |field: &str| entry[field].as_str().map(str::to_owned);
        let applied = entry["applied"].as_array()?.iter();
        Some(Self {
            of: RoleSetting {
                role: Identifier::new(&text("role")?).ok()?,
                setting: text("setting").filter(|it| SETTINGS.contains(&it.as_str()))?,
            },
            before: text("before"),
            applied: applied
                .filter_map(|it| it.as_str().map(str::to_owned))
                .collect(),
        })
    }
}
