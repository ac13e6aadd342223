//! Counting instructions, which do not depend on the machine's load.

use crate::failure::Failure;
use crate::machine;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Why instructions are not counted without it.
pub const MISSING: &str =
    "valgrind is missing, which counts instructions (Debian: apt-get install valgrind)";

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

    /// The instructions of one repetition. `program` takes the number of repetitions as its last argument; subtracting a
    /// short run from a long one leaves out the start.
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

/// The count that callgrind prints at the end: `==1234== Collected : 123456`.
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
