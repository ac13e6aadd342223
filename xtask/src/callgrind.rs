//! Counting instructions: they do not depend on what else the machine does.

use crate::failure::Failure;
use crate::machine;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What is installed to have it.
pub const MISSING: &str = "valgrind is missing; install it to have instructions counted";

const FEW: u32 = 1_000;
const MANY: u32 = 11_000;

/// Valgrind, with callgrind in it.
pub struct Callgrind {
    valgrind: PathBuf,
}

impl Callgrind {
    /// The machine's, if it has one.
    pub fn find() -> Option<Self> {
        machine::find("valgrind").map(|valgrind| Self { valgrind })
    }

    /// How many instructions one repetition takes of what `program` repeats as often as its last argument, a number,
    /// says. What it takes to start is in a run of few and in one of many, so it is not in their difference.
    pub fn instructions(&self, program: &Command) -> Result<f64, Failure> {
        let (few, many) = (self.count(program, FEW)?, self.count(program, MANY)?);
        Ok((many - few) / f64::from(MANY - FEW))
    }

    fn count(&self, program: &Command, repetitions: u32) -> Result<f64, Failure> {
        let mut command = Command::new(&self.valgrind);
        command
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program.get_program())
            .args(program.get_args())
            .arg(repetitions.to_string())
            .stdin(Stdio::null());
        let output = command.output();
        let failed = |why: &str| Failure::Check(format!("{command:?}: {why}"));
        let output = output.map_err(|error| failed(&error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(failed(&said));
        }
        collected(&said).ok_or_else(|| failed(&said))
    }
}

/// What callgrind says at its end: `==1234== Collected : 123456`.
fn collected(said: &str) -> Option<f64> {
    let (_, count) = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callgrind_says_is_read() {
        let said = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(said), Some(123_456.0));
        assert_eq!(collected("==7== Events    : Ir\n"), None);
    }
}
