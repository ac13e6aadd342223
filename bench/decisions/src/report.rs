//! The figures, as `--json` prints them.

use crate::cold::Recovery;
use crate::disturbances::{BadHost, Moments};
use crate::openings::Openings;
use crate::outages::{Return, UntilOpen};
use serde::Serialize;

/// Calls a second at which false openings are computed.
pub const RATES: [f64; 7] = [1.0, 2.0, 5.0, 10.0, 100.0, 1_000.0, 10_000.0];
/// Calls a second at which services break.
pub const UNTIL_OPEN_RATES: [f64; 4] = [1.0, 10.0, 100.0, 1_000.0];

#[derive(Serialize)]
pub struct Report {
    pub seed: u64,
    pub false_openings: Vec<FalseOpenings>,
    pub until_open: Vec<UntilOpen>,
    pub comes_back: Vec<Return>,
    pub bad_host: Vec<BadHost>,
    pub moments: Vec<Moments>,
    pub recovery: Vec<Recovery>,
}

/// Of one rule at one service.
#[derive(Serialize)]
pub struct FalseOpenings {
    pub rule: &'static str,
    pub error_percent: f64,
    pub calls_per_second: f64,
    #[serde(flatten)]
    pub openings: Openings,
}
