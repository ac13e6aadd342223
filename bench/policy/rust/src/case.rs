//! A case: one operation of one library, in a loop.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// One operation of one library.
pub struct Case {
    /// The library, with its version.
    pub library: String,
    /// The operation, as the table names it.
    pub operation: &'static str,
    /// Sets up, and does it so many times: how long they took.
    pub run: Box<dyn Fn(u32) -> Duration>,
}

pub const PASS: &str = "pass";
pub const REFUSE: &str = "refuse";
pub const SUCCESS: &str = "success";
pub const FAILURE: &str = "failure";
pub const PASS_SUCCESS: &str = "pass+success";
pub const PASS_FAILURE: &str = "pass+failure";

impl Case {
    /// `operation`, on what `set_up` makes. The optimiser knows neither what it is done on nor what comes of it.
    pub fn new<S, R>(
        library: &str,
        operation: &'static str,
        set_up: impl Fn() -> S + 'static,
        does: impl Fn(&mut S) -> R + 'static,
    ) -> Self {
        Self {
            library: library.to_owned(),
            operation,
            run: Box::new(move |count| {
                let mut subject = set_up();
                let begin = Instant::now();
                for _ in 0..count {
                    black_box(does(black_box(&mut subject)));
                }
                begin.elapsed()
            }),
        }
    }

    /// How it is called on the command line.
    pub fn name(&self) -> String {
        format!("{}/{}", self.library, self.operation)
    }
}

/// What the loop itself takes, and what a clock takes: in all figures, or in those that say so.
pub fn floor() -> Vec<Case> {
    vec![
        Case::new("(the loop alone)", PASS, || 0_u64, |_| ()),
        Case::new("(a clock read)", PASS, || 0_u64, |_| Instant::now()),
    ]
}

/// Measures all cases in turn, `repetitions` times, so that what disturbs the machine for a while disturbs all.
pub fn time(cases: &[Case], repetitions: usize, each: Duration) {
    let counts: Vec<u32> = cases.iter().map(|case| count_for(case, each)).collect();
    let mut nanos = vec![Vec::new(); cases.len()];
    for _ in 0..repetitions {
        for (place, case) in cases.iter().enumerate() {
            let took = (case.run)(counts[place]);
            nanos[place].push(took.as_secs_f64() * 1e9 / f64::from(counts[place]));
        }
    }
    for (case, nanos) in cases.iter().zip(nanos) {
        println!(
            "{{\"library\":\"{}\",\"operation\":\"{}\",\"nanos\":{nanos:?}}}",
            case.library, case.operation
        );
    }
}

/// How many times take about as long as `each`.
fn count_for(case: &Case, each: Duration) -> u32 {
    let mut count = 1000;
    loop {
        let took = (case.run)(count);
        if took * 4 >= each || count > u32::MAX / 4 {
            let wanted = f64::from(count) * each.as_secs_f64() / took.as_secs_f64().max(1e-9);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is within the bounds of u32"
            )]
            return wanted.clamp(1.0, f64::from(u32::MAX)) as u32;
        }
        count *= 2;
    }
}
