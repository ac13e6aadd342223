//! The parts of an Envoy configuration that concern Levee: HTTP connection managers with their filters and routes, and
//! clusters.

use super::at::At;
use super::http_filter::{HttpFilter, config_of};
use super::levee_filter::{LeveeFilter, Order};
use super::message::{is_a, message};
use super::resources::{Form, Resources, named};

const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// An Envoy configuration.
#[derive(Debug)]
pub struct Envoy<'a> {
    form: Form,
    /// `None`: the file has only resources.
    pub bootstrap: Option<At<'a>>,
    /// Its HTTP connection managers.
    pub managers: Vec<Manager<'a>>,
    /// Levee's filter where it comes by ECDS and no manager of the file has it.
    pub loose_filters: Vec<LeveeFilter<'a>>,
    /// Its clusters.
    pub clusters: Vec<At<'a>>,
    /// Virtual hosts that no manager of the file has.
    loose_hosts: Vec<At<'a>>,
}

/// An HTTP connection manager.
#[derive(Debug)]
pub struct Manager<'a> {
    /// The listener it belongs to.
    pub listener: At<'a>,
    /// The manager itself.
    pub at: At<'a>,
    /// Levee's filter, if it has it.
    pub levee: Option<LeveeFilter<'a>>,
    filters: Vec<HttpFilter<'a>>,
    /// Its routes, if they are in the file.
    route_config: Option<At<'a>>,
    hosts: Vec<At<'a>>,
}

/// A route, and the virtual host that has it.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    pub host: At<'a>,
    pub at: At<'a>,
}

/// Where another filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    BeforeLevee,
    AfterLevee,
}

impl<'a> Envoy<'a> {
    /// Finds the parts.
    pub fn new(resources: Resources<'a>) -> Self {
        let listeners = resources.listeners.iter();
        let managers: Vec<_> = listeners
            .flat_map(|listener| managers_of(listener, &resources))
            .collect();
        let is_used = |hosts: &At<'_>| {
            let mut known = managers
                .iter()
                .filter_map(|manager| manager.route_config.as_ref());
            known.any(|used| used.path == hosts.path)
        };
        let unused = resources.routes.iter().filter(|routes| !is_used(routes));
        let mut loose_hosts: Vec<_> = unused
            .flat_map(|routes| routes.list("virtual_hosts"))
            .collect();
        loose_hosts.extend(resources.hosts);
        let is_found = |filter: &LeveeFilter<'_>| {
            let mut known = managers.iter().filter_map(|manager| manager.levee.as_ref());
            known.any(|used| {
                used.plugin.as_ref().map(|at| &at.path) == filter.plugin.as_ref().map(|at| &at.path)
            })
        };
        let extensions = resources.extensions.iter().map(|entry| HttpFilter {
            entry: entry.clone(),
            config: entry.get("typed_config").and_then(|any| message(&any)),
        });
        let loose_filters = extensions
            .filter(HttpFilter::is_levee)
            .map(|filter| LeveeFilter::new(&filter, Order::BeforeRouter))
            .filter(|filter| !is_found(filter))
            .collect();
        Self {
            form: resources.form,
            bootstrap: resources.bootstrap,
            managers,
            loose_filters,
            clusters: resources.clusters,
            loose_hosts,
        }
    }

    pub fn is_dump(&self) -> bool {
        self.form == Form::Dump
    }

    /// A setting of the bootstrap.
    pub fn find(&self, path: &str) -> Option<At<'a>> {
        self.bootstrap.as_ref()?.find(path)
    }

    /// All items of a list of the bootstrap.
    pub fn list(&self, path: &str) -> Vec<At<'a>> {
        self.find(path).map_or_else(Vec::new, |at| at.items())
    }

    /// The connection managers that have Levee's filter.
    pub fn guarded(&self) -> impl Iterator<Item = (&Manager<'a>, &LeveeFilter<'a>)> {
        let guarded = |manager| Manager::levee(manager).map(|filter| (manager, filter));
        self.managers.iter().filter_map(guarded)
    }

    /// Levee's filter wherever it is configured.
    pub fn filters(&self) -> impl Iterator<Item = &LeveeFilter<'a>> {
        let guarded = self.guarded().map(|(_, filter)| filter);
        guarded.chain(&self.loose_filters)
    }

    /// All routes of the file.
    pub fn routes(&self) -> impl Iterator<Item = Route<'a>> {
        let of_managers = self.managers.iter().flat_map(Manager::routes);
        of_managers.chain(self.loose_hosts.iter().flat_map(routes_of))
    }

    /// The cluster of this name, if it is in the file.
    pub fn cluster(&self, name: &str) -> Option<&At<'a>> {
        named(&self.clusters, name)
    }

    /// Whether the file has all clusters.
    pub fn has_all_clusters(&self) -> bool {
        match self.form {
            Form::Bootstrap => {
                self.find("static_resources").is_some()
                    && self.find("dynamic_resources.cds_config").is_none()
                    && self.find("dynamic_resources.ads_config").is_none()
            }
            Form::Watched => false,
            Form::Dump => !self.clusters.is_empty(),
        }
    }
}

