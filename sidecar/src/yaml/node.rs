//! A value of a document, and the lines of what it contains.

use super::scalar;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// A value.
#[derive(Debug)]
pub struct Node {
    /// Where it begins, from 1.
    pub line: usize,
    content: Content,
    size: usize,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar { text: String, style: Style },
    List(Vec<Rc<Node>>),
    Object(Object),
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes: a number, a truth value or null where it looks like one.
    Plain,
    /// Text, whatever it looks like.
    Text,
    /// Text after `|`, which begins on the line after its own.
    Literal,
}

/// Entries in the order in which they are written; each key once.
#[derive(Debug, Default)]
pub(super) struct Object {
    entries: Vec<Entry>,
    places: HashMap<String, usize>,
}

/// A key with its value.
#[derive(Debug)]
pub struct Entry {
    pub key: String,
    /// The line of the key, from 1.
    pub line: usize,
    pub value: Rc<Node>,
    /// The key has the tag `!ignore`, by which Envoy leaves out both.
    pub is_ignored: bool,
}

impl Object {
    /// Adds an entry. One of the same key is replaced and returned.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        if let Some(known) = self
            .places
            .get(&entry.key)
            .and_then(|place| self.entries.get_mut(*place))
        {
            return Some(std::mem::replace(known, entry));
        }
        self.places.insert(entry.key.clone(), self.entries.len());
        self.entries.push(entry);
        None
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        self.places
            .get(key)
            .and_then(|place| self.entries.get(*place))
    }

    /// The entry with the longest key that `path` begins with, and the rest of the path.
    fn longest_prefix<'p>(&self, path: &'p str) -> Option<(&Entry, &'p str)> {
        let ends = path.rmatch_indices(['.', '[']).map(|(end, _)| end);
        std::iter::once(path.len())
            .chain(ends)
            .filter_map(|end| path.split_at_checked(end))
            .find_map(|(key, rest)| self.get(key).map(|entry| (entry, rest)))
    }
}

impl Node {
    pub(super) fn new(line: usize, content: Content) -> Self {
        let (mut size, mut depth) = (1_usize, 0);
        let mut add = |node: &Self| {
            size = size.saturating_add(node.size);
            depth = depth.max(node.depth);
        };
        match &content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter().for_each(|item| add(item)),
            Content::Object(object) => object.entries.iter().for_each(|entry| add(&entry.value)),
        }
        Self {
            line,
            content,
            size,
            depth: depth + 1,
        }
    }

    /// The number of values in it, itself included, with all aliases expanded.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// The number of levels in it, itself included.
    pub(super) const fn depth(&self) -> usize {
        self.depth
    }

    /// Whether it is text after `|`, which begins on the line after its own.
    pub fn is_literal(&self) -> bool {
        matches!(&self.content, Content::Scalar { style, .. } if *style == Style::Literal)
    }

    /// Whether it is null, or nothing is written.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, style: Style::Plain } if scalar::resolve(text).is_null())
    }

    /// The text of a scalar, as written.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The items of a list; none if it is not a list.
    pub fn items(&self) -> &[Rc<Self>] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The entries of an object; none if it is not an object.
    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Object(object) => &object.entries,
            _ => &[],
        }
    }

    /// The entry of an object at `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Object(object) => object.get(key),
            _ => None,
        }
    }

    /// Whether it is an object, which may be empty.
    pub const fn is_object(&self) -> bool {
        matches!(self.content, Content::Object(_))
    }

    /// Whether it is a list, which may be empty.
    pub const fn is_list(&self) -> bool {
        matches!(self.content, Content::List(_))
    }

    /// The value without lines.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar {
                text,
                style: Style::Plain,
            } => scalar::resolve(text),
            Content::Scalar { text, .. } => Value::String(text.clone()),
            Content::List(items) => items.iter().map(|item| item.value()).collect(),
            Content::Object(object) => Value::Object(
                object
                    .entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The line of the value at `path`, such as `redis[0].listen`, or of its closest ancestor that exists.
    /// Keys may contain dots.
    pub fn line_of(&self, path: &str) -> usize {
        self.line_from(self.line, path)
    }

    /// The same for a node whose key is on `line`.
    pub fn line_from(&self, line: usize, path: &str) -> usize {
        let (mut node, mut line, mut rest) = (self, line, path);
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let next = match &node.content {
                Content::Scalar { .. } => None,
                Content::List(items) => item_at(items, rest),
                Content::Object(object) => object
                    .longest_prefix(rest)
                    .map(|(entry, rest)| (&*entry.value, entry.line, rest)),
            };
            let Some((inner, inner_line, inner_rest)) = next else {
                return line;
            };
            (node, line, rest) = (inner, inner_line, inner_rest);
        }
    }
}

/// The item that `path` begins with, its line, and the rest of the path.
fn item_at<'a, 'p>(items: &'a [Rc<Node>], path: &'p str) -> Option<(&'a Node, usize, &'p str)> {
    let (place, rest) = path.strip_prefix('[')?.split_once(']')?;
    let item = items.get(place.parse::<usize>().ok()?)?;
    Some((item, item.line, rest))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn root(text: &str) -> Rc<Node> {
        parse(text).expect(text).root
    }

    #[test]
    fn everything_knows_its_line() {
        let root = root(
            "# comment\na:\n  b: 1\n  list:\n    - x: 1\n      y: 2\n    - {x: 3,\n       y: 4}\n  'c.d': {e: 5}\n",
        );
        for (path, line) in [
            ("a", 2),
            ("a.b", 3),
            ("a.list[0]", 5),
            ("a.list[0].y", 6),
            ("a.list[1].y", 8),
            ("a.c.d.e", 9),
            // What is not there is in the closest thing that is.
            ("a.nothing.at.all", 2),
            ("a.list[7].x", 4),
            ("a.b.c", 3),
            ("other", 2),
        ] {
            assert_eq!(root.line_of(path), line, "{path}");
        }
    }

    #[test]
    fn the_longest_name_that_fits_is_the_one_that_is_meant() {
        let root = root("svc: {a: 1}\nsvc.local: {a: 2}\nsvc.loc: {a: 3}\n'a[0]': 1\n'': 2\n");
        assert_eq!(root.line_of("svc.local.a"), 2);
        assert_eq!(root.line_of("svc.lo.a"), 1);
        assert_eq!(root.line_of("a[0]"), 4);
        assert_eq!(root.line_of(""), 5);
    }
}
