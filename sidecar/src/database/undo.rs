//! The file that says how to undo applied limits.

use super::identifier::Identifier;
use super::levels::SETTINGS;
use super::limits::{Change, RoleSetting};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
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
    /// The latest value that Levee did not apply. `None`: it was not set.
    pub before: Option<String>,
    /// All values that Levee applied since.
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
            let Some(to) = &change.to else {
                continue;
            };
            let is_it = |known: &&mut UndoEntry| known.of == change.of;
            match entries.iter_mut().find(is_it) {
                Some(known) => known.apply(change.from.as_ref(), to),
                None => entries.push(UndoEntry {
                    of: change.of.clone(),
                    before: change.from.clone(),
                    applied: vec![to.clone()],
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
        let not_ours = || format!("{path} is not what `--apply` wrote");
        let all: Value = serde_json::from_str(&text).with_context(not_ours)?;
        let (other, entries) = (all["server"].as_str(), all["changes"].as_array());
        let (other, entries) = other.zip(entries).with_context(not_ours)?;
        if other != server {
            bail!(
                "{path} was written for the server {other}, not for {server}; choose another by --undo-file"
            );
        }
        entries
            .iter()
            .map(|entry| UndoEntry::read(entry).with_context(|| format!("{}: {entry}", not_ours())))
            .collect()
    }

    /// Leaves only these entries; without any, removes the file.
    ///
    /// # Errors
    /// The file can't be written or removed.
    pub fn keep(&self, entries: &[UndoEntry]) -> Result<()> {
        if !entries.is_empty() {
            return self.write(entries);
        }
        fs::remove_file(self.path)
            .with_context(|| format!("{} can't be removed", self.path.display()))
    }

    /// Replaces the file atomically.
    fn write(&self, entries: &[UndoEntry]) -> Result<()> {
        let changes: Vec<Value> = entries.iter().map(UndoEntry::write).collect();
        let text = format!("{:#}\n", json!({"server": self.server, "changes": changes}));
        let new = self.path.with_extension("new");
        File::create(&new)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, self.path))
            .with_context(|| format!("{} can't be written", self.path.display()))
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

    /// Adds a value that is applied while the role has `present`. Somebody's own value is what rollback restores.
    fn apply(&mut self, present: Option<&String>, to: &str) {
        if !present.is_some_and(|present| self.applied.contains(present)) {
            self.before = present.cloned();
            self.applied.clear();
        }
        self.applied.push(to.to_owned());
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let applied = entry["applied"].as_array()?.iter();
        Some(Self {
            of: RoleSetting {
                role: Identifier::new(entry["role"].as_str()?).ok()?,
                setting: text(&entry["setting"]).filter(|it| SETTINGS.contains(&it.as_str()))?,
            },
            before: match entry.get("before")? {
                Value::Null => None,
                before => Some(text(before)?),
            },
            applied: applied.map(text).collect::<Option<_>>()?,
        })
    }
}
