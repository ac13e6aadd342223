//! Which answers are failures: the section `failures`.

use levee_config::reader::Section;
use std::ops::RangeInclusive;

/// Names of gRPC's statuses, each at the index of its number
/// (<https://grpc.io/docs/guides/status-codes/>).
const GRPC_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A status below this says that the service works, or where to look instead.
const HTTP: RangeInclusive<u16> = 400..=599;
const GRPC: RangeInclusive<u16> = 1..=16;
const INTERNAL_SERVER_ERROR: u64 = 500;

const HTTP_ENTRY: &str = "an HTTP status from 400 to 599; write 503, \"500-599\" or \"!501\"";
const GRPC_ENTRY: &str =
    "a gRPC status from 1 to 16; write 14, \"UNAVAILABLE\", \"13-15\" or \"!DATA_LOSS\"";

/// Which answers are failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    http: Codes,
    /// Of answers with an HTTP status below 400.
    grpc: Codes,
    /// Whether failures that say when to come back keep the breaker open until then.
    pub retry_after: bool,
}

impl Default for Failures {
    fn default() -> Self {
        let mut http = Codes::default();
        http.set(500..=599, Listed::Yes);
        // Not Implemented, HTTP Version Not Supported: the service has judged the request.
        http.set(501..=501, Listed::No);
        http.set(505..=505, Listed::No);
        let mut grpc = Codes::default();
        // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS
        for status in [2, 4, 13, 14, 15] {
            grpc.set(status..=status, Listed::Yes);
        }
        Self {
            http,
            grpc,
            retry_after: false,
        }
    }
}

impl Failures {
    /// Reads a section. Keys that are absent keep their value from `base`.
    pub(super) fn read(section: &mut Section<'_>, base: Self) -> Self {
        Self {
            http: read_codes(section, "http", base.http, HTTP_ENTRY, http_code),
            grpc: read_codes(section, "grpc", base.grpc, GRPC_ENTRY, grpc_code),
            retry_after: section.flag("retry_after").unwrap_or(base.retry_after),
        }
    }

    /// Whether an answer with this HTTP status is a failure. A status that is none counts as 500, as
    /// clients should take it (RFC 9110, section 15).
    pub fn has_http(&self, status: u64) -> bool {
        let is_status = status <= u64::from(*HTTP.end());
        self.http.contains(if is_status {
            status
        } else {
            INTERNAL_SERVER_ERROR
        })
    }

    /// Whether an answer with this gRPC status is a failure.
    pub fn has_grpc(&self, status: u64) -> bool {
        self.grpc.contains(status)
    }

    /// The lowest HTTP status that is a failure.
    pub fn lowest_http(&self) -> Option<u64> {
        HTTP.map(u64::from)
            .find(|status| self.http.contains(*status))
    }
}

/// Whether an entry adds codes or takes them away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Yes,
    No,
}

/// A set of codes, each a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Codes([u64; 10]);

impl Codes {
    pub(super) fn contains(&self, code: u64) -> bool {
        usize::try_from(code / 64)
            .ok()
            .and_then(|place| self.0.get(place))
            .is_some_and(|bits| bits >> (code % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, codes: RangeInclusive<u16>, listed: Listed) {
        for code in codes {
            if let Some(bits) = self.0.get_mut(usize::from(code / 64)) {
                let bit = 1 << (code % 64);
                match listed {
                    Listed::Yes => *bits |= bit,
                    Listed::No => *bits &= !bit,
                }
            }
        }
    }
}

/// Reads a list of codes. It replaces `base`; later entries win.
pub(super) fn read_codes(
    section: &mut Section<'_>,
    field: &'static str,
    base: Codes,
    right: &str,
    code: impl Fn(&str) -> Option<u16>,
) -> Codes {
    let is_set = section.has(field);
    let mut codes = Codes::default();
    section.each(field, |entry| {
        let (entry_codes, listed) = match entry.strip_prefix('!') {
            None => (entry, Listed::Yes),
            Some(rest) => (rest, Listed::No),
        };
        let range = match entry_codes.split_once('-') {
            None => code(entry_codes).map(|code| code..=code),
            Some((first, last)) => code(first)
                .zip(code(last))
                .map(|(first, last)| first..=last),
        };
        let range = range.ok_or_else(|| format!("{entry:?} is not {right}"))?;
        if range.is_empty() {
            return Err(format!("{entry:?} is no range; begin with its lower end"));
        }
        let before = codes;
        codes.set(range, listed);
        if listed == Listed::No && codes == before {
            return Err(format!(
                "{entry:?} excludes nothing: no entry before it has these codes; list those first, since \
                 the list replaces the default"
            ));
        }
        Ok(())
    });
    if is_set { codes } else { base }
}

fn http_code(text: &str) -> Option<u16> {
    number(text).filter(|code| HTTP.contains(code))
}

fn grpc_code(text: &str) -> Option<u16> {
    let named = GRPC_NAMES.iter().position(|name| *name == text);
    let code = named.map_or_else(|| number(text), |place| u16::try_from(place).ok());
    code.filter(|code| GRPC.contains(code))
}

pub(super) fn number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}
