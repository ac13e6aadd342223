//! The parts of an Envoy configuration that concern Levee: HTTP connection managers with their filters and routes,
//! clusters, and the configuration of Levee's own filter.
//!
//! They are read from a bootstrap's `static_resources`, and from the `resources` of a file that Envoy watches.

use super::at::At;
use crate::yaml::{self, Document};
use levee_config::ConfigError;
use levee_filter::config::Config;

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const STRUCT: &str = "google.protobuf.Struct";
const STRING: &str = "google.protobuf.StringValue";
const BYTES: &str = "google.protobuf.BytesValue";

/// An Envoy configuration.
#[derive(Debug)]
pub struct Envoy<'a> {
    /// All of it.
    pub root: At<'a>,
    /// Its HTTP connection managers.
    pub managers: Vec<Manager<'a>>,
    /// Its clusters.
    pub clusters: Vec<At<'a>>,
}

/// An HTTP connection manager.
#[derive(Debug)]
pub struct Manager<'a> {
    /// The listener it belongs to.
    pub listener: At<'a>,
    /// The manager itself.
    pub at: At<'a>,
    /// Levee's filter, if it has it.
    pub filter: Option<Filter<'a>>,
    /// Its virtual hosts, if they are inline.
    pub hosts: Vec<At<'a>>,
}

/// Levee's filter in a connection manager.
#[derive(Debug)]
pub struct Filter<'a> {
    /// Its entry in the list of filters.
    pub entry: At<'a>,
    /// Its `PluginConfig`: virtual machine, failure policy, configuration.
    pub plugin: At<'a>,
    pub order: Order,
    /// Its own configuration, if it is valid.
    pub config: Option<Config>,
    /// What is wrong with its configuration.
    pub errors: Vec<Wrong>,
    text: Text<'a>,
}

/// Where the filter is among the filters of its connection manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Also if there is no router.
    BeforeRouter,
    AfterRouter,
}

/// Where another filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    BeforeLevee,
    AfterLevee,
}

/// Something wrong in the filter's own configuration.
#[derive(Clone, Debug)]
pub struct Wrong {
    pub place: Place,
    pub message: String,
}

/// A line of the file, and the path to what is written there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub path: String,
}

