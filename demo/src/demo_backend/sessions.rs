//! Sessions in Redis, tokens in the database.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use redis::AsyncCommands;
use serde_json::{Value, json};

use super::failure::Failure;
use super::input::{id, text};
use super::service::Service;

const SESSION_SECONDS: u64 = 3600;

fn key(session: &str) -> String {
    format!("session:{session}")
}

pub(super) async fn log_in(
    State(service): State<Service>,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let user = text(&body, "user")?;
    let session: String = sqlx::query_scalar(
        "INSERT INTO email_verification_tokens (user_id, token, expires_at) \
         VALUES (gen_random_uuid(), md5(random()::text), now() + interval '1 hour') RETURNING token_id::text",
    )
    .fetch_one(service.database()?)
    .await?;
    let stored = json!({"session": session, "user": user});
    let () = service
        .redis()?
        .set_ex(key(&session), stored.to_string(), SESSION_SECONDS)
        .await?;
    Ok((StatusCode::CREATED, Json(stored)))
}

async fn find(service: &Service, session: &str) -> Result<Value, Failure> {
    let stored: Option<String> = service.redis()?.get(key(session)).await?;
    stored
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or(Failure::NotFound("session"))
}

pub(super) async fn show(
    State(service): State<Service>,
    path: Path<String>,
) -> Result<Json<Value>, Failure> {
    let session = id(path, "session")?;
    find(&service, &session).await.map(Json)
}

pub(super) async fn log_out(
    State(service): State<Service>,
    path: Path<String>,
) -> Result<StatusCode, Failure> {
    let session = id(path, "session")?;
    let ended: u64 = service.redis()?.del(key(&session)).await?;
    if ended == 0 {
        return Err(Failure::NotFound("session"));
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn make_token(
    State(service): State<Service>,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    find(&service, text(&body, "session")?).await?;
    let token: String = sqlx::query_scalar(
        "INSERT INTO email_verification_tokens (user_id, new_email, token, expires_at) \
         VALUES (gen_random_uuid(), $1, md5(random()::text), now() + interval '1 hour') RETURNING token_id::text",
    )
    .bind(text(&body, "email")?)
    .fetch_one(service.database()?)
    .await?;
    Ok((StatusCode::CREATED, Json(json!({"token": token}))))
}

pub(super) async fn use_token(
    State(service): State<Service>,
    path: Path<String>,
) -> Result<StatusCode, Failure> {
    let token = id(path, "token")?;
    let used = sqlx::query(
        "UPDATE email_verification_tokens SET used_at = now() \
         WHERE token_id = $1::text::uuid AND used_at IS NULL AND expires_at > now()",
    )
    .bind(token)
    .execute(service.database()?)
    .await?;
    if used.rows_affected() == 0 {
        return Err(Failure::NotFound("token"));
    }
    Ok(StatusCode::NO_CONTENT)
}
