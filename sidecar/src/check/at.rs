//! A cursor into a document that knows its path, for configurations whose keys are those of protobuf.

use crate::yaml::Node;
use crate::yaml::node::Entry;
use std::time::Duration;

/// A node of a document, and the path to it.
#[derive(Clone, Debug)]
pub struct At<'a> {
    node: &'a Node,
    /// Where it is written: at its key, if it has one. From 1.
    pub line: usize,
    /// `static_resources.listeners[0]`; empty for the whole document.
    pub path: String,
}

impl<'a> At<'a> {
    /// The whole document.
    pub fn root(node: &'a Node) -> Self {
        Self {
            node,
            line: node.line,
            path: String::new(),
        }
    }

    /// The value of an object at this key, unless that is null. Protobuf's JSON has two spellings:
    /// `connect_timeout` and `connectTimeout`.
    pub fn get(&self, key: &str) -> Option<Self> {
        let entry = self
            .node
            .get(key)
            .or_else(|| self.node.get(&camel_case(key)))?;
        (!entry.value.is_null() && !entry.is_ignored).then(|| self.entry(entry))
    }

    /// [`get`](Self::get) for keys within keys: `"a.b.c"`.
    pub fn find(&self, path: &str) -> Option<Self> {
        path.split('.')
            .try_fold(self.clone(), |at, key| at.get(key))
    }

    /// All items of a list. Where a list belongs, Envoy takes a single value for a list of one.
    pub fn items(&self) -> Vec<Self> {
        if !self.node.is_list() {
            return vec![self.clone()];
        }
        let items = self.node.items().iter().enumerate();
        items
            .map(|(place, node)| Self {
                node,
                line: node.line,
                path: format!("{}[{place}]", self.path),
            })
            .collect()
    }

    /// All items of the list at `path`.
    pub fn list(&self, path: &str) -> Vec<Self> {
        self.find(path).map_or_else(Vec::new, |at| at.items())
    }

    /// All values of an object, with their keys; none if it is not an object.
    pub fn entries(&self) -> Vec<(&'a str, Self)> {
        let entries = self.node.entries().iter();
        entries
            .filter(|entry| !entry.is_ignored)
            .map(|entry| (entry.key.as_str(), self.entry(entry)))
            .collect()
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&'a str> {
        self.node.text()
    }

    /// The text of the scalar at `path`.
    pub fn text_at(&self, path: &str) -> Option<&'a str> {
        self.find(path).and_then(|at| at.text())
    }

    /// Whether `path` exists and is true.
    pub fn is_true(&self, path: &str) -> bool {
        self.text_at(path) == Some("true")
    }

    /// A duration in protobuf's JSON: `0.250s`.
    pub fn duration(&self) -> Option<Duration> {
        let seconds = self.text()?.strip_suffix('s')?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Whether it is a duration of zero.
    pub fn is_zero(&self) -> bool {
        self.duration().is_some_and(|duration| duration.is_zero())
    }

    pub fn number(&self) -> Option<f64> {
        self.text()?.parse().ok()
    }

    /// The line of the value at `path` within it, or of its closest ancestor that exists.
    pub fn line_of(&self, path: &str) -> usize {
        self.node.line_from(self.line, path)
    }

    pub const fn is_object(&self) -> bool {
        self.node.is_object()
    }

    pub const fn node(&self) -> &'a Node {
        self.node
    }

    fn entry(&self, entry: &'a Entry) -> Self {
        let path = if self.path.is_empty() {
            entry.key.clone()
        } else {
            format!("{}.{}", self.path, entry.key)
        };
        Self {
            node: &entry.value,
            line: entry.line,
            path,
        }
    }
}

fn camel_case(key: &str) -> String {
    let mut words = key.split('_');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;
    use std::rc::Rc;

    fn root(text: &str) -> Rc<Node> {
        parse(text).expect(text).root
    }

    #[test]
    fn items_have_their_own_lines_and_a_list_that_of_its_key() {
        let root = root(
            "# comment\na:\n  b: 1\n  list:\n    - x: 1\n      y: 2\n    - {x: 3,\n       y: 4}\n",
        );
        let at = At::root(&root).find("a.list").unwrap();
        let lines: Vec<usize> = at.items().iter().map(|item| item.line).collect();
        assert_eq!((at.line, lines), (4, vec![5, 7]));
    }

    #[test]
    fn an_alias_is_its_anchor() {
        let root = root("one: &limits {max: 3,\n  min: 1}\ntwo: *limits\n");
        let at = At::root(&root).find("two.min").unwrap();
        assert_eq!((at.line, at.path.as_str()), (2, "two.min"));
        assert_eq!(At::root(&root).find("two").unwrap().line, 3);
    }

    #[test]
    fn both_ways_to_write_a_key_of_protobuf_are_understood() {
        let root = root("connectTimeout: 1s\nmerge_slashes: true\nempty: ~\n");
        let at = At::root(&root);
        assert_eq!(at.text_at("connect_timeout"), Some("1s"));
        assert!(at.is_true("merge_slashes") && at.get("empty").is_none());
    }
}
