//! What all parts of the simulation share.

use levee_policy::time::Instant;

pub const START: Instant = Instant::from_nanos(1_000_000_000_000);
pub const SEED: u64 = 18;
