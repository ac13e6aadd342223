//! The cost of decisions of circuit breakers written in Rust.
//!
//! ```text
//! bench-policy time REPETITIONS MILLISECONDS   nanoseconds per operation, a line of JSON per case
//! bench-policy list                            these cases
//! bench-policy repeat CASE COUNT               one case, or a rare one, COUNT times: for callgrind
//! ```

mod case;
mod levee;
#[cfg(feature = "others")]
mod others;

use case::Case;
use std::env;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut cases: Vec<Case> = case::floor();
    cases.extend(levee::cases());
    #[cfg(feature = "others")]
    cases.extend(others::cases());
    match words[..] {
        ["list"] => {
            for case in cases {
                println!("{}", case.name());
            }
        }
        ["time", repetitions, millis] => {
            let (Ok(repetitions), Ok(millis)) = (repetitions.parse(), millis.parse()) else {
                return usage();
            };
            case::time(&cases, repetitions, Duration::from_millis(millis));
        }
        ["repeat", name, count] => {
            cases.extend(levee::what_is_rare());
            let found = cases.iter().find(|case| case.name() == name);
            let (Some(case), Ok(count)) = (found, count.parse()) else {
                return usage();
            };
            (case.run)(count);
        }
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: bench-policy list | time REPETITIONS MILLISECONDS | repeat CASE COUNT");
    ExitCode::from(2)
}
