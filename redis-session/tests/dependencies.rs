//! A session has no sockets, no runtime and no metrics library: nothing that it depends on has them.

/// Libraries without I/O. `log` is a facade.
const ALLOWED: [&str; 4] = ["humantime", "levee-policy", "log", "thiserror"];

#[test]
fn the_session_depends_on_nothing_that_does_io() {
    let manifest = include_str!("../Cargo.toml");
    let (_, after) = manifest.split_once("\n[dependencies]\n").unwrap();
    let (section, _) = after.split_once("\n[").unwrap();
    let mut names: Vec<&str> = section
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split(['.', ' ']).next().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ALLOWED);
    assert!(!manifest.contains("[target."), "dependencies by target");
}
