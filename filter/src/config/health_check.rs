//! How to ask a service whether it is well: the section `breaker.health_check`.

use super::failures::{Codes, Listed, number, read_codes};
use levee_config::LONGEST;
use levee_config::reader::Section;
use std::ops::RangeInclusive;
use std::time::Duration;

const STATUS: RangeInclusive<u16> = 200..=599;
const STATUS_ENTRY: &str = "an HTTP status from 200 to 599; write 204, \"200-299\" or \"!204\"";

/// Asks a service whether it is well, while its breaker is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub question: Question,
    /// The name of the host in the request. `None`: the service's.
    pub host: Option<String>,
    /// The time between two checks, whichever workers send them.
    pub every: Duration,
    pub timeout: Duration,
    expected: Codes,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `GET` of this path.
    Http { path: String },
    /// gRPC's health protocol, for this service of the server
    /// (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
    Grpc { service: String },
    /// Nothing.
    Off,
}

impl Default for HealthCheck {
    fn default() -> Self {
        let mut expected = Codes::default();
        expected.set(200..=299, Listed::Yes);
        Self {
            question: Question::Off,
            host: None,
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            expected,
        }
    }
}

impl HealthCheck {
    /// Whether an answer with this HTTP status says that the service is well.
    pub fn expects(&self, status: u64) -> bool {
        self.expected.contains(status)
    }

    /// Reads a section. Keys that are absent keep their value from `base`.
    pub(super) fn read(section: &mut Section<'_>, base: &Self) -> Self {
        let question = read_question(section, &base.question);
        let host = section.text("host");
        if let Some(host) = &host {
            require_plain(section, "host", host);
        }
        let shortest = Duration::from_millis(100);
        let every = section.duration("every", shortest..=LONGEST);
        let shortest = Duration::from_millis(10);
        let timeout = section.duration("timeout", shortest..=LONGEST);
        let field = "expected_statuses";
        let expected = read_codes(section, field, base.expected, STATUS_ENTRY, status);
        if section.has(field) && matches!(question, Question::Grpc { .. }) {
            section.error(
                field,
                "is for path; gRPC's health protocol has its own answers",
            );
        }
        Self {
            question,
            host: host.or_else(|| base.host.clone()),
            every: every.unwrap_or(base.every),
            timeout: timeout.unwrap_or(base.timeout),
            expected,
        }
    }
}

fn read_question(section: &mut Section<'_>, base: &Question) -> Question {
    let path = section.text_or_empty("path");
    let service = section.text_or_empty("grpc_service");
    if section.has("path") && section.has("grpc_service") {
        section.error("grpc_service", "cannot be combined with path; choose one");
    }
    if let Some(path) = path {
        require_plain(section, "path", &path);
        if path.is_empty() {
            return Question::Off;
        }
        if !path.starts_with('/') {
            section.error("path", "must begin with '/'");
        }
        return Question::Http { path };
    }
    service.map_or_else(|| base.clone(), |service| Question::Grpc { service })
}

fn require_plain(section: &mut Section<'_>, field: &str, text: &str) {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        section.error(field, "must be plain ASCII without spaces");
    }
}

fn status(text: &str) -> Option<u16> {
    number(text).filter(|code| STATUS.contains(code))
}
