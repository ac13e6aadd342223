//! A text becomes a tree of nodes.
//!
//! An alias is the node that its anchor names, with the lines of the anchor: that is where it is mended.

use super::mistake::{Mistake, line_at};
use super::node::{Content, Entry, Node, Object, Style};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

/// The most values in a document, with all aliases expanded.
const MAX_VALUES: usize = 1_000_000;
/// The most levels of lists and objects.
const MAX_DEPTH: usize = 100;

/// A text that could be read.
#[derive(Debug)]
pub struct Document {
    pub root: Rc<Node>,
    /// Keys that an object has twice. The last one counts.
    pub repeated: Vec<Mistake>,
    /// Tags that YAML itself does not define. They are ignored.
    pub tags: Vec<Mistake>,
    /// The line of a second document, which is not read.
    pub second: Option<usize>,
}

/// Reads one document. An empty text is null.
///
/// # Errors
/// The text is not YAML, has more than one document, or exceeds the limits of this module.
pub fn parse(text: &str) -> Result<Document, Mistake> {
    let document = parse_first(text)?;
    match document.second {
        Some(line) => Err(wrong(line, "a second document; there must be one")),
        None => Ok(document),
    }
}

/// Reads the first document and ignores the rest, as Envoy does.
///
/// # Errors
/// The first document is not YAML, or exceeds the limits of this module.
pub fn parse_first(text: &str) -> Result<Document, Mistake> {
    if let Some(place) = text.find('\0') {
        // The parser would take it for the end of the text.
        let line = line_at(text.as_bytes(), place);
        return Err(wrong(line, "not valid YAML: a NUL character"));
    }
    let mut builder = Builder::default();
    let mut second = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Mistake {
            line: error.marker().line(),
            message: format!("not valid YAML: {}", error.info()),
        })?;
        if matches!(event, Event::DocumentStart(_)) && builder.root.is_some() {
            second = Some(span.start.line());
            break;
        }
        builder.take(event, span)?;
    }
    Ok(Document {
        root: builder
            .root
            .unwrap_or_else(|| scalar(1, String::new(), Style::Plain)),
        repeated: builder.repeated,
        tags: builder.tags,
        second,
    })
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    repeated: Vec<Mistake>,
    tags: Vec<Mistake>,
    root: Option<Rc<Node>>,
}

/// A list or object that has not ended yet.
struct Open {
    line: usize,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Rc<Node>>),
    Object { entries: Object, key: Option<Key> },
}

/// A key whose value comes next.
struct Key {
    text: String,
    line: usize,
    is_ignored: bool,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Literal => Style::Literal,
                    ScalarStyle::Plain if !is_text(tag.as_ref()) => Style::Plain,
                    _ => Style::Text,
                };
                let is_ignored = tag.as_deref().is_some_and(is_ignore);
                self.check_tag(line, tag);
                self.place(scalar(line, text.into_owned(), style), line, anchor)?;
                if is_ignored {
                    self.ignore_key();
                }
                Ok(())
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| wrong(line, "an alias within its own anchor"))?;
                self.place(node, line, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(line, tag);
                self.begin(line, anchor, Items::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(line, tag);
                let (entries, key) = (Object::default(), None);
                self.begin(line, anchor, Items::Object { entries, key })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop();
                let open = open.ok_or_else(|| wrong(line, "ends more often than it begins"))?;
                let content = match open.items {
                    Items::List(items) => Content::List(items),
                    Items::Object { entries, .. } => Content::Object(entries),
                };
                let node = Rc::new(Node::new(open.line, content));
                self.place(node, open.line, open.anchor)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, line: usize, anchor: usize, items: Items) -> Result<(), Mistake> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_much(line));
        }
        self.open.push(Open {
            line,
            anchor,
            items,
        });
        Ok(())
    }

    /// Adds a complete node, written on `line`, to the list or object that is open.
    fn place(&mut self, node: Rc<Node>, line: usize, anchor: usize) -> Result<(), Mistake> {
        if self.open.len() + node.depth() > MAX_DEPTH || node.size() > MAX_VALUES {
            return Err(too_much(line));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.items {
            Items::List(items) => items.push(node),
            Items::Object { entries, key } => match key.take() {
                None => {
                    let text = node.text().ok_or_else(|| {
                        wrong(
                            line,
                            "a key that is a list or an object; it must be a string",
                        )
                    })?;
                    let text = text.to_owned();
                    *key = Some(Key {
                        text,
                        line,
                        is_ignored: false,
                    });
                }
                Some(Key {
                    text,
                    line,
                    is_ignored,
                }) => {
                    let entry = Entry {
                        key: text.clone(),
                        line,
                        value: node,
                        is_ignored,
                    };
                    if let Some(first) = entries.insert(entry) {
                        let message = format!(
                            "{text:?} is there twice, first in line {}; keep one",
                            first.line
                        );
                        self.repeated.push(Mistake { line, message });
                    }
                }
            },
        }
        Ok(())
    }

    /// Marks the key that was just placed, if it was one.
    fn ignore_key(&mut self) {
        if let Some(Open {
            items: Items::Object { key: Some(key), .. },
            ..
        }) = self.open.last_mut()
        {
            key.is_ignored = true;
        }
    }

    fn check_tag(&mut self, line: usize, tag: Option<Cow<'_, Tag>>) {
        if let Some(tag) = tag.filter(|tag| !is_standard(tag)) {
            let message = format!("the tag {tag} has no meaning here; leave it out");
            self.tags.push(Mistake { line, message });
        }
    }
}

