//! A statement without its values, for logs that must not show users' data.

/// The longest fingerprint, in bytes.
const LONGEST: usize = 300;

/// `statement` without literals and comments, and with each run of whitespace as one blank. What is not understood is
/// masked (<https://www.postgresql.org/docs/current/sql-syntax-lexical.html>).
pub fn fingerprint(statement: &str) -> String {
    let mut out = String::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        if out.len() >= LONGEST {
            out.push_str("...");
            break;
        }
        let token = token(rest, first);
        let text = &rest[..token.length];
        rest = &rest[token.length..];
        match token.shown {
            Shown::AsIs => out.push_str(text),
            Shown::Literal => out.push('?'),
            Shown::Blank if !out.is_empty() && !out.ends_with(' ') => out.push(' '),
            Shown::Blank => {}
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Whether `c` may be part of a name. Everything that is not ASCII may.
const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

/// A piece of a statement.
struct Token {
    length: usize,
    shown: Shown,
}

enum Shown {
    AsIs,
    Literal,
    Blank,
}

/// The token at the start of `rest`.
fn token(rest: &str, first: char) -> Token {
    let bytes = rest.as_bytes();
    let (length, shown) = match first {
        _ if first.is_ascii_whitespace() => (first.len_utf8(), Shown::Blank),
        '-' if bytes.get(1) == Some(&b'-') => (
            rest.find('\n').map_or(rest.len(), |end| end + 1),
            Shown::Blank,
        ),
        '/' if bytes.get(1) == Some(&b'*') => (block_comment(bytes), Shown::Blank),
        // Whether a backslash escapes depends on the server's settings. Masking under both readings never leaks a literal.
        '\'' => (quoted(bytes, 1, b'\''), Shown::Literal),
        '"' => (identifier(bytes), Shown::AsIs),
        '$' => return dollar(rest),
        '0'..='9' => (
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_')
                .unwrap_or(rest.len()),
            Shown::Literal,
        ),
        _ if is_word(first) => return word(rest),
        _ => (first.len_utf8(), Shown::AsIs),
    };
    Token { length, shown }
}

/// A word, or a literal that begins with letters: `E'...'`, `B'...'`, `U&'...'`.
fn word(rest: &str) -> Token {
    let end = rest
        .find(|c: char| !is_word(c) && c != '$')
        .unwrap_or(rest.len());
    let bytes = rest.as_bytes();
    let (length, shown) = match (&rest[..end], bytes.get(end), bytes.get(end + 1)) {
        ("U" | "u", Some(b'&'), Some(b'\'')) => (quoted(bytes, end + 2, b'\''), Shown::Literal),
        (prefix, Some(b'\''), _) if prefix.len() == 1 => {
            (quoted(bytes, end + 1, b'\''), Shown::Literal)
        }
        _ => (end, Shown::AsIs),
    };
    Token { length, shown }
}

/// A parameter (`$1`), a string in dollar quotes, or a lone dollar.
fn dollar(rest: &str) -> Token {
    let tag = rest[1..]
        .find(|c: char| !is_word(c))
        .map_or(rest.len(), |end| end + 1);
    if rest[tag..].starts_with('$') && !rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
        let delimiter = &rest[..=tag];
        let end = rest[tag + 1..]
            .find(delimiter)
            .map_or(rest.len(), |end| tag + 1 + end + delimiter.len());
        return Token {
            length: end,
            shown: Shown::Literal,
        };
    }
    Token {
        length: tag,
        shown: Shown::AsIs,
    }
}

fn identifier(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        if bytes[at] == b'"' {
            if bytes.get(at + 1) != Some(&b'"') {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

/// The end of the literal whose text begins at `at`. After a backslash before a quote, it is unknown whether the literal
/// continues; then everything that follows counts as part of it.
fn quoted(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() {
        if bytes[at] == b'\\' && bytes[at..].contains(&quote) && bytes.get(at + 1) == Some(&quote) {
            return bytes.len();
        }
        if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

/// Block comments nest.
fn block_comment(bytes: &[u8]) -> usize {
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
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_are_not_shown() {
        for (statement, shown) in [
            (
                "SELECT * FROM t WHERE a = 'secret' AND b=12.5e3",
                "SELECT * FROM t WHERE a = ? AND b=?",
            ),
            ("select 'it''s', 1", "select ?, ?"),
            ("select E'it\\'s secret', x", "select ?"),
            ("select e'a', U&'b', B'01', x'ff'", "select ?, ?, ?, ?"),
            ("select $1, $2::int", "select $1, $2::int"),
            ("select $$secret$$, $a$ sec$$ret $a$, t", "select ?, ?, t"),
            (
                "select /* secret /* nested */ */ 1 -- secret\n, 2",
                "select ? , ?",
            ),
            (
                "select \"odd \"\" 'name\" from t1",
                "select \"odd \"\" 'name\" from t1",
            ),
            ("select $\u{1f512}$my secret$\u{1f512}$, 1", "select ?, ?"),
            (
                "select t\u{1f512}$1$secret$1$",
                "select t\u{1f512}$1$secret$1$",
            ),
            ("select 'open", "select ?"),
            ("select /* open", "select"),
            ("select $tag$ open", "select ?"),
            ("  a\n\tb  ", "a b"),
            ("", ""),
        ] {
            assert_eq!(fingerprint(statement), shown, "{statement}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_nor_grows(text in "[a-z'\"$\\\\/*\\- 0-9é\n]{0,600}") {
            prop_assert!(fingerprint(&text).len() <= LONGEST + text.len().min(LONGEST) + 3);
        }

        #[test]
        fn what_is_in_quotes_is_never_shown(before in "[a-z =,]{0,20}", secret in "[A-Z]{5}", after in "[a-z =,']{0,20}") {
            let shown = fingerprint(&format!("{before} '{secret}' {after}"));
            prop_assert!(!shown.contains(&secret));
        }
    }
}
