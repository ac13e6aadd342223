//! Framing of the Redis protocol (RESP2 and RESP3): finds where commands and replies end, nothing else.
//!
//! A scanner is fed bytes as they arrive and keeps a few numbers, whatever length or nesting is announced: a frame is
//! complete when as many elements have ended as were announced
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

/// The longest inline command.
const MAX_INLINE: usize = 64 * 1024;

/// The longest line with a length, which has at most a sign and 19 digits.
const MAX_LENGTH_LINE: usize = 32;

/// The most arguments of a command, as in Redis 7 (`INT_MAX`).
const MAX_ARGUMENTS: u64 = i32::MAX as u64;

/// The longest argument that Redis accepts if it isn't configured otherwise (`proto-max-bulk-len`).
const MAX_ARGUMENT_BYTES: u64 = 512 * 1024 * 1024;

/// The most arguments, and the longest, of a client that has not logged in where Redis asks for that
/// (`processMultibulkBuffer`).
const MAX_UNAUTHENTICATED: (u64, u64) = (10, 16 * 1024);

/// The most elements of an aggregate in a reply: more than any server holds in memory.
const MAX_ELEMENTS: i64 = 1 << 32;

/// What a peer sent is not the protocol. Worded as in Redis where it has an error for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("invalid multibulk length")]
    ArgumentCount,
    #[error("invalid bulk length")]
    BulkLength,
    #[error("too big mbulk count string")]
    LongArgumentCount,
    #[error("too big bulk count string")]
    LongBulkLength,
    #[error("unauthenticated multibulk length")]
    UnauthenticatedArgumentCount,
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    #[error("too big inline request")]
    LongLine,
    #[error("unbalanced quotes in request")]
    Quotes,
    #[error("invalid aggregate length")]
    ElementCount,
    #[error("unknown reply type '{}'", .0.escape_ascii())]
    UnknownType(u8),
}

impl ProtocolError {
    /// Redis' reply to it.
    pub fn reply(self) -> Vec<u8> {
        let Self::ExpectedBulk(byte) = self else {
            return format!("-ERR Protocol error: {self}\r\n").into_bytes();
        };
        // Redis says the byte itself, if it can be in a line.
        let byte = if matches!(byte, b'\r' | b'\n') {
            b' '
        } else {
            byte
        };
        [
            b"-ERR Protocol error: expected '$', got '",
            &[byte][..],
            b"'\r\n",
        ]
        .concat()
    }

    /// It would be accepted of a client that has logged in.
    pub const fn is_for_lack_of_login(self) -> bool {
        matches!(
            self,
            Self::UnauthenticatedArgumentCount | Self::UnauthenticatedBulkLength
        )
    }
}

/// How much of a command is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    /// As Redis accepts of clients that have not logged in.
    Unauthenticated,
    /// Arguments up to this length.
    Bytes(u64),
}

impl Default for Limits {
    fn default() -> Self {
        Self::Bytes(u64::MAX)
    }
}

impl Limits {
    /// As Redis has it by default; or `bytes`, if that is more.
    pub const fn at_least(bytes: u64) -> Self {
        Self::Bytes(if bytes > MAX_ARGUMENT_BYTES {
            bytes
        } else {
            MAX_ARGUMENT_BYTES
        })
    }

    /// The number of arguments that a line announces; a negative one means none.
    fn count(self, digits: &[u8]) -> Result<u64, ProtocolError> {
        let count = strict_integer(digits).ok_or(ProtocolError::ArgumentCount)?;
        let count = u64::try_from(count).unwrap_or(0);
        if count > MAX_ARGUMENTS {
            return Err(ProtocolError::ArgumentCount);
        }
        if self == Self::Unauthenticated && count > MAX_UNAUTHENTICATED.0 {
            return Err(ProtocolError::UnauthenticatedArgumentCount);
        }
        Ok(count)
    }