/// Where the filter's own configuration is.
#[derive(Debug)]
enum Text<'a> {
    /// Absent, or in a form without lines.
    None(At<'a>),
    /// A `Struct`, in the file's own YAML.
    Struct(At<'a>),
    /// A string, with its lines if it is valid YAML.
    String(At<'a>, Option<Document>),
}

impl<'a> Envoy<'a> {
    /// Finds the parts.
    pub fn new(root: At<'a>) -> Self {
        let of_type = |path: &str, kind: &str| {
            let mut all = root.list(&format!("static_resources.{path}"));
            let watched = root.list("resources").into_iter();
            all.extend(watched.filter(|resource| is_a(resource, kind)));
            all
        };
        let managers = of_type("listeners", LISTENER)
            .iter()
            .flat_map(managers_of)
            .collect();
        Self {
            managers,
            clusters: of_type("clusters", CLUSTER),
            root,
        }
    }

    /// The connection managers that have Levee's filter.
    pub fn guarded(&self) -> impl Iterator<Item = (&Manager<'a>, &Filter<'a>)> {
        let guarded = |manager| Manager::filter(manager).map(|filter| (manager, filter));
        self.managers.iter().filter_map(guarded)
    }

    /// The cluster of this name, if it is in the file.
    pub fn cluster(&self, name: &str) -> Option<&At<'a>> {
        let is_it = |cluster: &&At<'_>| cluster.text_at("name") == Some(name);
        self.clusters.iter().find(is_it)
    }

    /// Whether the file has all clusters: none come from a discovery service.
    pub fn has_all_clusters(&self) -> bool {
        self.root.get("static_resources").is_some()
            && self.root.find("dynamic_resources.cds_config").is_none()
            && self.root.find("dynamic_resources.ads_config").is_none()
    }
}

impl<'a> Manager<'a> {
    fn new(listener: At<'a>, at: At<'a>) -> Self {
        let filters = at.list("http_filters");
        let router = filters.iter().position(is_router);
        let found = filters.iter().enumerate().find(|(_, at)| is_levee(at));
        let filter = found.map(|(place, at)| {
            let order = if router.is_some_and(|router| router < place) {
                Order::AfterRouter
            } else {
                Order::BeforeRouter
            };
            Filter::new(at.clone(), order)
        });
        Self {
            listener,
            filter,
            hosts: at.list("route_config.virtual_hosts"),
            at,
        }
    }

    const fn filter(&self) -> Option<&Filter<'a>> {
        self.filter.as_ref()
    }

    /// All inline routes, each with its virtual host.
    pub fn routes(&self) -> impl Iterator<Item = (&At<'a>, At<'a>)> {
        self.hosts.iter().flat_map(|host| {
            host.list("routes")
                .into_iter()
                .map(move |route| (host, route))
        })
    }

    /// The other filters on one side of Levee's that may run; none if Levee's is missing.
    pub fn others(&self, side: Side) -> Vec<At<'a>> {
        let filters = self.at.list("http_filters");
        let Some(place) = filters.iter().position(is_levee) else {
            return Vec::new();
        };
        let others = filters.into_iter().enumerate().filter(|(other, at)| {
            let is_on_side = match side {
                Side::BeforeLevee => *other < place,
                Side::AfterLevee => *other > place,
            };
            is_on_side && !is_levee(at) && self.may_run(at)
        });
        others.map(|(_, at)| at).collect()
    }

    /// Whether a filter is on, or a route may have switched it on.
    fn may_run(&self, filter: &At<'a>) -> bool {
        let name = filter.text_at("name").unwrap_or_default();
        let names_it = |at: &At<'a>| {
            let overrides = at.get("typed_per_filter_config");
            let entries = overrides.map_or_else(Vec::new, |at| at.entries());
            entries.iter().any(|(key, _)| *key == name)
        };
        !filter.is_true("disabled")
            || self.at.get("route_config").is_some_and(|at| names_it(&at))
            || self.hosts.iter().any(names_it)
            || self.routes().any(|(_, route)| names_it(&route))
    }

    /// The router's entry in the list of filters.
    pub fn router(&self) -> Option<At<'a>> {
        self.at.list("http_filters").into_iter().find(is_router)
    }

    /// Whether its routes are inline, and none leads to a service.
    pub fn leads_nowhere(&self) -> bool {
        self.at.get("route_config").is_some()
            && !self.routes().any(|(_, route)| route.get("route").is_some())
    }

    /// Whether it removes the header `name` (or all with that prefix) from requests before it chooses a route.
    pub fn removes_early(&self, name: &str) -> bool {
        self.at
            .list("early_header_mutation_extensions")
            .iter()
            .flat_map(|extension| extension.list("typed_config.mutations"))
            .any(|mutation| {
                let matcher = mutation.find("remove_on_match.key_matcher");
                let text_at = |key| matcher.as_ref().and_then(|matcher| matcher.text_at(key));
                text_at("prefix").is_some_and(|prefix| name.starts_with(prefix))
                    || text_at("exact") == Some(name)
                    || mutation.text_at("remove") == Some(name)
            })
    }
}

impl<'a> Filter<'a> {
    fn new(entry: At<'a>, order: Order) -> Self {
        let plugin = entry.find("typed_config.config");
        let plugin = plugin.unwrap_or_else(|| entry.clone());
        let mut filter = Self {
            entry,
            order,
            config: None,
            errors: Vec::new(),
            text: Text::None(plugin.clone()),
            plugin,
        };
        filter.read();
        filter
    }

