//! Failed requests, and their responses.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request fails.
#[derive(Debug)]
pub(super) enum Failure {
    Without(&'static str),
    NotFound(&'static str),
    BadRequest(String),
    Redis(redis::RedisError),
    Database(sqlx::Error),
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::Without(part) => (
                StatusCode::NOT_IMPLEMENTED,
                format!("this service was started without {part}"),
            ),
            Self::NotFound(what) => (StatusCode::NOT_FOUND, format!("no such {what}")),
            Self::BadRequest(why) => (StatusCode::BAD_REQUEST, why),
            Self::Redis(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("Redis: {error}")),
            Self::Database(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("database: {error}"),
            ),
        };
        (status, Json(json!({"error": error}))).into_response()
    }
}
