//! `levee check`
pub mod located;
