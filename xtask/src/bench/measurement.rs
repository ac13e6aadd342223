//! What the measurements of Redis and of the database share: their options, their programs, and the sidecar.

use crate::failure::Failure;
use crate::machine::cargo;
use crate::project::Project;
use crate::run::succeed;
use clap::Args;
use std::path::PathBuf;
use std::process::Command;

/// The extent of a measurement.
#[derive(Args)]
pub struct Options {
    /// One round, and a tenth of the commands
    #[arg(long)]
    pub quick: bool,
}

/// The command that runs a measuring program of the workspace.
pub fn program(project: &Project, package: &str) -> Command {
    let mut run = cargo();
    run.current_dir(&project.root)
        .args(["run", "--locked", "--quiet", "--package", package, "--"]);
    run
}

/// Builds the sidecar for release and returns its path.
pub fn build_sidecar(project: &Project) -> Result<PathBuf, Failure> {
    eprintln!("==> building the sidecar for release");
    let mut build = cargo();
    build
        .current_dir(&project.root)
        .args(["build", "--locked", "--release", "--package=levee"]);
    succeed(&mut build, "the sidecar could not be built")?;
    Ok(project.target()?.join("release/levee"))
}
