//! The parts of `cargo xtask test`.

use clap::ValueEnum;

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Formatting, of the benches and fuzz targets too
    Fmt,
    /// Lints, natively and for WebAssembly, of the benches and fuzz targets too
    Clippy,
    /// Licences, sources and advisories of the dependencies
    Deny,
    /// Unit tests, natively
    Unit,
    /// The instructions that the decisions take
    Instructions,
    /// The decisions in both kinds of WebAssembly, under node
    Wasm,
    /// End to end, with a real Envoy, a real Redis and a real database
    E2e,
    /// The tests of the database again, with the pinned server, if the machine has its own
    Postgres,
}
