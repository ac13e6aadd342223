//! YAML (and so JSON) with the line of everything in it.
//!
//! An alias is the node that its anchor names, with the lines of the anchor: that is where it is mended.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// The most nodes of a document with all aliases written out.
const MAX_NODES: usize = 1_000_000;
/// The deepest that nodes may be within each other.
const MAX_DEPTH: usize = 100;

/// Something wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// A text that could be read.
#[derive(Debug)]
pub struct Document {
    /// What it says.
    pub root: Rc<Node>,
    /// Keys that an object has twice. The last one counts.
    pub repeated: Vec<Mistake>,
}

/// A value.
#[derive(Debug)]
pub struct Node {
    /// Where it begins, from 1.
    pub line: usize,
    content: Content,
    nodes: usize,
    depth: usize,
}

#[derive(Debug)]
enum Content {
    Scalar { text: String, style: ScalarStyle },
    List(Vec<Rc<Node>>),
    Object(Vec<Entry>),
}

#[derive(Debug)]
struct Entry {
    key: String,
    line: usize,
    value: Rc<Node>,
}

/// What an unfinished list or object has so far.
struct Open {
    line: usize,
    anchor: usize,
    content: Content,
    /// The key whose value comes next.
    key: Option<(String, usize)>,
}

/// Reads one document. An empty text is null.
///
/// # Errors
/// What is no YAML, more than one document, and more than the bounds of this module.
pub fn parse(text: &str) -> Result<Document, Mistake> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Mistake {
            line: error.marker().line(),
            message: format!("not valid YAML: {}", error.info()),
        })?;
        builder.take(event, span)?;
    }
    Ok(Document {
        root: builder
            .root
            .unwrap_or_else(|| Rc::new(Node::scalar(1, String::new(), ScalarStyle::Plain))),
        repeated: builder.repeated,
    })
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    repeated: Vec<Mistake>,
    root: Option<Rc<Node>>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let line = span.start.line();
        let wrong = |message: &str| Mistake {
            line,
            message: message.to_owned(),
        };
        match event {
            Event::Scalar(text, style, anchor, _) => self.place(
                Rc::new(Node::scalar(line, text.into_owned(), style)),
                line,
                anchor,
            ),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| wrong("an alias within its own anchor"))?;
                self.place(node, line, 0)
            }
            Event::SequenceStart(anchor, _) => self.begin(line, anchor, Content::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.begin(line, anchor, Content::Object(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().ok_or_else(|| wrong("ends too often"))?;
                let (line, anchor) = (open.line, open.anchor);
                self.place(Rc::new(Node::new(line, open.content)), line, anchor)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(wrong("a second document; there must be one"))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, line: usize, anchor: usize, content: Content) -> Result<(), Mistake> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_much(line));
        }
        self.open.push(Open {
            line,
            anchor,
            content,
            key: None,
        });
        Ok(())
    }

    /// Puts a finished node, written at `line`, where it belongs.
    fn place(&mut self, node: Rc<Node>, line: usize, anchor: usize) -> Result<(), Mistake> {
        if self.open.len() + node.depth > MAX_DEPTH || node.nodes > MAX_NODES {
            return Err(too_much(line));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.push(node),
            Content::Object(entries) => match open.key.take() {
                None => {
                    let Content::Scalar { text, .. } = &node.content else {
                        let message = "a key that is a list or an object; it must be a text";
                        return Err(Mistake {
                            line,
                            message: message.to_owned(),
                        });
                    };
                    open.key = Some((text.clone(), line));
                }
                Some((key, line)) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                        let message = format!(
                            "{key:?} is there twice, first in line {}; keep one",
                            first.line
                        );
                        self.repeated.push(Mistake { line, message });
                        entries.retain(|entry| entry.key != key);
                    }
                    entries.push(Entry {
                        key,
                        line,
                        value: node,
                    });
                }
            },
        }
        Ok(())
    }
}

fn too_much(line: usize) -> Mistake {
    Mistake {
        line,
        message: format!("more than {MAX_NODES} values, or deeper than {MAX_DEPTH}"),
    }
}

