//! Programs of this project that cargo has built.

use std::env;
use std::path::PathBuf;

/// A program of `demo/`, such as `levee-up`. `cargo xtask test` builds it before the tests.
pub fn program(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("the path of the running program");
    let built = tests
        .ancestors()
        .nth(2)
        .expect("cargo's folder of builds")
        .join(name);
    assert!(
        built.is_file(),
        "{} is missing: build it by `cargo build --package levee-demo --bins`",
        built.display()
    );
    built
}
