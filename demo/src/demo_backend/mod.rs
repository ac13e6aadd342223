//! A typical service behind Levee, unaware of it: sessions in Redis, tokens and calls in `PostgreSQL`, ordinary client
//! libraries, no useful time limits of its own.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /v1/auth/login` | `{"user"}`: a token in the database, a session in Redis |
//! | `GET`, `DELETE /v1/auth/session/{id}` | the session, or its end |
//! | `POST /v1/auth/email-token` | `{"session", "email"}`: a token that confirms an address |
//! | `POST /v1/auth/email-token/{id}/use` | confirms it: once, and before it expires |
//! | `POST /v1/video/calls` | `{"caller"}`: a ringing call |
//! | `GET /v1/video/calls/{id}`, `POST /v1/video/calls/{id}/end` | a call, or its end |
//! | `GET /v1/chat/events?count=N` | server-sent events |
//! | `GET /v1/chat/socket` | a WebSocket that sends back what it gets |
//! | `PUT /v1/storage/...` | the number of bytes uploaded |
//! | `GET /healthz` | whether it is alive |
//! | any other | says who it is; `?status=503` and `?delay=2s` choose how |
//!
//! After `POST /demo/fail` it answers 502, after `/demo/hang` not at all, until `POST /demo/recover`. `GET /demo/state`
//! shows the active fault and the requests so far.

mod calls;
mod failure;
mod faults;
mod injection;
mod input;
mod service;
mod sessions;
mod streams;

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use failure::Failure;
pub use service::Service;

impl Service {
    /// Answers requests forever.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        axum::serve(listener, self.router()).await
    }

    fn router(self) -> Router {
        let faults = middleware::from_fn_with_state(self.clone(), injection::apply);
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
            .route("/demo/state", get(injection::state))
            .route("/demo/{fault}", post(injection::switch))
            .with_state(self)
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
        "service": service.name(), "method": method.as_str(), "path": uri.path(), "uploaded_bytes": uploaded,
        "request": service.faults().requests(),
    })))
}
