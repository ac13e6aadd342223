//! Links between pages.

use levee_pages::{Page, root};
use std::path::{Component, Path, PathBuf};

const INDEX: &str = "docs/README.md";

/// The path from the root that a link on a page leads to.
fn target_of(page: &Page, file: &str) -> PathBuf {
    let folder = Path::new(&page.name).parent().expect("a folder");
    let mut path = PathBuf::new();
    for part in folder.join(file).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {file} leaves the project", page.name),
            part => path.push(part),
        }
    }
    path
}

#[test]
fn each_link_leads_to_a_file_and_a_heading() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in Page::all() {
        for target in page.links() {
            if target.starts_with("https://") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => PathBuf::from(&page.name),
                file => target_of(&page, file),
            };
            let has_anchor = || {
                let page = Page::read(path.to_str().expect("a path in UTF-8"));
                page.anchors().contains(anchor)
            };
            if !root().join(&path).exists() || !anchor.is_empty() && !has_anchor() {
                wrong.push(format!("{}: {target}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 20, "{count}");
}

#[test]
fn the_index_lists_each_page_and_the_readme_leads_to_the_index() {
    let index = Page::read(INDEX);
    let listed: Vec<PathBuf> = index
        .links()
        .iter()
        .filter_map(|target| target.split('#').next())
        .map(|file| target_of(&index, file))
        .collect();
    for page in Page::all() {
        let is_page = page.name.starts_with("docs/") && !page.name.starts_with("docs/alerts/");
        assert!(
            !is_page || page.name == INDEX || listed.contains(&PathBuf::from(&page.name)),
            "{INDEX} does not list {}",
            page.name
        );
    }
    assert!(
        Page::read("README.md").links().contains(&INDEX.to_owned()),
        "README.md has no link to {INDEX}"
    );
}
