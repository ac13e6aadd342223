//! Where things of the project are.

use crate::failure::Failure;
use crate::machine::output_of;
use crate::pins::Pins;
use crate::tools::cargo;
use serde::Deserialize;
use std::env;
use std::path::PathBuf;

/// The project, on this machine.
pub struct Project {
    pub root: PathBuf,
    pub pins: Pins,
}

/// What is wanted of `cargo metadata`.
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

    /// The folder for what is fetched.
    pub fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// The folder for what is built. Cargo knows: it may be set in several places.
    pub fn target(&self) -> Result<PathBuf, Failure> {
        let mut cargo = cargo();
        cargo.current_dir(&self.root).args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version=1",
        ]);
        let said = output_of(&mut cargo)
            .ok_or_else(|| Failure::Check("`cargo metadata` has failed".to_owned()))?;
        let metadata: Metadata = serde_json::from_str(&said)
            .map_err(|error| Failure::Check(format!("`cargo metadata`: {error}")))?;
        Ok(metadata.target_directory)
    }

    /// The sidecar, once it is built.
    pub fn sidecar(&self) -> Result<PathBuf, Failure> {
        Ok(self.target()?.join("debug/levee"))
    }

    /// The filter, once it is built.
    pub fn filter(&self) -> Result<PathBuf, Failure> {
        Ok(self
            .target()?
            .join("wasm32-wasip1/release/levee_filter.wasm"))
    }
}