impl<'a> Manager<'a> {
    fn new(listener: At<'a>, at: At<'a>, resources: &Resources<'a>) -> Self {
        let entries = at.list("http_filters").into_iter();
        let filters: Vec<_> = entries
            .map(|entry| HttpFilter::new(entry, resources))
            .collect();
        let router = filters.iter().position(HttpFilter::is_router);
        let found = filters
            .iter()
            .enumerate()
            .find(|(_, filter)| filter.is_levee());
        let levee = found.map(|(place, filter)| {
            let order = if router.is_some_and(|router| router < place) {
                Order::AfterRouter
            } else {
                Order::BeforeRouter
            };
            LeveeFilter::new(filter, order)
        });
        let by_name = || named(&resources.routes, at.text_at("rds.route_config_name")?).cloned();
        let route_config = at.get("route_config").or_else(by_name);
        let hosts = route_config.as_ref();
        Self {
            hosts: hosts.map_or_else(Vec::new, |routes| routes.list("virtual_hosts")),
            listener,
            levee,
            filters,
            route_config,
            at,
        }
    }

    const fn levee(&self) -> Option<&LeveeFilter<'a>> {
        self.levee.as_ref()
    }

    /// Where routes come from that are not in the file.
    pub fn missing_routes(&self) -> Option<At<'a>> {
        let Some(routes) = &self.route_config else {
            return ["rds", "scoped_routes"]
                .iter()
                .find_map(|key| self.at.get(key));
        };
        routes.get("vhds")
    }

    /// Whether all its routes are in the file.
    pub fn has_all_routes(&self) -> bool {
        self.route_config.is_some() && self.missing_routes().is_none()
    }

    /// The routes that are in the file.
    pub fn routes(&self) -> Vec<Route<'a>> {
        self.hosts.iter().flat_map(routes_of).collect()
    }

    /// The filters that come by discovery and whose configuration is not in the file.
    pub fn unknown_filters(&self) -> impl Iterator<Item = &HttpFilter<'a>> {
        self.filters.iter().filter(|filter| filter.is_unknown())
    }

    /// The other filters on one side of Levee's that may run; none if Levee's is missing.
    pub fn others(&self, side: Side) -> Vec<&HttpFilter<'a>> {
        let Some(place) = self.filters.iter().position(HttpFilter::is_levee) else {
            return Vec::new();
        };
        let others = self.filters.iter().enumerate().filter(|(other, filter)| {
            let is_on_side = match side {
                Side::BeforeLevee => *other < place,
                Side::AfterLevee => *other > place,
            };
            is_on_side && !filter.is_levee() && self.may_run(&filter.entry)
        });
        others.map(|(_, filter)| filter).collect()
    }

    /// Whether a filter is on, or something has switched it on.
    fn may_run(&self, filter: &At<'a>) -> bool {
        let name = filter.text_at("name").unwrap_or_default();
        let names_it = |holder: &At<'a>| matches!(switch(holder, name), Some((_, Switch::On)));
        !filter.is_true("disabled")
            || self.route_config.iter().any(names_it)
            || self.hosts.iter().any(names_it)
            || self.routes().iter().any(|route| names_it(&route.at))
    }

    /// Whether Levee's filter sees all requests of a route.
    pub fn sees(&self, route: &Route<'a>) -> bool {
        self.levee.is_some() && self.off_switches(route).is_empty()
    }

    /// What switches Levee's filter off for requests of a route. The switch that is closest to the service decides.
    pub fn off_switches(&self, route: &Route<'a>) -> Vec<At<'a>> {
        let Some(levee) = &self.levee else {
            return Vec::new();
        };
        let name = levee.entry.text_at("name").unwrap_or_default();
        let of_route = || {
            let holders = [
                Some(&route.at),
                Some(&route.host),
                self.route_config.as_ref(),
            ];
            let mut holders = holders.into_iter().flatten();
            holders.find_map(|holder| switch(holder, name))
        };
        let off = |switch| match switch {
            Some((at, Switch::Off)) => Some(at),
            Some((_, Switch::On)) => None,
            None => levee.disabled(),
        };
        let clusters = route.at.list("route.weighted_clusters.clusters");
        if clusters.is_empty() {
            return off(of_route()).into_iter().collect();
        }
        let of_clusters = clusters.iter();
        of_clusters
            .filter_map(|cluster| off(switch(cluster, name).or_else(of_route)))
            .collect()
    }

    /// The router's entry in the list of filters.
    pub fn router(&self) -> Option<&HttpFilter<'a>> {
        self.filters.iter().find(|filter| filter.is_router())
    }

    /// Whether all its routes are in the file, and none leads to a service.
    pub fn leads_nowhere(&self) -> bool {
        self.has_all_routes() && !self.routes().iter().any(Route::leads_on)
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

impl Route<'_> {
    /// Whether it leads to a service.
    pub fn leads_on(&self) -> bool {
        self.at.get("route").is_some()
    }
}