    /// Reads the filter's configuration by the filter's own reader.
    fn read(&mut self) {
        let Some(any) = self.plugin.get("configuration") else {
            self.config = Some(Config::default());
            return;
        };
        self.text = Text::None(any.clone());
        if is_a(&any, BYTES) {
            return;
        }
        let value = any.get("value");
        let written = match value {
            _ if !is_a(&any, STRUCT) && !is_a(&any, STRING) => {
                let message = format!(
                    "must have \"@type\": type.googleapis.com/{STRUCT} (or {STRING}), and the configuration in `value`"
                );
                let place = Place {
                    line: any.line,
                    path: any.path,
                };
                self.errors.push(Wrong { place, message });
                return;
            }
            None => String::new(),
            Some(value) if is_a(&any, STRUCT) => {
                let written = value.node().value().to_string();
                self.text = Text::Struct(value);
                written
            }
            Some(value) => {
                let text = value.text().unwrap_or_default();
                self.text = Text::String(value, yaml::parse(text).ok());
                text.to_owned()
            }
        };
        match Config::parse(written.as_bytes()) {
            Ok(config) => self.config = Some(config),
            Err(errors) => {
                let wrong = |error: ConfigError| Wrong {
                    place: self.locate(&error.path),
                    message: error.message,
                };
                self.errors = errors.into_iter().map(wrong).collect();
            }
        }
    }

    /// The line and the full path of a value of the filter's own configuration.
    pub fn locate(&self, path: &str) -> Place {
        let (at, line) = match &self.text {
            Text::Struct(at) => (at, at.line_of(path)),
            Text::String(at, Some(document)) if at.node().is_literal() => {
                (at, at.line + document.root.line_of(path))
            }
            Text::None(at) | Text::String(at, _) => (at, at.line),
        };
        let separator = if path.is_empty() { "" } else { "." };
        Place {
            line,
            path: format!("{}{separator}{path}", at.path),
        }
    }
}

/// Whether an Any is of this type.
fn is_a(any: &At<'_>, kind: &str) -> bool {
    let kind_of = any.text_at("@type").and_then(|url| url.rsplit('/').next());
    kind_of == Some(kind)
}

/// The name of a filter's extension, such as `lua`, and its configuration.
pub fn extension<'a>(filter: &At<'a>) -> Option<(&'a str, At<'a>)> {
    const FILTERS: &str = "envoy.extensions.filters.http.";
    let config = filter.get("typed_config")?;
    // A filter with conditions has the real one inside.
    let config = config
        .find("extension_config.typed_config")
        .unwrap_or(config);
    let kind = config.text_at("@type")?.rsplit('/').next()?;
    let name = kind.strip_prefix(FILTERS)?.split('.').next()?;
    Some((name, config))
}

fn managers_of<'a>(listener: &At<'a>) -> Vec<Manager<'a>> {
    let filters = filter_chains(listener)
        .into_iter()
        .flat_map(|chain| chain.list("filters"));
    filters
        .filter_map(|filter| filter.get("typed_config"))
        .filter(|config| is_a(config, MANAGER))
        .map(|config| Manager::new(listener.clone(), config))
        .collect()
}

/// The clusters that a route names.
pub fn clusters_of<'a>(route: &At<'a>) -> Vec<&'a str> {
    let weighted = route.list("route.weighted_clusters.clusters");
    let weighted = weighted
        .iter()
        .filter_map(|cluster| cluster.text_at("name"));
    weighted.chain(route.text_at("route.cluster")).collect()
}

fn filter_chains<'a>(listener: &At<'a>) -> Vec<At<'a>> {
    let mut chains = listener.list("filter_chains");
    chains.extend(listener.get("default_filter_chain"));
    chains
}

fn is_router(filter: &At<'_>) -> bool {
    filter
        .get("typed_config")
        .is_some_and(|config| is_a(&config, ROUTER))
        || filter.text_at("name") == Some("envoy.filters.http.router")
}

/// Whether a filter is Levee's: a WebAssembly filter whose name, or whose code's name, contains `levee`.
fn is_levee(filter: &At<'_>) -> bool {
    const NAMES: [&str; 6] = [
        "name",
        "typed_config.config.name",
        "typed_config.config.root_id",
        "typed_config.config.vm_config.vm_id",
        "typed_config.config.vm_config.code.local.filename",
        "typed_config.config.vm_config.code.remote.http_uri.uri",
    ];
    let is_wasm = filter
        .get("typed_config")
        .is_some_and(|config| is_a(&config, WASM));
    let is_named = |path: &str| {
        let name = filter.text_at(path).unwrap_or_default();
        name.to_ascii_lowercase().contains("levee")
    };
    is_wasm && NAMES.iter().any(|path| is_named(path))
}
