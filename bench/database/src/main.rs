//! How quickly a cleanup job works off a backlog while nobody else uses `PostgreSQL`, and what a service notices of it while
//! somebody does.
//!
//! Started by `cargo xtask bench database`, with the number of rounds and, for JSON, `--json`. `BENCH_JOB` in the environment
//! has further keys of the job, such as `, batch: 1000`; the output names them.

mod backlog;
mod service;
mod subject;

use backlog::Backlog;
use levee_bench_statistics::Spread;
use serde_json::{Value, json};
use service::Round;
use subject::{EXPIRED, VALID};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok());
    let rounds: u32 = rounds.unwrap_or(1);
    let is_json = arguments.iter().any(|argument| argument == "--json");
    let keys = std::env::var("BENCH_JOB").unwrap_or_default();
    let settings = match &keys[..] {
        "" => "its default settings",
        keys => keys.trim_start_matches([',', ' ']),
    };
    eprintln!(
        "{} rows, of which {EXPIRED} have expired; the job has {settings}\n",
        EXPIRED + VALID
    );
    // Interleaved, so that other load on the machine affects all alike.
    let (mut levee, mut plain, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        levee.push(backlog::by_levee(&keys));
        plain.push(backlog::by_loop());
        services.push(service::beside_job(&keys));
        eprintln!("round {round} of {rounds}");
    }
    if is_json {
        println!("{:#}", of_all(&levee, &plain, &services));
        return;
    }
    println!("Nobody else uses the database: seconds until the backlog is gone");
    for (name, all) in [("Levee", &levee), ("a loop, 1,000 rows each", &plain)] {
        println!("{name:<26} {}", shown(spread(all, |it| it.seconds)));
    }
    println!("\nBeside a service ({}):", service::WHAT);
    println!("round   without: p50   p99    with: p50   p99   ratio of p99   rows/s");
    for (number, round) in (1..).zip(&services) {
        let [without, with] = &round.durations;
        println!(
            "{number:>5} {:>14.2} {:>5.2} {:>12.2} {:>5.2} {:>14.2} {:>8.0}",
            without.p50,
            without.p99,
            with.p50,
            with.p99,
            round.ratio(),
            round.rows_per_second
        );
    }
    println!("\nratio of p99 {}", shown(spread(&services, Round::ratio)));
    println!(
        "rows a second {}",
        shown(spread(&services, |round| round.rows_per_second))
    );
}

fn spread<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> Spread {
    Spread::of(rounds.iter().map(value)).expect("a round")
}

fn shown(spread: Spread) -> String {
    let Spread {
        median,
        lowest,
        highest,
    } = spread;
    format!("{median:.2} [{lowest:.2} to {highest:.2}]")
}

fn of_all(levee: &[Backlog], plain: &[Backlog], services: &[Round]) -> Value {
    let of_backlogs = |name: &str, all: &[Backlog]| {
        let mut all: Vec<&Backlog> = all.iter().collect();
        all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let median = all[all.len() / 2];
        json!({
            "name": name,
            "seconds": Spread::of(all.iter().map(|it| it.seconds)),
            "left": median.left,
        })
    };
    let of_services = |name: &str, place: usize| {
        json!({
            "name": name,
            "p50_ms": spread(services, |it| it.durations[place].p50),
            "p99_ms": spread(services, |it| it.durations[place].p99),
        })
    };
    json!({
        "alone": [of_backlogs("levee", levee), of_backlogs("a loop, 1,000 rows each", plain)],
        "beside_service": [of_services("without the job", 0), of_services("levee at work", 1)],
        "ratio_of_p99": spread(services, Round::ratio),
        "rows_per_second": spread(services, |it| it.rows_per_second),
    })
}
