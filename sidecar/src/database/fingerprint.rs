//! A statement without its values, for logs that must not show users' data.

use super::lexer::{Kind, tokens};

/// The longest fingerprint, in bytes.
const LONGEST: usize = 300;

/// `statement` without literals and comments, and with each run of whitespace as one blank. What is not understood is
/// masked.
pub fn fingerprint(statement: &str) -> String {
    let mut out = String::new();
    for token in tokens(statement) {
        if out.len() >= LONGEST {
            out.push_str("...");
            break;
        }
        match token.kind {
            Kind::Literal => out.push('?'),
            Kind::Name | Kind::Word | Kind::Semicolon | Kind::Other => out.push_str(token.text),
            Kind::Whitespace | Kind::LineComment | Kind::BlockComment => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
            }
        }
    }
    out.truncate(out.trim_end().len());
    out
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
            ("select 1 -- secret\r, 2", "select ? , ?"),
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
