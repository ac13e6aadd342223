//! The tokens of a statement, as `PostgreSQL` reads it
//! (<https://www.postgresql.org/docs/current/sql-syntax-lexical.html>).

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Whitespace,
    /// Without its end of line.
    LineComment,
    BlockComment,
    /// A string or a number.
    Literal,
    /// In double quotes.
    Name,
    Word,
    Semicolon,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub kind: Kind,
    /// Its end is missing, or can't be told without the server's settings. It is the last token then.
    pub is_open: bool,
}

/// The tokens of `statement`. Together they are its whole text.
pub fn tokens(statement: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = statement;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let (kind, end) = token(rest, first);
        let (text, behind) = rest.split_at(end.unwrap_or(rest.len()));
        rest = behind;
        Some(Token {
            text,
            kind,
            is_open: end.is_none(),
        })
    })
}

/// Where a token ends. `None`: its end is missing or not known.
type End = Option<usize>;

/// The token at the start of `rest`.
fn token(rest: &str, first: char) -> (Kind, End) {
    let bytes = rest.as_bytes();
    let until = |is_behind: fn(char) -> bool| Some(rest.find(is_behind).unwrap_or(rest.len()));
    match first {
        _ if first.is_ascii_whitespace() => {
            (Kind::Whitespace, until(|c: char| !c.is_ascii_whitespace()))
        }
        '-' if bytes.get(1) == Some(&b'-') => {
            (Kind::LineComment, until(|c: char| matches!(c, '\n' | '\r')))
        }
        '/' if bytes.get(1) == Some(&b'*') => (Kind::BlockComment, block_comment(bytes)),
        '\'' => (Kind::Literal, string(bytes, 1)),
        '"' => (Kind::Name, quoted_name(bytes)),
        '$' => dollar(rest),
        '0'..='9' => number(rest),
        ';' => (Kind::Semicolon, Some(1)),
        _ if is_word(first) => word(rest),
        _ => (Kind::Other, Some(first.len_utf8())),
    }
}

/// Whether `c` may be part of a name. Everything that is not ASCII may.
const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

/// A word, or a string that begins with letters: `E'...'`, `B'...'`, `U&'...'`.
fn word(rest: &str) -> (Kind, End) {
    let end = rest
        .find(|c: char| !is_word(c) && c != '$')
        .unwrap_or(rest.len());
    let bytes = rest.as_bytes();
    match (&rest[..end], bytes.get(end), bytes.get(end + 1)) {
        ("U" | "u", Some(b'&'), Some(b'\'')) => (Kind::Literal, string(bytes, end + 2)),
        (prefix, Some(b'\''), _) if prefix.len() == 1 => (Kind::Literal, string(bytes, end + 1)),
        _ => (Kind::Word, Some(end)),
    }
}

/// A number. What follows one with a dollar was read in several ways by the versions of the server.
fn number(rest: &str) -> (Kind, End) {
    let end = rest.find(|c: char| !is_word(c) && c != '.');
    let end = end.unwrap_or(rest.len());
    (
        Kind::Literal,
        (!rest[end..].starts_with('$')).then_some(end),
    )
}

/// A parameter (`$1`), a string in dollar quotes, or a lone dollar.
fn dollar(rest: &str) -> (Kind, End) {
    let end = rest[1..].find(|c: char| !is_word(c));
    let end = end.map_or(rest.len(), |end| end + 1);
    let name = &rest[1..end];
    let has_second = rest[end..].starts_with('$');
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        let is_parameter = !has_second && name.bytes().all(|byte| byte.is_ascii_digit());
        return if is_parameter {
            (Kind::Other, Some(end))
        } else {
            (Kind::Literal, None)
        };
    }
    if !has_second {
        return (Kind::Other, Some(end));
    }
    let (delimiter, text) = rest.split_at(end + 1);
    let closed = text.find(delimiter);
    (
        Kind::Literal,
        closed.map(|at| delimiter.len() + at + delimiter.len()),
    )
}

fn quoted_name(bytes: &[u8]) -> End {
    let mut at = 1;
    while at < bytes.len() {
        if bytes[at] == b'"' {
            if bytes.get(at + 1) != Some(&b'"') {
                return Some(at + 1);
            }
            at += 1;
        }
        at += 1;
    }
    None
}

/// The end of the string whose text begins at `at`. Whether a backslash before a quote escapes it depends on settings.
fn string(bytes: &[u8], mut at: usize) -> End {
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'\\', Some(b'\'')) => return None,
            (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// Block comments nest.
fn block_comment(bytes: &[u8]) -> End {
    let (mut at, mut depth) = (0, 0_u32);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds(statement: &str) -> Vec<(&str, Kind)> {
        tokens(statement)
            .map(|token| (token.text, token.kind))
            .filter(|(_, kind)| *kind != Kind::Whitespace)
            .collect()
    }

    #[test]
    fn strings_names_and_comments_end_where_the_server_ends_them() {
        for (statement, last) in [
            ("select 'it''s' x", "x"),
            ("select $a$ $b$ ' $$ $a$ x", "x"),
            ("select $1, x", "x"),
            ("select \"a\"\"'\" x", "x"),
            ("select a$b$ x", "x"),
            ("/* a /* b */ ' */ x", "x"),
            ("-- ' /*\rx", "x"),
            ("-- ' /*\nx", "x"),
        ] {
            let all = kinds(statement);
            assert_eq!(all.last(), Some(&(last, Kind::Word)), "{all:?}");
        }
        assert_eq!(
            kinds("a+/*b*/1;--c"),
            [
                ("a", Kind::Word),
                ("+", Kind::Other),
                ("/*b*/", Kind::BlockComment),
                ("1", Kind::Literal),
                (";", Kind::Semicolon),
                ("--c", Kind::LineComment),
            ]
        );
    }

    #[test]
    fn what_has_no_certain_end_takes_the_rest() {
        for statement in [
            "'a",
            "'a\\' b'",
            "E'a\\' b'",
            "\"a",
            "/* a",
            "/* a /* b */",
            "$a$ b",
            "$1a$ b $1a$",
            "1$a$ b $a$",
            "1a$b$ c $b$",
        ] {
            let all: Vec<Token<'_>> = tokens(statement).collect();
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].is_open, "{all:?}");
        }
    }

    proptest! {
        #[test]
        fn tokens_are_the_whole_text(text in "[a-zE'\"$\\\\/*\\-; 0-9é\r\n]{0,200}") {
            let all: String = tokens(&text).map(|token| token.text).collect();
            prop_assert_eq!(all, text);
        }
    }
}
