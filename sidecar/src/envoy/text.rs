//! The text format of Prometheus, as far as Envoy writes it.
//!
//! A line that is not understood is passed over: what another version of Envoy adds must not hide the rest.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>
//!
//! No crate does it: `prometheus-parse` takes labels apart by a regular expression that knows no escapes, and
//! `openmetrics-parser` is LGPL and refuses a page as a whole.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

use std::collections::BTreeMap;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// More labels than this make a line one that is not understood.
const MAX_LABELS: usize = 64;

/// One line that has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The series' name.
    pub name: &'a str,
    rest: &'a str,
}

/// The lines that have a value.
pub fn lines(page: &str) -> impl Iterator<Item = Line<'_>> {
    page.lines().filter_map(|line| {
        let line = line.trim_matches([' ', '\t']);
        let end = line.find(['{', ' ', '\t'])?;
        let (name, rest) = line.split_at(end);
        is_name(name, true).then_some(Line { name, rest })
    })
}

impl Line<'_> {
    /// Its labels and its value. A timestamp is left out: what is shown is shown now.
    pub fn read(&self) -> Option<(Labels, f64)> {
        let mut labels = Labels::new();
        let mut rest = self.rest.trim_start_matches([' ', '\t']);
        if let Some(inside) = rest.strip_prefix('{') {
            rest = read_labels(inside, &mut labels)?;
        }
        let mut words = rest.split_ascii_whitespace();
        let value = read_number(words.next()?)?;
        let is_stamp = |word: &str| word.parse::<i64>().is_ok();
        (words.next().is_none_or(is_stamp) && words.next().is_none()).then_some((labels, value))
    }
}

/// A number as Go writes it: `1`, `1.5e3`, `+Inf`, `NaN`.
pub fn read_number(word: &str) -> Option<f64> {
    word.parse().ok()
}

/// Reads `a="x",b="y"}`, and gives back what follows it.
fn read_labels<'a>(mut rest: &'a str, labels: &mut Labels) -> Option<&'a str> {
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end_matches([' ', '\t']);
        if !is_name(name, false) || labels.len() == MAX_LABELS {
            return None;
        }
        let (value, after) = read_text(after.trim_start_matches([' ', '\t']))?;
        if labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t']);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else if !rest.starts_with('}') {
            return None;
        }
    }
}

/// Reads a text in quotes, and gives back what follows it.
fn read_text(quoted: &str) -> Option<(String, &str)> {
    let inside = quoted.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = inside.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((text, &inside[at + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => text.push('\n'),
                escaped @ ('"' | '\\') => text.push(escaped),
                // As Prometheus reads it: an escape that it doesn't know is what it looks like.
                other => text.extend(['\\', other]),
            },
            (_, plain) => text.push(plain),
        }
    }
}

/// Whether it can be the name of a series, or of a label, which has no colons.
fn is_name(text: &str, colons: bool) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || colons && byte == b':';
    text.bytes().next().is_some_and(is_letter)
        && text
            .bytes()
            .all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Option<(String, Labels, f64)> {
        let line = lines(line).next()?;
        let (labels, value) = line.read()?;
        Some((line.name.to_owned(), labels, value))
    }

    fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn names_labels_values_and_escapes_are_read() {
        for (line, name, wanted, value) in [
            ("a 1", "a", labels([]), 1.0),
            (
                "  a_total{} 1.5e3 1700000000000",
                "a_total",
                labels([]),
                1500.0,
            ),
            (
                "a:b{service=\"x\\\"y\\\\z\\n\",k=\"},{\"} -2",
                "a:b",
                labels([("service", "x\"y\\z\n"), ("k", "},{")]),
                -2.0,
            ),
            ("a { b = \"c\" , } 3", "a", labels([("b", "c")]), 3.0),
            (
                "a{b=\"\\d\u{e9}\"} +Inf",
                "a",
                labels([("b", "\\d\u{e9}")]),
                f64::INFINITY,
            ),
            (
                "a 61.012346996675404398047248832881",
                "a",
                labels([]),
                61.012_346_996_675_404,
            ),
        ] {
            assert_eq!(read(line), Some((name.to_owned(), wanted, value)), "{line}");
        }
        assert!(read("a nan").is_some_and(|(_, _, value)| value.is_nan()));
        assert!(read("a NaN").is_some_and(|(_, _, value)| value.is_nan()));
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        for line in [
            "",
            "# TYPE a counter",
            "a",
            "a b",
            "a 1 2 3",
            "a 1 soon",
            "1a 1",
            "a{b=\"c} 1",
            "a{b=c} 1",
            "a{b=\"c\"d=\"e\"} 1",
            "a{b=\"1\",b=\"2\"} 1",
            "a{b:c=\"1\"} 1",
            "a{b=\"c\\",
            "a{",
            "a{b=\"1\"}",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
        let page = "a 1\nb{ 2\r\nc 3\n";
        let names: Vec<&str> = lines(page)
            .filter(|line| line.read().is_some())
            .map(|line| line.name)
            .collect();
        assert_eq!(names, ["a", "c"]);
    }

    proptest! {
        #[test]
        fn no_input_is_a_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for line in lines(&String::from_utf8_lossy(&bytes)) {
                let _ = line.read();
            }
        }

        #[test]
        fn what_was_written_is_read_again(value in "[^\\x00]{0,40}", number in any::<f64>()) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // A page is read line by line, and only \n ends a line.
            prop_assume!(!value.contains('\r'));
            let (_, found, parsed) = read(&format!("a{{b=\"{escaped}\"}} {number}")).unwrap();
            prop_assert_eq!(&found["b"], &value);
            prop_assert!(parsed.total_cmp(&number).is_eq() || number.is_nan() && parsed.is_nan());
        }
    }
}
