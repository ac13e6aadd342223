//! Programs of this project that cargo has built.

use std::env;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};

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
    let built = folder()?.join(name);
    if built.is_file() {
        return Ok(built);
    }
    Err(Error::new(format!(
        "{} is missing: build it by `cargo build --package levee-demo --bins`",
        built.display()
    )))
}

/// The sidecar: `LEVEE_BIN`, or the one that was built with the running program.
pub fn levee() -> Result<PathBuf> {
    match env::var_os("LEVEE_BIN") {
        Some(own) => Ok(own.into()),
        None => Ok(folder()?.join("levee")),
    }
}
