//! The sidecar of Levee.
