//! What requests carry, validated.

use axum::extract::Path;
use serde_json::Value;

use super::failure::Failure;

/// A required field of a JSON object.
pub(super) fn text<'a>(body: &'a Value, field: &str) -> Result<&'a str, Failure> {
    body[field]
        .as_str()
        .filter(|text| !text.is_empty() && text.len() <= 200)
        .ok_or_else(|| {
            Failure::BadRequest(format!("wanted JSON with `{field}`, 1 to 200 characters"))
        })
}

/// The id in a path. Ids are UUIDs; any other text matches nothing.
pub(super) fn id(Path(id): Path<String>, what: &'static str) -> Result<String, Failure> {
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
