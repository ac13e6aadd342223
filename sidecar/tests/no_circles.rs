//! Files of a crate don't import each other in circles.
//!
//! A file imports another if it names something in its module, by `crate::`, `super::` or a module that it declares.
//! Declaring and re-exporting a module (`mod`, `pub use`) is no import, and neither are unit tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Module = Vec<String>;

/// The folders that hold a `lib.rs` or a `main.rs`: libraries, programs and tests of several files.
fn crates() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        if ["lib.rs", "main.rs"]
            .iter()
            .any(|file| folder.join(file).exists())
        {
            found.push(folder.clone());
        }
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        let subfolders = entries.filter(|entry| {
            let name = entry.file_name();
            let is_generated = name == "target" || name.as_encoded_bytes().starts_with(b".");
            entry.file_type().unwrap().is_dir() && !is_generated
        });
        folders.extend(subfolders.map(|entry| entry.path()));
    }
    found
}

/// Code by module. Programs in `bin/` are crates of their own.
fn modules(folder: &Path, at: &[String], found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut module = at.to_vec();
        match path.file_stem().unwrap().to_str().unwrap() {
            "bin" => continue,
            "mod" | "lib" | "main" => {}
            name => module.push(name.to_owned()),
        }
        if path.is_dir() {
            modules(&path, &module, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let code = code(&fs::read_to_string(&path).unwrap());
            found.entry(module).or_default().push_str(&code);
        }
    }
}

/// `text` without comments, unit tests and re-exports.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let lines: Vec<&str> = text.lines().filter(is_code).collect();
    let code = lines.join("\n");
    let is_import = |statement: &&str| !statement.trim_start().starts_with("pub use");
    let statements: Vec<&str> = code.split_inclusive(';').filter(is_import).collect();
    statements.concat()
}

/// All paths of at least two words, with groups written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> BTreeSet<Module> {
    let (mut found, mut rest) = (BTreeSet::new(), code);
    let (mut path, mut groups) = (Module::new(), Vec::new());
    while let Some(next) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if word > 0 {
            path.push(rest[..word].to_owned());
            rest = &rest[word..];
        } else if let Some(after) = rest.strip_prefix("::") {
            rest = after;
        } else {
            match next {
                '{' => groups.push(path.clone()),
                '}' => drop(groups.pop()),
                _ => {}
            }
            found.insert(path);
            path = groups.last().cloned().unwrap_or_default();
            rest = &rest[next.len_utf8()..];
        }
    }
    found.retain(|path| path.len() > 1);
    found
}

/// The file that has what `path` names in the file `at`, unless that is `at` itself or another crate.
fn file(at: &Module, path: &Module, modules: &BTreeMap<Module, String>) -> Option<Module> {
    let mut full = if path[0] == "crate" {
        Module::new()
    } else {
        at.clone()
    };
    for word in path {
        match word.as_str() {
            "crate" => {}
            "super" => drop(full.pop()),
            _ => full.push(word.clone()),
        }
    }
    while !modules.contains_key(&full) {
        full.pop()?;
    }
    (full != *at).then_some(full)
}

#[test]
fn no_circles_between_files() {
    let mut circular = Vec::new();
    let crates = crates();
    assert!(crates.len() > 15, "{crates:?}");
    for folder in crates {
        let mut found = BTreeMap::new();
        modules(&folder, &[], &mut found);
        let imports = |(at, code): (&Module, &String)| {
            let files = paths(code)
                .into_iter()
                .filter_map(|path| file(at, &path, &found));
            (at.clone(), files.collect())
        };
        let imports: BTreeMap<Module, BTreeSet<Module>> = found.iter().map(imports).collect();
        let reachable = |from: &Module| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(at) = next.pop() {
                next.extend(imports[at].iter().filter(|it| seen.insert((*it).clone())));
            }
            seen
        };
        for at in imports.keys().filter(|at| reachable(at).contains(*at)) {
            circular.push(format!("{}: {}", folder.display(), at.join("::")));
        }
    }
    assert!(circular.is_empty(), "{circular:#?}");
}
