//! `POST /v1/reload`: reads the configuration again.

use super::jobs::refusal;
use super::state::{Admin, Live};
use crate::config::Secret;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    pub outcome: Outcome,
    /// Parts whose new settings are in force.
    pub changed: Vec<String>,
    /// Keys whose new values need a restart; the old ones stay in force.
    pub kept: Vec<String>,
    /// Why nothing was changed.
    pub errors: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    Applied,
    /// The configuration has mistakes.
    Invalid,
    /// It is valid, but could not be put into force.
    Failed,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Applied, Self::Invalid, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// Where the result goes.
pub type ReloadRequest = oneshot::Sender<Reloaded>;

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
