//! A service of the kind that Levee is made for, unaware of it: sessions in Redis, tokens and calls in
//! `PostgreSQL`, ordinary client libraries, no time limits of its own that would help.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /v1/auth/login` | `{"user"}`: a token in the database, a session in Redis |
//! | `GET`, `DELETE /v1/auth/session/{id}` | the session, or its end |
//! | `POST /v1/auth/email-token` | `{"session", "email"}`: a token by which an address is confirmed |
//! | `POST /v1/auth/email-token/{id}/use` | confirms it, once, until it expires |
//! | `POST /v1/video/calls` | `{"caller"}`: a call that rings |
//! | `GET /v1/video/calls/{id}`, `POST /v1/video/calls/{id}/end` | a call, or its end |
//! | `GET /v1/chat/events?count=N` | server-sent events |
//! | `GET /v1/chat/socket` | a WebSocket that sends back what it gets |
//! | `PUT /v1/storage/...` | how many bytes were uploaded |
//! | `GET /healthz` | whether it is alive |
//! | any other | says who it is; `?status=503` and `?delay=2s` choose how |
//!
//! `POST /demo/fail` lets it answer 500, `/demo/hang` nothing at all, until `POST /demo/recover`; `GET /demo/state` says
//! what it was asked.

mod calls;
mod faults;
mod sessions;
mod streams;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;

use faults::Faults;

/// How long it waits for Redis: like a widely used client with its default retries.
const REDIS_PATIENCE: Duration = Duration::from_secs(20);

/// Maximum of connections to the database.
const CONNECTIONS: u32 = 4;

/// One service. Clones are the same.
#[derive(Clone, Debug)]
pub struct Service(Arc<Parts>);

struct Parts {
    name: String,
    redis: Option<ConnectionManager>,
    database: Option<PgPool>,
    faults: Faults,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// A service of this name. Without Redis or the database it answers 501 where it would need them. Neither has to be
    /// there yet: it connects once it is asked something. The error says which of the two URLs is none.
    pub fn new(name: &str, redis: Option<&str>, database: Option<&str>) -> Result<Self, String> {
        let redis = redis
            .map(|url| {
                let patience = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(REDIS_PATIENCE))
                    .set_response_timeout(Some(REDIS_PATIENCE));
                redis::Client::open(url)
                    .and_then(|client| ConnectionManager::new_lazy_with_config(client, patience))
                    .map_err(|error| format!("Redis at `{url}`: {error}"))
            })
            .transpose()?;
        let database = database
            .map(|url| {
                PgPoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .connect_lazy(url)
                    .map_err(|error| format!("the database's URL: {error}"))
            })
            .transpose()?;
        Ok(Self(Arc::new(Parts {
            name: name.to_owned(),
            redis,
            database,
            faults: Faults::default(),
        })))
    }

    /// Answers requests forever.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        axum::serve(listener, self.router()).await
    }

    fn router(self) -> Router {
        let faults = middleware::from_fn_with_state(self.clone(), faults::apply);
        Router::new()
            .route("/v1/auth/login", post(sessions::log_in))
            .route(
                "/v1/auth/session/{id}",
                get(sessions::show).delete(sessions::log_out),
            )
            .route("/v1/auth/email-token", post(sessions::make_token))
            .route("/v1/auth/email-token/{id}/use", post(sessions::use_token))
            .route("/v1/video/calls", post(calls::start))
            .route("/v1/video/calls/{id}", get(calls::show))
            .route("/v1/video/calls/{id}/end", post(calls::end))
            .route("/v1/chat/events", get(streams::events))
            .route("/v1/chat/socket", get(streams::socket))
            .route("/v1/storage/{*name}", put(streams::upload).fallback(who))
            .route("/healthz", get(who))
            .fallback(who)
            .layer(faults)
            // Not subject to the faults themselves.
            .route("/demo/state", get(faults::state))
            .route("/demo/{fault}", post(faults::switch))
            .with_state(self)
    }

    fn redis(&self) -> Result<ConnectionManager, Failure> {
        self.0.redis.clone().ok_or(Failure::Without("Redis"))
    }

    fn database(&self) -> Result<&PgPool, Failure> {
        self.0
            .database
            .as_ref()
            .ok_or(Failure::Without("the database"))
    }
}

/// Says who it is.
async fn who(
    State(service): State<Service>,
    method: Method,
    uri: Uri,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let uploaded = streams::count(body).await?;
    Ok(Json(json!({
        "service": service.0.name, "method": method.as_str(), "path": uri.path(), "uploaded_bytes": uploaded,
        "request": service.0.faults.requests(),
    })))
}

/// Why a request fails.
#[derive(Debug)]
enum Failure {
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

/// The field of a JSON object that a request must have.
fn text<'a>(body: &'a Value, field: &str) -> Result<&'a str, Failure> {
    body[field]
        .as_str()
        .filter(|text| !text.is_empty() && text.len() <= 200)
        .ok_or_else(|| {
            Failure::BadRequest(format!("wanted JSON with `{field}`, 1 to 200 characters"))
        })
}

/// The id in a path. Ids are UUIDs; any other text matches nothing.
fn id(Path(id): Path<String>, what: &'static str) -> Result<String, Failure> {
    let is_uuid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_uuid {
        Ok(id)
    } else {
        Err(Failure::NotFound(what))
    }
}
