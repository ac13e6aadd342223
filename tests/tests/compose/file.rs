//! `docker-compose.yml` as docker-compose reads it, and the files it names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use levee_harness::process::output_of;
use levee_harness::tool::docker_compose;
use serde_json::Value;

/// Variables without a default.
pub const SECRETS: [&str; 4] = [
    "APP_PASSWORD",
    "LEVEE_PASSWORD",
    "LEVEE_TOKEN",
    "POSTGRES_PASSWORD",
];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project's root")
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// docker-compose, which finds these secrets in its environment and nothing in a file.
pub fn compose(secrets: &[&str]) -> Command {
    let nothing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nothing.env");
    fs::write(&nothing, "").expect("write an empty file");
    let mut compose = docker_compose().unwrap();
    compose
        .current_dir(root())
        .arg("--env-file")
        .arg(nothing)
        .arg("config");
    for secret in SECRETS {
        compose.env_remove(secret);
    }
    compose.envs(secrets.iter().map(|secret| (*secret, "secret")));
    compose
}

/// The services, as parsed by docker-compose.
pub fn services() -> BTreeMap<String, Value> {
    let said = output_of(&mut compose(&SECRETS))
        .unwrap_or_else(|said| panic!("docker-compose config: {said}"));
    let all: Value = serde_norway::from_str(&said).expect("YAML");
    serde_json::from_value(all["services"].clone()).expect("services by name")
}

pub fn words(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_else(|_| panic!("not a list of words: {value}"))
}

/// The arguments of a service: its command without the image's entry point.
pub fn command(service: &str) -> Vec<String> {
    words(&services()[service]["command"])
}

/// The health check of a service, without `CMD`.
pub fn health_check(service: &Value) -> Vec<String> {
    let test = words(&service["healthcheck"]["test"]);
    assert_eq!(test[0], "CMD", "a program, not a shell's line: {test:?}");
    test[1..].to_vec()
}

/// The health check of an image that is built here.
pub fn health_check_of(dockerfile: &str) -> Vec<String> {
    let text = read(dockerfile);
    let (_, after) = text.split_once("HEALTHCHECK").expect("a health check");
    let (_, after) = after.split_once("CMD ").expect("its command");
    serde_json::from_str(after.lines().next().expect("a line")).expect("a list of words")
}

/// Replaces each of these texts, which must be present.
pub fn replaced(words: &[String], texts: &[(&str, String)]) -> Vec<String> {
    for (old, _) in texts {
        assert!(
            words.iter().any(|word| word.contains(old)),
            "{old} is not in {words:?}"
        );
    }
    let replace = |word: &String| {
        texts
            .iter()
            .fold(word.clone(), |word, (old, new)| word.replace(old, new))
    };
    words.iter().map(replace).collect()
}

/// An image must name an exact version.
pub fn assert_pinned(image: &str) {
    let (_, tag) = image
        .rsplit_once(':')
        .unwrap_or_else(|| panic!("{image} has no version"));
    let numbers = tag
        .trim_start_matches('v')
        .split(['.', '-'])
        .take_while(|part| part.parse::<u32>().is_ok());
    assert!(numbers.count() >= 2, "{image} has no exact version");
}
