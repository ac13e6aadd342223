//! The random numbers of the simulation of callers, the same on every machine.

#[path = "../../../policy/tests/simulation/random.rs"]
mod numbers;

pub use numbers::Random;
