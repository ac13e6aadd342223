//! Levee's filter and its configuration.

use std::path::Path;

use serde_json::{Value, json};

use super::tree::{at, list, merge};
use super::{EnvoyConfig, LISTENERS};
use crate::error::{Error, Result};

/// The header with the limit for the whole request, in milliseconds.
pub const SEEN_WHOLE_LIMIT: &str = "seen-whole-limit-ms";
/// The header with the limit for the headers of the answer, in milliseconds.
pub const SEEN_HEADER_LIMIT: &str = "seen-header-limit-ms";

impl EnvoyConfig {
    /// The filter's wasm file.
    #[must_use]
    pub fn wasm_file(self, file: &Path) -> Self {
        self.change(|value| {
            *at(filter(value)?, "/vm_config/code/local/filename")? = json!(file);
            Ok(())
        })
    }

    /// Without Levee's filter: a bare gateway to compare with.
    #[must_use]
    pub fn without_filter(self) -> Self {
        self.change(|value| {
            each_list(value, |filters| {
                filters.retain(|filter| filter["name"] != "levee");
            })
        })
    }

    /// Whether Levee's filter is in it.
    pub fn has_filter(&self) -> bool {
        let mut found = false;
        let mut copy = self.value.clone();
        let searched = each_list(&mut copy, |filters| {
            found |= filters.iter().any(|filter| filter["name"] == "levee");
        });
        searched.is_ok() && found
    }

    /// Merges into the filter's configuration (RFC 7396: null removes a key).
    #[must_use]
    pub fn plugin(self, patch: &Value) -> Self {
        self.change(|value| {
            let mut configuration = configuration(value)?;
            merge(&mut configuration, patch);
            set_configuration(value, &configuration)
        })
    }

    /// Replaces the filter's configuration.
    #[must_use]
    pub fn plugin_exactly(self, configuration: &Value) -> Self {
        self.change(|value| set_configuration(value, configuration))
    }

    /// Replaces the filter's configuration by text, the other form in which Envoy passes it on.
    #[must_use]
    pub fn plugin_text(self, text: &str) -> Self {
        self.change(|value| {
            *at(filter(value)?, "/configuration")? = json!({
                "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text,
            });
            Ok(())
        })
    }

    /// Shows backends the limits that the filter set, in the headers [`SEEN_WHOLE_LIMIT`] and [`SEEN_HEADER_LIMIT`].
    /// Envoy's router removes the real ones, also from the access log.
    #[must_use]
    pub fn show_limits_to_backends(self) -> Self {
        let copy =
            |name: &str, value: &str| json!({"append": {"header": {"key": name, "value": value}}});
        let filter = json!({
            "name": "show-limits",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                "mutations": {"request_mutations": [
                    copy(SEEN_WHOLE_LIMIT, "%REQ(X-ENVOY-UPSTREAM-RQ-TIMEOUT-MS)%"),
                    copy(SEEN_HEADER_LIMIT, "%REQ(X-ENVOY-UPSTREAM-RQ-PER-TRY-TIMEOUT-MS)%"),
                ]},
            },
        });
        self.change(|value| {
            each_list(value, |filters| {
                let before_the_router = filters.len().saturating_sub(1);
                filters.insert(before_the_router, filter.clone());
            })
        })
    }
}

/// The filter's configuration, which must not be text. An absent one is empty.
pub(super) fn configuration(value: &mut Value) -> Result<Value> {
    match filter(value)?.pointer("/configuration/value").cloned() {
        None | Some(Value::Null) => Ok(json!({})),
        Some(Value::String(text)) => Err(Error::new(format!(
            "the filter's configuration is text: {text}"
        ))),
        Some(configuration) => Ok(configuration),
    }
}

pub(super) fn set_configuration(value: &mut Value, configuration: &Value) -> Result<()> {
    *at(filter(value)?, "/configuration")? = json!({
        "@type": "type.googleapis.com/google.protobuf.Struct", "value": configuration,
    });
    Ok(())
}

/// The settings of the first listener's filter.
fn filter(value: &mut Value) -> Result<&mut Value> {
    let first = at(value, "/static_resources/listeners/0")?;
    let filter = http_filters(first)?
        .iter_mut()
        .find(|filter| filter["name"] == "levee")
        .ok_or_else(|| Error::new("the first listener has no HTTP filter named `levee`"))?;
    at(filter, "/typed_config/config")
}

/// Changes the HTTP filters of each listener.
fn each_list(value: &mut Value, mut change: impl FnMut(&mut Vec<Value>)) -> Result<()> {
    for listener in list(value, LISTENERS)? {
        change(http_filters(listener)?);
    }
    Ok(())
}

fn http_filters(listener: &mut Value) -> Result<&mut Vec<Value>> {
    list(
        listener,
        "/filter_chains/0/filters/0/typed_config/http_filters",
    )
}
