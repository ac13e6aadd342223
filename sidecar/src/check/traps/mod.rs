//! Known traps in Envoy configurations: settings that Envoy accepts, and that make Levee work less or not at all.
//!
//! Each file has the traps of one kind: a table, and for each entry a function that reports where the trap is.

mod clients;
mod durations;
mod elsewhere;
mod filter;
mod hosts;
mod limits;
mod listeners;
mod names;
mod neighbours;
mod stats;
mod trap;

pub use trap::Trap;

use super::envoy::Envoy;
use super::finding::Finding;

/// All traps, in the order of the table in the reference.
pub fn all() -> impl Iterator<Item = &'static Trap> {
    [
        filter::TRAPS,
        neighbours::TRAPS,
        stats::TRAPS,
        durations::TRAPS,
        limits::TRAPS,
        clients::TRAPS,
        hosts::TRAPS,
        names::TRAPS,
        listeners::TRAPS,
        elsewhere::TRAPS,
    ]
    .into_iter()
    .flatten()
}

/// Looks for all traps.
pub fn look(envoy: &Envoy<'_>) -> Vec<Finding> {
    all().flat_map(|trap| trap.look(envoy)).collect()
}
