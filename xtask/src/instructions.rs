//! How many instructions a decision may take. Times would depend on the machine's mood, these do not.

use crate::callgrind::Callgrind;
use crate::failure::Failure;
use crate::project::Project;
use crate::run::succeed;
use crate::tools::cargo;
use std::process::Command;

/// The cases of `bench/policy/rust` that are held, and how many instructions each may take on `x86_64`, the loop included:
/// those that were counted, a quarter more and five, for what another compiler makes of it.
const LIMITS: [(&str, f64); 14] = [
    ("levee Replica/pass", 33.0),
    ("levee Replica/refuse", 53.0),
    ("levee Replica/success", 37.0),
    ("levee Replica/failure", 1706.0),
    ("levee Replica/pass+success", 55.0),
    ("levee Breaker/pass", 31.0),
    ("levee Breaker/refuse", 50.0),
    ("levee Breaker/success", 84.0),
    ("levee Breaker/failure", 174.0),
    ("levee Breaker/pass+success", 90.0),
    ("levee Breaker/success in another bucket", 262.0),
    ("levee Breaker/to bytes and back", 1180.0),
    ("levee Budget/deposit+withdraw", 94.0),
    ("levee Backoff/wait", 185.0),
];

/// The processors that [`LIMITS`] are for.
pub const ARCHITECTURE: &str = "x86_64";

/// Counts all, and says which are too many.
pub fn hold(project: &Project, callgrind: &Callgrind) -> Result<(), Failure> {
    // A folder of its own: the benchmark's has it with the libraries that it compares.
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
        "decisions take more instructions than they may: {}",
        too_many.join("; ")
    )))
}
