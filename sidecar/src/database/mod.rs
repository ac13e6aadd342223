//! The database: cleanup jobs, the watchdog, limits at the role.

pub mod activity;
pub mod cleanup;
pub mod connect;
pub mod fingerprint;
pub mod limits;
pub mod metrics;
pub mod preset;
pub mod sql;
pub mod undo;
pub mod watchdog;
