//! A message in an `Any`, whichever way it is packed.

use super::at::At;

/// A message, and the full name of its type.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// `envoy.extensions.filters.http.wasm.v3.Wasm`
    pub kind: &'a str,
    /// Its fields.
    pub at: At<'a>,
}

/// What may stand around a message, and around that.
const MAX_WRAPPERS: usize = 4;

/// The message in an `Any`. `None`: it has no type.
pub fn message<'a>(any: &At<'a>) -> Option<Message<'a>> {
    let mut at = any.clone();
    for _ in 0..MAX_WRAPPERS {
        let kind = type_of(at.text_at("@type")?);
        let inner = match kind {
            // Any message as a Struct, which Istio writes.
            "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {
                let kind = type_of(at.text_at("type_url")?);
                let at = at.get("value").unwrap_or(at);
                return Some(Message { kind, at });
            }
            // A filter with conditions has the real one inside.
            "envoy.extensions.common.matching.v3.ExtensionWithMatcher" => {
                at.find("extension_config.typed_config")
            }
            "envoy.service.discovery.v3.Resource" => at.get("resource"),
            _ => return Some(Message { kind, at }),
        };
        at = inner?;
    }
    None
}

/// The type that a URL such as `type.googleapis.com/google.protobuf.Struct` names.
pub fn type_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Whether an Any holds a message of this type.
pub fn is_a(any: &At<'_>, kind: &str) -> bool {
    message(any).is_some_and(|message| message.kind == kind)
}
