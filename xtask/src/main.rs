//! The commands of the project. `cargo xtask --help` lists them.

mod bench;
mod callgrind;
mod clock;
mod envoy;
mod failure;
mod fetch;
mod instructions;
mod machine;
mod part;
mod pins;
mod postgres;
mod project;
mod run;
mod skips;
mod suites;
mod test;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The commands of the project
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "\
Redis, PostgreSQL, Go, Node.js and Prometheus are the machine's, where it has them. What is missing
is fetched into .tools/, in the version that xtask/tools.toml pins.

Exit codes: 1 a test or check failed; 2 the command line is wrong; 3 something is missing on this
machine; 4 a download or installation failed; 5 a port is in use.

Environment:
  ENVOY_PATH        your own Envoy in place of the pinned one
  LEVEE_ANY_ENVOY   set to 1 to use it though its version is another than the pinned one
  FUNC_E_PATH       your own func-e in place of the pinned one
  REDIS_SERVER_PATH the redis-server or valkey-server to run, in place of the one on the PATH
  POSTGRES_BIN_PATH the folder of PostgreSQL's programs to run, in place of the machine's
  PGBOUNCER_PATH    the pgbouncer to test with, in place of the machine's
  REDIS_SOURCE_PATH the folder of Redis' source, whose test-suite to run, in place of Debian's source package
  PROMTOOL_PATH     the promtool to test with, in place of the one on the PATH
  PROMETHEUS_PATH   the Prometheus to test with, in place of the one on the PATH
  DOCKER_COMPOSE_PATH
                    the docker-compose to test with, in place of the one on the PATH
  CI                set to true to fail where a tool is missing, instead of skipping what needs it
  CARGO_TARGET_DIR  where builds go, as for cargo itself"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch everything that `up` and `test` need into .tools/
    Setup,
    /// Start Envoy with the filter in front of demonstration services, or of your own, until Ctrl-C
    #[command(disable_help_flag = true)]
    Up {
        /// The options that `cargo xtask up --help` lists
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Play what can go wrong, without Levee and with it, a few seconds each; fails if a promise doesn't hold
    #[command(disable_help_flag = true)]
    Demo {
        /// The options that `cargo xtask demo --help` lists
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure, side by side with the alternatives
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run the test-suites of Redis and of two clients, directly and through Levee, and compare
    Suites(suites::Options),
    /// Run all tests and checks
    Test(test::Options),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = project::Project::find().and_then(|project| match command {
        Command::Setup => tools::fetch_all(&project),
        Command::Up { arguments } => run::up(&project, &arguments),
        Command::Demo { arguments } => run::demo(&project, &arguments),
        Command::Bench(bench) => bench::bench(&project, &bench),
        Command::Suites(options) => suites::suites(&project, &options),
        Command::Test(options) => test::test(&project, &options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use levee_pages::Page;

    #[test]
    fn each_command_that_a_page_names_is_accepted() {
        let mut count = 0;
        for page in Page::all() {
            let commands = page.text.split("cargo xtask ").skip(1);
            for command in commands.filter_map(|text| text.split(['`', '\n', '#']).next()) {
                let words = ["cargo xtask"]
                    .into_iter()
                    .chain(command.split_whitespace());
                match Cli::try_parse_from(words) {
                    Err(error) if error.kind() != ErrorKind::DisplayHelp => {
                        panic!("{}: cargo xtask {command}: {error}", page.name)
                    }
                    _ => count += 1,
                }
            }
        }
        assert!(count > 5, "{count}");
    }
}
