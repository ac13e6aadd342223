//! Framing of the Redis protocol, RESP2 and RESP3: where commands and replies end, and nothing else.
//!
//! A scanner is fed with bytes as they come and says where frames end. It keeps a few numbers,
//! whatever a length or a nesting claims, since a frame is complete when as many elements have ended
//! as were announced (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use std::ops::Range;

/// The longest line: an inline command, or a length.
const MAX_LINE: usize = 64 * 1024;

/// How many arguments a command may have (`PROTO_MAX_MULTIBULK` of Redis).
const MAX_ARGUMENTS: i64 = 1024 * 1024;

/// The most elements of an aggregate in a reply. More than any server holds in memory.
const MAX_ELEMENTS: i64 = 1 << 32;

/// What is wrong with what a peer sent. The texts are those of Redis where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number of a command's arguments.
    #[error("invalid multibulk length")]
    ArgumentCount,
    /// The length of an argument or of a bulk reply.
    #[error("invalid bulk length")]
    BulkLength,
    /// An argument does not begin as one.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// A line has no end.
    #[error("too big inline request")]
    LongLine,
    /// Quotes of an inline command.
    #[error("unbalanced quotes in request")]
    Quotes,
    /// The number of an aggregate's elements.
    #[error("invalid aggregate length")]
    ElementCount,
    /// A reply begins with a byte that no type has.
    #[error("unknown reply type '{}'", .0.escape_ascii())]
    UnknownType(u8),
}

/// Finds the ends of commands (arrays of bulk strings).
#[derive(Clone, Debug, Default)]
pub struct CommandScanner {
    arguments_left: u64,
    /// Bytes of an argument, and of the line's end after it, that are still to come.
    skip: u64,
    within: bool,
    announced: u64,
}

impl CommandScanner {
    /// Whether a command has begun and not ended.
    pub const fn is_within(&self) -> bool {
        self.within
    }

    /// How many bytes the arguments of the current command are, as far as they are announced.
    pub const fn announced(&self) -> u64 {
        self.announced
    }

    /// Goes through `bytes`, which follow what was consumed before, up to the end of a command or
    /// as far as it can. Returns how many were consumed, and whether a command ends there.
    ///
    /// # Errors
    /// What Redis would end the connection for.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), ProtocolError> {
        let mut at = 0;
        loop {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                self.skip -= skipped as u64;
                at += skipped;
                if self.skip > 0 {
                    return Ok((at, false));
                }
            }
            if self.within && self.arguments_left == 0 {
                self.within = false;
                return Ok((at, true));
            }
            let Some((line, next)) = length_line(&bytes[at..])? else {
                return Ok((at, false));
            };
            if self.within {
                if line[0] != b'$' {
                    return Err(ProtocolError::ExpectedBulk(line[0]));
                }
                let length = integer(&line[1..]).ok_or(ProtocolError::BulkLength)?;
                let length = u64::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
                self.arguments_left -= 1;
                self.announced = self.announced.saturating_add(length);
                self.skip = length.checked_add(2).ok_or(ProtocolError::BulkLength)?;
            } else {
                let count = integer(&line[1..]).ok_or(ProtocolError::ArgumentCount)?;
                if count > MAX_ARGUMENTS {
                    return Err(ProtocolError::ArgumentCount);
                }
                self.arguments_left = u64::try_from(count).unwrap_or(0);
                self.within = true;
                self.announced = 0;
            }
            at += next;
        }
    }
}

/// Finds the ends of replies and pushes.
#[derive(Clone, Debug, Default)]
pub struct ReplyScanner {
    elements_left: u64,
    skip: u64,
    in_line: bool,
    kind: u8,
}