/// Whether a filter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

/// Where a route, or what holds routes, switches a filter on or off.
fn switch<'a>(holder: &At<'a>, filter: &str) -> Option<(At<'a>, Switch)> {
    const SWITCH: &str = "envoy.config.route.v3.FilterConfig";
    let entries = holder.get("typed_per_filter_config")?.entries();
    let (_, at) = entries.into_iter().find(|(name, _)| *name == filter)?;
    let is_off = is_a(&at, SWITCH) && at.is_true("disabled");
    Some((at, if is_off { Switch::Off } else { Switch::On }))
}

fn managers_of<'a>(listener: &At<'a>, resources: &Resources<'a>) -> Vec<Manager<'a>> {
    let mut chains = listener.list("filter_chains");
    chains.extend(listener.get("default_filter_chain"));
    let filters = chains.into_iter().flat_map(|chain| chain.list("filters"));
    let of_chains = filters.filter_map(|filter| config_of(&filter, resources));
    let of_api = listener.find("api_listener.api_listener");
    let of_api = of_api.and_then(|any| message(&any));
    of_chains
        .chain(of_api)
        .filter(|config| config.kind == MANAGER)
        .map(|config| Manager::new(listener.clone(), config.at, resources))
        .collect()
}

/// The routes of a virtual host.
fn routes_of<'a>(host: &At<'a>) -> Vec<Route<'a>> {
    let mut routes = host.list("routes");
    if let Some(matcher) = host.get("matcher") {
        matched_routes(&matcher, &mut routes);
    }
    let route = |at| Route {
        host: host.clone(),
        at,
    };
    routes.into_iter().map(route).collect()
}

/// The routes that a matcher chooses from, wherever in its tree.
fn matched_routes<'a>(at: &At<'a>, routes: &mut Vec<At<'a>>) {
    const ROUTE: &str = "envoy.config.route.v3.Route";
    const ROUTES: &str = "envoy.config.route.v3.RouteList";
    match message(at) {
        Some(message) if message.kind == ROUTE => routes.push(message.at),
        Some(message) if message.kind == ROUTES => routes.extend(message.at.list("routes")),
        _ => {
            for (_, value) in at.entries() {
                let items = value.items();
                for item in &items {
                    matched_routes(item, routes);
                }
            }
        }
    }
}

/// The clusters that a route names.
pub fn clusters_of<'a>(route: &At<'a>) -> Vec<&'a str> {
    let weighted = route.list("route.weighted_clusters.clusters");
    let weighted = weighted
        .iter()
        .filter_map(|cluster| cluster.text_at("name"));
    weighted.chain(route.text_at("route.cluster")).collect()
}
