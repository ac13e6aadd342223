//! Faults on demand: those that `/demo/...` switches, and those that a query asks for.

use std::future::pending;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use super::failure::Failure;
use super::faults::Fault;
use super::service::Service;

/// The longest delay that a request can ask for.
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// Applies the active fault, or the one that the query asks for.
pub(super) async fn apply(
    State(service): State<Service>,
    request: Request,
    next: Next,
) -> Response {
    let faults = service.faults();
    let _in_flight = faults.enter();
    let asked = Asked::from_query(request.uri().query().unwrap_or_default());
    tokio::time::sleep(asked.delay).await;
    let status = match faults.active() {
        Fault::Hang => pending().await,
        Fault::Fail => asked.status.or(Some(StatusCode::BAD_GATEWAY)),
        Fault::None => asked.status,
    };
    let mut response = next.run(request).await;
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    response
}

/// `fail`, `hang` or `recover`.
pub(super) async fn switch(
    State(service): State<Service>,
    Path(fault): Path<String>,
) -> Result<Json<Value>, Failure> {
    let fault = match fault.as_str() {
        "recover" => Fault::None,
        "fail" => Fault::Fail,
        "hang" => Fault::Hang,
        _ => return Err(Failure::NotFound("fault: there are fail, hang and recover")),
    };
    service.faults().activate(fault);
    Ok(state(State(service)).await)
}

/// The active fault and the requests so far.
pub(super) async fn state(State(service): State<Service>) -> Json<Value> {
    let faults = service.faults();
    Json(json!({
        "service": service.name(),
        "fault": faults.active().name(),
        "requests": faults.requests(),
        "in_flight": faults.in_flight(),
    }))
}

/// The fault that a query asks for. Invalid values are ignored.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    status: Option<StatusCode>,
    delay: Duration,
}

impl Asked {
    fn from_query(query: &str) -> Self {
        let mut asked = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "status" => {
                    asked.status = value
                        .parse()
                        .ok()
                        .filter(|status| (200..=599).contains(status))
                        .and_then(|status| StatusCode::from_u16(status).ok());
                }
                "delay" => {
                    asked.delay = humantime::parse_duration(value)
                        .unwrap_or_default()
                        .min(LONGEST_DELAY);
                }
                _ => {}
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, LONGEST_DELAY};
    use axum::http::StatusCode;
    use std::time::Duration;

    #[test]
    fn what_a_request_asks_for_is_bounded() {
        let asked = Asked::from_query("x=1&status=503&delay=250ms");
        let wanted = Asked {
            status: Some(StatusCode::SERVICE_UNAVAILABLE),
            delay: Duration::from_millis(250),
        };
        assert_eq!(asked, wanted);
        assert_eq!(Asked::from_query("status=99&delay=soon"), Asked::default());
        assert_eq!(Asked::from_query("delay=1year").delay, LONGEST_DELAY);
    }
}
