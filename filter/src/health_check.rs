//! Asking services whose breakers are open whether they are well again.
//!
//! A filter cannot see Envoy's own health checks. So one of the workers sends a request of its own,
//! and if the answer is good, the breaker lets probes through before its time has passed. One request
//! is for a service and all of its scopes. While no breaker is open, this costs nothing.

use crate::breakers::ServiceIndex;
use crate::config::{Config, HealthCheck, Question};
use crate::host::{AnswerPart, Host, OwnRequest};
use crate::services::Services;
use levee_policy::breaker::{CheckPermit, Phase};
use levee_policy::time::Instant;
use std::fmt;
use std::time::Duration;

const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";
const GRPC_SERVING: [u8; 2] = [0x08, 0x01];
/// Where there is no better name of a host.
const ANY_HOST: &str = "localhost";

/// The services of a worker that are asked whether they are well.
#[derive(Debug, Default)]
pub struct HealthChecks {
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    service: ServiceIndex,
    /// Its breakers that are open, as this worker knows: its own, or those of scopes.
    open: Vec<ServiceIndex>,
    /// When this worker tries again to be the one that sends a check.
    next: Instant,
    sent: Option<Sent>,
    /// Which of its clusters is asked next.
    turn: usize,
    /// Whether the log says why no check passes.
    is_logged: bool,
}

#[derive(Clone, Debug)]
struct Sent {
    /// Envoy's number of the request.
    token: u32,
    permits: Vec<Permitted>,
}

/// A service that may be checked.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub service: ServiceIndex,
    /// The time between two checks, whichever workers send them.
    pub every: Duration,
}

/// A breaker of the service that was open for long enough when a check was sent: if that passes, it lets
/// probes through.
#[derive(Clone, Copy, Debug)]
pub struct Permitted {
    pub breaker: ServiceIndex,
    pub permit: CheckPermit,
}

/// Why a check has not passed.
enum Failure {
    NoCluster,
    NoAnswer,
    Status(u64),
    NotServing,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCluster => write!(f, "cannot be sent: no such cluster, or it refuses requests"),
            Self::NoAnswer => write!(f, "was not answered"),
            Self::Status(status) => write!(f, "was answered with {status}"),
            Self::NotServing => write!(f, "was not answered with SERVING"),
        }
    }
}

impl HealthChecks {
    /// Starts to check the service of a breaker, if that is open.
    pub fn see(
        &mut self,
        services: &Services,
        breaker: ServiceIndex,
        rules: &Config,
        now: Instant,
    ) {
        let seen = &services[breaker];
        if seen.replica.phase() != Phase::Open {
            return;
        }
        let service = seen.scope.as_ref().map_or(breaker, |part| part.of);
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.service == service) {
            if !asked.open.contains(&breaker) {
                asked.open.push(breaker);
            }
            return;
        }
        let check = &rules.of_service(&seen.name).health_check;
        if check.question != Question::Off {
            self.asked.push(Asked {
                service,
                open: vec![breaker],
                next: now.after(check.interval()),
                sent: None,
                turn: 0,
                is_logged: false,
            });
        }
    }

    /// The services for which this worker should try to send a check.
    pub fn due(&mut self, services: &Services, rules: &Config, now: Instant) -> Vec<Due> {
        for asked in &mut self.asked {
            let refuses = |breaker: &ServiceIndex| services[*breaker].replica.refuses(now);
            asked.open.retain(refuses);
        }
        self.asked.retain(|asked| !asked.open.is_empty());
        let mut due = Vec::new();
        for asked in self.asked.iter_mut().filter(|asked| asked.next <= now) {
            let service = asked.service;
            let check = &rules.of_service(&services[service].name).health_check;
            let every = check.interval();
            // Another worker may be the one that sends them, and may end.
            asked.next = now.after(every / 4);
            let wants_check = |breaker: &ServiceIndex| {
                let breaker = &services[*breaker];
                breaker.replica.wants_check(&breaker.settings, every, now)
            };
            if check.question != Question::Off && asked.open.iter().any(wants_check) {
                due.push(Due { service, every });
            }
        }
        due
    }

    /// Sends a check. If the service has several clusters, they are asked in turn.
    pub fn send<H: Host>(
        &mut self,
        host: &H,
        services: &Services,
        config: &Config,
        service: ServiceIndex,
        permits: Vec<Permitted>,
    ) {
        let name = &services[service].name;
        let check = &config.of_service(name).health_check;
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.service == service) else {
            return;
        };
        let clusters = config.clusters_of(name);
        asked.sent = None;
        for _ in &clusters {
            let cluster = clusters.get(asked.turn % clusters.len());
            asked.turn = asked.turn.wrapping_add(1);
            if let Some(token) = cluster.and_then(|cluster| check.send(host, cluster, name)) {
                asked.sent = Some(Sent { token, permits });
                return;
            }
        }
        asked.log(name, &Failure::NoCluster);
    }

    /// The request with this number has ended. `body_size` is zero if there is no answer. Returns which
    /// breakers let probes through.
    pub fn on_answer<H: Host>(
        &mut self,
        host: &H,
        services: &Services,
        config: &Config,
        token: u32,
        body_size: u32,
    ) -> Vec<Permitted> {
        let was_sent = |sent: &mut Sent| sent.token == token;
        let Some((asked, sent)) = self.asked.iter_mut().find_map(|asked| {
            let sent = asked.sent.take_if(was_sent)?;
            Some((asked, sent))
        }) else {
            return Vec::new();
        };
        let name = &services[asked.service].name;
        match config.of_service(name).health_check.judge(host, body_size) {
            Ok(()) => sent.permits,
            Err(failure) => {
                asked.log(name, &failure);
                Vec::new()
            }
        }
    }
}

