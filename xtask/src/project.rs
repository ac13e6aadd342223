//! Where things of the project are.

use crate::failure::Failure;
use crate::pins::Pins;
use std::env;
use std::path::PathBuf;

/// The project, on this machine.
pub struct Project {
    pub root: PathBuf,
    pub pins: Pins,
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

    /// The folder for what is built.
    pub fn target(&self) -> PathBuf {
        match env::var_os("CARGO_TARGET_DIR") {
            // Where it is relative, to the folder in which cargo is run: the root.
            Some(folder) => self.root.join(folder),
            None => self.root.join("target"),
        }
    }

    /// The filter, once it is built.
    pub fn filter(&self) -> PathBuf {
        self.target()
            .join("wasm32-wasip1/release/levee_filter.wasm")
    }
}