impl Node {
    fn new(line: usize, content: Content) -> Self {
        let (mut nodes, mut depth) = (1_usize, 0);
        let mut add = |node: &Self| {
            nodes = nodes.saturating_add(node.nodes);
            depth = depth.max(node.depth);
        };
        match &content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter().for_each(|item| add(item)),
            Content::Object(entries) => entries.iter().for_each(|entry| add(&entry.value)),
        }
        Self {
            line,
            content,
            nodes,
            depth: depth + 1,
        }
    }

    fn scalar(line: usize, text: String, style: ScalarStyle) -> Self {
        Self::new(line, Content::Scalar { text, style })
    }

    /// Whether it is a text written as it is, line by line (`|`), which begins in the line after its own.
    pub fn is_block(&self) -> bool {
        matches!(&self.content, Content::Scalar { style, .. } if *style == ScalarStyle::Literal)
    }

    fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, style: ScalarStyle::Plain } if plain(text).is_null())
    }

    /// The same without lines. A plain text becomes null, a truth value or a number where it looks like one.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar { text, style } if *style == ScalarStyle::Plain => plain(text),
            Content::Scalar { text, .. } => Value::String(text.clone()),
            Content::List(items) => items.iter().map(|item| item.value()).collect(),
            Content::Object(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The line of what `path` names (`redis[0].listen`), or of the nearest thing around it that is there.
    /// Names may have dots in them.
    pub fn line_of(&self, path: &str) -> usize {
        self.line_from(self.line, path)
    }

    fn line_from(&self, line: usize, path: &str) -> usize {
        let (mut node, mut line, mut rest) = (self, line, path);
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let next = match &node.content {
                Content::Scalar { .. } => None,
                Content::List(items) => item_in(items, rest),
                Content::Object(entries) => entry_in(entries, rest),
            };
            let Some((inner, inner_line, inner_rest)) = next else {
                return line;
            };
            (node, line, rest) = (inner, inner_line, inner_rest);
        }
    }
}

/// The item that `path` begins with, its line, and the rest of the path.
fn item_in<'a, 'p>(items: &'a [Rc<Node>], path: &'p str) -> Option<(&'a Node, usize, &'p str)> {
    let (place, rest) = path.strip_prefix('[')?.split_once(']')?;
    let item = items.get(place.parse::<usize>().ok()?)?;
    Some((item, item.line, rest))
}

