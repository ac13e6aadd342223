//! Programs of this project that cargo has built.

use std::env;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};
use crate::tool::file_from;

/// Cargo's folder of builds: where the running program is, or one folder up if it is a test.
pub fn folder() -> Result<PathBuf> {
    let own = env::current_exe().context("the path of the running program")?;
    let beside = own.parent().filter(|folder| !folder.ends_with("deps"));
    let folder = beside.or_else(|| own.parent()?.parent());
    folder.map(PathBuf::from).ok_or_else(|| {
        let own = own.display();
        Error::new(format!("{own} is not in cargo's folder of builds"))
    })
}

/// A program of `demo/`, such as `levee-up`. `cargo xtask test` builds it before the tests.
pub fn program(name: &str) -> Result<PathBuf> {
    built(name, "cargo build --package levee-demo --bins")
}

/// The sidecar: `LEVEE_BIN`, or the one that was built with the running program.
pub fn levee() -> Result<PathBuf> {
    match env::var_os("LEVEE_BIN") {
        Some(_) => file_from("LEVEE_BIN"),
        None => built("levee", "cargo build --package levee"),
    }
}

fn built(name: &str, how: &str) -> Result<PathBuf> {
    let built = folder()?.join(name);
    if built.is_file() {
        return Ok(built);
    }
    Err(Error::new(format!(
        "{} is missing: build it by `{how}`",
        built.display()
    )))
}
