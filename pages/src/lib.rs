//! Pages, sections, tables and examples of README.md and `docs/`, for the tests that compare them with the code.
//!
//! Every function panics if what it looks for is missing and says where it looked: its callers are tests.
#![allow(clippy::missing_panics_doc)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A Markdown file, or a section of one.
#[derive(Clone, Debug)]
pub struct Page {
    /// The path from the project's root.
    pub name: String,
    pub text: String,
    /// The lines of the file before `text`.
    lines_before: usize,
}

/// The text between two fences.
#[derive(Clone, Debug)]
pub struct Example {
    /// `docs/reference/filter.md:12`.
    pub at: String,
    pub language: String,
    pub text: String,
}

/// A row of a table.
#[derive(Clone, Debug)]
pub struct Row {
    pub text: String,
}

/// The folder that README.md is in.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the project's root")
}

impl Page {
    /// The page at a path from the project's root, such as `docs/reference/filter.md`.
    pub fn read(name: &str) -> Self {
        let text = fs::read_to_string(root().join(name));
        Self {
            name: name.to_owned(),
            text: text.unwrap_or_else(|error| panic!("{name}: {error}")),
            lines_before: 0,
        }
    }

    /// All Markdown files of the project, sorted by name. Folders that are built or downloaded are skipped.
    pub fn all() -> Vec<Self> {
        let mut names = Vec::new();
        markdown_below(&root(), "", &mut names);
        names.sort();
        assert!(names.len() > 10, "{names:?}");
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// The text between this heading, of any level, and the next one of the same or a higher level.
    #[must_use]
    pub fn section(&self, heading: &str) -> Self {
        let headings = self.headings();
        let (place, &(start, level, _)) = headings
            .iter()
            .enumerate()
            .find(|(_, (_, _, text))| *text == heading)
            .unwrap_or_else(|| panic!("{} has no heading {heading:?}", self.name));
        let mut following = headings[place + 1..].iter();
        let end = following.find(|(_, next, _)| *next <= level);
        let lines: Vec<&str> = self.text.lines().collect();
        let end = end.map_or(lines.len(), |(line, _, _)| *line);
        Self {
            name: self.name.clone(),
            text: lines[start + 1..end].join("\n") + "\n",
            lines_before: self.lines_before + start + 1,
        }
    }

    /// Line, level and text of each heading.
    fn headings(&self) -> Vec<(usize, usize, &str)> {
        let mut is_fenced = false;
        let mut found = Vec::new();
        for (number, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_fenced = !is_fenced;
            } else if !is_fenced && line.starts_with('#') {
                let text = line.trim_start_matches('#');
                found.push((number, line.len() - text.len(), text.trim()));
            }
        }
        found
    }

    /// The anchors that GitHub makes of the headings.
    pub fn anchors(&self) -> BTreeSet<String> {
        let anchor = |text: &str| {
            let text = text.to_lowercase();
            let kept = text
                .chars()
                .filter(|char| char.is_alphanumeric() || "-_ ".contains(*char));
            kept.map(|char| if char == ' ' { '-' } else { char })
                .collect()
        };
        let headings = self.headings().into_iter();
        headings.map(|(_, _, text)| anchor(text)).collect()
    }

    /// The rows of the first table whose first column is headed `head`.
    pub fn rows(&self, head: &str) -> Vec<Row> {
        let start = format!("| {head} |");
        let mut lines = self.text.lines();
        let is_there = lines.any(|line| line.starts_with(&start));
        assert!(is_there, "{} has no table {start}", self.name);
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        let rows: Vec<Row> = rows
            .map(|row| Row {
                text: row.to_owned(),
            })
            .collect();
        assert!(!rows.is_empty(), "{}: {start} has no rows", self.name);
        rows
    }

    /// What is between fences, and the text without it.
    fn parts(&self) -> (Vec<Example>, String) {
        let (mut examples, mut prose) = (Vec::new(), String::new());
        let mut open: Option<Example> = None;
        for (line, number) in self.text.lines().zip(self.lines_before + 1..) {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => examples.extend(open.take()),
                (Some(language), None) => {
                    open = Some(Example {
                        at: format!("{}:{number}", self.name),
                        language: language.trim().to_owned(),
                        text: String::new(),
                    });
                }
                (None, Some(example)) => {
                    example.text.push_str(line);
                    example.text.push('\n');
                }
                (None, None) => {
                    prose.push_str(line);
                    prose.push('\n');
                }
            }
        }
        assert!(open.is_none(), "{}: a fence is left open", self.name);
        (examples, prose)
    }

    /// All examples in this language.
    pub fn examples(&self, language: &str) -> Vec<Example> {
        let (mut examples, _) = self.parts();
        examples.retain(|example| example.language == language);
        examples
    }

    /// The first example in this language.
    pub fn example(&self, language: &str) -> Example {
        let mut examples = self.examples(language).into_iter();
        let first = examples.next();
        first.unwrap_or_else(|| panic!("{} has no example in {language}", self.name))
    }

    /// The text outside of fences.
    pub fn prose(&self) -> String {
        self.parts().1
    }

    /// What stands in backquotes in the text outside of fences.
    pub fn quoted(&self) -> Vec<String> {
        codes(&self.prose())
    }

    /// The targets of the links in the text outside of fences: `../reference/filter.md#fallbacks`.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1);
        targets
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target.to_owned())
            .collect()
    }
}

impl Row {
    /// A cell, counted from 0.
    pub fn cell(&self, column: usize) -> &str {
        let cell = self.text.split('|').nth(column + 1);
        cell.unwrap_or_else(|| panic!("no column {column}: {}", self.text))
            .trim()
    }

    /// What stands in backquotes in a cell.
    pub fn codes(&self, column: usize) -> Vec<String> {
        codes(self.cell(column))
    }
}

fn codes(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.map(|code| code.replace('\n', " ")).collect()
}

fn markdown_below(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{prefix}: {error}"));
    for entry in entries {
        let path = entry.expect("an entry of a folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            markdown_below(&path, &format!("{prefix}{name}/"), names);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            names.push(format!("{prefix}{name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page {
            name: "page.md".to_owned(),
            text: text.to_owned(),
            lines_before: 0,
        }
    }

    #[test]
    fn a_section_ends_at_the_next_heading_of_its_level_and_not_at_a_comment_in_an_example() {
        let page = page("# A\n## B\none\n```sh\n# two\n```\n### C\nthree\n## D\nfour\n");
        let section = page.section("B");
        assert_eq!(section.text, "one\n```sh\n# two\n```\n### C\nthree\n");
        assert_eq!(section.example("sh").at, "page.md:4");
        assert_eq!(page.section("D").text, "four\n");
        assert_eq!(page.section("A").prose().matches("four").count(), 1);
    }

    #[test]
    fn a_table_is_found_by_the_head_of_its_first_column() {
        let page =
            page("| a | b |\n|---|---|\n| 1 | 2 |\n\n| key | b |\n|---|---|\n| `x`, `y` | `z` |\n");
        let rows = page.rows("key");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].codes(0), ["x", "y"]);
        assert_eq!(rows[0].cell(1), "`z`");
    }

    #[test]
    fn anchors_are_those_that_github_makes() {
        let anchors = page("# What it's for: all\n```\n# no\n```\n").anchors();
        assert_eq!(
            anchors.into_iter().collect::<Vec<_>>(),
            ["what-its-for-all"]
        );
    }
}