/// The entry with the longest key that `path` begins with, its line, and the rest of the path.
fn entry_in<'a, 'p>(entries: &'a [Entry], path: &'p str) -> Option<(&'a Node, usize, &'p str)> {
    let fits = |entry: &'a Entry| {
        let rest = path.strip_prefix(entry.key.as_str())?;
        let is_whole = rest.is_empty() || rest.starts_with(['.', '[']);
        is_whole.then_some((entry, rest))
    };
    let (entry, rest) = entries
        .iter()
        .filter_map(fits)
        .max_by_key(|(entry, _)| entry.key.len())?;
    Some((&entry.value, entry.line, rest))
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::from(number);
    }
    // `inf` and `nan` are numbers for Rust alone.
    let is_number = text.ends_with(|last: char| last.is_ascii_digit() || last == '.');
    let number = text.parse::<f64>().ok().filter(|_| is_number);
    number
        .and_then(Number::from_f64)
        .map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// A node of a document, and how one gets there.
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

    /// What an object has at this key, unless that is null. Protobuf's JSON has two ways to write one:
    /// `connect_timeout` and `connectTimeout`.
    pub fn get(&self, key: &str) -> Option<Self> {
        let Content::Object(entries) = &self.node.content else {
            return None;
        };
        let is_it = |entry: &&Entry| entry.key == key || entry.key == camel_case(key);
        let entry = entries.iter().find(is_it)?;
        (!entry.value.is_null()).then(|| self.entry(entry))
    }

    /// [`get`](Self::get) for keys within keys: `"a.b.c"`.
    pub fn find(&self, path: &str) -> Option<Self> {
        path.split('.')
            .try_fold(self.clone(), |at, key| at.get(key))
    }

    /// All items of a list; none if it is no list.
    pub fn items(&self) -> Vec<Self> {
        let Content::List(items) = &self.node.content else {
            return Vec::new();
        };
        let item = |(place, node): (usize, &'a Rc<Node>)| Self {
            node,
            line: node.line,
            path: format!("{}[{place}]", self.path),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// All items of the list at `path`.
    pub fn list(&self, path: &str) -> Vec<Self> {
        self.find(path).map_or_else(Vec::new, |at| at.items())
    }

    /// All values of an object, with their keys; none if it is no object.
    pub fn entries(&self) -> Vec<(&'a str, Self)> {
        let Content::Object(entries) = &self.node.content else {
            return Vec::new();
        };
        entries
            .iter()
            .map(|entry| (entry.key.as_str(), self.entry(entry)))
            .collect()
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The text of the scalar at `path`.
    pub fn text_at(&self, path: &str) -> Option<&'a str> {
        self.find(path).and_then(|at| at.text())
    }

    /// Whether `path` is there and says true.
    pub fn is_true(&self, path: &str) -> bool {
        self.text_at(path) == Some("true")
    }

    /// The line of what `path` names within it, or of the nearest thing around that.
    pub fn line_of(&self, path: &str) -> usize {
        self.node.line_from(self.line, path)
    }

    /// The node itself.
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
    use serde_json::json;

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
            // What is not there is in the nearest thing that is.
            ("a.nothing.at.all", 2),
            ("a.list[7].x", 4),
            ("a.b.c", 3),
            ("other", 2),
        ] {
            assert_eq!(root.line_of(path), line, "{path}");
        }
        let at = At::root(&root).find("a.list").unwrap();
        let lines: Vec<usize> = at.items().iter().map(|item| item.line).collect();
        assert_eq!((at.line, lines), (4, vec![5, 7]));
    }

    #[test]
    fn the_longest_name_that_fits_is_the_one_that_is_meant() {
        let root = root("svc: {a: 1}\nsvc.local: {a: 2}\nsvc.loc: {a: 3}\n");
        assert_eq!(root.line_of("svc.local.a"), 2);
        assert_eq!(root.line_of("svc.lo.a"), 1);
    }

    #[test]
    fn an_alias_is_its_anchor() {
        let root = root("one: &limits {max: 3,\n  min: 1}\ntwo: *limits\n");
        let at = At::root(&root).find("two.min").unwrap();
        assert_eq!((at.line, at.path.as_str()), (2, "two.min"));
        assert_eq!(At::root(&root).find("two").unwrap().line, 3);
    }

    #[test]
    fn json_is_yaml() {
        let root = root("{\n\t\"a\": [1, 2.5, \"3\", true, null],\n\t\"b\": {}\n}\n");
        assert_eq!(
            root.value(),
            json!({"a": [1, 2.5, "3", true, null], "b": {}})
        );
        assert_eq!(root.line_of("b"), 3);
    }

    #[test]
    fn both_ways_to_write_a_key_of_protobuf_are_understood() {
        let root = root("connectTimeout: 1s\nmerge_slashes: true\nempty: ~\n");
        let at = At::root(&root);
        assert_eq!(at.text_at("connect_timeout"), Some("1s"));
        assert!(at.is_true("merge_slashes") && at.get("empty").is_none());
    }

    #[test]
    fn scalars_are_what_they_look_like() {
        let root = root("[30s, 5, -1, 0.5, .inf, inf, 1e3, '5', yes, ~]");
        assert_eq!(
            root.value(),
            json!(["30s", 5, -1, 0.5, ".inf", "inf", 1000.0, "5", "yes", null])
        );
    }

    #[test]
    fn a_key_that_is_there_twice_is_told_and_the_last_one_counts() {
        let document = parse("a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(document.repeated[0].line, 3);
        assert_eq!(document.root.value(), json!({"a": 3, "b": 2}));
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: [1,\n", 3),
            ("a: 1\n---\nb: 1\n", 2),
            ("a: *nothing\n", 1),
            ("a: 1\n[x]: 2\n", 2),
            ("a: &a [*a]\n", 1),
        ] {
            let mistake = parse(text).expect_err(text);
            assert_eq!(mistake.line, line, "{text:?}: {mistake:?}");
        }
    }

    #[test]
    fn what_would_grow_without_bound_is_refused() {
        use std::fmt::Write;
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let before = format!("*a{}, ", n - 1).repeat(10);
            writeln!(bomb, "a{n}: &a{n} [{before}]").unwrap();
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&"[".repeat(5000)).is_err());
        assert!(parse(&"a: {".repeat(5000)).is_err());
    }

    #[test]
    fn nothing_is_null() {
        for text in ["", "# nothing\n", "---\n"] {
            assert!(root(text).value().is_null(), "{text:?}");
        }
    }
}
