//! Where the suites come from.

use crate::failure::Failure;
use crate::fetch;
use crate::machine;
use crate::project::Project;
use crate::tools;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TEST_HELPER: &str = "tests/test_helper.tcl";

/// The folder of Redis' source: `REDIS_SOURCE_PATH`, or Debian's source package.
pub fn redis(project: &Project) -> Result<PathBuf, Failure> {
    if let Some(own) = machine::path_in("REDIS_SOURCE_PATH") {
        if own.join(TEST_HELPER).is_file() {
            return Ok(own);
        }
        return Err(Failure::Missing(format!(
            "REDIS_SOURCE_PATH={} has no {TEST_HELPER}",
            own.display()
        )));
    }
    let pin = &project.pins.redis_source;
    let folder = project
        .tools()
        .join(format!("redis-source-{}", pin.version));
    let source = format!("{}-{}", pin.package, pin.version);
    let file = format!("{source}/{TEST_HELPER}");
    if !fetch::is_complete(&folder, &[&file]) {
        for (program, package) in [("apt-get", "apt"), ("dpkg-source", "dpkg-dev")] {
            if machine::find(program).is_none() {
                return Err(Failure::Missing(format!(
                    "{program} is missing (Debian: {package}): it fetches Redis' source with its test-suite. Elsewhere \
                     unpack the source of Redis {} and name its folder by REDIS_SOURCE_PATH",
                    pin.version
                )));
            }
        }
        fetch::step(&format!("fetching the source of Redis {}", pin.version), || {
            fetch::in_new_folder(&folder, &[&file], |folder| {
                apt_source(&pin.package, folder)
            })
        })
        .map_err(|failure| {
            failure.with_hint(&format!(
                "the release of Debian that this machine has may have another version: {} is bookworm's. Unpack that \
                 source elsewhere and name its folder by REDIS_SOURCE_PATH",
                pin.version
            ))
        })?;
    }
    Ok(folder.join(source))
}

/// The sources of bookworm, whatever the machine has.
const APT_SOURCES: &str = "\
Types: deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// Has apt fetch and unpack a source package in `folder`, with lists and settings of its own there: that needs no root, and
/// nothing of the machine's is changed.
fn apt_source(package: &str, folder: &Path) -> Result<(), Failure> {
    let apt = folder.join("apt");
    let failed = |error| Failure::Install(format!("{}: {error}", apt.display()));
    for part in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(part)).map_err(failed)?;
    }
    let list = apt.join("debian.sources");
    fs::write(&list, APT_SOURCES).map_err(failed)?;
    let settings = [
        format!("Dir::State={}", apt.join("state").display()),
        format!("Dir::Cache={}", apt.join("cache").display()),
        format!("Dir::Etc::SourceList={}", list.display()),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
    ];
    for arguments in [&["update"][..], &["source", package]] {
        let mut command = Command::new("apt-get");
        command.arg("--quiet=2").current_dir(folder);
        for setting in &settings {
            command.args(["--option", setting]);
        }
        let what = format!("the source of {package} could not be fetched by apt-get");
        fetch::run(command.args(arguments), &what)?;
    }
    fs::remove_dir_all(&apt).map_err(failed)
}

/// The folder of redis-py's source.
pub fn redis_py(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.redis_py_source;
    let folder = project
        .tools()
        .join(format!("redis-py-source-{}", pin.version));
    let files = ["tests/conftest.py"];
    if !fetch::is_complete(&folder, &files) {
        let python = machine::python("the source of redis-py")?;
        fetch::step(
            &format!("fetching the source of redis-py {}", pin.version),
            || fetch::in_new_folder(&folder, &files, |folder| fetch::sdist(&python, pin, folder)),
        )?;
    }
    Ok(folder)
}

/// The folder of what redis-py's tests import.
pub fn pytest(project: &Project) -> Result<PathBuf, Failure> {
    let version = &project.pins.redis_py_source.version;
    let folder = project.tools().join(format!("redis-py-tests-{version}"));
    let files = ["pytest/__init__.py", "pytest_asyncio/__init__.py"];
    if !fetch::is_complete(&folder, &files) {
        let python = machine::python("pytest")?;
        let requirements = project.root.join("xtask/redis-py/requirements.txt");
        fetch::step("fetching pytest", || {
            fetch::in_new_folder(&folder, &files, |folder| {
                let on_failure = "pytest could not be fetched by pip";
                fetch::pip_install_all(&python, &requirements, folder, on_failure)
            })
        })?;
    }
    Ok(folder)
}

/// The part of what `go mod download -json` says that is used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
}

/// The program of go-redis' tests.
pub fn go_redis(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.go_redis_source;
    let folder = project.tools().join(format!("go-redis-{}", pin.version));
    let name = "go-redis.test";
    if !fetch::is_complete(&folder, &[name]) {
        let go = tools::go(project)?;
        let module = format!("{}@v{}", pin.module, pin.version);
        fetch::step(
            &format!("building the tests of go-redis {}", pin.version),
            || {
                fetch::in_new_folder(&folder, &[name], |folder| {
                    let mut download = fetch::go_command(project, &go);
                    download
                        .args(["mod", "download", "-json", &module])
                        .current_dir(folder);
                    let said = machine::output_of(&mut download).unwrap_or_default();
                    let source: Downloaded = serde_json::from_str(&said).map_err(|error| {
                        Failure::Install(format!(
                            "{module} could not be downloaded: {error} {said}"
                        ))
                    })?;
                    let mut build = fetch::go_command(project, &go);
                    build
                        .args(["test", "-c", "-o"])
                        .arg(folder.join(name))
                        .arg(".")
                        .current_dir(source.dir);
                    fetch::run(&mut build, "the tests of go-redis could not be built")
                })
            },
        )?;
    }
    Ok(folder.join(name))
}
