//! A filter of an HTTP connection manager, wherever its configuration is.

use super::at::At;
use super::message::{Message, message, type_of};
use super::resources::Resources;

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// A filter of a connection manager.
#[derive(Clone, Debug)]
pub struct HttpFilter<'a> {
    /// Its entry in the list of filters.
    pub entry: At<'a>,
    /// Its configuration, if it is in the file.
    pub config: Option<Message<'a>>,
}

impl<'a> HttpFilter<'a> {
    pub(super) fn new(entry: At<'a>, resources: &Resources<'a>) -> Self {
        Self {
            config: config_of(&entry, resources),
            entry,
        }
    }

    /// The name of its extension, such as `lua`, and its configuration.
    pub fn extension(&self) -> Option<(&'a str, &At<'a>)> {
        const FILTERS: &str = "envoy.extensions.filters.http.";
        let config = self.config.as_ref()?;
        let name = config.kind.strip_prefix(FILTERS)?.split('.').next()?;
        Some((name, &config.at))
    }

    pub fn is_router(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|config| config.kind == ROUTER)
            || self.entry.text_at("name") == Some("envoy.filters.http.router")
    }

    /// Whether it is a WebAssembly filter whose name, or whose code's name, contains `levee`.
    pub fn is_levee(&self) -> bool {
        const NAMES: [&str; 5] = [
            "config.name",
            "config.root_id",
            "config.vm_config.vm_id",
            "config.vm_config.code.local.filename",
            "config.vm_config.code.remote.http_uri.uri",
        ];
        let is_levee = |name: Option<&str>| {
            name.is_some_and(|name| name.to_ascii_lowercase().contains("levee"))
        };
        let is_named = is_levee(self.entry.text_at("name"));
        match &self.config {
            None => is_named && self.may_be_wasm(),
            Some(config) => {
                config.kind == WASM
                    && (is_named || NAMES.iter().any(|path| is_levee(config.at.text_at(path))))
            }
        }
    }

    /// Whether it comes by discovery, and its configuration is not in the file.
    pub fn is_unknown(&self) -> bool {
        let default = self.entry.find("config_discovery.default_config");
        let is_default = match (&self.config, default.and_then(|any| message(&any))) {
            (Some(config), Some(default)) => config.at.path == default.at.path,
            (known, _) => known.is_none(),
        };
        self.entry.get("config_discovery").is_some() && is_default
    }

    /// Whether discovery may bring a WebAssembly filter here.
    pub fn may_be_wasm(&self) -> bool {
        let types = self.entry.list("config_discovery.type_urls");
        types
            .iter()
            .filter_map(At::text)
            .any(|url| type_of(url) == WASM)
    }
}

/// The configuration of a filter, if it is in the file.
pub fn config_of<'a>(entry: &At<'a>, resources: &Resources<'a>) -> Option<Message<'a>> {
    let discovered = || {
        let discovery = entry.get("config_discovery")?;
        let found = resources.extension(entry.text_at("name")?);
        let found = found.and_then(|extension| extension.get("typed_config"));
        found.or_else(|| discovery.get("default_config"))
    };
    message(&entry.get("typed_config").or_else(discovered)?)
}
