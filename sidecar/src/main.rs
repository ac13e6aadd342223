//! The sidecar of Levee.
fn main() {}