impl Asked {
    /// Once, until none of its breakers is open.
    fn log(&mut self, name: &str, failure: &Failure) {
        if !std::mem::replace(&mut self.is_logged, true) {
            log::info!("{name}: the health check {failure}");
        }
    }
}

impl HealthCheck {
    /// The time between two checks: only one is on its way.
    fn interval(&self) -> Duration {
        self.every.max(self.timeout)
    }

    fn send<H: Host>(&self, host: &H, cluster: &str, service: &str) -> Option<u32> {
        let authority = self.host.as_deref().unwrap_or_else(|| host_named(service));
        let mut headers = vec![
            (":authority", authority),
            (":scheme", "http"),
            ("user-agent", "levee-health-check"),
        ];
        let body = match &self.question {
            Question::Off => return None,
            Question::Http { path } => {
                headers.extend([(":method", "GET"), (":path", path.as_str())]);
                Vec::new()
            }
            Question::Grpc { service } => {
                headers.extend([
                    (":method", "POST"),
                    (":path", GRPC_PATH),
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                ]);
                grpc_question(service)
            }
        };
        host.send(OwnRequest {
            cluster,
            headers: &headers,
            body: &body,
            timeout: self.timeout,
        })
    }

    /// Judges the answer that has just come.
    fn judge<H: Host>(&self, host: &H, body_size: u32) -> Result<(), Failure> {
        let number = |part, name| {
            let text = host.answer(part, name)?;
            std::str::from_utf8(&text).ok()?.parse::<u64>().ok()
        };
        let status = number(AnswerPart::Headers, ":status").ok_or(Failure::NoAnswer)?;
        if !self.expects(status) {
            return Err(Failure::Status(status));
        }
        if matches!(self.question, Question::Grpc { .. }) {
            let name = "grpc-status";
            let grpc_status =
                number(AnswerPart::Trailers, name).or_else(|| number(AnswerPart::Headers, name));
            let body = host.answer_body(body_size).unwrap_or_default();
            let message = body.strip_prefix(&grpc_prefix(GRPC_SERVING.len()));
            if grpc_status != Some(0) || message != Some(&GRPC_SERVING) {
                return Err(Failure::NotServing);
            }
        }
        Ok(())
    }
}

/// A name that servers accept as that of their host.
fn host_named(service: &str) -> &str {
    let may_be = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if service.bytes().all(may_be) {
        service
    } else {
        ANY_HOST
    }
}

/// `HealthCheckRequest { service }`, as gRPC sends it.
fn grpc_question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a); // field 1, with a length
        let mut length = service.len();
        while length > 0x7f {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = grpc_prefix(message.len()).to_vec();
    body.extend(message);
    body
}

/// What comes before a message of gRPC: not compressed, and its length.
fn grpc_prefix(length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or_default().to_be_bytes();
    [0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_of_grpc_is_a_message_with_the_name_of_the_service() {
        assert_eq!(grpc_question(""), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = grpc_question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 0x01, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn the_name_of_a_cluster_is_not_always_one_of_a_host() {
        assert_eq!(host_named("auth.default.svc"), "auth.default.svc");
        assert_eq!(host_named("outbound|8080||auth"), "localhost");
    }
}
