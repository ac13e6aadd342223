//! Calls in the database.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::Row;

use super::failure::Failure;
use super::input::{id, text};
use super::service::Service;

pub(super) async fn start(
    State(service): State<Service>,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let call: String = sqlx::query_scalar(
        "INSERT INTO calls (caller_id, call_type, status, started_at) \
         VALUES (md5($1)::uuid, 'video', 'ringing', now()) RETURNING call_id::text",
    )
    .bind(text(&body, "caller")?)
    .fetch_one(service.database()?)
    .await?;
    let body = json!({"call": call, "status": "ringing"});
    Ok((StatusCode::CREATED, Json(body)))
}

/// Waits for as long as somebody has locked the table.
pub(super) async fn show(
    State(service): State<Service>,
    path: Path<String>,
) -> Result<Json<Value>, Failure> {
    let call = id(path, "call")?;
    let row = sqlx::query("SELECT status, duration FROM calls WHERE call_id = $1::text::uuid")
        .bind(&call)
        .fetch_optional(service.database()?)
        .await?
        .ok_or(Failure::NotFound("call"))?;
    let status: Option<String> = row.try_get("status")?;
    let duration: Option<i32> = row.try_get("duration")?;
    Ok(Json(
        json!({"call": call, "status": status, "duration": duration}),
    ))
}

pub(super) async fn end(
    State(service): State<Service>,
    path: Path<String>,
) -> Result<Json<Value>, Failure> {
    let call = id(path, "call")?;
    let duration: Option<i32> = sqlx::query_scalar(
        "UPDATE calls SET status = 'ended', ended_at = now(), \
           duration = extract(epoch FROM now() - started_at)::int \
         WHERE call_id = $1::text::uuid AND status IN ('ringing', 'active') RETURNING duration",
    )
    .bind(&call)
    .fetch_optional(service.database()?)
    .await?
    .ok_or(Failure::NotFound("call under way"))?;
    Ok(Json(
        json!({"call": call, "status": "ended", "duration": duration}),
    ))
}
