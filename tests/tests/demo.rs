//! `levee-demo`, which `cargo xtask demo` runs: its table, its exit code, and that it leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use levee_harness::built;
use levee_harness::process::{Process, Signal};
use tempfile::TempDir;

/// A `levee-demo` with its output in files, and a folder for temporary files.
struct Demo {
    process: Process,
    folder: TempDir,
}

impl Demo {
    fn start(arguments: &[&str], levee: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).unwrap();
        // PostgreSQL writes here, as another user if the tests run as root.
        for path in [folder.path(), &temporary] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let output = |name| fs::File::create(folder.path().join(name)).unwrap();
        let mut command = Command::new(built::program("levee-demo").unwrap());
        command
            .args(arguments)
            .env("TMPDIR", temporary)
            .env("LEVEE_BIN", levee)
            .env_remove("FUNC_E_PATH")
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"));
        Self {
            process: Process::spawn(command, Signal::Terminate).unwrap(),
            folder,
        }
    }

    /// The exit code and all output. Checks that nothing is left behind.
    fn end(mut self) -> (i32, String) {
        let exit = self.process.wait(Duration::from_mins(3));
        let said = ["stdout", "stderr"]
            .map(|name| fs::read_to_string(self.folder.path().join(name)).unwrap())
            .concat();
        let left = fs::read_dir(self.folder.path().join("tmp")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        let code = exit.and_then(|exit| exit.code());
        (code.unwrap_or_else(|| panic!("{exit:?}: {said}")), said)
    }
}

#[test]
fn the_demonstration_ends_with_a_table_in_which_all_hold() {
    let (code, said) = Demo::start(&[], &built::levee().unwrap()).end();
    assert_eq!(code, 0, "{said}");
    let (_, table) = said
        .split_once("without Levee                           with Levee")
        .expect(&said);
    let lines: Vec<&str> = table.lines().skip(1).collect();
    for (line, name) in lines.iter().zip([
        "database slow",
        "Redis down",
        "login down",
        "a backend down",
        "a moment of failure",
        "expired tokens pile up",
        "stale calls pile up",
    ]) {
        assert!(line.starts_with(name) && line.ends_with("holds"), "{line}");
    }
    assert_eq!(lines.len(), 7, "{table}");
}

#[test]
fn it_fails_where_levee_does_not_do_its_part() {
    let (code, said) = Demo::start(&["Redis"], Path::new("/bin/false")).end();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("the sidecar didn't start (exit status: 1)"),
        "{said}"
    );
}

#[test]
fn a_name_that_fits_no_scenario_is_told() {
    let (code, said) = Demo::start(&["cassandra"], &built::levee().unwrap()).end();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("Redis down"), "{said}");
}

#[test]
fn a_hang_up_while_the_systems_start_leaves_nothing_and_prints_no_table() {
    let mut demo = Demo::start(&[], &built::levee().unwrap());
    let stdout = demo.folder.path().join("stdout");
    let waited = levee_harness::clock::Stopwatch::start();
    while fs::read_to_string(&stdout).unwrap().is_empty() {
        assert!(waited.elapsed() < Duration::from_mins(1), "no output");
        std::thread::sleep(Duration::from_millis(10));
    }
    demo.process.signal(Signal::HangUp);
    let (code, said) = demo.end();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("interrupted before the first scenario"),
        "{said}"
    );
    assert!(!said.contains("with Levee     "), "{said}");
}

#[test]
fn ctrl_c_ends_it_after_the_scenario_under_way() {
    let mut demo = Demo::start(&[], &built::levee().unwrap());
    let stdout = demo.folder.path().join("stdout");
    let waited = levee_harness::clock::Stopwatch::start();
    while !fs::read_to_string(&stdout)
        .unwrap()
        .contains("1. database slow")
    {
        assert!(
            waited.elapsed() < Duration::from_mins(1),
            "it did not begin"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    demo.process.signal(Signal::Interrupt);
    let (code, said) = demo.end();
    assert_eq!(code, 1, "{said}");
    assert!(!said.contains("3. a backend down"), "{said}");
}
