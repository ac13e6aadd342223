//! Where the project keeps its files.

use crate::failure::Failure;
use crate::machine::{cargo, output_of};
use crate::pins::Pins;
use serde::Deserialize;
use std::env;
use std::path::PathBuf;

/// The project, on this machine.
pub struct Project {
    pub root: PathBuf,
    pub pins: Pins,
}

/// The part of `cargo metadata` that is used.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

impl Project {
    /// The project that this program was built from.
    pub fn find() -> Result<Self, Failure> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .ok_or_else(|| Failure::Missing("run this as `cargo xtask ...`".to_owned()))?;
        let root = PathBuf::from(manifest)
            .join("..")
            .canonicalize()
            .map_err(|error| {
                Failure::Missing(format!("the project's folder can't be read: {error}"))
            })?;
        Ok(Self {
            root,
            pins: Pins::read(),
        })
    }

    /// The folder for fetched tools.
    pub fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// Cargo's target directory, which can be set in several places.
    pub fn target(&self) -> Result<PathBuf, Failure> {
        let mut cargo = cargo();
        cargo.current_dir(&self.root).args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version=1",
        ]);
        let said = output_of(&mut cargo)
            .ok_or_else(|| Failure::Check("`cargo metadata` failed".to_owned()))?;
        let metadata: Metadata = serde_json::from_str(&said)
            .map_err(|error| Failure::Check(format!("`cargo metadata`: {error}")))?;
        Ok(metadata.target_directory)
    }

    /// The path of the built sidecar.
    pub fn sidecar(&self) -> Result<PathBuf, Failure> {
        Ok(self.target()?.join("debug/levee"))
    }

    /// The path of the built filter.
    pub fn filter(&self) -> Result<PathBuf, Failure> {
        Ok(self
            .target()?
            .join("wasm32-wasip1/release/levee_filter.wasm"))
    }
}
