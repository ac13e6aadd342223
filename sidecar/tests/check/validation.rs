//! `levee check` asks an Envoy, and says when none could be asked.

use super::{Folder, MINIMAL, check, check_in};
use levee::check::validation::{Verdict, ask};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ACCEPTS: &str = "echo \"configuration '$6' OK\"";
const REFUSES: &str = "echo \"[critical][main] error initializing configuration '$6': no such field: 'admin'\" >&2; exit 1";

impl Folder {
    /// A script that stands for an Envoy.
    fn script(&self, name: &str, body: &str) -> String {
        let path = PathBuf::from(self.file(name, &format!("#!/bin/sh\n{body}\n")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn only_what_envoy_accepts_is_called_valid() {
    let folder = Folder::new("envoys");
    let file = folder.file("envoy.yaml", MINIMAL);
    let said = |body: &str| {
        let envoy = folder.script("an-envoy", body);
        check(&["--envoy", &file, "--envoy-binary", &envoy])
    };
    let (code, text, error) = said(ACCEPTS);
    assert_eq!(
        (code, text, error),
        (0, format!("{file}: valid\n"), String::new())
    );

    let (code, text, _) = said(REFUSES);
    let line = MINIMAL
        .lines()
        .position(|line| line.contains("admin"))
        .unwrap()
        + 1;
    let wanted = format!("{file}:{line}: Envoy refuses the file: no such field: 'admin'\n");
    assert_eq!((code, text), (2, wanted));

    for (body, reason) in [
        ("echo hello", "does not answer as Envoy does, but: hello"),
        ("exit 3", "does not answer as Envoy does, but: nothing"),
        (
            "echo \"error initializing configuration 'x': Invalid path: /a.wasm\"; exit 1",
            "it needs what is not on this machine: Invalid path: /a.wasm",
        ),
    ] {
        let (code, text, _) = said(body);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains("no error found; Envoy did not validate it: "),
            "{text}"
        );
        assert!(text.contains(reason) && !text.contains(": valid"), "{text}");
    }
    let (code, _, error) = check(&["--envoy", &file, "--envoy-binary", "/nowhere/envoy"]);
    assert_eq!(code, 1);
    assert!(error.contains("/nowhere/envoy is no program"), "{error}");
}

#[test]
fn an_envoy_that_takes_too_long_is_ended() {
    let folder = Folder::new("slow");
    let file = folder.file("envoy.yaml", MINIMAL);
    let envoy = folder.script("slow", "exec sleep 600");
    let verdict = ask(
        Path::new(&envoy),
        Path::new(&file),
        Duration::from_millis(100),
    );
    assert!(
        matches!(&verdict, Verdict::Unknown(reason) if reason.contains("took longer")),
        "{verdict:?}"
    );
}

#[test]
fn an_envoy_is_found_on_path_and_in_the_tools() {
    let folder = Folder::new("found");
    let file = folder.file("envoy.yaml", MINIMAL);
    fs::create_dir_all(folder.0.join("bin")).unwrap();
    let tool = folder.0.join(".tools/envoy-1.40.0/envoy/_bin");
    fs::create_dir_all(&tool).unwrap();
    let ask = || check_in(&folder.0.join("bin"), &folder.0, &["--envoy", &file]);
    assert!(ask().1.contains("there is none on PATH, nor in .tools/"));
    folder.script(".tools/envoy-1.40.0/envoy/_bin/envoy", REFUSES);
    assert_eq!(ask().0, 2);
    folder.script("bin/envoy", ACCEPTS);
    assert_eq!(ask().1, format!("{file}: valid\n"));
}

#[test]
fn what_envoy_can_not_validate_is_said() {
    let folder = Folder::new("forms");
    let envoy = folder.script("an-envoy", REFUSES);
    let watched = folder.file("watched.yaml", "resources: []\n");
    let (code, text, _) = check(&["--envoy", &watched, "--envoy-binary", &envoy]);
    assert_eq!(code, 0);
    assert_eq!(
        text,
        format!(
            "{watched}: no error found, but has no HTTP listener; Envoy did not validate it: it validates bootstraps only\n"
        )
    );
    // Where Levee finds an error, Envoy need not be asked.
    let broken = folder.file("broken.yaml", "nonsense: {}\n");
    let (code, text, _) = check(&["--envoy", &broken, "--envoy-binary", &envoy]);
    assert_eq!(code, 2);
    assert!(!text.contains("refuses the file"), "{text}");
}
