//! What an Envoy says of a file: `envoy --mode validate`, which opens no port and sends nothing.

use super::finding::{Finding, Severity};
use crate::yaml::Node;
use std::cmp::Reverse;
use std::env;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long Envoy may take. One that compiles the filter takes less than a second.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The most that is read of what Envoy prints.
const MAX_OUTPUT: u64 = 1024 * 1024;
/// The longest message that is passed on.
const MAX_MESSAGE: usize = 300;

/// What an Envoy says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepts,
    /// With its error.
    Refuses(String),
    /// Why nothing can be said.
    Unknown(String),
}

/// The Envoy on `PATH`, or else in `.tools/`, where this project's own tools are.
pub fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("envoy"));
    on_path
        .chain(in_tools(Path::new(".tools")))
        .find(|file| is_program(file))
}

/// The newest comes first.
fn in_tools(tools: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(tools).into_iter().flatten().flatten();
    let mut envoys: Vec<PathBuf> = folders
        .filter(|folder| folder.file_name().to_string_lossy().starts_with("envoy-"))
        .map(|folder| folder.path().join("envoy/_bin/envoy"))
        .collect();
    let version = |file: &PathBuf| -> Vec<u64> {
        let name = file.to_string_lossy();
        let numbers = name.split(|c: char| !c.is_ascii_digit());
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    envoys.sort_by_key(|file| Reverse(version(file)));
    envoys
}

/// Whether this is a file that may be run.
pub fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Asks an Envoy.
pub fn ask(envoy: &Path, file: &Path, limit: Duration) -> Verdict {
    if !file.is_file() {
        return Verdict::Unknown("it is no regular file, which could be read twice".to_owned());
    }
    let shown = envoy.display();
    match run(envoy, file, limit) {
        Ok(Some(output)) => judge(&output, &shown.to_string()),
        Ok(None) => Verdict::Unknown(format!("{shown} took longer than {} s", limit.as_secs())),
        Err(error) => Verdict::Unknown(format!("{shown} can't be run: {error}")),
    }
}

/// What Envoy prints until it ends. `None`: it took too long, and was killed.
fn run(envoy: &Path, file: &Path, limit: Duration) -> io::Result<Option<String>> {
    let (reader, writer) = io::pipe()?;
    let mut child = Command::new(envoy)
        .args(["--mode", "validate", "--disable-hot-restart"])
        .args(["--log-level", "critical", "-c"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = Vec::new();
        let done = reader.take(MAX_OUTPUT).read_to_end(&mut output);
        // Nobody waits for what comes too late.
        let _ = sender.send(done.map(|_| output));
    });
    let Ok(output) = receiver.recv_timeout(limit) else {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    };
    child.wait()?;
    Ok(Some(String::from_utf8_lossy(&output?).into_owned()))
}

/// What Envoy needs from the machine that it runs on, by its messages.
const FROM_THE_MACHINE: [&str; 7] = [
    "Invalid path: ",
    "No such file or directory",
    "does not exist",
    "Failed to load incomplete",
    "Permission denied",
    "unable to open file",
    "--service-node",
];

fn judge(output: &str, envoy: &str) -> Verdict {
    let refused = output.split_once("error initializing configuration '");
    if let Some((_, rest)) = refused {
        let message = rest.split_once("': ").map_or(rest, |(_, message)| message);
        let message = short(message);
        if FROM_THE_MACHINE.iter().any(|part| message.contains(part)) {
            return Verdict::Unknown(format!("it needs what is not on this machine: {message}"));
        }
        return Verdict::Refuses(message);
    }
    let lines = || {
        output
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    if lines().any(|line| line.starts_with("configuration '") && line.ends_with("' OK")) {
        return Verdict::Accepts;
    }
    let said = lines().next().map_or_else(|| "nothing".to_owned(), short);
    Verdict::Unknown(format!(
        "{envoy} does not answer as Envoy does, but: {said}"
    ))
}

/// A message without what it repeats of the file, in one line.
fn short(message: &str) -> String {
    const CONSTRAINT: &str = "Proto constraint validation failed (";
    let message = match message.rsplit_once(CONSTRAINT) {
        // The last cause has the rule, those before it the way there.
        Some((_, causes)) => {
            let last = causes.rsplit(" | caused by ").next().unwrap_or(causes);
            last.trim_end().trim_end_matches(')')
        }
        None => message,
    };
    let ends = ["): {", "): [", ": goo.gle/debug"];
    let end = ends.iter().filter_map(|end| message.find(end)).min();
    let message = end.and_then(|end| message.get(..end)).unwrap_or(message);
    let first = message
        .split(|char: char| char.is_control())
        .next()
        .unwrap_or(message);
    let words: Vec<&str> = first.split_whitespace().collect();
    let mut text = words.join(" ");
    if text.chars().count() > MAX_MESSAGE {
        text = text.chars().take(MAX_MESSAGE).collect::<String>() + " ...";
    }
    text
}

/// What Envoy refuses, with the line that its message leads to.
pub fn refusal(message: &str, text: &str, root: &Node) -> Finding {
    let path = message
        .split_once(" @ ")
        .and_then(|(_, rest)| rest.split([':', ' ', ',']).next());
    let quoted = message.split('\'').nth(1).filter(|word| !word.is_empty());
    let by_word = || {
        let word = quoted?;
        let place = text.lines().position(|line| line.contains(word))?;
        Some(place + 1)
    };
    let line = path.map(|path| root.line_of(path)).or_else(by_word);
    // What stands before it is about a copy of the file that Envoy makes.
    let reason = ["): ", "INVALID_ARGUMENT: "]
        .iter()
        .find_map(|start| message.split_once(start))
        .map_or(message, |(_, reason)| reason);
    let reason = reason
        .split(") has unknown fields")
        .next()
        .unwrap_or(reason);
    let is_unknown = ["could not find @type", "find a registered implementation"];
    let hint = if is_unknown.iter().any(|part| reason.contains(part)) {
        "; is it spelled right, and was this Envoy built with it?"
    } else {
        ""
    };
    Finding {
        line: line.unwrap_or(1),
        path: path.unwrap_or_default().to_owned(),
        message: format!("Envoy refuses the file: {reason}{hint}"),
        severity: Severity::Error,
        trap: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    fn refused(message: &str) -> String {
        format!(
            "[2026-11-29 13:04:42.269][6412][critical][main] [source/server/config_validation/server.cc:76] error initializing configuration 'a.yaml': {message}"
        )
    }

    #[test]
    fn what_envoy_prints_is_understood() {
        let judged = |text: &str| judge(text, "envoy");
        assert_eq!(judged("configuration 'a.yaml' OK\n"), Verdict::Accepts);
        for (message, wanted) in [
            (
                "Unable to parse JSON as proto (INVALID_ARGUMENT: could not find @type 'type.googleapis.com/x.Y'): {\"a\": 1}\n",
                "Unable to parse JSON as proto (INVALID_ARGUMENT: could not find @type 'type.googleapis.com/x.Y'",
            ),
            (
                "goo.gle/debugproto  admin {\n  address {}\n}\n: Proto constraint validation failed (BootstrapValidationError.Admin: embedded message failed validation | caused by SocketAddressValidationError.Address: value length must be at least 1 characters)\n",
                "SocketAddressValidationError.Address: value length must be at least 1 characters",
            ),
            (
                "malformed IP  address: x\nmore\n",
                "malformed IP address: x",
            ),
        ] {
            assert_eq!(
                judged(&refused(message)),
                Verdict::Refuses(wanted.to_owned())
            );
        }
        let long = judged(&refused(&"x".repeat(5000)));
        assert!(matches!(long, Verdict::Refuses(text) if text.len() < 310));
        for message in [
            "Invalid path: build/main.wasm",
            "paths must refer to an existing path in the system: '/a' does not exist",
            "x: node 'id' and 'cluster' are required. Set it either in 'node' config or via --service-node and --service-cluster options.",
        ] {
            let verdict = judged(&refused(message));
            assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
        }
        for other in [
            "",
            "Laravel Envoy 2.9.0\n",
            "PARSE ERROR: Argument: --mode\n",
        ] {
            assert!(matches!(judged(other), Verdict::Unknown(_)), "{other}");
        }
    }

    #[test]
    fn a_refusal_has_the_line_that_it_leads_to() {
        let text = "admin: {}\nstatic_resources:\n  clusters:\n  - name: a\n    nonsense: 1\n";
        let root = parse(text).unwrap().root;
        for (message, line, reason) in [
            (
                "Unable to parse JSON as proto (INVALID_ARGUMENT: invalid JSON in X @ static_resources.clusters[0]: uint32, near 1:3 (offset 2): invalid number: 'a'",
                4,
                "invalid number: 'a'",
            ),
            (
                "Protobuf message (type X reason INVALID_ARGUMENT: invalid JSON in X, near 1:8 (offset 7): no such field: 'nonsense') has unknown fields",
                5,
                "no such field: 'nonsense'",
            ),
            (
                "Unable to parse JSON as proto (INVALID_ARGUMENT: could not find @type 'x.Y'",
                1,
                "could not find @type 'x.Y'; is it spelled right, and was this Envoy built with it?",
            ),
            ("malformed IP address: x", 1, "malformed IP address: x"),
        ] {
            let finding = refusal(message, text, &root);
            let wanted = format!("Envoy refuses the file: {reason}");
            assert_eq!((finding.line, finding.message), (line, wanted));
        }
    }
}
