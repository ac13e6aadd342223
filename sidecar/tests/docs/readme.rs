//! README.md: its length, and its snippets for one's own Envoy.

use levee::check::of_envoy;
use levee_pages::Page;
use serde_norway::{Mapping, Value};
use std::collections::BTreeSet;

/// A typical published Envoy configuration: Envoy's defaults, without Levee's filter.
const PUBLISHED: &str = "
static_resources:
  listeners:
    - name: gateway
      address: {socket_address: {address: 0.0.0.0, port_value: 8080}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: gateway
                use_remote_address: true
                route_config:
                  virtual_hosts:
                    - {name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: auth}}]}
  clusters:
    - name: auth
      type: STRICT_DNS
      load_assignment:
        cluster_name: auth
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: auth, port_value: 80}}}}]}]
";

#[test]
fn the_readme_has_fewer_than_200_lines() {
    let lines = Page::read("README.md").text.lines().count();
    assert!(lines < 200, "{lines}");
}

fn own_envoy() -> Page {
    Page::read("README.md").section("Put it into your own Envoy")
}

fn snippets() -> [Mapping; 2] {
    let snippets = own_envoy().examples("yaml");
    let parsed = snippets
        .iter()
        .map(|snippet| serde_norway::from_str(&snippet.text).unwrap());
    let parsed: Vec<Mapping> = parsed.collect();
    parsed.try_into().expect("two snippets")
}

#[test]
fn levee_check_reports_only_what_the_readme_says_after_its_snippets_were_added() {
    let mut envoy: Value = serde_norway::from_str(PUBLISHED).unwrap();
    let [manager, top] = snippets();
    let listener = &mut envoy["static_resources"]["listeners"][0];
    let place = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    place.as_mapping_mut().unwrap().extend(manager);
    envoy.as_mapping_mut().unwrap().extend(top);
    let findings = of_envoy(&serde_norway::to_string(&envoy).unwrap()).findings;
    let traps: BTreeSet<&str> = findings.iter().filter_map(|found| found.trap).collect();
    let wanted = ["slow-clients", "upload-limit"];
    assert_eq!(traps, BTreeSet::from(wanted), "{findings:#?}");
    let quoted = own_envoy().quoted();
    assert!(
        wanted
            .iter()
            .all(|trap| quoted.contains(&(*trap).to_owned()))
    );
}

#[test]
fn the_snippet_for_ones_own_envoy_begins_in_shadow_mode() {
    let [manager, _] = snippets();
    let filter = &manager["http_filters"][0]["typed_config"]["config"];
    let configuration = &filter["configuration"]["value"];
    assert_eq!(configuration["breaker"]["mode"], "shadow");
    let text = own_envoy().prose().replace('\n', " ");
    let where_it_goes = "each HTTP connection manager, before the router and not behind a cache";
    assert!(text.contains(where_it_goes), "{text}");
}
