//! Limits on the instructions of a decision, which unlike times do not depend on the machine's load.

use crate::callgrind::Callgrind;
use crate::failure::Failure;
use crate::machine::cargo;
use crate::project::Project;
use crate::run::succeed;
use std::process::Command;

/// The limit of each case of `bench/policy/rust` on `x86_64`, the loop included: the count at the time of writing, plus
/// 25 % and five instructions for differences between compilers.
const LIMITS: [(&str, f64); 16] = [
    ("levee Replica/pass", 33.0),
    ("levee Replica/refuse", 53.0),
    ("levee Replica/success", 37.0),
    ("levee Replica/failure", 2490.0),
    ("levee Replica/pass+success", 55.0),
    ("levee Replica, with a scope/pass", 64.0),
    ("levee Replica, with a scope/pass+success", 129.0),
    ("levee Breaker/pass", 31.0),
    ("levee Breaker/refuse", 50.0),
    ("levee Breaker/success", 84.0),
    ("levee Breaker/failure", 416.0),
    ("levee Breaker/pass+success", 90.0),
    ("levee Breaker/success in another bucket", 345.0),
    ("levee Breaker/to bytes and back", 1720.0),
    ("levee Budget/deposit+withdraw", 94.0),
    ("levee Backoff/wait", 185.0),
];

/// The architecture of [`LIMITS`].
pub const ARCHITECTURE: &str = "x86_64";

/// Counts all cases, and fails if one exceeds its limit.
pub fn hold(project: &Project, callgrind: &Callgrind) -> Result<(), Failure> {
    // A folder of its own, since the benchmark is built with the libraries that it compares.
    let target = project.target()?.join("instructions");
    let mut build = cargo();
    build
        .current_dir(project.root.join("bench/policy/rust"))
        .args(["build", "--locked", "--release", "--no-default-features"])
        .arg("--target-dir")
        .arg(&target);
    succeed(&mut build, "the decisions could not be built")?;
    let program = target.join("release/bench-policy");
    println!("{:<42}{:>12}{:>9}", "", "instructions", "at most");
    let mut too_many = Vec::new();
    for (name, limit) in LIMITS {
        let counted = callgrind.instructions(Command::new(&program).args(["repeat", name]))?;
        println!("{name:<42}{counted:>12.1}{limit:>9.0}");
        if counted > limit {
            too_many.push(format!("{name} takes {counted:.1}, at most {limit:.0}"));
        }
    }
    if too_many.is_empty() {
        return Ok(());
    }
    Err(Failure::Check(format!(
        "decisions exceed their limits of instructions: {}",
        too_many.join("; ")
    )))
}