impl ReplyScanner {
    /// The first byte of the current reply, or of the last one.
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// Goes through `bytes`, which follow what was consumed before, up to the end of a reply or as
    /// far as it can. Returns how many were consumed, and whether a reply ends there.
    ///
    /// # Errors
    /// What is not a reply.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), ProtocolError> {
        let mut at = 0;
        loop {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                self.skip -= skipped as u64;
                at += skipped;
                if self.skip > 0 {
                    return Ok((at, false));
                }
                if self.ends_element() {
                    return Ok((at, true));
                }
            }
            if self.in_line {
                let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') else {
                    return Ok((bytes.len(), false));
                };
                at += end + 1;
                self.in_line = false;
                if self.ends_element() {
                    return Ok((at, true));
                }
            }
            let Some(first) = bytes.get(at).copied() else {
                return Ok((at, false));
            };
            if matches!(first, b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(') {
                self.begins(first);
                self.in_line = true;
                continue;
            }
            if !matches!(first, b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|') {
                return Err(ProtocolError::UnknownType(first));
            }
            let Some((line, next)) = length_line(&bytes[at..])? else {
                return Ok((at, false));
            };
            self.begins(first);
            at += next;
            if matches!(first, b'$' | b'=' | b'!') {
                let length = integer(&line[1..]).ok_or(ProtocolError::BulkLength)?;
                if let Ok(length) = u64::try_from(length) {
                    self.skip = length.checked_add(2).ok_or(ProtocolError::BulkLength)?;
                    continue;
                }
            } else {
                let count = integer(&line[1..])
                    .filter(|count| *count <= MAX_ELEMENTS)
                    .ok_or(ProtocolError::ElementCount)?;
                let count = u64::try_from(count).unwrap_or(0);
                let doubled = matches!(first, b'%' | b'|');
                let more = if doubled { count * 2 } else { count };
                self.elements_left = self
                    .elements_left
                    .checked_add(more)
                    .ok_or(ProtocolError::ElementCount)?;
                if first == b'|' {
                    // Attributes stand before a reply; they are none.
                    continue;
                }
            }
            if self.ends_element() {
                return Ok((at, true));
            }
        }
    }

    fn begins(&mut self, first: u8) {
        if self.elements_left == 0 {
            self.elements_left = 1;
            self.kind = first;
        }
    }

    const fn ends_element(&mut self) -> bool {
        self.elements_left -= 1;
        self.elements_left == 0
    }
}

/// The line at the front, without its end, and where the next begins.
fn length_line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    // No length is longer than a sign and 19 digits.
    const LONGEST: usize = 32;
    let head = &bytes[..bytes.len().min(LONGEST)];
    match head.iter().position(|byte| *byte == b'\n') {
        Some(end) if end >= 2 && bytes[end - 1] == b'\r' => Ok(Some((&bytes[..end - 1], end + 1))),
        None if bytes.len() < LONGEST => Ok(None),
        _ => Err(ProtocolError::BulkLength),
    }
}

/// A decimal number, as Redis reads lengths.
fn integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: i64 = 0;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value = value.checked_mul(10)?.checked_add(i64::from(digit))?;
    }
    Some(if negative { -value } else { value })
}

/// The arguments of a complete command, its name first.
pub fn arguments(command: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = match length_line(command) {
        Ok(Some((_, next))) => &command[next..],
        _ => &[][..],
    };
    std::iter::from_fn(move || {
        let (line, next) = length_line(rest).ok().flatten()?;
        let length = usize::try_from(integer(line.get(1..)?)?).ok()?;
        let argument = rest.get(next..next.checked_add(length)?)?;
        rest = rest.get(next + length + 2..).unwrap_or_default();
        Some(argument)
    })
}

/// A command as bytes.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// An inline command at the front of `bytes`: its line (without the end), and where the next begins.
///
/// # Errors
/// The line is too long.
pub fn inline_line(bytes: &[u8]) -> Result<Option<(Range<usize>, usize)>, ProtocolError> {
    let head = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= MAX_LINE {
            Err(ProtocolError::LongLine)
        } else {
            Ok(None)
        };
    };
    let stop = if end > 0 && bytes[end - 1] == b'\r' {
        end - 1
    } else {
        end
    };
    Ok(Some((0..stop, end + 1)))
}

/// The arguments of an inline command, with quotes and escapes as Redis reads them (`sdssplitargs`).
///
/// # Errors
/// A quote that isn't closed, or is followed by something else than a space.
pub fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut arguments = Vec::new();
    // Redis reads the line as a C string.
    let end = line.iter().position(|byte| *byte == 0);
    let mut rest = line[..end.unwrap_or(line.len())].trim_ascii();
    while !rest.is_empty() {
        let (argument, after) = inline_argument(rest)?;
        arguments.push(argument);
        rest = after.trim_ascii_start();
    }
    Ok(arguments)
}

