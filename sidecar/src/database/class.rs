//! What the text of a statement says about its time limit: its class, and whether it has one.

use super::lexer::{Kind, Token, tokens};

/// Classes of statements; each has a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Query,
    /// Reports and the like.
    LongQuery,
}

impl Class {
    const ALL: [Self; 2] = [Self::Query, Self::LongQuery];

    /// The name in metrics, in the configuration and in comments of statements.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::LongQuery => "long_query",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// A statement as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    /// The server keeps a limited length, and `text` is about as long.
    pub may_be_cut: bool,
}

impl Statement {
    /// The class that a comment before or behind the statement names: `/* levee: long_query */`. Whoever controls a value
    /// in the statement must not choose its class, so a tag that is not beyond doubt is none; nor are two that differ.
    pub fn tag(&self) -> Option<Class> {
        // Most have none.
        if !self.text.contains("levee") {
            return None;
        }
        let mut tags = self.outer_comments().into_iter().filter_map(class_of);
        let first = tags.next()?;
        tags.all(|tag| tag == first).then_some(first)
    }

    /// The block comments before the statement and behind it.
    fn outer_comments(&self) -> Vec<&str> {
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        let mut has_begun = false;
        for Token {
            text,
            kind,
            is_open,
        } in tokens(&self.text)
        {
            match kind {
                _ if is_open => behind.clear(),
                Kind::BlockComment if has_begun => behind.push(text),
                Kind::BlockComment => before.push(text),
                Kind::Whitespace | Kind::LineComment | Kind::Semicolon => {}
                Kind::Literal | Kind::Name | Kind::Word | Kind::Other => {
                    has_begun = true;
                    behind.clear();
                }
            }
        }
        if !self.may_be_cut {
            before.append(&mut behind);
        }
        before
    }

    /// Whether this is one statement that maintains the database, or by which `CockroachDB` replicates and copies it: those
    /// have no limit.
    pub fn is_maintenance(&self) -> bool {
        const BEGINNINGS: [&[&str]; 13] = [
            &["VACUUM"],
            &["ANALYZE"],
            &["REINDEX"],
            &["CLUSTER"],
            &["CREATE", "INDEX"],
            &["CREATE", "UNIQUE", "INDEX"],
            &["REFRESH"],
            &["CREATE", "CHANGEFEED"],
            &["EXPERIMENTAL", "CHANGEFEED"],
            &["CREATE", "STATISTICS"],
            &["BACKUP"],
            &["RESTORE"],
            &["IMPORT"],
        ];
        let words: Vec<&str> = tokens(&self.text)
            .filter(|token| !is_blank(token.kind))
            .map_while(|token| (token.kind == Kind::Word).then_some(token.text))
            .take(3)
            .collect();
        let begins = |beginning: &&[&str]| {
            words.len() >= beginning.len()
                && words
                    .iter()
                    .zip(*beginning)
                    .all(|(word, wanted)| word.eq_ignore_ascii_case(wanted))
        };
        BEGINNINGS.iter().any(begins) && self.is_single()
    }

    /// Whether the whole text is known, and is one statement.
    fn is_single(&self) -> bool {
        let mut is_over = false;
        let is_single = tokens(&self.text).all(|token| {
            is_over |= token.kind == Kind::Semicolon;
            let may_follow = is_blank(token.kind) || token.kind == Kind::Semicolon;
            !token.is_open && (!is_over || may_follow)
        });
        is_single && !self.may_be_cut
    }
}

const fn is_blank(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Whitespace | Kind::LineComment | Kind::BlockComment
    )
}

/// The class that a block comment names, as its first key or among the quoted pairs that sqlcommenter writes
/// (<https://google.github.io/sqlcommenter/spec/>): `/*action='index',levee='long_query'*/`. Behind a value without quotes
/// nothing counts, since a comma may be part of it.
fn class_of(comment: &str) -> Option<Class> {
    let inside = comment.strip_prefix("/*")?.strip_suffix("*/")?.trim();
    first_key(inside).or_else(|| quoted_key(inside))
}

