//! The parts of the comparison that `--only` chooses from.

use clap::ValueEnum;

/// A part that can be measured separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// CPU per good request, one worker
    Cpu,
    /// CPU per request while a service fails, one worker
    Failure,
    /// Latencies at a fixed rate, one worker
    Latency,
    /// The same with two workers
    Workers,
}
