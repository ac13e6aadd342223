//! YAML, and so JSON, with the line of every value: one reader for `levee.yaml` and for Envoy configurations.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`document`] | a text becomes a tree of nodes, or a mistake with its line |
//! | [`node`] | a value, its line, and the lines of what it contains |
//! | `file` | reading a file whose size is bounded |
//! | `scalar` | which plain scalars are numbers, truth values and null |

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod document;
mod file;
mod mistake;
pub mod node;
mod scalar;

pub use document::{Document, parse, parse_first};
pub use file::{NoText, read as read_file};
pub use mistake::Mistake;
pub use node::Node;