/// `levee: NAME` or `levee='NAME'`, alone or followed by a comma.
fn first_key(inside: &str) -> Option<Class> {
    let value = inside.strip_prefix("levee")?.trim_start();
    let value = value.strip_prefix([':', '='])?;
    let name = value.split_once(',').map_or(value, |(name, _)| name).trim();
    let quoted = name.strip_prefix('\'').and_then(|it| it.strip_suffix('\''));
    Class::named(quoted.unwrap_or(name))
}

/// `levee='NAME'` behind other such pairs.
fn quoted_key(inside: &str) -> Option<Class> {
    let mut rest = inside;
    loop {
        let (key, behind) = rest.split_once("='")?;
        let is_key = |c: char| c.is_ascii_alphanumeric() || "_-.%~".contains(c);
        if !key.chars().all(is_key) {
            return None;
        }
        let (value, behind) = quoted_value(behind)?;
        if key == "levee" {
            return Class::named(value);
        }
        rest = behind.trim_start().strip_prefix(',')?.trim_start();
    }
}

/// The value that ends with the next quote without a backslash before it, and what is behind.
fn quoted_value(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    let end = text.find(|c: char| {
        let is_end = c == '\'' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })?;
    Some((&text[..end], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Statement {
        Statement {
            text: text.to_owned(),
            may_be_cut: false,
        }
    }

    fn cut(text: &str) -> Statement {
        Statement {
            may_be_cut: true,
            ..whole(text)
        }
    }

    #[test]
    fn a_tag_stands_beside_other_comments_or_is_one_of_their_keys() {
        for statement in [
            "/* levee: long_query */ select 1 /*action='index',traceparent='00-5b-7a-01'*/",
            "select 1 /* levee: long_query */ /*traceparent='00-5b-7a-01'*/;",
            "/*traceparent='00-5b'*/ /* levee: long_query */\nselect 1",
            "-- a report\n/* levee: long_query */ select 1",
            "select 1 /*action='index',levee='long_query'*/",
            "select 1 /*action='it\\'s, an=index', levee='long_query',z='1'*/",
            "select 1 /*levee:long_query,application:Shop*/",
            "select 1 /*levee='long_query',application:Shop*/",
            "select 'it''s', $$a$$ from \"t\" -- all\n/* levee: long_query */ -- it is slow",
        ] {
            assert_eq!(
                whole(statement).tag(),
                Some(Class::LongQuery),
                "{statement}"
            );
        }
        let both = "/* levee: query */ select 1 /* levee: query */";
        assert_eq!(whole(both).tag(), Some(Class::Query));
    }

    #[test]
    fn a_tag_that_is_not_beyond_doubt_is_none() {
        for statement in [
            "select 1 /*levees='long_query'*/",
            "select 1 /* not levee: long_query */",
            "select 1 /* levee: other */",
            "select /* levee: long_query */ 1",
            "/* levee: query */ select 1 /* levee: long_query */",
            // In values.
            "select '/* levee: long_query */', 1 /*a='b'*/",
            "select '/* levee: long_query */",
            "select $$ /* levee: long_query */",
            "select $a$ $$ /* levee: long_query */ $a$",
            "select '\\' /* levee: long_query */",
            "select E'\\'' /* levee: long_query */",
            "select \"/* levee: long_query */\"",
            "select 1a$b$ /* levee: long_query */",
            // In keys of other comments.
            "select 1 /*a='x,levee=long_query'*/",
            "select 1 /*a='x',b='y,levee=\\'long_query\\''*/",
            "select 1 /*a='x\\',levee=\\'long_query'*/",
            "select 1 /*a=x,levee='long_query'*/",
            "select 1 /*application:Shop,levee:long_query*/",
            "select 1 /*a='b' levee='long_query'*/",
            // In line comments.
            "select 1 -- /* levee: long_query */",
            "-- /* levee: long_query */\nselect 1",
            "-- x\r select 1 -- /* levee: long_query */",
            // In other block comments.
            "select 1 /* x /* levee: long_query */ */",
            "select 1 /* x /* levee: long_query */",
        ] {
            assert_eq!(whole(statement).tag(), None, "{statement}");
        }
    }

    #[test]
    fn behind_a_statement_that_may_be_cut_nothing_counts() {
        let behind = "select 1 /* levee: long_query */";
        assert_eq!(whole(behind).tag(), Some(Class::LongQuery));
        assert_eq!(cut(behind).tag(), None);
        let before = "/* levee: long_query */ select 1 /* levee: query */";
        assert_eq!(cut(before).tag(), Some(Class::LongQuery));
    }

    #[test]
    fn only_a_single_statement_that_is_known_whole_is_maintenance() {
        let long = "a".repeat(2000);
        for (statement, is_maintenance) in [
            ("VACUUM t", true),
            ("vacuum(full) t;", true),
            ("/* x */ vacuum -- y\n t ; ; -- z", true),
            ("create index concurrently i on t (a) where b = ';'", true),
            ("CREATE UNIQUE INDEX i ON t (a)", true),
            ("analyze t ; ", true),
            ("vacuumed()", false),
            ("vacuum_it", false),
            ("\"vacuum\"", false),
            ("analyze t; select pg_sleep(1)", false),
            ("analyze t /*;*/; /* ; */ select 1", false),
            ("analyze '\\';select pg_sleep(1)--'", false),
            ("explain analyze select 1", false),
            ("", false),
        ] {
            assert_eq!(
                whole(statement).is_maintenance(),
                is_maintenance,
                "{statement}"
            );
            assert!(!cut(statement).is_maintenance(), "{statement}");
        }
        let far = format!("ANALYZE {long}; SELECT pg_sleep(60)");
        assert!(!whole(&far).is_maintenance());
        let one = format!("CREATE INDEX {long} ON t (a)");
        assert!(whole(&one).is_maintenance());
    }

    const TAG: &str = "/* levee: long_query */";

    const PIECES: [&str; 20] = [
        TAG,
        "/*",
        "*/",
        "'",
        "\"",
        "\\",
        "--",
        "\n",
        "\r",
        "$$",
        "$a$",
        ";",
        ",",
        "=",
        "levee='long_query'",
        "levee=long_query",
        "levee: long_query",
        "x",
        "1",
        " ",
    ];

    /// Texts that somebody chose to look like a tag.
    fn forgery() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(&PIECES[..]);
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// `value` as the ways to write one in a statement have it.
    fn written(value: &str) -> Vec<String> {
        let in_line = value.replace(['\n', '\r'], " ");
        let in_block = value.replace(['*', '/', '\''], "");
        let encoded: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
        let mut all = vec![
            format!("'{}'", value.replace('\'', "''")),
            format!("E'{escaped}'"),
            format!("\"{}\"", value.replace('"', "\"\"")),
            format!("1 -- {in_line}\n"),
            format!("1 /*a='{encoded}'*/"),
            format!("1 /*a={in_block}*/"),
        ];
        if !value.contains("$forged$") && !value.ends_with('$') {
            all.push(format!("$forged${value}$forged$"));
        }
        all
    }

    proptest! {
        #[test]
        fn no_value_chooses_the_class_of_its_statement(value in forgery(), at in 0_usize..400) {
            for value in written(&value) {
                for text in [format!("select {value}"), format!("select {value}, 2"), format!("select {value} /*z='1'*/")] {
                    prop_assert_eq!(whole(&text).tag(), None, "{}", text);
                    let mut end = at.min(text.len());
                    while !text.is_char_boundary(end) {
                        end -= 1;
                    }
                    prop_assert_eq!(cut(&text[..end]).tag(), None, "{}", text);
                }
                let own = format!("/* levee: query */ select {value}");
                prop_assert_eq!(whole(&own).tag(), Some(Class::Query), "{}", own);
            }
        }

        #[test]
        fn no_value_hides_that_more_follows(value in forgery()) {
            for value in written(&value) {
                let text = format!("analyze t (a, {value}); select pg_sleep(60)");
                prop_assert!(!whole(&text).is_maintenance(), "{}", text);
            }
        }
    }
}
