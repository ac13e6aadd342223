//! `POST /v1/reload`: reads the configuration again.

use super::jobs::refusal;
use super::reloaded::Outcome;
use super::state::{Admin, Live};
use crate::config::Secret;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) fn router() -> Router<Live> {
    Router::new().route("/v1/reload", post(reload))
}

async fn reload(
    State(live): State<Live>,
    State(admin): State<Admin>,
    headers: HeaderMap,
) -> Response {
    let token: Option<Arc<Secret>> = admin.token;
    if let Some(refusal) = refusal(token.as_deref(), &headers) {
        return refusal;
    }
    let (reply, result) = oneshot::channel();
    // Neither fails before the process ends.
    let reloaded = match live.reloads.send(reply).await {
        Ok(()) => result.await.ok(),
        Err(_) => None,
    };
    let Some(reloaded) = reloaded else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let status = match reloaded.outcome {
        Outcome::Applied => StatusCode::OK,
        Outcome::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(reloaded)).into_response()
}