    /// The length that an argument's line announces.
    fn length(self, digits: &[u8]) -> Result<u64, ProtocolError> {
        let length = strict_integer(digits).ok_or(ProtocolError::BulkLength)?;
        let length = u64::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
        let most = match self {
            Self::Unauthenticated => MAX_ARGUMENT_BYTES,
            Self::Bytes(bytes) => bytes,
        };
        if length > most {
            return Err(ProtocolError::BulkLength);
        }
        if self == Self::Unauthenticated && length > MAX_UNAUTHENTICATED.1 {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        Ok(length)
    }
}

/// How far a scanner got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that need not be scanned again.
    pub consumed: usize,
    /// A frame ends there. Otherwise more bytes are needed.
    pub complete: bool,
}

impl Progress {
    const fn new(bytes: &[u8], rest: &[u8], complete: bool) -> Self {
        Self {
            consumed: bytes.len() - rest.len(),
            complete,
        }
    }
}

/// Finds the ends of commands (arrays of bulk strings).
#[derive(Clone, Debug, Default)]
pub struct CommandScanner {
    arguments_left: u64,
    /// Bytes of an argument and its line end that are still to come.
    skip: u64,
    within: bool,
    announced: u64,
    limits: Limits,
}

impl CommandScanner {
    /// What is accepted from here on.
    pub const fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A command has begun and not ended.
    pub const fn is_within(&self) -> bool {
        self.within
    }

    /// Bytes of the current command's arguments, as far as announced.
    pub const fn announced(&self) -> u64 {
        self.announced
    }

