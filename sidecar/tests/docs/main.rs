//! README.md and `docs/` agree with the code: commands, configurations, keys, metrics, traps and links exist, and so do
//! the tests that are named as evidence. The filter's own tables are compared in `filter/tests/docs.rs`.

mod commands;
mod evidence;
mod examples;
mod keys;
mod links;
mod metrics;
mod readme;
mod traps;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const FILTER: &str = "docs/reference/filter.md";
const SIDECAR: &str = "docs/reference/sidecar.md";
const METRICS: &str = "docs/reference/metrics.md";

/// The value of every environment variable in a configuration. No test connects to it.
const URL: &str = "postgres://levee:x@127.0.0.1:5432/app";

/// A folder that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("levee-docs-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn levee(arguments: &[&str], variables: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_levee"))
        .args(arguments)
        .envs(variables.iter().map(|name| (name, URL)))
        .output()
        .expect("levee runs")
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
