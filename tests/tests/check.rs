//! `levee check` compared with Envoy's own validation.
#![allow(missing_docs)]

use levee::check::of_envoy;
use levee_harness::process::last_lines;
use levee_harness::process::{Process, Signal};
use levee_harness::wait;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Traps that Envoy itself rejects. It accepts all others silently, which makes them traps.
const REFUSED: [&str; 2] = ["configuration", "filter-order"];

#[tokio::test]
async fn the_broken_configurations_are_ones_that_envoy_takes_unless_the_filter_or_the_order_is_wrong()
 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/broken");
    let files = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        let findings = of_envoy(&text).findings;
        let is_refused = |trap: &str| REFUSED.contains(&trap);
        let wanted = !findings
            .iter()
            .any(|finding| finding.trap.is_some_and(is_refused));

        let wasm = path_from("LEVEE_FILTER_WASM");
        let text = text.replace(
            "target/wasm32-wasip1/release/levee_filter.wasm",
            wasm.to_str().unwrap(),
        );
        let (config, log) = (files.path().join("envoy.yaml"), files.path().join("log"));
        fs::write(&config, text).unwrap();
        let mut command = Command::new(path_from("ENVOY_PATH"));
        command
            .args(["--mode", "validate", "--disable-hot-restart", "-c"])
            .arg(&config)
            .stdout(fs::File::create(&log).unwrap())
            .stderr(fs::File::options().append(true).open(&log).unwrap());
        let mut process = Process::spawn(command, Signal::Kill).unwrap();
        let said = || last_lines(&fs::read_to_string(&log).unwrap(), 10);
        let exit = wait::until_now("Envoy to end", wait::GENEROUS, || {
            process.exit_status().ok_or_else(said)
        })
        .await
        .unwrap();
        assert_eq!(
            exit.success(),
            wanted,
            "{}:\n{}",
            file.path().display(),
            said()
        );
    }
}

fn path_from(variable: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from);
    path.unwrap_or_else(|| {
        panic!("{variable} is not set: run this by `cargo xtask test`, which sets it")
    })
}
