//! `GET /readyz`: which parts work.

use super::state::{Admin, Live};
use crate::readiness::{PartState, Parts};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn router() -> Router<Live> {
    Router::new().route("/readyz", get(ready))
}

async fn ready(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let parts = admin.readiness.parts();
    let required = match required(query.as_deref(), &parts) {
        Ok(required) => required,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response();
        }
    };
    let is_down = |name: &&String| matches!(parts.states.get(*name), Some(PartState::Down(_)));
    let is_ready = !parts.is_stopping && !required.iter().any(|name| is_down(&name));
    let shown = |state: &PartState| match state {
        _ if parts.is_stopping => "not ready",
        PartState::Unknown => "unknown",
        PartState::Ready => "ready",
        PartState::Down(_) => "down",
    };
    let parts_shown: BTreeMap<&String, &str> = parts
        .states
        .iter()
        .map(|(name, state)| (name, shown(state)))
        .collect();
    let problems: BTreeMap<&String, &String> = parts
        .states
        .iter()
        .filter_map(|(name, state)| match state {
            PartState::Down(why) => Some((name, why)),
            _ => None,
        })
        .collect();
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"ready": is_ready, "parts": parts_shown, "problems": problems});
    (status, Json(body)).into_response()
}

/// The parts that `require=redis,database` names, each by its name, by what stands before the slash, or as `all`.
fn required(query: Option<&str>, parts: &Parts) -> Result<Vec<String>, String> {
    let mut required = Vec::new();
    for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if key != "require" {
            return Err(format!(
                "{key} is not known; known is require=redis,database"
            ));
        }
        for wanted in value.split(',') {
            if wanted.is_empty() {
                return Err(format!(
                    "require={value} names an empty part; right is require=all, or names with commas between them"
                ));
            }
            let is_it = |name: &&String| {
                wanted == "all" || **name == wanted || name.split('/').next() == Some(wanted)
            };
            let before = required.len();
            required.extend(parts.states.keys().filter(is_it).cloned());
            if required.len() == before && wanted != "all" {
                let names: Vec<&str> = parts.states.keys().map(String::as_str).collect();
                let names = match names.as_slice() {
                    [] => "none at all".to_owned(),
                    names => names.join(", "),
                };
                return Err(format!("there is no part {wanted:?}; there are: {names}"));
            }
        }
    }
    Ok(required)
}
