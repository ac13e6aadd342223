//! The class of a request, and the headers that make Envoy's router enforce its limits.
//!
//! The router enforces both limits exactly, at no cost to the filter
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter>).
//! Both headers are always overwritten, so that no client can lengthen a limit, or shorten it to
//! make a healthy service appear to fail.

use crate::config::{ClientDeadline, Rule, Timeouts};
use crate::host::{Host, property};
use levee_policy::timeout::{Class, Limits};
use std::time::Duration;

/// The limit of the whole request, in milliseconds. 0 would mean no limit.
pub const WHOLE_HEADER: &str = "x-envoy-upstream-rq-timeout-ms";
/// The limit of the response's headers, in milliseconds. The router drops it unless it is less than
/// the limit of the whole request.
pub const RESPONSE_HEADER_HEADER: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

/// The limits of a service, as header values.
#[derive(Clone, Debug)]
pub struct Deadlines {
    class: Class,
    rules: Vec<Rule>,
    by_class: ByClass,
    reads_path: bool,
    reads_method: bool,
    reads_route: bool,
}

/// The limits of a class, as header values.
#[derive(Clone, Debug)]
struct Prepared {
    limits: Limits,
    whole: String,
    response_header: String,
}

impl Prepared {
    fn new(limits: Limits) -> Self {
        Self {
            whole: limits.whole.as_millis().to_string(),
            response_header: limits.response_header.as_millis().to_string(),
            limits,
        }
    }

    fn set<H: Host>(&self, host: &H) {
        host.set_request_header(WHOLE_HEADER, &self.whole);
        host.set_request_header(RESPONSE_HEADER_HEADER, &self.response_header);
    }
}

/// Whose limit a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// The service's, from the configuration.
    Service,
    /// The client's own deadline, which is shorter.
    Client,
}

#[derive(Clone, Debug)]
struct ByClass {
    short: Prepared,
    medium: Prepared,
    default: Prepared,
    long: Prepared,
    very_long: Prepared,
}

impl ByClass {
    const fn get(&self, class: Class) -> &Prepared {
        match class {
            Class::Short => &self.short,
            Class::Medium => &self.medium,
            Class::Default => &self.default,
            Class::Long => &self.long,
            Class::VeryLong => &self.very_long,
        }
    }
}

impl Deadlines {
    pub fn new(timeouts: &Timeouts) -> Self {
        let prepare = |class| {
            let whole = timeouts.classes.limit(class);
            Prepared::new(Limits::new(whole, timeouts.response_header))
        };
        Self {
            class: timeouts.class,
            by_class: ByClass {
                short: prepare(Class::Short),
                medium: prepare(Class::Medium),
                default: prepare(Class::Default),
                long: prepare(Class::Long),
                very_long: prepare(Class::VeryLong),
            },
            reads_path: timeouts.rules.iter().any(|rule| rule.path_prefix.is_some()),
            reads_method: timeouts.rules.iter().any(|rule| rule.method.is_some()),
            reads_route: timeouts.rules.iter().any(|rule| rule.route.is_some()),
            rules: timeouts.rules.clone(),
        }
    }

    /// Sets the limits of the current request. That takes two host calls, one more for each kind of
    /// condition in the rules, and one more if clients may send a deadline.
    pub fn set<H: Host>(&self, host: &H, client_deadline: Option<&ClientDeadline>) -> LimitedBy {
        let prepared = self.by_class.get(self.class_of_current_request(host));
        match client_deadline.and_then(|deadline| read_deadline(host, deadline)) {
            Some(deadline) if deadline < prepared.limits.whole => {
                Prepared::new(prepared.limits.shortened_to(deadline)).set(host);
                LimitedBy::Client
            }
            _ => {
                prepared.set(host);
                LimitedBy::Service
            }
        }
    }

    fn class_of_current_request<H: Host>(&self, host: &H) -> Class {
        if self.rules.is_empty() {
            return self.class;
        }
        let read = |wanted: bool, value: &dyn Fn() -> Option<Vec<u8>>| {
            if wanted {
                value().unwrap_or_default()
            } else {
                Vec::new()
            }
        };
        let path = read(self.reads_path, &|| host.request_header(":path"));
        let method = read(self.reads_method, &|| host.request_header(":method"));
        let route = read(self.reads_route, &|| host.property(property::ROUTE));
        let is_met = |rule: &&Rule| {
            rule.path_prefix
                .as_ref()
                .is_none_or(|prefix| path.starts_with(prefix.as_bytes()))
                && rule
                    .method
                    .as_ref()
                    .is_none_or(|wanted| method == wanted.as_bytes())
                && rule
                    .route
                    .as_ref()
                    .is_none_or(|wanted| route == wanted.as_bytes())
        };
        self.rules
            .iter()
            .find(is_met)
            .map_or(self.class, |rule| rule.class)
    }
}

/// The deadline that a client has sent, if it can be read.
pub fn read_deadline<H: Host>(host: &H, deadline: &ClientDeadline) -> Option<Duration> {
    match deadline {
        ClientDeadline::Millis(header) => {
            parse_digits(&host.request_header(header)?, 19).map(Duration::from_millis)
        }
        ClientDeadline::GrpcTimeout => parse_grpc_timeout(&host.request_header("grpc-timeout")?),
    }
}

/// At most eight digits and a unit: `100m` is 100 milliseconds.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let amount = parse_digits(digits, 8)?;
    Some(match unit {
        b'H' => Duration::from_hours(amount),
        b'M' => Duration::from_mins(amount),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn parse_digits(text: &[u8], at_most: usize) -> Option<u64> {
    if text.is_empty() || text.len() > at_most || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_defines_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("100m", Some(Duration::from_millis(100))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("999999999m", None),
            ("", None),
            ("m", None),
            ("-1m", None),
            ("1s", None),
            ("1 S", None),
        ] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), expected, "{text:?}");
        }
    }
}