    /// Scans `bytes`, which follow what was consumed before, up to the end of a command at most.
    ///
    /// # Errors
    /// Anything for which Redis would close the connection. What is accepted only of clients that have logged in is one when
    /// nothing before it is left to consume: it may be tried again with other [`Limits`].
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, ProtocolError> {
        let mut rest = bytes;
        loop {
            if self.skip > 0 {
                rest = skip(&mut self.skip, rest);
                if self.skip > 0 {
                    return Ok(Progress::new(bytes, rest, false));
                }
            }
            if self.within && self.arguments_left == 0 {
                self.within = false;
                return Ok(Progress::new(bytes, rest, true));
            }
            match self.begin(rest) {
                Ok(Some(after)) => rest = after,
                Ok(None) => return Ok(Progress::new(bytes, rest, false)),
                Err(error) if error.is_for_lack_of_login() && rest.len() < bytes.len() => {
                    return Ok(Progress::new(bytes, rest, false));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the line that begins a command or an argument. Returns what follows it. `None`: its end has not come yet.
    fn begin<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, ProtocolError> {
        let Some(line) = command_line(bytes) else {
            return match (bytes.len() > MAX_INLINE, self.within) {
                (false, _) => Ok(None),
                (true, false) => Err(ProtocolError::LongArgumentCount),
                (true, true) => Err(ProtocolError::LongBulkLength),
            };
        };
        if !self.within {
            self.arguments_left = self.limits.count(line.digits)?;
            self.within = true;
            self.announced = 0;
            return Ok(Some(line.rest));
        }
        if line.first != b'$' {
            return Err(ProtocolError::ExpectedBulk(line.first));
        }
        let length = self.limits.length(line.digits)?;
        self.skip = length.checked_add(2).ok_or(ProtocolError::BulkLength)?;
        self.arguments_left -= 1;
        self.announced = self.announced.saturating_add(length);
        Ok(Some(line.rest))
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
    /// The first byte of the current reply, or of the last one between two.
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// Scans `bytes`, which follow what was consumed before, up to the end of a reply at most.
    ///
    /// # Errors
    /// The bytes are not a reply.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, ProtocolError> {
        let mut rest = bytes;
        loop {
            if self.skip > 0 {
                rest = skip(&mut self.skip, rest);
                if self.skip > 0 {
                    return Ok(Progress::new(bytes, rest, false));
                }
                if self.ends_element() {
                    return Ok(Progress::new(bytes, rest, true));
                }
            }
            if self.in_line {
                let end = rest.iter().position(|byte| *byte == b'\n');
                let Some((_, after)) = end.and_then(|end| rest.split_at_checked(end + 1)) else {
                    return Ok(Progress::new(bytes, &[], false));
                };
                rest = after;
                self.in_line = false;
                if self.ends_element() {
                    return Ok(Progress::new(bytes, rest, true));
                }
            }
            let Some(first) = rest.first().copied() else {
                return Ok(Progress::new(bytes, rest, false));
            };
            match first {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                    self.begins(first);
                    self.in_line = true;
                }
                b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {
                    let Some(line) = length_line(rest)? else {
                        return Ok(Progress::new(bytes, rest, false));
                    };
                    rest = line.rest;
                    if self.begin_sized(&line)? && self.ends_element() {
                        return Ok(Progress::new(bytes, rest, true));
                    }
                }
                _ => return Err(ProtocolError::UnknownType(first)),
            }
        }
    }

    /// Returns whether the element's own part ends with this line: a null, or an aggregate, whose elements follow.
    fn begin_sized(&mut self, line: &LengthLine) -> Result<bool, ProtocolError> {
        self.begins(line.first);
        if matches!(line.first, b'$' | b'=' | b'!') {
            let length = integer(line.digits).ok_or(ProtocolError::BulkLength)?;
            let Ok(length) = u64::try_from(length) else {
                return Ok(true);
            };
            self.skip = length.checked_add(2).ok_or(ProtocolError::BulkLength)?;
            return Ok(false);
        }
        let count = integer(line.digits)
            .filter(|count| *count <= MAX_ELEMENTS)
            .ok_or(ProtocolError::ElementCount)?;
        let count = u64::try_from(count).unwrap_or(0);
        let in_pairs = matches!(line.first, b'%' | b'|');
        let more = if in_pairs { count * 2 } else { count };
        self.elements_left = self
            .elements_left
            .checked_add(more)
            .ok_or(ProtocolError::ElementCount)?;
        // Attributes precede a reply; they aren't one.
        Ok(line.first != b'|')
    }

    const fn begins(&mut self, first: u8) {
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

/// What follows after up to `left` bytes; `left` is what is missing.
fn skip<'a>(left: &mut u64, bytes: &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(*left).unwrap_or(usize::MAX);
    let Some(rest) = bytes.get(length..) else {
        *left -= bytes.len() as u64;
        return &[];
    };
    *left = 0;
    rest
}

/// A line with a length or count, without its end, and what follows it.
struct LengthLine<'a> {
    first: u8,
    digits: &'a [u8],
    rest: &'a [u8],
}

/// The line at the front of a command or an argument. Redis looks for `\r` and skips the byte behind it. `None`: its end has
/// not come yet.
fn command_line(bytes: &[u8]) -> Option<LengthLine<'_>> {
    let head = bytes.get(..=MAX_INLINE).unwrap_or(bytes);
    let end = head.iter().position(|byte| *byte == b'\r')?;
    let (line, after) = bytes.split_at_checked(end)?;
    let rest = after.get(2..)?;
    let (first, digits) = line.split_first().unwrap_or((&b'\r', &[]));
    Some(LengthLine {
        first: *first,
        digits,
        rest,
    })
}

/// The line at the front. `None`: its end has not come yet.
fn length_line(bytes: &[u8]) -> Result<Option<LengthLine<'_>>, ProtocolError> {
    let head = bytes.get(..MAX_LENGTH_LINE).unwrap_or(bytes);
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LENGTH_LINE {
            Ok(None)
        } else {
            Err(ProtocolError::BulkLength)
        };
    };
    match bytes.split_at_checked(end + 1) {
        Some(([first, digits @ .., b'\r', b'\n'], rest)) => Ok(Some(LengthLine {
            first: *first,
            digits,
            rest,
        })),
        _ => Err(ProtocolError::BulkLength),
    }
}

