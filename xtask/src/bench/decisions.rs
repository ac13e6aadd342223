//! When breakers open and close: Levee's beside others', calculated and simulated. `bench/decisions/` does it.

use crate::failure::Failure;
use crate::machine::cargo;
use crate::project::Project;
use crate::run::succeed;
use clap::Args;

#[derive(Args)]
pub struct Options {
    /// A tenth of the calls: rougher figures
    #[arg(long)]
    quick: bool,
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
}

pub fn decisions(project: &Project, options: &Options) -> Result<(), Failure> {
    let mut run = cargo();
    run.current_dir(&project.root)
        .args(["run", "--locked", "--quiet", "--profile=load-generator"])
        .args(["--package=levee-bench-decisions", "--"])
        .args(options.quick.then_some("--quick"))
        .args(options.json.then_some("--json"));
    succeed(&mut run, "the simulation failed")
}
