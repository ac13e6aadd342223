//! The programs that are measured. `cargo xtask bench gateway` builds and fetches them and passes their paths.

use anyhow::{Context, Result};
use std::env;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Tools {
    pub envoy: PathBuf,
    pub levee: PathBuf,
    pub floor: PathBuf,
    /// Go's reverse proxy with a breaker, if it is needed.
    pub go: Option<PathBuf>,
    /// nginx, if it is needed and installed.
    pub nginx: Option<PathBuf>,
    /// The text of `envoy/gateway.yaml`.
    pub recommended: String,
}

impl Tools {
    pub fn find() -> Result<Self> {
        let path = |name: &str| {
            let value = env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from).with_context(|| {
                format!("{name} is not set: start this by `cargo xtask bench gateway`")
            })
        };
        let project = path("LEVEE_ROOT")?;
        let recommended = project.join("envoy/gateway.yaml");
        Ok(Self {
            envoy: path("ENVOY_PATH")?,
            levee: path("LEVEE_FILTER_WASM")?,
            floor: path("LEVEE_FLOOR_WASM")?,
            go: path("LEVEE_GO_PROXY").ok(),
            nginx: path("NGINX_PATH").ok(),
            recommended: read(&recommended)?,
        })
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} can't be read", file.display()))
}