fn scalar(line: usize, text: String, style: Style) -> Rc<Node> {
    Rc::new(Node::new(line, Content::Scalar { text, style }))
}

/// Whether a tag makes text of a plain scalar.
fn is_text(tag: Option<&Cow<'_, Tag>>) -> bool {
    tag.is_some_and(|tag| {
        is_non_specific(tag) || (tag.is_yaml_core_schema() && tag.suffix == "str")
    })
}

fn is_standard(tag: &Tag) -> bool {
    is_non_specific(tag) || tag.is_yaml_core_schema()
}

/// By which Envoy leaves out a key and its value.
fn is_ignore(tag: &Tag) -> bool {
    format!("{}{}", tag.handle, tag.suffix) == "!ignore"
}

/// A bare `!`.
fn is_non_specific(tag: &Tag) -> bool {
    format!("{}{}", tag.handle, tag.suffix) == "!"
}

fn too_much(line: usize) -> Mistake {
    wrong(
        line,
        &format!("more than {MAX_VALUES} values, or deeper than {MAX_DEPTH}"),
    )
}

fn wrong(line: usize, message: &str) -> Mistake {
    Mistake {
        line,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn root(text: &str) -> Rc<Node> {
        parse(text).expect(text).root
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
    fn scalars_are_what_they_look_like() {
        let root = root("[30s, 5, -1, 0.5, .inf, inf, 1e3, '5', yes, ~]");
        assert_eq!(
            root.value(),
            json!(["30s", 5, -1, 0.5, ".inf", "inf", 1000.0, "5", "yes", null])
        );
    }

    #[test]
    fn a_tag_of_yaml_makes_text_and_another_one_is_reported() {
        let document =
            parse("[!!str 5, !!int 5, ! 5, '5',\n !mine 5, !mine [], !mine {}]").unwrap();
        assert_eq!(document.root.value(), json!(["5", 5, "5", "5", 5, [], {}]));
        let lines: Vec<usize> = document.tags.iter().map(|tag| tag.line).collect();
        assert_eq!(lines, [2, 2, 2]);
        assert!(document.tags[0].message.contains("!mine"), "{document:?}");
    }

    #[test]
    fn a_key_that_is_there_twice_is_reported_and_the_last_one_counts() {
        let document = parse("a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(document.repeated[0].line, 3);
        assert_eq!(document.root.value(), json!({"a": 3, "b": 2}));
        assert_eq!(document.root.line_of("a"), 3);
    }

    #[test]
    fn keys_are_texts() {
        let root = root("1: a\n~: b\ntrue: c\n<<: {d: 1}\n? e\n: f\n");
        let wanted = json!({"1": "a", "~": "b", "true": "c", "<<": {"d": 1}, "e": "f"});
        assert_eq!(root.value(), wanted);
    }

    #[test]
    fn invalid_yaml_is_reported_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: [1,\n", 3),
            ("a: 1\n---\nb: 1\n", 2),
            ("a: *nothing\n", 1),
            ("a: 1\n[x]: 2\n", 2),
            ("a: &a [*a]\n", 1),
            ("a:\n\tb: 1\n", 2),
            ("a: 1\n b: 2\n", 2),
            ("a: 1\nb: 'x\0'\nc: 1\n", 2),
        ] {
            let mistake = parse(text).expect_err(text);
            assert_eq!(mistake.line, line, "{text:?}: {mistake:?}");
        }
    }

    #[test]
    fn the_first_of_several_documents_can_be_read_alone() {
        let document = parse_first("---\na: 1\n---\nb: [\n").unwrap();
        assert_eq!(document.root.value(), json!({"a": 1}));
        assert_eq!(document.second, Some(3));
        let empty = parse_first("---\n---\na: 1\n").unwrap();
        assert!(empty.root.is_null());
        assert_eq!(parse_first("a: 1\n").unwrap().second, None);
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
    fn many_keys_take_no_longer_than_their_number() {
        use std::fmt::Write;
        let mut text = String::new();
        for n in 0..20_000 {
            writeln!(text, "key{}: {n}", n % 15_000).unwrap();
        }
        let document = parse(&text).unwrap();
        assert_eq!(document.repeated.len(), 5_000);
        assert_eq!(document.root.line_of("key14999"), 15_000);
        assert_eq!(document.root.line_of("key0"), 15_001);
    }

    #[test]
    fn nothing_is_null() {
        for text in ["", "# nothing\n", "---\n", "---\n...\n"] {
            assert!(root(text).value().is_null(), "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_line_ends_of_windows_are_understood() {
        assert_eq!(root("\u{feff}a: 1\r\nb: 2\r\n").line_of("b"), 2);
    }
}
