//! The images that are built here.

use crate::file::{assert_pinned, read, root, services};

/// The Dockerfile of each service whose image is built here.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "compose/demo-backend.Dockerfile"];

#[test]
fn the_images_are_built_of_what_is_there_with_the_pinned_versions_and_run_as_nobody() {
    let mut built: Vec<String> = services()
        .values()
        .filter_map(|service| service["build"]["dockerfile"].as_str().map(str::to_owned))
        .collect();
    built.sort();
    built.dedup();
    assert_eq!(built, DOCKERFILES);
    the_build_gets_the_whole_workspace_and_no_secret();
    for path in DOCKERFILES {
        let dockerfile = Dockerfile::read(path);
        dockerfile.builds_and_runs_on_pinned_versions();
        dockerfile.copies_only_what_is_there();
        dockerfile.runs_the_program_that_it_builds();
        dockerfile.runs_as_the_user_of_its_services();
    }
}

/// Of the first `text` after `before`, what stands before `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).expect(before);
    rest.split(after).next().expect("a first part")
}

fn the_build_gets_the_whole_workspace_and_no_secret() {
    let ignored = read(".dockerignore");
    let is_ignored = |name: &str| ignored.lines().any(|line| line == name);
    assert!(is_ignored(".env") && is_ignored(".git"));
    let workspace = read("Cargo.toml");
    for member in between(&workspace, "members = [", "]")
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
    {
        assert!(!is_ignored(member), ".dockerignore leaves out {member}");
    }
}

struct Dockerfile {
    path: &'static str,
    text: String,
}

impl Dockerfile {
    fn read(path: &'static str) -> Self {
        Self {
            path,
            text: read(path),
        }
    }

    /// The words of each instruction of this name.
    fn instructions(&self, name: &'static str) -> Vec<Vec<&str>> {
        self.text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<&str>>())
            .filter(|words| words.first() == Some(&name))
            .collect()
    }

    fn builds_and_runs_on_pinned_versions(&self) {
        let path = self.path;
        let toolchain = read("rust-toolchain.toml");
        let version = between(&toolchain, "channel = \"", "\"");
        let from = self.instructions("FROM");
        assert_eq!(from.len(), 2, "{path}: one to build in, one to run in");
        for base in &from {
            assert_pinned(base[1]);
        }
        assert_eq!(
            from[0][1],
            format!("rust:{version}-slim-bookworm"),
            "{path}"
        );
        assert!(
            from[1][1].starts_with("debian:12."),
            "{path}: bookworm too, or the C library is another"
        );
    }

    fn copies_only_what_is_there(&self) {
        for copy in self.instructions("COPY") {
            if copy[1].starts_with("--from=") {
                continue;
            }
            let mut sources = copy[1..copy.len() - 1].iter();
            assert!(
                sources.all(|source| root().join(source).exists()),
                "{}: {copy:?}",
                self.path
            );
        }
    }

    fn runs_the_program_that_it_builds(&self) {
        let (path, text) = (self.path, &self.text);
        let copies = self.instructions("COPY");
        let last = copies.last().expect("the program");
        let program = last[2].rsplit('/').next().expect("its name");
        assert!(
            text.contains(&format!("--bin {program}")),
            "{path}: {program} is not what was built"
        );
        assert!(
            text.contains(&format!("ENTRYPOINT [\"/usr/local/bin/{program}\"]")),
            "{path}"
        );
        let package = between(text, "--package ", " ");
        let manifests = [read("sidecar/Cargo.toml"), read("demo/Cargo.toml")].join("\n");
        assert!(
            manifests.contains(&format!("name = \"{package}\"")),
            "{path}: {package}"
        );
    }

    fn runs_as_the_user_of_its_services(&self) {
        let path = self.path;
        let users = self.instructions("USER");
        let user = users.first().unwrap_or_else(|| panic!("{path}: no user"))[1];
        for service in services()
            .values()
            .filter(|service| service["build"]["dockerfile"] == path)
        {
            assert_eq!(service["user"], user, "{path}");
        }
    }
}
