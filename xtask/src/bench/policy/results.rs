//! What was measured.

use crate::failure::Failure;
use levee_bench_statistics::Spread;
use serde::{Deserialize, Serialize};

/// The operations, in the order of the tables.
pub(super) const OPERATIONS: [&str; 6] = [
    "pass",
    "refuse",
    "success",
    "failure",
    "pass+success",
    "pass+failure",
];

/// The number and length of an operation's repetitions.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Extent {
    pub(super) repetitions: u32,
    pub(super) milliseconds: u32,
}

/// A program's output for one operation.
#[derive(Deserialize)]
pub(super) struct Said {
    pub(super) library: String,
    pub(super) operation: String,
    pub(super) nanos: Vec<f64>,
}

/// One operation of one library.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) language: &'static str,
    pub(super) library: String,
    pub(super) operation: String,
    pub(super) nanos: Spread,
    pub(super) repetitions: Vec<f64>,
    /// Only for machine code, whose instructions callgrind can count.
    pub(super) instructions: Option<f64>,
}

/// Something that this machine can't measure.
#[derive(Serialize)]
pub(super) struct Skipped {
    pub(super) what: &'static str,
    pub(super) why: String,
}

#[derive(Serialize)]
pub(super) struct Results {
    pub(super) processor: String,
    pub(super) extent: Extent,
    pub(super) rows: Vec<Row>,
    pub(super) skipped: Vec<Skipped>,
}

impl Row {
    pub(super) fn new(language: &'static str, said: Said) -> Result<Self, Failure> {
        let nanos = Spread::of(said.nanos.iter().copied())
            .filter(|_| OPERATIONS.contains(&said.operation.as_str()))
            .ok_or_else(|| {
                Failure::Check(format!(
                    "{}: {} is no operation that was measured",
                    said.library, said.operation
                ))
            })?;
        Ok(Self {
            language,
            library: said.library,
            operation: said.operation,
            nanos,
            repetitions: said.nanos,
            instructions: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_is_not_in_the_table_is_not_lost_silently() {
        let said = Said {
            library: "a".to_owned(),
            operation: "pas".to_owned(),
            nanos: vec![1.0],
        };
        assert!(Row::new("Rust", said).is_err());
    }
}
