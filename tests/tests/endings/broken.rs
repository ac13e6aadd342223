//! No answer, or a part of one.

use std::time::Duration;

use levee_harness::backend::Behaviour;
use levee_harness::grpc::GrpcBehaviour;
use serde_json::json;

use crate::answers::{no_retry_left, retries};
use crate::case::{Case, Service, compare_with_the_table, gateway};

const NOT_THERE: &str = "no connection, no healthy host, or no address";
const BEFORE_HEADERS: &str = "the connection or stream ends before the response headers";
const NOT_RETRIED: &str = "no connection or no headers, and Envoy may not retry it (UO)";
const NOT_HTTP: &str = "what comes is not HTTP";
const IN_BODY: &str = "the connection or stream ends in the response body";

pub fn cases() -> Vec<Case> {
    let part = || Behaviour::ResetInBody("part".into());
    vec![
        Case::asked(NOT_THERE, "refused", Service::Refusing),
        Case::asked(NOT_THERE, "no host", Service::Hostless),
        Case::asked(NOT_THERE, "a handshake that hangs", Service::SilentTls)
            .cluster(json!({"connect_timeout": "0.300s"})),
        Case::get(BEFORE_HEADERS, "reset", Behaviour::Reset),
        Case::get(BEFORE_HEADERS, "closed", Behaviour::Close),
        Case::call(
            BEFORE_HEADERS,
            "a stream that is reset",
            GrpcBehaviour::ResetAfter(Duration::from_millis(50)),
        ),
        Case::get(NOT_RETRIED, "reset", Behaviour::Reset)
            .route(retries("reset,connect-failure"))
            .cluster(no_retry_left()),
        Case::asked(NOT_RETRIED, "refused", Service::Refusing)
            .route(retries("reset,connect-failure"))
            .cluster(no_retry_left()),
        Case::get(
            NOT_HTTP,
            "",
            Behaviour::Raw("220 mail.example\r\n\r\n".into()),
        ),
        Case::get(IN_BODY, "reset", part()),
    ]
}

#[tokio::test]
async fn broken_answers_are_counted_as_the_table_says() {
    compare_with_the_table(gateway(), cases()).await;
}