fn inline_argument(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), ProtocolError> {
    let mut argument = Vec::new();
    let mut quote = None;
    loop {
        match (quote, rest) {
            (None, [] | [b' ' | b'\t' | b'\r' | b'\n', ..]) => return Ok((argument, rest)),
            (Some(_), []) => return Err(ProtocolError::Quotes),
            (None, [open @ (b'"' | b'\''), after @ ..]) => {
                quote = Some(*open);
                rest = after;
            }
            (Some(open), [close, after @ ..]) if *close == open => {
                if after
                    .first()
                    .is_some_and(|byte| !byte.is_ascii_whitespace())
                {
                    return Err(ProtocolError::Quotes);
                }
                return Ok((argument, after));
            }
            (Some(b'"'), [b'\\', b'x', high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                argument.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (Some(b'"'), [b'\\', escaped, after @ ..]) => {
                argument.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            (Some(b'\''), [b'\\', b'\'', after @ ..]) => {
                argument.push(b'\'');
                rest = after;
            }
            (_, [byte, after @ ..]) => {
                argument.push(*byte);
                rest = after;
            }
        }
    }
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands_of(pieces: &[&[u8]]) -> Result<Vec<usize>, ProtocolError> {
        let mut scanner = CommandScanner::default();
        let mut ends = Vec::new();
        scan(pieces, &mut ends, |bytes| scanner.advance(bytes))?;
        Ok(ends)
    }

    fn replies_of(pieces: &[&[u8]]) -> Result<Vec<usize>, ProtocolError> {
        let mut scanner = ReplyScanner::default();
        let mut ends = Vec::new();
        scan(pieces, &mut ends, |bytes| scanner.advance(bytes))?;
        Ok(ends)
    }

    fn scan(
        pieces: &[&[u8]],
        ends: &mut Vec<usize>,
        mut advance: impl FnMut(&[u8]) -> Result<(usize, bool), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        let (mut bytes, mut at) = (Vec::new(), 0);
        for piece in pieces {
            bytes.extend_from_slice(piece);
            loop {
                let (consumed, ended) = advance(&bytes[at..])?;
                at += consumed;
                if !ended {
                    break;
                }
                ends.push(at);
                if at == bytes.len() {
                    break;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn replies_of_all_types_end_where_they_end() {
        for reply in [
            &b"+OK\r\n"[..],
            b"-ERR x\r\n",
            b":1\r\n",
            b"_\r\n",
            b",1.5\r\n",
            b"#t\r\n",
            b"(123\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"$5\r\na\r\nbc\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"!3\r\nERR\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            b"%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n",
            b"~2\r\n:1\r\n:2\r\n",
            b">2\r\n+a\r\n+b\r\n",
            b"|1\r\n+a\r\n+b\r\n*1\r\n:1\r\n",
        ] {
            let twice = [reply, reply].concat();
            let ends = replies_of(&[&twice]).unwrap();
            assert_eq!(
                ends,
                [reply.len(), 2 * reply.len()],
                "{}",
                reply.escape_ascii()
            );
        }
    }

    #[test]
    fn what_is_no_command_is_refused_in_the_words_of_redis() {
        for (bytes, text) in [
            (&b"*1\r\n*1\r\n"[..], "expected '$', got '*'"),
            (b"*9223372036854775808\r\n", "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*1\r\n$9223372036854775808\r\n", "invalid bulk length"),
            (b"*1\r\n$9223372036854775807\r\n", ""),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$x\r\n", "invalid bulk length"),
        ] {
            let result = commands_of(&[bytes]);
            match result {
                Ok(ends) => assert_eq!((ends.len(), text), (0, "")),
                Err(error) => assert_eq!(error.to_string(), text),
            }
        }
    }

    #[test]
    fn nesting_takes_no_memory_and_no_stack() {
        let nested = b"*1\r\n".repeat(1_000_000);
        assert_eq!(replies_of(&[&nested, b":1\r\n"]).unwrap().len(), 1);
    }

    #[test]
    fn inline_commands_are_split_as_redis_splits_them() {
        let split = |line: &str| split_inline(line.as_bytes());
        assert_eq!(
            split(" SET  a \"b c\\x41\\n\" ").unwrap(),
            [&b"SET"[..], b"a", b"b cA\n"]
        );
        assert_eq!(split(r"SET a 'it\'s'").unwrap()[2], b"it's");
        assert!(split("").unwrap().is_empty());
        assert_eq!(split("SET \"a"), Err(ProtocolError::Quotes));
        assert_eq!(split("SET \"a\"b"), Err(ProtocolError::Quotes));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_commands(
            commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let encoded: Vec<Vec<u8>> = commands.iter().map(|command| encode(command)).collect();
            for (command, bytes) in commands.iter().zip(&encoded) {
                let read: Vec<Vec<u8>> = arguments(bytes).map(<[u8]>::to_vec).collect();
                prop_assert_eq!(&read, command);
            }
            let all = encoded.concat();
            let (head, tail) = all.split_at(cut.index(all.len()));
            let whole = commands_of(&[&all]).unwrap();
            prop_assert_eq!(whole.len(), commands.len());
            prop_assert_eq!(whole.last(), Some(&all.len()));
            prop_assert_eq!(commands_of(&[head, tail]).unwrap(), whole);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"*$+-:%|>_\r\n0123456789".to_vec())], 0..200)) {
            let _ = commands_of(&[&bytes]);
            let _ = replies_of(&[&bytes]);
            let _ = split_inline(&bytes);
            let _ = arguments(&bytes).count();
        }
    }
}