/// A decimal number as Redis reads the lengths of commands (`string2ll`): without leading zeros.
fn strict_integer(digits: &[u8]) -> Option<i64> {
    match digits {
        b"0" => Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => integer(digits),
        _ => None,
    }
}

/// A decimal number.
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

/// The arguments of a complete command, name first.
pub fn arguments(command: &[u8]) -> impl Iterator<Item = &[u8]> {
    let header = command_line(command);
    let mut rest = header.map_or(&[][..], |line| line.rest);
    std::iter::from_fn(move || {
        let line = command_line(rest)?;
        let length = usize::try_from(integer(line.digits)?).ok()?;
        let (argument, after) = line.rest.split_at_checked(length)?;
        rest = after.get(2..).unwrap_or_default();
        Some(argument)
    })
}

/// A command as bytes.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        push_bulk(&mut bytes, argument.as_ref());
    }
    bytes
}

/// A bulk string as bytes: an argument of a command, or a reply.
pub fn encode_bulk(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_bulk(&mut bytes, text);
    bytes
}

fn push_bulk(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
    bytes.extend_from_slice(text);
    bytes.extend_from_slice(b"\r\n");
}

/// An inline command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineLine<'a> {
    /// The line without its end.
    pub text: &'a [u8],
    /// What follows it.
    pub rest: &'a [u8],
}

/// The inline command at the front of `bytes`. `None`: its end has not come yet.
///
/// # Errors
/// The line is too long.
pub fn inline_line(bytes: &[u8]) -> Result<Option<InlineLine<'_>>, ProtocolError> {
    let head = bytes.get(..MAX_INLINE).unwrap_or(bytes);
    let end = head.iter().position(|byte| *byte == b'\n');
    match end.and_then(|end| bytes.split_at_checked(end + 1)) {
        Some(([text @ .., b'\r', b'\n'] | [text @ .., b'\n'], rest)) => {
            Ok(Some(InlineLine { text, rest }))
        }
        _ if bytes.len() >= MAX_INLINE => Err(ProtocolError::LongLine),
        _ => Ok(None),
    }
}

/// The arguments of an inline command, with quotes and escapes as Redis reads them (`sdssplitargs`).
///
/// # Errors
/// A quote isn't closed, or is followed by anything but a space.
pub fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut arguments = Vec::new();
    // Redis reads the line as a C string.
    let mut rest = line
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .trim_ascii();
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
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
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
        mut advance: impl FnMut(&[u8]) -> Result<Progress, ProtocolError>,
    ) -> Result<(), ProtocolError> {
        let (mut bytes, mut at) = (Vec::new(), 0);
        for piece in pieces {
            bytes.extend_from_slice(piece);
            loop {
                let progress = advance(&bytes[at..])?;
                at += progress.consumed;
                if !progress.complete {
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
            (b"*2147483648\r\n", "invalid multibulk length"),
            (b"*01\r\n", "invalid multibulk length"),
            (b"*1\n\r\n", "invalid multibulk length"),
            (b"*1\r\n$01\r\n", "invalid bulk length"),
            (b"*1\r\n$9223372036854775808\r\n", "invalid bulk length"),
            (b"*1\r\n$9223372036854775807\r\n", ""),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$x\r\n", "invalid bulk length"),
        ] {
            let result = commands_of(&[bytes]);
            match result {
                Ok(ends) => assert_eq!((ends.len(), text), (0, "")),
                Err(error) => assert_eq!(
                    error.reply(),
                    format!("-ERR Protocol error: {text}\r\n").into_bytes()
                ),
            }
        }
    }

    #[test]
    fn a_length_that_does_not_end_is_refused_in_the_words_of_redis() {
        let digits = "1".repeat(MAX_INLINE + 1);
        for (begin, error) in [
            ("*", ProtocolError::LongArgumentCount),
            ("*1\r\n$", ProtocolError::LongBulkLength),
        ] {
            let bytes = format!("{begin}{digits}");
            assert_eq!(commands_of(&[bytes.as_bytes()]), Err(error));
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
