//! What is not in the file, and so is not checked.

use super::trap::{Caught, Trap};
use crate::check::envoy::Envoy;

pub(super) const TRAPS: &[Trap] = &[Trap::remark("not-in-file", not_in_file)];

/// Resources that Envoy gets by discovery.
fn not_in_file(envoy: &Envoy<'_>, caught: &mut Caught) {
    const HOW: &str = "to check them, save /config_dump of the admin interface of a running Envoy, and check that";
    let sources = [("lds_config", "listeners"), ("cds_config", "clusters")];
    if !envoy.is_dump() {
        for (key, what) in sources {
            if let Some(at) = envoy.find(&format!("dynamic_resources.{key}")) {
                caught.at(
                    &at,
                    format!("{what} that come from here are not in this file; {HOW}"),
                );
            }
        }
    }
    for manager in &envoy.managers {
        if let Some(at) = manager.missing_routes() {
            caught.at(
                &at,
                format!("the routes that come from here are not in this file; {HOW}"),
            );
        }
        for filter in manager
            .unknown_filters()
            .filter(|filter| filter.may_be_wasm())
        {
            let at = filter.entry.get("config_discovery");
            caught.at(
                at.as_ref().unwrap_or(&filter.entry),
                format!(
                    "the settings of the filter that come from here are not in this file; {HOW}"
                ),
            );
        }
    }
}
